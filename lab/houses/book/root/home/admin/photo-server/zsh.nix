{ pkgs, ... }:

{
  programs.zsh = {
    enable = true;
    ohMyZsh = { enable = true; theme = "robbyrussell"; };
  };
  users.defaultUserShell = pkgs.zsh;
}
