"""What the browser of a visitor is told about a page of Immich, and what it is told while there is none."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.conftest import EdgeMaker
from tests.server.edge import Edge
from tests.server.visitor import Answer

pytestmark = pytest.mark.server

PAGE = "/share/k3y_Of-a-Link"
INLINE = ("\n  const theme = localStorage.getItem('theme');\n", "import('/_app/immutable/entry/start.js')")
SHELL = f"""<!doctype html><html><head><!-- metadata:tags -->
<script>{INLINE[0]}</script><script type="module" src="/_app/immutable/a.js"></script></head>
<body><script defer>{INLINE[1]}</script></body></html>"""
HTML = {"Content-Type": "text/html; charset=utf-8"}
MAP = "https://tiles.immich.cloud https://static.immich.cloud"
INTERVAL = 0.05
"""Seconds after which the edge of these tests looks anew at what Immich's page is."""


def sha256(script: str) -> str:
    """Return how a policy names an inline script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def policy(answer: Answer) -> dict[str, str]:
    """Return the policy of a page by directive; it is the one that is more than the general one."""
    told = answer.headers["content-security-policy"].split(", ")
    [found] = [text for text in told if "script-src" in text]
    return dict(part.split(" ", 1) for part in found.split("; "))


@pytest.fixture(scope="module")
def _watching(caddy_program: Path) -> Iterator[Edge]:
    edge = Edge(caddy_program, settings={"LOOK_AGAIN": f"{INTERVAL}s"})
    try:
        edge.start()
        yield edge
    finally:
        edge.stop()


@pytest.fixture
def pages(_watching: Edge) -> Edge:
    """Return an edge before an Immich that shows pages, after it has forgotten what it knew of another."""
    backend = _watching.backend
    backend.received.clear()
    backend.answers.clear()
    backend.bodies.clear()
    for path, text in (("/index.html", SHELL), (PAGE, SHELL.replace("<!--", "<title>Anna's</title><!--"))):
        backend.answers["GET", path] = (200, HTML)
        backend.bodies["GET", path] = text.encode()
    time.sleep(2 * INTERVAL)
    return _watching


def test_a_page_may_run_immichs_own_scripts_and_load_from_immich_alone(pages: Edge) -> None:
    answer = pages.ask(PAGE)
    assert answer.status == 200 and answer.body.endswith(b"</html>")
    assert policy(answer) == {
        "default-src": "'none'",
        "script-src": f"'self' 'wasm-unsafe-eval' {sha256(INLINE[0])} {sha256(INLINE[1])}",
        "style-src": "'self' 'unsafe-inline'",
        "font-src": "'self'",
        "img-src": "'self' data: blob:",
        "media-src": "'self' blob:",
        "connect-src": f"'self' blob: {MAP}",
        "worker-src": "'self' blob:",
        "manifest-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    assert "camera=()" in answer.headers["permissions-policy"]
    assert answer.headers["cross-origin-opener-policy"] == "same-origin"


def test_a_script_that_came_with_the_name_of_an_album_is_not_allowed(pages: Edge) -> None:
    evil = "fetch('/api/users/me')"
    pages.backend.bodies["GET", PAGE] = SHELL.replace(
        "<!-- metadata:tags -->", f"<title><script>{evil}</script>"
    ).encode()
    scripts = policy(pages.ask(PAGE))["script-src"]
    assert sha256(evil) not in scripts and "unsafe-inline" not in scripts
    assert sha256(INLINE[0]) in scripts


def test_the_page_of_an_unknown_link_has_it_too(pages: Edge) -> None:
    pages.backend.answers["GET", PAGE] = (404, HTML)
    answer = pages.ask(PAGE)
    assert answer.status == 404 and sha256(INLINE[1]) in policy(answer)["script-src"]


def test_an_upgrade_of_immich_is_noticed(pages: Edge) -> None:
    assert sha256(INLINE[1]) in policy(pages.ask(PAGE))["script-src"]
    pages.backend.bodies["GET", "/index.html"] = SHELL.replace(INLINE[1], "newer()").encode()
    time.sleep(2 * INTERVAL)
    scripts = policy(pages.ask(PAGE))["script-src"]
    assert sha256("newer()") in scripts and sha256(INLINE[1]) not in scripts


def test_many_pages_make_immich_show_its_own_once(make_edge: EdgeMaker) -> None:
    edge = make_edge(settings={"LOOK_AGAIN": "1m"})
    edge.backend.answers = {("GET", PAGE): (200, HTML)}
    told = [policy(edge.ask(PAGE)) for _ in range(5)]
    [asked] = [seen for seen in edge.backend.received if seen.target == "/index.html"]
    assert told == [told[0]] * 5 and asked.headers["accept-encoding"] == ["identity"]


def test_the_ends_of_lines_are_what_a_browser_makes_of_them(pages: Edge) -> None:
    pages.backend.bodies["GET", "/index.html"] = b"<script>one()\r\ntwo()\rthree()</script>"
    assert sha256("one()\ntwo()\nthree()") in policy(pages.ask(PAGE))["script-src"]


def test_an_immich_that_does_not_show_its_page_allows_no_inline_script(make_edge: EdgeMaker) -> None:
    edge = make_edge()
    edge.backend.answers = {("GET", PAGE): (200, HTML), ("GET", "/index.html"): (500, {})}
    edge.backend.bodies["GET", PAGE] = SHELL.encode()
    assert policy(edge.ask(PAGE))["script-src"] == "'self' 'wasm-unsafe-eval'"
    assert "Immich does not show its own page" in edge.journal.read_text()


def test_what_was_known_counts_on_while_immich_does_not_show_its_page(pages: Edge) -> None:
    before = policy(pages.ask(PAGE))
    pages.backend.answers["GET", "/index.html"] = (302, {"Location": "/share/other"})
    time.sleep(2 * INTERVAL)
    assert policy(pages.ask(PAGE)) == before


def test_the_owners_style_and_map_may_come_from_elsewhere(pages: Edge) -> None:
    pages.backend.bodies["GET", "/custom.css"] = b'@import url("https://styles.example/theme.css");'
    pages.backend.bodies["GET", "/api/server/config"] = json.dumps(
        {
            "mapLightStyleUrl": "https://tiles.immich.cloud/light.json",
            "mapDarkStyleUrl": "https://maps.example/d",
        }
    ).encode()
    told = policy(pages.ask(PAGE))
    assert told["style-src"] == "'self' 'unsafe-inline' https:"
    assert told["font-src"] == "'self' https:" and told["img-src"] == "'self' data: blob: https:"
    assert told["connect-src"] == "'self' blob: https:"
    assert "https:" not in told["script-src"] + told["default-src"] + told["media-src"]


def test_a_style_and_a_map_of_immich_itself_widen_nothing(pages: Edge) -> None:
    pages.backend.bodies["GET", "/custom.css"] = b"/* mine */ body { background: url(/favicon.png) }"
    pages.backend.bodies["GET", "/api/server/config"] = json.dumps(
        {"mapLightStyleUrl": "https://tiles.immich.cloud/v1/style/light.json", "mapDarkStyleUrl": ""}
    ).encode()
    told = policy(pages.ask(PAGE))
    assert "https:" not in told["style-src"] + told["img-src"]
    assert told["connect-src"] == f"'self' blob: {MAP}"


def test_what_is_no_page_and_what_a_device_gets_has_no_policy_for_scripts(pages: Edge) -> None:
    phone = pages.device("phone")
    pages.backend.answers["GET", "/service-worker.js"] = (200, {"Content-Type": "text/javascript"})
    for answer in (pages.ask("/service-worker.js"), pages.ask(PAGE, identity=phone)):
        assert answer.status == 200
        assert answer.headers["content-security-policy"] == "frame-ancestors 'none'"
        assert "cross-origin-opener-policy" not in answer.headers


@pytest.mark.parametrize(
    "target", ["/maintenance?continue=%2Fshare%2Fk3y", "https://immich.example/maintenance"]
)
def test_a_visitor_during_maintenance_is_told_to_come_back(pages: Edge, target: str) -> None:
    pages.backend.answers["GET", PAGE] = (302, {"Location": target, "Set-Cookie": "a=b"})
    answer = pages.ask(PAGE)
    assert (answer.status, answer.body) == (503, b'{"status":503,"message":"Service Unavailable"}')
    assert answer.headers["retry-after"] == "120"
    assert "location" not in answer.headers and "set-cookie" not in answer.headers


def test_another_redirect_is_passed_on(pages: Edge) -> None:
    pages.backend.answers["GET", PAGE] = (302, {"Location": "/maintenance-of-bikes"})
    answer = pages.ask(PAGE)
    assert answer.status == 302 and answer.headers["location"] == "/maintenance-of-bikes"


@pytest.mark.parametrize("address", ["", "127.0.0.1", "127.0.0.1:2283/x", "a b:1"])
def test_an_address_of_immich_that_is_none_is_refused(make_edge: EdgeMaker, address: str) -> None:
    edge = make_edge(start=False)
    text = edge._caddyfile.read_text()
    edge._caddyfile.write_text(
        text.replace("page_policy {$IMMICH_EXPOSURE_IMMICH:127.0.0.1:2283}", f'page_policy "{address}"')
    )
    done = edge.run_caddy("validate", "--config", "Caddyfile", "--adapter", "caddyfile")
    assert done.returncode != 0 and "page_policy wants the address and port" in done.stderr
