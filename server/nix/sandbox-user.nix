# What no unit of ours needs that runs as a user without rights.
import ./sandbox.nix // {
  CapabilityBoundingSet = [ "" ];
  AmbientCapabilities = [ "" ];
  PrivateUsers = true;
  ProtectProc = "invisible";
  RemoveIPC = true;
  # A log that is rotated gets the owner of the old one, and is none the worse when it may not.
  SystemCallErrorNumber = "EPERM";
  SystemCallFilter = [ "@system-service" "~@privileged" "~@resources" "@chown" ];
}
