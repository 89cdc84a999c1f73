"""The table of the surface: what is made from it is current, and it is all that reaches Immich."""

from __future__ import annotations

import re
import subprocess
import tomllib
from collections.abc import Callable, Iterator

import pytest

from components.remote.remote_script import SERVER_FILES
from components.surface.files import DOCUMENT, document
from components.surface.table import TABLE_FILE, Feature, Operation, immich_operations, load
from tests.server.conftest import EdgeMaker
from tests.server.edge import FORBIDDEN, Edge
from tests.server.forms import Form, form
from tests.server.immich_sdk import SdkError, download, newest_versions, read_operations

pytestmark = pytest.mark.server

TABLE = load()
OPERATIONS = sorted({each for version in immich_operations().values() for each in version})
SWITCHED = [feature for feature in TABLE.features if not feature.fixed]
DEFAULT = [feature.name for feature in TABLE.features if feature.default]
ID = "0a1b2c3d-0000-4000-8000-0123456789ab"
KEY = "key=k3y_Of-a-Link"
FILLED = {
    "filename": "segment_1.m4s",
    "variantIndex": "0",
    "key": "k3y_Of-a-Link",
    "slug": "summer-2026",
    "slash": "",
    "bundle": "entry/start.B7x_q-1.js",
    "icon": "-32",
    "theme": "light",
}


def fill(path: str) -> str:
    """Return a path with values in place of its parameters."""
    return re.sub(r"\{(\w+)\}", lambda match: FILLED.get(match[1], ID), path)


def reached(edge: Edge, method: str, target: str, address: str) -> bool:
    """Ask without a certificate and tell whether the back end heard of it; what did not must be a refusal."""
    edge.backend.received.clear()
    sent = form() if target.startswith("/api/assets?") else Form(b"{}")
    body, headers = (sent.body, sent.headers) if method in ("POST", "PUT", "PATCH") else (None, [])
    answer = edge.ask(target, method, address=address, headers=headers, body=body)
    if edge.backend.received:
        *asked, seen = edge.backend.received
        assert (seen.method, seen.target) == (method, target)
        assert [question.target for question in asked] == ([f"/api/shared-links/me?{KEY}"] if asked else [])
        return True
    assert (answer.status, answer.body) == (403, FORBIDDEN)
    return False


# What is made from it


def test_the_document_is_current() -> None:
    assert DOCUMENT.read_text() == document(TABLE), "run python -m components.surface.files"


# The table and the SDK


def test_rows_are_what_the_sdk_calls_them() -> None:
    """Same method, same path, same need of a key, in every version that has the operation."""
    known = {operation.name for operation in OPERATIONS}
    for row in TABLE.rows:
        assert set(row.operations) <= known
        assert bool(row.operations) == row.path.startswith("/api/")
        for operation in OPERATIONS:
            if operation.name not in row.operations:
                continue
            assert operation.method == row.methods[0]
            assert re.fullmatch(row.pattern, fill(f"/api{operation.path}")), operation
            assert operation.link == row.link, operation


def test_each_operation_for_links_is_a_row_or_closed_for_a_reason() -> None:
    """A new version of the SDK with another one makes this speak: decide, and write it into surface.toml."""
    open_ones, closed = TABLE.open_operations(), {each.operation for each in TABLE.closed}
    for_links = {operation.name for operation in OPERATIONS if operation.link}
    assert for_links - open_ones - closed == set()
    assert closed <= for_links, "what is no longer for links needs no word"
    assert not open_ones & closed


def test_without_a_key_only_public_facts_are_open() -> None:
    keyless = {name for row in TABLE.rows if not row.link for name in row.operations}
    assert keyless == {"getServerConfig", "getServerFeatures", "getSupportedMediaTypes", "getPublicConfig"}


def test_the_counts() -> None:
    counts = {
        version: (
            len(each),
            sum(one.link for one in each),
            len(TABLE.open_operations() & {one.name for one in each}),
        )
        for version, each in immich_operations().items()
    }
    assert counts == {"2.7.5": (245, 16, 15), "3.2.2": (276, 18, 21)}


def test_every_family_of_the_api_is_quiet() -> None:
    """The first words below /api of all operations, and of the web socket, which no SDK knows."""
    quiet = tomllib.loads(TABLE_FILE.read_text())["quiet"]
    assert quiet["api"] == sorted({each.path.split("/")[1] for each in OPERATIONS} | {"socket.io"})


@pytest.mark.nightly
def test_npm_has_no_other_operations() -> None:
    """The list in the repository is that of the newest versions: python -m tests.server.immich_sdk."""
    try:
        versions = newest_versions()
    except SdkError as problem:
        pytest.skip(f"npm cannot be asked: {problem}")
    newest = {version: tuple(download(version)) for version in versions}
    for_links = {one.name for each in newest.values() for one in each if one.link}
    assert for_links <= TABLE.open_operations() | {each.operation for each in TABLE.closed}
    assert newest == immich_operations()


