"""QR codes: the SVG's and the terminal's modules are the code's, and stand out on any background."""

from __future__ import annotations

import re

import segno

from handover.qr import QUIET_ZONE, svg_code, terminal_code

URL = "https://immich.example.ts.net"


def test_the_svg_draws_exactly_the_codes_dark_modules() -> None:
    svg = svg_code(URL, label="code")
    code = segno.make_qr(URL, error="m")
    size = len(code.matrix) + 2 * QUIET_ZONE
    assert f'viewBox="0 0 {size} {size}"' in svg
    drawn = {
        (int(row), int(column) + offset)
        for column, row, length in re.findall(r"M(\d+) (\d+)h(\d+)v1h-\d+z", svg)
        for offset in range(int(length))
    }
    wanted = {
        (row + QUIET_ZONE, column + QUIET_ZONE)
        for row, modules in enumerate(code.matrix)
        for column, dark in enumerate(modules)
        if dark
    }
    assert drawn == wanted


def test_the_terminals_blocks_are_the_codes_light_modules() -> None:
    border = QUIET_ZONE
    code = segno.make_qr(URL, error="l")
    size = len(code.matrix) + 2 * border
    shape = {" ": (1, 1), "▀": (0, 1), "▄": (1, 0), "█": (0, 0)}
    dark = set()
    for row, line in enumerate(terminal_code(URL).splitlines()):
        assert line.startswith("\x1b[97;40m") and line.endswith("\x1b[0m")
        for column, block in enumerate(re.sub(r"\x1b\[[0-9;]*m", "", line)):
            for half, is_dark in enumerate(shape[block]):
                if is_dark and 2 * row + half < size:  # the last line has half a row to spare
                    dark.add((2 * row + half, column))
    assert dark == {
        (row + border, column + border)
        for row, modules in enumerate(code.matrix)
        for column, module in enumerate(modules)
        if module
    }
