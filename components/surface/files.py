"""What is made from the table of the surface: `docs/surface.md`.

`python -m components.surface.files` writes it anew; a test checks that it is current.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from components.surface import immich_releases
from components.surface.table import PROJECT, Table, immich_operations, load

DOCUMENT = PROJECT / "docs/surface.md"


def document(table: Table) -> str:
    """Return docs/surface.md."""
    return _INTRODUCTION + "".join(
        [
            *_counts(table),
            *_releases(),
            *_feature_tables(table),
            *_closed_table(table),
            *_frames_table(table),
            _REFUSALS,
        ]
    )


_INTRODUCTION = """# What strangers can reach

Made from `server/surface.toml` by `python -m components.surface.files`; do not edit.

A device with an enrolled client certificate reaches all of Immich, and a frame what a table of its own
lists near the end. Everybody else reaches the requests below, which are what the page of a shared link
needs, and nothing besides. Each is compared with the request as it was sent, from its first to its last
character, and that same text is what Immich gets: there is nothing left to decode or to clean up, so two
readers cannot disagree about it. "Link" means that the query must hold the key or slug of a link; without
one Immich would look for a user's session instead. HEAD goes with each GET.

Of the headers and cookies Immich gets those that the table lists, and no other; credentials in a query are
refused. So what a user of Immich could prove himself with is worth nothing without a device.

"""


def _counts(table: Table) -> Iterator[str]:
    yield "## Counts\n\n"
    heads = ("operations", "take a link's key", "reachable by default", "with uploads", "refused")
    yield _table_head("`@immich/sdk`", *heads)
    usual = table.open_operations([feature.name for feature in table.features if feature.default])
    for version, operations in immich_operations().items():
        names = {each.name for each in operations}
        most = names & table.open_operations()
        links = sum(each.link for each in operations)
        yield (
            f"| {version} | {len(names)} | {links} | {len(names & usual)} | {len(most)} "
            f"| {len(names) - len(most)} |\n"
        )
    files = sum(not row.operations for row in table.rows)
    yield f"\nThe table has {len(table.rows)} rows; {files} of them are pages and files, not operations.\n\n"


def _releases() -> Iterator[str]:
    yield (
        "## Releases of Immich\n\n"
        "What the page of a link asks for is written down in `server/immich-releases.toml`, and tests\n"
        "show that none of it is refused. A release that no line has counts as the one before it: nothing\n"
        "opens wider, and `pulumi up` and the previews after it name it. One below the first is refused.\n\n"
    )
    yield _table_head("releases", "found in", "requests", "of these, by this line alone")
    for line in immich_releases.load():
        yield f"| {line.name} | {line.seen} | {len(line.asks)} | {len(line.alone)} |\n"
    yield "\n"


def _feature_tables(table: Table) -> Iterator[str]:
    yield "## Reachable\n\n"
    for feature in table.features:
        state = "always on" if feature.fixed else "on by default" if feature.default else "off by default"
        yield f"### {feature.name} ({state})\n\n{feature.about}\n\n"
        yield _table_head("method", "path", "link", "operations", "why", "evidence")
        for row in table.rows_of(feature.name):
            methods = ", ".join(method for method in row.methods if method != "HEAD")
            operations = ", ".join(row.operations)
            path = row.path.replace("{slash}", "")
            link = "yes" if row.link else ""
            yield f"| {methods} | `{path}` | {link} | {operations} | {row.why} | {row.evidence} |\n"
        yield "\n"


def _closed_table(table: Table) -> Iterator[str]:
    yield "## Closed, though Immich opens it to links\n\n" + _table_head("operation", "why")
    for closed in table.closed:
        yield f"| {closed.operation} | {closed.why} |\n"
    yield "\n"


def _frames_table(table: Table) -> Iterator[str]:
    yield (
        "## Frames: picture frames, televisions, screensavers\n\n"
        "Who shows the secret of an enrolled frame (`frames`, off by default; `docs/frames.md`) may ask for\n"
        "this and nothing else, links included. Immich gets no cookie of it and no header but those of the\n"
        "table; its API key goes through, and so it sees what the key's user may see. Everything here\n"
        "reads; the two searches are POST because Immich takes their words in a body.\n\n"
    )
    yield _table_head("method", "path", "operations", "why", "asked for by")
    for row in table.frames:
        methods = ", ".join(method for method in row.methods if method != "HEAD")
        yield f"| {methods} | `{row.path}` | {', '.join(row.operations)} | {row.why} | {row.evidence} |\n"
    yield "\n"


def _table_head(*names: str) -> str:
    return f"| {' | '.join(names)} |\n|{' --- |' * len(names)}\n"


_REFUSALS = """## What a refusal tells

Nothing: every refusal is the same 403 with the same headers and body, whatever was asked, or, with
`strangers: drop`, the connection ends without an answer. That holds for another Host than the
certificate's, too. Not covered, because Go's HTTP library answers before Caddy sees a request: 400 for what
is not HTTP, 431 for headers over 20 KB, 501 and 505 for transfer codings and protocol versions that do not
exist, and an empty 200 for `OPTIONS *`. None of these names the program. A refusal says `Connection: close`
when the request asked for it, is HTTP/1.0, or carries a body that
is not worth reading. Requests that are allowed can meet 413 (body too big), 429 (too many, with
Retry-After), 502 (Immich does not answer) and 503 (the bans cannot be read).

Every answer, whoever asks, has HSTS, `nosniff`, `X-Robots-Tag: noindex, nofollow`, `Referrer-Policy:
no-referrer` and `Content-Security-Policy: frame-ancestors 'none'` beside whatever policy Immich sends.

A key with something glued to its end (`/share/KEY,`: chat and mail programs take the end of a sentence for
a part of the address) is answered with a redirect to the link's page. A request names one link, by its key
or by its slug.

While Immich is in maintenance it sends visitors to a page of the app; they get 503 with Retry-After.

## What a page may do in a visitor's browser

Every HTML answer to a visitor (a device gets Immich's pages as they are) has a policy of its own, which
`server/caddy/csp.go` makes:

- **Scripts**: files from the same origin, the WebAssembly that lays out the photos, and the inline scripts
  of Immich's own page, by their hashes. Those differ from build to build, so they are read from
  `/index.html` of the Immich behind the edge, where nothing of any link is written in, and read anew every
  two seconds. A script that somebody has put into a page, by the name of an album say, does not run. If
  Immich does not show that page, no inline script runs: the page stays empty, and the edge's journal says
  why.
- **Pictures, films, fonts, data, workers**: from the same origin, and from the page itself (`blob:`, and
  `data:` for pictures). The map comes from `tiles.immich.cloud` and `static.immich.cloud`. With another map
  style in Immich's settings, data may come from any https address, because the style names further hosts;
  with a custom style (`custom.css`) that loads from elsewhere, so may styles, fonts and pictures.
- **Nothing else**: no frame, no plug-in, no form that is sent somewhere, no other base address.
- `Permissions-Policy` switches off camera, microphone, payment, sensors and what else no page of a link
  uses; the position (for the map), full screen and the clipboard stay. `Cross-Origin-Opener-Policy:
  same-origin` cuts the tie to the page that opened it.

Tried in Chromium with the web programs of Immich 2.7.5, 3.0.3 and 3.1.0: albums, slugs, single photos,
passwords, details, panoramas, live photos, videos, map, download and upload meet no refusal by it, nor do the
streamed videos of 3.1.0.
"""


def main() -> int:
    """Write the document."""
    DOCUMENT.write_text(document(load()), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
