# What no unit of ours ever needs.
{
  LockPersonality = true;
  # A unit that takes too much ends, and when the whole machine is short of memory, ours go before Immich and its database.
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
