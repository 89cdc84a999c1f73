"""docs/limits.md says what the code does: each number is taken out of the code and looked for in its row."""

from __future__ import annotations

import re

import pytest

from components.config.stack_config import load
from components.remote.remote_script import SERVER_FILES

DOCS = SERVER_FILES.parent / "docs" / "limits.md"

FACTS = [
    ("caddy/limits.go", r"wideRequests = (\d+)", "| of a /48 |", "{} times as many"),
    ("caddy/limits.go", r"cheap = 1\. / (\d+)", "never changes", "counts 1/{}"),
    ("Caddyfile", r"at_once (\d+)\n\t\tpace", "being answered for a visitor", "{}; more wait"),
    ("Caddyfile", r"IMMICH_EXPOSURE_FRAME_REQUESTS:(\d+)\} 60s", "| requests of a frame |", "{} in 60 s"),
    ("Caddyfile", r"60s\n\t\t\t\t\tat_once (\d+)", "of a frame, being answered", "{}; more wait"),
    ("caddy/slots.go", r"waitingPatience = (\d+) \* time.Second", "of a frame, being answered", "up to {} s"),
    ("caddy/slots.go", r"waitingPatience = (\d+) \* time.Second", "answered for a visitor", "up to {} s"),
    ("caddy/limits.go", r"wideAtOnce += (\d+)", "answered for a visitor", "has {} times"),
    ("caddy/limits.go", r"paceless += (\d+)", "one after another", "{} at once"),
    ("Caddyfile", r"IMMICH_EXPOSURE_PACE:(\d+)\}", "one after another", "{} a second"),
    ("caddy/limits.go", r"pacePatience = (\d+) \* time.Second", "one after another", "up to {} s"),
    (
        "caddy/limits.go",
        r"tooManyAnswers = rate\{(\d+), 30 \* time.Second",
        "429s of a network",
        "{} at once",
    ),
    ("caddy/limits.go", r"givenUp = rate\{(\d+), 10 \* time.Second", "that are given up", "{} at once, 10"),
    ("caddy/connections.go", r"cutCounts += (\d+)", "429s of a network", "as {} new ones"),
    ("caddy/limits.go", r"mostInside = (\d+)", "in the edge, waiting", "{}, at"),
    ("caddy/connections.go", r"mostConnections = (\d+)", "connections in all", "{};"),
    ("caddy/connections.go", r"newConnections = rate\{(\d+), 200", "| new connections", "{} at once, 50"),
    ("caddy/connections.go", r"beginPatience = (\d+) \* time.Second", "| new connections", "up to {} s"),
    (
        "caddy/connections.go",
        r"readBytes += rate\{(\d+) << 10, time.Second / 4",
        "data that strangers",
        "{} KiB at",
    ),
    ("caddy/connections.go", r"crowdedFrom = (\d+)", "data that strangers", "while {} of"),
    ("caddy/limits.go", r"videosOfOne = (\d+)", "videos of a live link", "{} of a network"),
    ("caddy/limits.go", r"manyVideos += (\d+)", "videos of a live link", "from {} of all"),
    ("caddy/limits.go", r"fewVideos += (\d+)", "videos of a live link", "has {},"),
    ("caddy/limits.go", r"mostVideos += (\d+)", "videos of a live link", "{} in all"),
    ("caddy/connections.go", r"keptConnections = (\d+)", "connections in all", "last {} are"),
    ("caddy/slots.go", r"manyInside += (\d+)", "of all strangers being", "from {} on"),
    ("caddy/slots.go", r"fewOfMany += (\d+)", "of all strangers being", "has {} at once"),
    ("Caddyfile", r"max_conns_per_host (\d+)", "to Immich for strangers", "{}"),
    ("caddy/connections.go", r"connectionsOfOne = (\d+)", "| connections of a network", "{};"),
    ("caddy/connections.go", r"manyConnections = (\d+)", "connections in all", "from {} on"),
    ("caddy/connections.go", r"fewConnections += (\d+)", "connections in all", "has {}"),
    ("Caddyfile", r"idle (\d+)s", "an idle connection", "after {} s"),
    ("caddy/handshakes.go", r"handshakeBytes = (\d+) << 10", "a TLS handshake", "reads {} KiB"),
    ("caddy/handshakes.go", r"handshakePatience = (\d+) \* time.Second", "a TLS handshake", "after {} s"),
    ("caddy/limits.go", r"wideOffences = (\d+)", "wrong passwords, of a /48", "{} times as many"),
    ("caddy/limits.go", r"wideOffences = (\d+)", "led to by something", "{} times as many"),
    ("caddy/limits.go", r"guessesAtOnce += (\d+)", "being looked up", "{} at once"),
    ("caddy/limits.go", r"passwordsAtOnce = (\d+)", "one link's password", "{} at once"),
    ("caddy/inhand.go", r"inHandPatience = (\d+) \* time.Second", "one link's password", "within {} s"),
    ("caddy/inhand.go", r"mostInHand = (\d+) << 10", "one link's password", "and {} KiB"),
    ("caddy/surface.go", r"longestPath = (\d+)", "the path of a request", "{} bytes"),
    ("caddy/buckets.go", r"mostKeys += (\d+)", "remembered by a limit", "{};"),
    ("caddy/buckets.go", r"sharedBuckets = (\d+)", "remembered by a limit", "share {} budgets"),
    ("caddy/uploadbudget.go", r"mostCountedLinks = (\d+)", "links with a count", "{}, only"),
    (
        "caddy/uploadroom.go",
        r"roomIsOld = (\d+) \* time.Minute",
        "that they leave on the disk",
        "for {} minutes",
    ),
    ("caddy/uploadform.go", r"formChunk = (\d+) << 10", "memory for an upload", "36 KiB"),
    ("Caddyfile", r"BODY_PATIENCE:(\d+)s", "a slow upload", "after {} s"),
    ("nix/edge.nix", r'MemoryMax = "(\w+)"', "memory of the edge", "{}, then"),
    ("nix/sandbox.nix", r'MemoryMax = "(\w+)"', "memory of the edge", "at most {}"),
    ("nix/sandbox.nix", r"OOMScoreAdjust = (\d+)", "killed first", "{}"),
    ("caddy/whosum.go", r"mostLinks = (\d+)", "links that are counted", "{};"),
    ("caddy/whosum.go", r"mostRecent = (\d+)", "visits told apart", "{} at once"),
    ("caddy/whosum.go", r"visitSpan = (\d+) \* time.Minute", "visits told apart", "for {} minutes"),
    ("caddy/linkreport.go", r"mostReported = (\d+)", "in a report of Immich's", "{};"),
    ("caddy/who.go", r"mostNews = (\d+)", "notices of first opens", "{} in five"),
    ("caddy/logbounds.go", r"mostWritten = (\d+)", "what a client says", "{} bytes"),
    (
        "caddy/logbounds.go",
        r"\tvisitBytes += rate\{(\d+) << 20, 4 \* time.Minute\}",
        "ordinary",
        "{} MiB at once",
    ),
    (
        "caddy/logbounds.go",
        r"allVisitBytes += rate\{(\d+) << 20, 2 \* time.Minute\}",
        "ordinary",
        "{} MiB and",
    ),
    (
        "caddy/logbounds.go",
        r"\toffenceBytes += rate\{(\d+) << 10, 2 \* time.Minute\}",
        "offences of a",
        "{} KiB at",
    ),
    (
        "caddy/logbounds.go",
        r"allOffenceBytes = rate\{(\d+) << 20, 30 \* time.Second",
        "offences of a",
        "{} MiB and",
    ),
    (
        "caddy/logbounds.go",
        r"journalLines += rate\{(\d+), 10 \* time.Minute\}",
        "in the journal",
        "{} in ten",
    ),
    ("caddy/logfiles.go", r"usualMegabytes = (\d+)", "the log on disk", "of {} MB"),
    ("nix/bans-files.nix", r"dbmaxmatches = (\d+)", "the database of bans", "{})"),
    ("nix/bans-files.nix", r"    maxmatches = (\d+)", "the database of bans", "{})"),
    ("caddy/banlistfile.go", r"mostNetworks += (\d+)", "networks of a ban list", "| {}, in"),
    ("caddy/banlistfile.go", r"mostListBytes = (\d+) << 20", "networks of a ban list", "of {} MB"),
    ("caddy/banlistfile.go", r"mostSourceBytes = (\d+) << 20", "a ban list is made of", "up to {} MB"),
    ("caddy/bancrowdsec.go", r"crowdsecDecisions += (\d+)", "decisions of CrowdSec", "{} in force"),
    ("nix/sandbox.nix", r'MemoryMax = "(\d+)M"', "a ban list is made of", "take {} MB"),
    ("fail2ban/action.d/immich_ban.py", r"SWEEP = (\d+)\.0", "looks at all ban files", "one in {} s"),
]


