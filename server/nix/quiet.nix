# For what runs each minute: systemd's own lines about its start and end stay out of the journal, its words come in.
{
  SyslogLevel = "notice";
  LogLevelMax = "notice";
}
