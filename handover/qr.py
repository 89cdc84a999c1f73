"""QR codes as inline SVG for a page, and as blocks of text for a terminal."""

import io

import segno

QUIET_ZONE = 4
"""Light modules around the code (ISO/IEC 18004 requires four)."""

_WHITE_ON_BLACK, _PLAIN = "\x1b[97;40m", "\x1b[0m"


def svg_code(text: str, *, label: str) -> str:
    """Return an `<svg>` element of one path, without style attributes, which a strict CSP would refuse.

    It is always dark on light, because many scanners do not read an inverted code.

    Args:
        text: what a scanner reads.
        label: what a screen reader says; it is not escaped here, so pass fixed text.
    """
    code = segno.make_qr(text, error="m")
    size = len(code.matrix) + 2 * QUIET_ZONE
    runs = "".join(
        f"M{column + QUIET_ZONE} {row + QUIET_ZONE}h{length}v1h-{length}z"
        for row, modules in enumerate(code.matrix)
        for column, length in _dark_runs(modules)
    )
    return (
        f'<svg viewBox="0 0 {size} {size}" role="img" aria-label="{label}" shape-rendering="crispEdges">'
        f'<rect width="{size}" height="{size}" fill="#fff"/><path fill="#000" d="{runs}"/></svg>'
    )


def terminal_code(text: str) -> str:
    """Return lines of half blocks, two modules high, for a terminal that knows Unicode and ANSI colours.

    The blocks are the light modules. White on black is set explicitly, so that a terminal with a light
    background does not invert the code.
    """
    out = io.StringIO()
    segno.make_qr(text, error="l").terminal(out, border=QUIET_ZONE, compact=True)
    return "\n".join(f"{_WHITE_ON_BLACK}{line}{_PLAIN}" for line in out.getvalue().splitlines())


def _dark_runs(modules: bytearray) -> list[tuple[int, int]]:
    """List first column and length of each run of dark modules in a row."""
    runs: list[tuple[int, int]] = []
    for column, dark in enumerate(modules):
        if not dark:
            continue
        if runs and sum(runs[-1]) == column:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((column, 1))
    return runs
