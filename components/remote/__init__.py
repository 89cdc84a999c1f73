"""How scripts and files get to the server over SSH, and what is sent."""
