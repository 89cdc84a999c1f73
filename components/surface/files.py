"""Generates `docs/surface.md` from the surface table.

`python -m components.surface.files` rewrites it; a test checks that it is current.
"""

from __future__ import annotations

import argparse
import re
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

A device with an enrolled client certificate reaches all of Immich. A frame reaches what the table near
the end lists. Strangers reach the requests below, which a shared link's page needs, and nothing else.
Each row is compared with the request as it was sent, from its first to its last character, and Immich
receives that same text: nothing is left to decode or normalise, so two parsers cannot disagree about
it. "Link" means that the query must contain the key or slug of a link; without one, Immich would look
for a user's session instead. HEAD is allowed wherever GET is.

Immich receives only the headers and cookies that the table lists, and credentials in a query are
refused. So an Immich user's session, token or API key is useless without a device.

"""


def _counts(table: Table) -> Iterator[str]:
    yield "## Counts\n\n"
    heads = ("operations", "accept a link's key", "reachable by default", "with uploads", "refused")
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
        "`server/immich-releases.toml` lists what a link's page requests, and tests show that none of\n"
        "it is refused. A release that is not listed is treated like the previous one: nothing more\n"
        "becomes public, and `pulumi up` and the previews after it name it. A release below the first\n"
        "is refused.\n\n"
    )
    yield _table_head("releases", "observed in", "requests", "of these, only in this row")
    for line in immich_releases.load():
        yield f"| {line.name} | {line.seen} | {len(line.asks)} | {len(line.alone)} |\n"
    yield "\n"


def _feature_tables(table: Table) -> Iterator[str]:
    yield "## Reachable\n\n"
    for feature in table.features:
        state = "always on" if feature.fixed else "on by default" if feature.default else "off by default"
        yield f"### {feature.name} ({state})\n\n{_linked(feature.about)}\n\n"
        yield _table_head("method", "path", "link", "operations", "why", "evidence")
        for row in table.rows_of(feature.name):
            methods = ", ".join(method for method in row.methods if method != "HEAD")
            operations = ", ".join(row.operations)
            path = row.path.replace("{slash}", "")
            link = "yes" if row.link else ""
            yield f"| {methods} | `{path}` | {link} | {operations} | {row.why} | {row.evidence} |\n"
        yield "\n"


def _linked(text: str) -> str:
    """Return a text of the table, which names pages by their paths, with links to them."""
    return re.sub(r"`docs/([\w-]+)\.md`", r"[\1](\1.md)", text)


def _closed_table(table: Table) -> Iterator[str]:
    yield "## Closed, though Immich opens it to links\n\n" + _table_head("operation", "why")
    for closed in table.closed:
        yield f"| {closed.operation} | {closed.why} |\n"
    yield "\n"


def _frames_table(table: Table) -> Iterator[str]:
    yield (
        "## Frames: picture frames, televisions, screensavers\n\n"
        "A client that sends the secret of an enrolled [frame](frames.md) (`frames`, off by default) may\n"
        "send these requests and no others, not even those of links. Immich receives no cookie from it and\n"
        "only the headers in the table. Its API key is passed on, so it sees what the key's user may see.\n"
        "All of these are reads; the two searches are POST because Immich takes the query in a body.\n\n"
    )
    yield _table_head("method", "path", "operations", "why", "used by")
    for row in table.frames:
        methods = ", ".join(method for method in row.methods if method != "HEAD")
        yield f"| {methods} | `{row.path}` | {', '.join(row.operations)} | {row.why} | {row.evidence} |\n"
    yield "\n"


def _table_head(*names: str) -> str:
    return f"| {' | '.join(names)} |\n|{' --- |' * len(names)}\n"


_REFUSALS = """## What a refusal reveals

Nothing. Every refusal is the same 403 with the same headers and body, whatever was requested. With
`rejectWith: drop`, the connection ends without an answer instead. The same applies to a Host other than
the certificate's. Not covered are answers of Go's HTTP library before Caddy sees a request: 400 for
input that is not HTTP, 431 for headers over 20 KB, and 501 and 505 for unknown transfer codings and
protocol versions. None of these names the program. A refusal says `Connection: close` if the request
asked for it, is HTTP/1.0, or has a body that is not worth reading.
Allowed requests can get 413 (body too big), 429 (too many, with Retry-After), 502 (Immich does not
answer) and 503 (the bans cannot be read).

Every answer, to anybody, has HSTS, `nosniff`, `X-Robots-Tag: noindex, nofollow`, `Referrer-Policy:
no-referrer` and `Content-Security-Policy: frame-ancestors 'none'`, in addition to any policy that
Immich sends.

A key with something appended to it (`/share/KEY,`: chat and mail programs take the punctuation after an
address for a part of it) is answered with a redirect to the link's page. A request names one link, by
its key or by its slug.

While Immich is in maintenance mode, it redirects visitors to a page of the app; the edge answers them
with 503 and Retry-After.

## What a page may do in a visitor's browser

Every HTML answer to a visitor has a content security policy made by `server/caddy/csp.go`. (A device
gets Immich's pages unchanged.)

- **Scripts**: files from the same origin, the WebAssembly that lays out the photos, and the inline
  scripts of Immich's own page, by their hashes. The hashes differ from build to build, so the edge
  reads them from Immich's `/index.html`, which contains nothing from any link, every two seconds. A
  script that somebody has put into a page, for example through an album's name, does not run. If Immich
  does not return that page, no inline script runs: the page stays empty, and the edge's journal says
  why.
- **Pictures, videos, fonts, data, workers**: from the same origin, and from the page itself (`blob:`,
  and `data:` for pictures). The map comes from `tiles.immich.cloud` and `static.immich.cloud`. If
  Immich's settings name another map style, data may come from any https address, because the style
  names further hosts. If a custom style (`custom.css`) loads from elsewhere, so may styles, fonts and
  pictures.
- **Nothing else**: no frames, no plug-ins, no form submissions, no other base URL.
- `Permissions-Policy` switches off camera, microphone, payment, sensors and everything else that no
  link's page uses; geolocation (for the map), full screen and the clipboard stay.
  `Cross-Origin-Opener-Policy: same-origin` separates the page from the one that opened it.

Tested in Chromium with the web apps of Immich 2.7.5, 3.0.3 and 3.1.0: the policy blocks nothing in
albums, slugs, single photos, passwords, details, panoramas, live photos, videos, map, download and
upload, nor in the streamed videos of 3.1.0.
"""


def main() -> int:
    """Write the document."""
    argparse.ArgumentParser(
        prog="python -m components.surface.files", description="Write docs/surface.md from the surface table."
    ).parse_args()
    DOCUMENT.write_text(document(load()), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
