# The names that the exposure has on a server. The scripts know them as well (scripts/lib.sh): change both.
rec {
  state = "/var/lib/immich-exposure";
  # A state without this file is somebody else's.
  mark = "${state}/.immich-exposure";

  edge = "immich-edge";
  logs = "/var/log/${edge}";
  # What bans are made of; beside it, access.log and devices.log.
  offences = "${logs}/offences.log";

  bans = "immich-bans";
  # Each jail counts with filter.d/immich-NAME.conf and bans in a folder of its name.
  jails = [ "auth" "keys" "scan" ];
}
