"""Who counts as a device: a certificate of our authority AND a file with its fingerprint, nothing less."""

from __future__ import annotations

import datetime
import hashlib
import os
import ssl
from pathlib import Path

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.server.certificates import Identity, TestAuthority
from tests.server.edge import FORBIDDEN, Edge
from tests.server.visitor import Connection, ConnectionDroppedError

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


@VERSIONS
def test_nobody_else_is(edge: Edge, version: ssl.TLSVersion) -> None:
    for identity in (None, edge.authority.issue("phone")):
        with edge.connect(edge.new_address(), identity, version=version) as connection:
            assert whoami(connection) == 403
            assert connection.ask("/share/abc").status == 200


@VERSIONS
@pytest.mark.parametrize("kind", ["other authority", "same name", "expired", "not for clients"])
def test_a_bad_certificate_is_refused_in_the_handshake(
    edge: Edge, tmp_path: Path, version: ssl.TLSVersion, kind: str
) -> None:
    identity = {
        "other authority": lambda: TestAuthority(tmp_path, "Another CA").issue("phone"),
        "same name": lambda: TestAuthority(tmp_path).issue("phone"),
        "expired": lambda: edge.authority.issue("phone", lifetime=datetime.timedelta(hours=-1)),
        "not for clients": lambda: edge.authority.issue("phone", usage=ExtendedKeyUsageOID.SERVER_AUTH),
    }[kind]()
    edge.enrol(identity)
    edge.backend.received.clear()
    with (
        pytest.raises(ConnectionDroppedError, match="alert|reset|closed|EOF"),
        edge.connect(edge.new_address(), identity, version=version) as connection,
    ):
        connection.ask("/share/abc")
    assert edge.backend.received == []


def test_a_revoked_device_is_out_at_its_next_request(edge: Edge) -> None:
    identity = edge.device("lost phone")
    with edge.connect(edge.new_address(), identity) as connection:
        assert whoami(connection) == 200
        edge.revoke(identity)
        assert whoami(connection) == 403
        edge.enrol(identity)
        assert whoami(connection) == 200


def test_the_fingerprint_of_nothing_opens_nothing(edge: Edge) -> None:
    """Caddy gives a visitor without certificate that of an empty one: SHA-256 of nothing."""
    nothing = edge.state / "devices" / hashlib.sha256(b"").hexdigest()
    nothing.write_text("trap\n")
    try:
        with edge.connect(edge.new_address()) as connection:
            assert whoami(connection) == 403
    finally:
        nothing.unlink()


def test_a_certificate_without_a_subject_is_nobody(edge: Edge) -> None:
    identity = edge.authority.issue(None)
    edge.enrol(identity)
    with edge.connect(edge.new_address(), identity) as connection:
        assert whoami(connection) == 403


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
