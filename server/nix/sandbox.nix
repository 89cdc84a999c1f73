# Restrictions for all our units.
{
  LockPersonality = true;
  # A unit that takes too much memory is killed, and if the whole machine runs out, ours are killed before Immich and its database.
  MemoryMax = "256M";
  OOMScoreAdjust = 500;
  NoNewPrivileges = true;
  PrivateDevices = true;
  PrivateTmp = true;
  ProtectClock = true;
  ProtectControlGroups = true;
  ProtectHome = true;
  ProtectHostname = true;
  ProtectKernelLogs = true;
  ProtectKernelModules = true;
  ProtectKernelTunables = true;
  ProtectSystem = "strict";
  RestrictNamespaces = true;
  RestrictRealtime = true;
  RestrictSUIDSGID = true;
  SystemCallArchitectures = "native";
}
