# The exposure's names on a server. The scripts have them as well (scripts/lib.sh); tests/unit/test_names.py compares both.
rec {
  state = "/var/lib/immich-exposure";
  # A state folder without this file is not ours.
  mark = "${state}/.immich-exposure";

  edge = "immich-edge";
  logs = "/var/log/${edge}";
  # The log that bans are based on; next to it, access.log and devices.log.
  offences = "${logs}/offences.log";

  bans = "immich-bans";
  # Each jail counts with filter.d/immich-NAME.conf and bans in a folder of the same name.
  jails = [ "auth" "keys" "scan" ];
}