def row_of(what: str) -> str:
    """Return the row whose first cells hold these words."""
    [row] = [line for line in DOCS.read_text().splitlines() if line.startswith("|") and what in line]
    return row


@pytest.mark.parametrize(("file", "pattern", "what", "says"), FACTS)
def test_each_bound_is_what_the_code_has(file: str, pattern: str, what: str, says: str) -> None:
    code = re.sub(r"(?<=\d)_(?=\d)", "", (SERVER_FILES / file).read_text())
    [value] = set(re.findall(pattern, code))
    assert says.format(value) in row_of(what)


def test_each_setting_has_its_default() -> None:
    raw = {
        "host": "h",
        "hostKey": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICd9Sn/CrLavrIHzvx3RuZLyh4tRBT7PQTx533eBaTsJ",
    }
    config = load(
        {**raw, "keystorePassphrase": "twelve or more characters"}, stack="unit", project_dir=DOCS.parent
    )
    limits, bans = config.rate_limits, config.bans
    assert f"{limits.requests} at once" in row_of("requests of a visitor")
    assert f"in {limits.window_seconds} s" in row_of("requests of a visitor")
    assert f"{bans.max_retry} of each kind" in row_of("or scans of a visitor")
    assert f"{limits.password_attempts} in {limits.password_window_seconds} s" in row_of("password attempts")
    assert f"{limits.link_passwords_per_hour} an hour" in row_of("wrong passwords for one link")
    assert f"{limits.bundles} in {limits.bundle_window_seconds} s" in row_of("zip files")
    uploads = config.upload_limits
    assert f"{config.upload_megabytes} MB" in row_of("| one upload")
    assert f"{uploads.link_megabytes} MB and {uploads.link_files} files" in row_of("through one link")
    assert f"{uploads.megabytes} MB and {uploads.files} files" in row_of("through all links")
    assert f"{uploads.free_gigabytes} GB" in row_of("that they leave on the disk")
