"""What must hold for everything that reaches Immich from a stranger, whatever was sent."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Iterator, Sequence

from components.surface.table import Row, load
from tests.server.path_backends import Hit

TABLE = load()
DEFAULT_FEATURES = tuple(feature.name for feature in TABLE.features if feature.default)

STOLEN = "st0len"
"""What stands in for a user's credential in every request of the tests; it must never come through."""

_CREDENTIAL_HEADERS = frozenset(
    {
        "authorization",
        "proxy-authorization",
        "x-api-key",
        "x-immich-user-token",
        "x-immich-session-token",
        "x-immich-checksum",
        "x-immich-share-key",
        "x-immich-share-slug",
        "x-real-ip",
        "forwarded",
        "x-http-method-override",
        "x-http-method",
        "x-method-override",
        "x-original-url",
        "x-original-uri",
        "x-rewrite-url",
        "upgrade",
    }
)
THE_EDGES_OWN = ("/index.html", "/custom.css", "/api/server/config")
_CREDENTIAL_QUERIES = frozenset({"apikey", "sessionkey", "password"})


def objections(hit: Hit, features: Sequence[str] = DEFAULT_FEATURES) -> list[str]:
    """Return every reason why this request should not have reached Immich; an empty list is right."""
    return [*_row_objections(hit, features), *_operation_objections(hit, features), *_secrets(hit)]


def is_the_edges_own(hit: Hit) -> bool:
    """Return whether the edge asked by itself what Immich's page is (csp.go), on nobody's behalf."""
    return (
        hit.headers.get("user-agent") == ["immich-edge"]
        and "x-forwarded-for" not in hit.headers
        and (hit.method, hit.target) in (("GET", target) for target in THE_EDGES_OWN)
    )


def row_of(method: str, target: str, features: Sequence[str] = DEFAULT_FEATURES) -> Row | None:
    """Return the row that a request target, byte for byte, belongs to."""
    path, mark, query = target.partition("?")
    for row in TABLE.rows:
        if row.feature in features and method in row.methods and re.fullmatch(row.pattern, path):
            if row.link and not (mark and re.search(r"(?:^|&)(?:key|slug)=[^&]", query)):
                continue
            return row
    return None


def _row_objections(hit: Hit, features: Sequence[str]) -> Iterator[str]:
    row = row_of(hit.method, hit.target, features)
    if row is None:
        yield "no row of the table lets it through"
    path = hit.target.partition("?")[0]
    if row is not None and "{slug}" in row.path:
        slug = path.split("/")[2]
        if not _is_one_name(slug):
            yield "its slug can be read in two ways"
        path = path.replace(slug, "slug", 1)
    if re.search(r"[^\x21-\x7e]|//|/\.|;|\\|%(?:0|1|2[ef]|5c|25|7f)", path, re.IGNORECASE):
        yield "its path can be read in two ways"


def _is_one_name(slug: str) -> bool:
    """Whether a slug stays one however it is decoded; it may hold slashes, semicolons and percents."""
    if re.search(r"[^\x21-\x7e]|\\|%(?:0|1|2e|5c|7f)", slug, re.IGNORECASE):
        return False
    plain = urllib.parse.unquote(slug, errors="strict")
    if urllib.parse.unquote(plain) != plain or re.search(r"%u|[\x00-\x1f\x7f]|//", plain, re.IGNORECASE):
        return False
    parts = [re.sub(r"[;?#].*|\s", "", part) for part in plain.split("/")]
    return not {".", ".."} & set(parts)


def _operation_objections(hit: Hit, features: Sequence[str]) -> Iterator[str]:
    if not hit.operation:
        return
    if hit.operation not in TABLE.open_operations(features):
        yield f"it was taken for {hit.operation}"
        return
    row = next(row for row in TABLE.rows if hit.operation in row.operations)
    for query in hit.queries:
        keys = [query[name] for name in ("key", "slug") if name in query]
        if row.link and any(len(values) != 1 for values in keys):
            yield "its key is not one string"
        if row.link and not any(values and values[0] for values in keys):
            yield "it has no key of a link"


def _secrets(hit: Hit) -> Iterator[str]:
    for name in sorted(_CREDENTIAL_HEADERS & set(hit.headers)):
        yield f"it carries the header {name}"
    for query in hit.queries:
        for name in query:
            if name.lower() in _CREDENTIAL_QUERIES:
                yield f"it carries {name} in the query"
    if STOLEN in str(hit.headers):
        yield "a credential came through in a header"
