# The module in a virtual machine: quiet without an exposure; with one, a stranger gets 403 and an enrolled device gets Immich.
# The funnel and Immich are not here: a small server answers in place of Immich, and curl speaks as the funnel does.
{ module }:

{
  name = "immich-exposure";

  nodes.machine = { pkgs, ... }: {
    imports = [ module ];

    services.tailscale.enable = true;
    services.immich-exposure = {
      enable = true;
      immich.managed = false;
    };

    systemd.services.in-place-of-immich = {
      wantedBy = [ "multi-user.target" ];
      script = ''
        mkdir -p /run/in-place-of-immich
        echo photos > /run/in-place-of-immich/index.html
        exec ${pkgs.python3}/bin/python3 -m http.server 2283 --bind 127.0.0.1 --directory /run/in-place-of-immich
      '';
    };
    environment.systemPackages = [ pkgs.curl pkgs.openssl ];
  };

  testScript = ''
    STATE = "/var/lib/immich-exposure"


    def status(*options: str) -> str:
        """The status that the edge answers with, asked as the funnel asks."""
        asked = "curl -s -o /dev/null -w '%{http_code}' --haproxy-protocol --cacert server.crt"
        where = "--resolve home.example.ts.net:8443:127.0.0.1 https://home.example.ts.net:8443/"
        return machine.succeed(" ".join([asked, *options, where])).strip()


    machine.wait_for_unit("multi-user.target")

    with subtest("without an exposure nothing runs and nothing is written"):
        machine.fail("systemctl is-active immich-edge immich-bans")
        machine.fail(f"test -e {STATE}")

    with subtest("an exposure as pulumi up leaves it"):
        machine.succeed(
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout server.key -out server.crt"
            " -days 30 -subj /CN=home.example.ts.net -addext subjectAltName=DNS:home.example.ts.net",
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.crt"
            " -days 30 -subj /CN=devices",
            "openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout phone.key -subj /CN=phone"
            " | openssl x509 -req -CA ca.crt -CAkey ca.key -days 30 -out phone.crt",
            f"mkdir -p {STATE}/settings {STATE}/tls {STATE}/devices",
            f"touch {STATE}/.immich-exposure {STATE}/settings/edge.env {STATE}/settings/bans.conf",
            f"echo IMMICH_EXPOSURE_DOMAIN=home.example.ts.net > {STATE}/domain.env",
            f"cp server.crt server.key {STATE}/tls/",
            f"cp ca.crt {STATE}/device-ca.crt",
            "systemctl start immich-bans immich-edge",
        )
        machine.wait_for_open_port(8443)

    phone = ("--cert phone.crt", "--key phone.key")
    with subtest("a stranger is refused, and so is a device that is not enrolled"):
        assert status() == "403", status()
        assert status(*phone) == "403", status(*phone)

    with subtest("an enrolled device gets Immich at its next request"):
        print_ = "openssl x509 -in phone.crt -outform DER | sha256sum | cut -d ' ' -f 1"
        machine.succeed(f"touch {STATE}/devices/$({print_})")
        assert status(*phone) == "200", status(*phone)
  '';
}
