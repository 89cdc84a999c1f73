"""The stack's settings, read, checked and typed; nothing here looks at a server."""
