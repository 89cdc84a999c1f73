"""The stack's settings: read, checked and typed. Nothing here contacts a server."""
