"""The exposure for other people's programs (docs/package.md)."""
