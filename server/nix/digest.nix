# A digest of the whole module, by which `pulumi up` knows whether the running system has the same one. components/ computes it in the
# same way, from the same files.
{ lib }:

let
  root = ../.;

  filesIn = folder: suffixes: lib.concatMap
    (name: lib.optional (lib.any (suffix: lib.hasSuffix suffix name) suffixes) "${folder}/${name}")
    (lib.attrNames (builtins.readDir (root + "/${folder}")));

  paths = [ "Caddyfile" "surface.toml" "versions.json" "caddy/go.mod" "caddy/go.sum" ]
    ++ filesIn "nix" [ ".nix" ]
    ++ filesIn "fail2ban/action.d" [ ".py" ]
    ++ filesIn "fail2ban/filter.d" [ ".conf" ]
    ++ filesIn "scripts" [ ".sh" ]
    ++ lib.filter (path: !lib.hasSuffix "_test.go" path) (filesIn "caddy" [ ".go" ]);

  line = path: "${path} ${builtins.hashFile "sha256" (root + "/${path}")}\n";
in
builtins.hashString "sha256" (lib.concatMapStrings line (lib.sort builtins.lessThan paths))
