"""Devices: what an enrolled one may do, and the files that enrol it. Who counts as one: test_mtls.py."""

from __future__ import annotations

import os
import ssl

import pytest

from tests.server.certificates import Identity
from tests.server.edge import FORBIDDEN, Edge
from tests.server.visitor import Connection

pytestmark = pytest.mark.server

VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])


def whoami(connection: Connection) -> int:
    """Ask for what only devices may see and return the status; a refusal is the standard one."""
    answer = connection.ask("/api/users/me")
    assert answer.status == 200 or (answer.status, answer.body) == (403, FORBIDDEN)
    return answer.status


@VERSIONS
def test_every_enrolled_device_is_let_in(edge: Edge, phone: Identity, version: ssl.TLSVersion) -> None:
    for identity in (phone, edge.device("laptop")):
        with edge.connect(edge.new_address(), identity, version=version) as connection:
            assert whoami(connection) == 200
            assert connection.ask("/").status == 200
            assert connection.ask("/api/assets?key=", "POST", body=b"x" * 3_000_000).status == 200


def test_a_revoked_device_is_out_at_its_next_request(edge: Edge) -> None:
    identity = edge.device("lost phone")
    with edge.connect(edge.new_address(), identity) as connection:
        assert whoami(connection) == 200
        edge.revoke(identity)
        assert whoami(connection) == 403
        edge.enrol(identity)
        assert whoami(connection) == 200


def test_a_folder_is_not_a_device(edge: Edge) -> None:
    identity = edge.authority.issue("folder")
    (edge.state / "devices" / identity.fingerprint).mkdir()
    with edge.connect(edge.new_address(), identity) as connection:
        assert whoami(connection) == 403


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file that Caddy may not open")
def test_a_device_file_that_caddy_cannot_open_opens_nothing(edge: Edge) -> None:
    identity = edge.device("unreadable")
    (edge.state / "devices" / identity.fingerprint).chmod(0o600)
    with edge.connect(edge.new_address(), identity) as connection:
        assert whoami(connection) == 403


def test_a_device_has_a_page_about_itself(edge: Edge) -> None:
    identity = edge.device("tablet <of> Anna")
    with edge.connect(edge.new_address(), identity) as connection:
        page = connection.ask("/immich-exposure")
        assert page.status == 200
        assert b'This device is <span class="name">tablet &lt;of&gt; Anna</span>' in page.body
        assert b"<of>" not in page.body
        shown = "".join(f"<span>{identity.fingerprint[at : at + 4]}</span>" for at in range(0, 64, 4))
        assert shown.encode() in page.body
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
        assert page.headers["cache-control"] == "no-store"
        edge.revoke(identity)
        assert connection.ask("/immich-exposure").status == 403
    with edge.connect(edge.new_address()) as stranger:
        answer = stranger.ask("/immich-exposure")
        assert (answer.status, answer.body) == (403, FORBIDDEN)
