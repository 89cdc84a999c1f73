# The chapter, typed in: strangers get shared links, phones with a certificate get Immich.
{ ... }:

{
  services.immich.host = "127.0.0.1";

  services.caddy = {
    enable = true;
    globalConfig = ''
      auto_https off
      servers {
        listener_wrappers {
          proxy_protocol {
            allow 127.0.0.1/32
          }
          tls
        }
      }
    '';
    virtualHosts.":8443".extraConfig = ''
      bind 127.0.0.1
      tls /var/lib/certs/cert.pem /var/lib/certs/key.pem {
        client_auth {
          mode verify_if_given
          trust_pool file /var/lib/certs/ca-cert.pem
        }
      }
      @phone vars_regexp {http.request.tls.client.subject} .
      handle @phone {
        reverse_proxy 127.0.0.1:2283
      }
      handle /share/* {
        reverse_proxy 127.0.0.1:2283
      }
      handle {
        respond `{"status":403}` 403
      }
    '';
  };
}
