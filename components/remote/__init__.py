"""How things get to the server over SSH, and what travels there."""
