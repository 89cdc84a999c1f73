"""The table of how addresses are written and what the files that ban them are called."""

from toolchain.paths import PROJECT

TABLE = PROJECT / "server/caddy/testdata/ban-names.txt"


def ban_names() -> list[tuple[str, str | None]]:
    """Return what somebody may write, and the name of the file; None if it is no visitor's."""
    rows = [line.split() for line in TABLE.read_text().splitlines() if not line.startswith("#")]
    return [(written, None if name == "-" else name) for written, name in rows]
