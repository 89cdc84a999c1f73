"""Figures that pages state about the code are the code's; docs/limits.md has a test of its own."""

from __future__ import annotations

import re

import pytest

from toolchain.paths import PROJECT

DAY, HOUR, MINUTE = 86400, 3600, 60
WORDS = ("no", "one", "two", "three", "four", "five", "six")

FIGURES = [
    # page, what it says, the code's file, the figure in it, and how many of it make one of the page's
    (
        "guard",
        "opened within the last {} minutes",
        "server/scripts/guard.sh",
        r"^YOUNG_SECONDS=(\d+)",
        MINUTE,
    ),
    (
        "guard",
        "restarts tailscaled at most once an hour",
        "server/scripts/guard.sh",
        r"^RESTART_EVERY=(3600)",
        1,
    ),
    ("guard", "more than {} addresses are banned", "server/scripts/guard.sh", r"^MANY_BANS=(\d+)", 1),
    ("guard", "within {} days, within 3", "server/scripts/guard.sh", r'^ENDING_DAYS="(\d+) 3 0"', 1),
    ("guard", "| after {} checks |", "server/scripts/guard.sh", r"^AILING_LOOKS=(\d+)", 1),
    ("guard", "At most {} messages of one kind", "server/scripts/notify.sh", r"^MOST_OF_AN_HOUR=(\d+)", 1),
    ("guard", "for at most a week", "server/scripts/notify.sh", r"^TOO_OLD=(604800)", 1),
    ("closing", "until the outside check has passed | ten minutes |", "components/funnel.py", r"= (600)", 1),
    ("keys", "HMAC-SHA-256, {} rounds", "pki/key.py", r"^KDF_ROUNDS = ([\d_]+)", 1),
    ("keys", "no file of more than {} MiB", "pki/files.py", r"^FILE_LIMIT = (\d+) \* 1024", 1),
    ("keys", "more than ten million rounds", "pki/work_factor.py", r"^ROUNDS_LIMIT = (10_000_000)", 1),
    ("keys", "From {} days before it expires, every", "pki/renewal_plan.py", r"^WARN_DAYS = (\d+)", 1),
    ("adopt", "From {} days before the end every", "pki/renewal_plan.py", r"^WARN_DAYS = (\d+)", 1),
    ("keys", "is checked every {} seconds", "server/Caddyfile", r"while_enrolled \S+?:(\d+)s\}", 1),
    ("uploads", "unknown for {} minutes", "server/caddy/uploadroom.go", r"roomIsOld = (\d+) \* time", 1),
    ("uploads", "at most every {} hours", "server/scripts/room.sh", r"^TOLD_AGAIN=(\d+)", HOUR),
    ("uploads", "dropped after {} seconds", "server/Caddyfile", r"BODY_PATIENCE:(\d+)s", 1),
    ("ban-lists", "`countryDays` ({}) days", "components/config/lists.py", r"^COUNTRY_DAYS = (\d+)", 1),
    ("who", "for `whoDays` ({})", "Pulumi.yaml", r"whoDays:\n    type: integer\n    default: (\d+)", 1),
    ("who", "within {} minutes of the last view", "server/caddy/whosum.go", r"visitSpan = (\d+) \* time", 1),
    ("who", "At most {} links are remembered", "server/caddy/whosum.go", r"mostLinks = (\d+)", 1),
    ("frames", "**: {} requests a minute", "server/Caddyfile", r"FRAME_REQUESTS:(\d+)\} 60s", 1),
    ("hardening", "It may use\n{} MB of memory", "server/nix/edge.nix", r'MemoryMax = "(\d+)M"', 1),
]


@pytest.mark.parametrize(("page", "says", "file", "pattern", "unit"), FIGURES)
def test_a_figure_is_the_codes(page: str, says: str, file: str, pattern: str, unit: int) -> None:
    [found] = set(re.findall(pattern, (PROJECT / file).read_text(), re.M))
    figure = int(found) // unit
    text = " ".join((PROJECT / f"docs/{page}.md").read_text().split())
    spellings = {str(figure), f"{figure:,}", WORDS[figure] if figure < len(WORDS) else str(figure)}
    assert any(" ".join(says.format(each).split()) in text for each in spellings), says.format(figure)


def test_the_reads_of_a_frame_are_counted_right() -> None:
    rows = (PROJECT / "server/surface.toml").read_text().count("[[frames.rows]]")
    assert (
        f"the rows of `[frames]` in `server/surface.toml`, {rows} read requests"
        in (PROJECT / "docs/frames.md").read_text()
    )