def test_an_sdk_that_cannot_be_read_is_refused() -> None:
    text = "export function getIt({ id }, opts) {\n    return oazapfts.fetchJson(`/its/${id}`, {});\n}\n"
    with pytest.raises(SdkError, match="unknown part"):
        read_operations(text)
    with pytest.raises(SdkError, match="in 2 places, but 1 operations"):
        read_operations(text.replace("${id}", "x") + "const other = () => oazapfts.fetchJson(path);\n")
    assert read_operations(text.replace("{ id }", "{ key, slug }").replace("${id}", "x")) == [
        Operation("getIt", "GET", "/its/x", link=True)
    ]


# The table and Caddy


@pytest.mark.parametrize("uploads", ["off", "on"])
def test_of_all_operations_exactly_the_tables_reach_immich(make_edge: EdgeMaker, uploads: str) -> None:
    edge = make_edge(uploads=uploads)
    expected = TABLE.open_operations([*DEFAULT, "uploads"] if uploads == "on" else DEFAULT)
    keyless = {name for row in TABLE.rows if not row.link for name in row.operations}
    address = edge.new_address()
    with_key, without = set(), set()
    for operation in OPERATIONS:
        path = fill(f"/api{operation.path}")
        if reached(edge, operation.method, f"{path}?{KEY}", address):
            with_key.add(operation.name)
        if reached(edge, operation.method, path, address):
            without.add(operation.name)
    assert with_key == expected
    assert without == keyless & expected


def test_every_row_is_reachable(edge: Edge) -> None:
    address = edge.new_address()
    for row in TABLE.rows:
        if row.feature in DEFAULT:
            target = fill(row.path) + (f"?{KEY}" if row.link else "")
            assert [reached(edge, method, target, address) for method in row.methods] == [True] * len(
                row.methods
            )


@pytest.fixture(params=[feature for feature in SWITCHED], ids=lambda feature: str(feature.name))
def switched(request: pytest.FixtureRequest, make_edge: EdgeMaker) -> Iterator[tuple[Feature, Edge]]:
    """Return a feature and an edge on which it is as it is not by default."""
    feature: Feature = request.param
    yield feature, make_edge(settings={feature.setting: "off" if feature.default else "on"})


def test_a_feature_switches_its_rows_alone(switched: tuple[Feature, Edge]) -> None:
    feature, edge = switched
    address = edge.new_address()
    for row in TABLE.rows:
        target = fill(row.path) + (f"?{KEY}" if row.link else "")
        expected = (row.feature in DEFAULT) != (row.feature == feature.name)
        assert reached(edge, row.methods[0], target, address) == expected, row


def test_a_misspelt_switch_opens_nothing(make_edge: EdgeMaker) -> None:
    edge = make_edge(settings={"FEATURE_MAP": "maybe"}, start=False)
    done = edge.run_caddy("adapt", "--config", "Caddyfile")
    assert done.returncode != 0 and "the feature map is on or off" in done.stderr


def test_the_caddyfile_switches_each_feature() -> None:
    """The table says what is on by default, and so does the Caddyfile, for those who have no settings."""
    lines = re.findall(
        r"\tfeature (\w+) \{\$IMMICH_EXPOSURE_(\w+):(\w+)\}", (SERVER_FILES / "Caddyfile").read_text()
    )
    assert lines == [(each.name, each.setting, "on" if each.default else "off") for each in SWITCHED]


BROKEN: dict[str, Callable[[str], str | None]] = {
    "the file is gone": lambda text: None,
    "it is empty": lambda text: "",
    "it is no TOML": lambda text: text + "\n[[rows",
    "an unknown pattern": lambda text: text.replace("{slug}", "{sulg}"),
    "a broken pattern": lambda text: text.replace("theme = '(?:", "theme = '["),
    "an unknown size": lambda text: text.replace('body = "1MB"', 'body = "1 heap"'),
    "a feature that nobody switches": lambda text: text + "\n[features.printing]\n",
    "a feature that is gone": lambda text: text.replace("[features.map]", "[features.maps]"),
    "nothing is quiet": lambda text: text.replace("files = [", "filez = ["),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_table_is_no_configuration(make_edge: EdgeMaker, how: str) -> None:
    """The edge does not start, instead of starting with half a table."""
    edge = make_edge(start=False)
    text = BROKEN[how](edge.surface.read_text())
    assert text != edge.surface.read_text()
    edge.surface.write_text(text) if text is not None else edge.surface.unlink()
    done = validated(edge)
    assert done.returncode != 0 and re.search("what (strangers|frames) may ask", done.stderr)


def validated(edge: Edge) -> subprocess.CompletedProcess[str]:
    """Return what `caddy validate` says of an edge's configuration."""
    return edge.run_caddy("validate", "--config", "Caddyfile", "--adapter", "caddyfile")
