# The module argument `utils`, as far as homes use it.
lib: {
  escapeSystemdPath = path: lib.concatStringsSep "-" (map (lib.replaceStrings [ "-" ] [ "\\x2d" ]) (lib.filter (part: part != "") (lib.splitString "/" (toString path))));
  escapeSystemdExecArg = arg: lib.replaceStrings [ "%" "$" ] [ "%%" "$$" ] (builtins.toJSON (toString arg));
  escapeSystemdExecArgs = args: lib.concatMapStringsSep " " (arg: lib.replaceStrings [ "%" "$" ] [ "%%" "$$" ] (builtins.toJSON (toString arg))) args;
}
