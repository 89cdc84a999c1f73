# For units that run every minute: keeps systemd's lines about their start and end out of the journal, but not their output.
{
  SyslogLevel = "notice";
  LogLevelMax = "notice";
}
