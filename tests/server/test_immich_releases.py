"""The pages of the releases of Immich that are known, in front of the real edge and beside what npm has."""

from __future__ import annotations

import re

import pytest

from components.surface.immich_releases import Line, line_of, load, unknown_release
from components.surface.supported_versions import parse_version
from components.surface.table import immich_operations
from tests.server.conftest import EdgeMaker
from tests.server.edge import Edge
from tests.server.forms import Form, form
from tests.server.immich_sdk import SdkError, download, supported_releases

pytestmark = pytest.mark.server

VALUES = {"key": "k3y_Of-a-Link", "slug": "summer-2026"}
ID = "0a1b2c3d-0000-4000-8000-0123456789ab"
LINES = [pytest.param(line, id=line.name) for line in load()]


def test_no_request_of_a_known_page_is_refused(make_edge: EdgeMaker) -> None:
    """Each request that a page of Immich makes, query and all, reaches it as it was sent."""
    edge = make_edge(uploads="on")
    address = edge.new_address()
    for request in sorted({request for line in load() for request in line.asks}):
        method, target = re.sub(r"\{(\w+)\}", lambda match: VALUES.get(match[1], ID), request).split(" ")
        edge.backend.received.clear()
        sent = form() if target.startswith("/api/assets?") else Form(b"{}")
        body, headers = (sent.body, sent.headers) if method == "POST" else (None, [])
        edge.ask(target, method, address=address, headers=headers, body=body)
        assert [(seen.method, seen.target) for seen in edge.backend.received][-1] == (method, target)


@pytest.mark.parametrize("line", LINES)
def test_what_a_page_sends_of_its_own_reaches_immich(edge: Edge, line: Line) -> None:
    edge.ask(f"/share/{VALUES['key']}", headers=[(name, "7") for name in line.headers])
    [seen] = edge.backend.received
    assert [seen.headers.get(name.lower()) for name in line.headers] == [["7"]] * len(line.headers)


@pytest.mark.nightly
def test_the_newest_of_a_line_stands_for_all_of_it() -> None:
    """Each supported version of the SDK has a line, whose newest takes a link's key wherever it does."""
    try:
        versions = supported_releases()
    except SdkError as problem:
        pytest.skip(f"npm cannot be asked: {problem}")
    for version in versions:
        assert unknown_release(version) == []
        parsed = parse_version(version)
        assert parsed is not None
        links = {one.name for one in immich_operations()[line_of(parsed).sdk] if one.link}
        assert {one.name for one in download(version) if one.link} <= links, version
