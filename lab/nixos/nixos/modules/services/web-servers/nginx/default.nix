# The machine's nginx with the parts of its configuration that a proxy at home needs. Certificates that ACME would fetch are not there.
{ config, lib, pkgs, ... }:
let
  inherit (lib) concatMapStrings mkIf optional optionalString types;
  short = import ../../../short.nix lib;
  cfg = config.services.nginx;
  hosts = lib.attrValues cfg.virtualHosts;
  acme = name: config.security.acme.certs.${name}.directory;

  location = { ... }: {
    options = {
      proxyPass = short.nullOrStr;
      proxyWebsockets = short.bool false;
      recommendedProxySettings = short.bool cfg.recommendedProxySettings;
      root = short.nullOrPath;
      alias = short.nullOrPath;
      index = short.nullOrStr;
      tryFiles = short.nullOrStr;
      return = short.of (types.nullOr (types.oneOf [ types.str types.int ])) null;
      basicAuth = short.environment;
      basicAuthFile = short.nullOrPath;
      fastcgiParams = short.environment;
      extraConfig = short.text;
      priority = short.int 1000;
    };
  };
  listen = short.submodule { addr = lib.mkOption { type = types.str; }; port = short.nullOr types.port; ssl = short.bool false; proxyProtocol = short.bool false; extraParameters = short.strings; };
  virtualHost = { name, config, ... }: {
    options = {
      serverName = short.of (types.nullOr types.str) name;
      serverAliases = short.strings;
      listen = short.of (types.listOf listen) [ ];
      listenAddresses = short.of (types.listOf types.str) cfg.defaultListenAddresses;
      default = short.bool false;
      enableACME = short.bool false;
      useACMEHost = short.nullOrStr;
      acmeRoot = short.of (types.nullOr types.str) "/var/lib/acme/acme-challenge";
      acmeFallbackHost = short.nullOrStr;
      addSSL = short.bool false;
      onlySSL = short.bool false;
      forceSSL = short.bool false;
      rejectSSL = short.bool false;
      kTLS = short.bool false;
      sslCertificate = short.of types.path (acme (if config.useACMEHost != null then config.useACMEHost else name) + "/fullchain.pem");
      sslCertificateKey = short.of types.path (acme (if config.useACMEHost != null then config.useACMEHost else name) + "/key.pem");
      sslTrustedCertificate = short.nullOrPath;
      http2 = short.bool true;
      http3 = short.bool true;
      quic = short.bool false;
      reuseport = short.bool false;
      root = short.nullOrPath;
      globalRedirect = short.nullOrStr;
      redirectCode = short.of (types.ints.between 300 399) 301;
      basicAuth = short.environment;
      basicAuthFile = short.nullOrPath;
      extraConfig = short.text;
      locations = short.of (types.attrsOf (types.submodule location)) { };
    };
  };

  hasSSL = host: host.onlySSL || host.addSSL || host.forceSSL;
  bracketed = addr: if lib.hasInfix ":" addr && !lib.hasPrefix "[" addr then "[${addr}]" else addr;
  listens = host:
    if host.listen != [ ] then host.listen
    else lib.concatMap
      (addr: optional (hasSSL host) { inherit addr; port = cfg.defaultSSLListenPort; ssl = true; extraParameters = [ ]; }
        ++ optional (!host.onlySSL) { inherit addr; port = cfg.defaultHTTPListenPort; ssl = false; extraParameters = [ ]; })
      host.listenAddresses;
  portOf = l: if l.port != null then l.port else if l.ssl then 443 else 80;
  listenLine = host: l: "listen ${bracketed l.addr}:${toString (portOf l)} ${optionalString l.ssl "ssl "}${optionalString host.default "default_server "}${toString l.extraParameters};\n";
  names = host: "server_name ${lib.concatStringsSep " " (lib.filter (n: n != null) [ host.serverName ] ++ host.serverAliases)};\n";

  proxyHeaders = ''
    proxy_set_header Host $host;
    proxy_set_header X-Real-IP $remote_addr;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    proxy_set_header X-Forwarded-Proto $scheme;
    proxy_set_header X-Forwarded-Host $host;
    proxy_set_header X-Forwarded-Server $hostname;
  '';
  line = name: v: optionalString (v != null) "${name} ${toString v};\n";
  locationText = entry: ''
    location ${entry.name} {
    ${line "proxy_pass" entry.value.proxyPass}${optionalString entry.value.proxyWebsockets "proxy_http_version 1.1;\nproxy_set_header Upgrade $http_upgrade;\nproxy_set_header Connection $connection_upgrade;\n"}${line "index" entry.value.index}${line "try_files" entry.value.tryFiles}${line "root" entry.value.root}${line "alias" entry.value.alias}${line "return" entry.value.return}${line "auth_basic_user_file" entry.value.basicAuthFile}${entry.value.extraConfig}
    ${optionalString (entry.value.proxyPass != null && entry.value.recommendedProxySettings) proxyHeaders}}
  '';
  locations = host: concatMapStrings locationText
    (lib.sortOn (entry: entry.value.priority) (lib.attrsToList host.locations));
  server = host:
    let
      plain = lib.filter (l: !l.ssl) (listens host);
      own = if host.forceSSL then lib.filter (l: l.ssl) (listens host) else listens host;
    in
    optionalString host.forceSSL "server {\n${concatMapStrings (listenLine host) plain}${names host}location / { return ${toString host.redirectCode} https://$host$request_uri; }\n}\n"
    + ''
      server {
      ${concatMapStrings (listenLine host) own}${names host}${optionalString (hasSSL host) "ssl_certificate ${host.sslCertificate};\nssl_certificate_key ${host.sslCertificateKey};\n"}${line "root" host.root}${optionalString (host.globalRedirect != null) "location / { return ${toString host.redirectCode} $scheme://${host.globalRedirect}$request_uri; }\n"}${locations host}
      ${host.extraConfig}
      }
    '';
  file = pkgs.writeText "nginx.conf" ''
    pid /run/nginx/nginx.pid;
    error_log stderr;
    daemon off;
    ${cfg.appendConfig}
    events { ${cfg.eventsConfig} }
    http {
    access_log /var/log/nginx/access.log;
    ${concatMapStrings (kind: "${kind}_temp_path /var/cache/nginx/${kind};\n") [ "client_body" "proxy" "fastcgi" "uwsgi" "scgi" ]}
    map $http_upgrade $connection_upgrade { default upgrade; ''' close; }
    server_tokens off;
    client_max_body_size ${cfg.clientMaxBodySize};
    ${cfg.commonHttpConfig}
    ${lib.concatStrings (lib.mapAttrsToList (name: up: "upstream ${name} {\n${lib.concatStrings (lib.mapAttrsToList (s: _: "server ${s};\n") up.servers)}${up.extraConfig}\n}\n") cfg.upstreams)}
    ${concatMapStrings server hosts}
    ${cfg.appendHttpConfig}
    }
  '';
in
{
  options.services.nginx = {
    enable = lib.mkEnableOption "Nginx Web Server";
    package = lib.mkPackageOption pkgs "nginx" { };
    user = short.str "nginx";
    group = short.str "nginx";
    enableReload = short.bool false;
    statusPage = short.bool false;
    logError = short.str "stderr";
    clientMaxBodySize = short.str "10m";
    defaultListenAddresses = short.of (types.listOf types.str) [ "0.0.0.0" "[::0]" ];
    defaultHTTPListenPort = short.port 80;
    defaultSSLListenPort = short.port 443;
    eventsConfig = short.text;
    appendConfig = short.text;
    appendHttpConfig = short.text;
    commonHttpConfig = short.text;
    additionalModules = short.of (types.listOf types.raw) [ ];
    resolver = short.recorded;
    sslCiphers = short.of (types.nullOr types.str) null;
    sslProtocols = short.str "TLSv1.2 TLSv1.3";
    sslDhparam = short.of types.raw null;
    proxyTimeout = short.str "60s";
    virtualHosts = short.of (types.attrsOf (types.submodule virtualHost)) { };
    upstreams = short.of (types.attrsOf (short.submodule { servers = short.of (types.attrsOf short.anyTree) { }; extraConfig = short.text; })) { };
  } // lib.genAttrs (map (what: "recommended${what}Settings") [ "Brotli" "Gzip" "Optimisation" "Proxy" "Tls" "Zstd" "Uwsgi" ]) (_: short.bool false);

  config = mkIf cfg.enable {
    assertions = map
      (host: {
        assertion = lib.count (x: x) [ host.addSSL host.onlySSL host.forceSSL host.rejectSSL ] <= 1;
        message = "Options services.nginx.service.virtualHosts.<name>.addSSL, services.nginx.virtualHosts.<name>.onlySSL, "
          + "services.nginx.virtualHosts.<name>.forceSSL and services.nginx.virtualHosts.<name>.rejectSSL are mutually exclusive.";
      })
      hosts;
    security.acme.certs = lib.mapAttrs (_: _: { }) (lib.filterAttrs (_: host: host.enableACME || host.useACMEHost == null) cfg.virtualHosts);
    systemd.services.nginx = {
      description = "Nginx Web Server";
      wantedBy = [ "multi-user.target" ];
      after = [ "network.target" ];
      stopIfChanged = false;
      restartTriggers = lib.optional (!cfg.enableReload) file;
      reloadTriggers = lib.optional cfg.enableReload file;
      startLimitIntervalSec = 60;
      serviceConfig = {
        ExecStart = "${cfg.package}/bin/nginx -c '${file}'";
        ExecReload = [ "${cfg.package}/bin/nginx -c '${file}' -t" "${pkgs.coreutils}/bin/kill -HUP $MAINPID" ];
        Restart = "always";
        RestartSec = "10s";
        User = cfg.user;
        Group = cfg.group;
        RuntimeDirectory = "nginx";
        CacheDirectory = "nginx";
        LogsDirectory = "nginx";
        AmbientCapabilities = [ "CAP_NET_BIND_SERVICE" ];
        CapabilityBoundingSet = [ "CAP_NET_BIND_SERVICE" ];
        NoNewPrivileges = true;
        ProtectSystem = "strict";
        ProtectHome = true;
        PrivateTmp = true;
        PrivateDevices = true;
        UMask = "0027";
      };
    };
    users.users.nginx = mkIf (cfg.user == "nginx") { group = cfg.group; isSystemUser = true; uid = config.ids.uids.nginx; };
    users.groups.nginx = mkIf (cfg.group == "nginx") { gid = config.ids.gids.nginx; };
  };
}
