{ lib, pkgs, ... }:
let
  short = import ../short.nix lib;
  shell = name: default: {
    enable = short.bool default;
    package = lib.mkPackageOption pkgs name { };
    shellAliases = short.of (lib.types.attrsOf (lib.types.nullOr lib.types.str)) { };
    shellInit = short.text;
    loginShellInit = short.text;
    interactiveShellInit = short.text;
    promptInit = short.text;
  };
in
{
  options.programs = {
    bash = shell "bash" true // { completion.enable = short.bool true; enableLsColors = short.bool true; };
    fish = shell "fish" false // { shellAbbrs = short.environment; useBabelfish = short.bool false; vendor = short.recorded; };
    zsh = shell "zsh" false // {
      enableCompletion = short.bool true;
      enableBashCompletion = short.bool false;
      enableLsColors = short.bool true;
      autosuggestions = { enable = short.bool false; strategy = short.strings; async = short.bool true; };
      syntaxHighlighting = { enable = short.bool false; highlighters = short.strings; };
      ohMyZsh = { enable = short.bool false; theme = short.str ""; plugins = short.strings; customPkgs = short.packages; custom = short.nullOrStr; };
      histSize = short.int 2000;
      histFile = short.str "$HOME/.zsh_history";
      setOptions = short.strings;
    };
  };
}
