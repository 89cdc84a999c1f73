# Restrictions for our units that run as an unprivileged user.
import ./sandbox.nix // {
  CapabilityBoundingSet = [ "" ];
  AmbientCapabilities = [ "" ];
  PrivateUsers = true;
  ProtectProc = "invisible";
  RemoveIPC = true;
  # A rotated log should get the owner of the old one; if that is not permitted, no harm is done.
  SystemCallErrorNumber = "EPERM";
  SystemCallFilter = [ "@system-service" "~@privileged" "~@resources" "@chown" ];
}
