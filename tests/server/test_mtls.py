"""Who counts as a device: a certificate of our authority AND a file with its fingerprint, nothing less.

Everybody else is a stranger, who may open shared links, with whatever certificate.
One table over TLS 1.2 and 1.3, HTTP/1.1 and HTTP/2. All the while a file named by the SHA-256 of nothing lies
among the devices: Caddy gives a visitor without a certificate the fingerprint of an empty one.
"""

from __future__ import annotations

import datetime
import enum
import hashlib
import re
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from components.remote.remote_script import SERVER_FILES
from tests.server.certificates import Identity, TestAuthority, rsa_key
from tests.server.edge import FORBIDDEN, Edge
from tests.server.http2 import Http2Connection
from tests.server.visitor import DOMAIN, Connection, ConnectionDroppedError, proxy_line

pytestmark = pytest.mark.server

HOUR = datetime.timedelta(hours=1)
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
PROTOCOLS = ["http/1.1", "h2"]


class Outcome(enum.Enum):
    """What becomes of a visitor."""

    DEVICE = "all of Immich"
    STRANGER = "shared links alone"


@pytest.fixture(scope="module")
def trapped(caddy_program: Path) -> Iterator[Edge]:
    """Return an edge whose devices include the fingerprint of nothing."""
    edge = Edge(caddy_program)
    (edge.state / "devices" / hashlib.sha256(b"").hexdigest()).write_text("trap\n")
    try:
        edge.start()
        yield edge
    finally:
        edge.stop()


def revoked(edge: Edge, folder: Path) -> Identity:
    """Return a device that was enrolled once."""
    identity = edge.device("lost phone")
    edge.revoke(identity)
    return identity


def enrolled(make: Callable[[Edge, Path], Identity]) -> Callable[[Edge, Path], Identity]:
    """Enrol what is made, so that nothing but the certificate itself can speak against it."""

    def made(edge: Edge, folder: Path) -> Identity:
        identity = make(edge, folder)
        edge.enrol(identity)
        return identity

    return made


WHO: dict[str, tuple[Callable[[Edge, Path], Identity | None], Outcome]] = {
    "nobody": (lambda edge, folder: None, Outcome.STRANGER),
    "an enrolled device, ECDSA": (lambda edge, folder: edge.device("phone"), Outcome.DEVICE),
    "an enrolled device, RSA": (
        enrolled(lambda edge, folder: edge.authority.issue("old phone", key=rsa_key())),
        Outcome.DEVICE,
    ),
    "an enrolled device without extended key usage": (
        enrolled(lambda edge, folder: edge.authority.issue("phone", usage=None)),
        Outcome.DEVICE,
    ),
    "of our authority, never enrolled": (
        lambda edge, folder: edge.authority.issue("phone"),
        Outcome.STRANGER,
    ),
    "without extended key usage, never enrolled": (
        lambda edge, folder: edge.authority.issue("phone", usage=None),
        Outcome.STRANGER,
    ),
    "revoked": (revoked, Outcome.STRANGER),
    "without a subject": (enrolled(lambda edge, folder: edge.authority.issue(None)), Outcome.STRANGER),
    "the authority itself": (lambda edge, folder: edge.authority.identity, Outcome.STRANGER),
    "expired": (
        enrolled(lambda edge, folder: edge.authority.issue("phone", lifetime=-HOUR)),
        Outcome.STRANGER,
    ),
    "not yet valid": (
        enrolled(lambda edge, folder: edge.authority.issue("phone", starts=HOUR)),
        Outcome.STRANGER,
    ),
    "of another authority": (
        enrolled(lambda edge, folder: TestAuthority(folder, "Another CA").issue("phone")),
        Outcome.STRANGER,
    ),
    "of an authority with our name": (
        enrolled(lambda edge, folder: TestAuthority(folder).issue("phone")),
        Outcome.STRANGER,
    ),
    "for servers alone": (
        enrolled(lambda edge, folder: edge.authority.issue("phone", usage=ExtendedKeyUsageOID.SERVER_AUTH)),
        Outcome.STRANGER,
    ),
    "signed by itself": (
        enrolled(lambda edge, folder: TestAuthority(folder, "phone").self_signed("phone")),
        Outcome.STRANGER,
    ),
    "signed by itself, in our name": (
        enrolled(lambda edge, folder: edge.authority.self_signed("phone")),
        Outcome.STRANGER,
    ),
    "of an intermediate authority that ours does not allow": (
        enrolled(lambda edge, folder: edge.authority.below(folder).issue("phone")),
        Outcome.STRANGER,
    ),
    "of an enrolled device that plays authority": (
        enrolled(lambda edge, folder: edge.authority.pretend(folder, edge.device("phone")).issue("friend")),
        Outcome.STRANGER,
    ),
}


def outcome(connection: Connection, protocol: str) -> Outcome:
    """Ask for what devices alone may see, and for a shared link, and tell who one was taken for."""
    assert connection.tls.selected_alpn_protocol() == protocol
    visitor = Http2Connection(connection) if protocol == "h2" else connection
    answer = visitor.ask("/api/users/me")
    assert visitor.ask("/share/abc").status == 200
    if answer.status == 200:
        return Outcome.DEVICE
    assert (answer.status, answer.body) == (403, FORBIDDEN)
    return Outcome.STRANGER


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
@pytest.mark.parametrize("who", WHO)
def test_who_counts_as_a_device(
    trapped: Edge, tmp_path: Path, who: str, version: ssl.TLSVersion, protocol: str
) -> None:
    make, expected = WHO[who]
    identity = make(trapped, tmp_path)
    trapped.backend.received.clear()
    with trapped.connect(
        trapped.new_address(), identity, version=version, protocols=(protocol,)
    ) as connection:
        assert outcome(connection, protocol) == expected
    if expected is not Outcome.DEVICE:
        assert "/api/users/me" not in trapped.backend.targets()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_no_session_is_resumed(trapped: Edge, version: ssl.TLSVersion, protocol: str) -> None:
    """A resumed session would bring the certificate of the first handshake along, without its key."""
    identity = trapped.device("phone")
    context = trapped.tls_context(identity, version=version, protocols=(protocol,))

    def connect(session: ssl.SSLSession | None) -> Connection:
        plain = trapped.dial(proxy_line(trapped.new_address()))
        return Connection(context.wrap_socket(plain, server_hostname=DOMAIN, session=session))

    with connect(None) as first:
        assert outcome(first, protocol) is Outcome.DEVICE
        session = first.tls.session
        assert session is None or not session.has_ticket
    trapped.revoke(identity)
    with connect(session) as second:
        assert not second.tls.session_reused
        assert outcome(second, protocol) is Outcome.STRANGER


NAIVE = """
	@enrolled file {
		root {$IMMICH_EXPOSURE_STATE}/devices
		try_files {http.request.tls.client.fingerprint}
	}
"""


def test_without_our_guards_the_trap_opens(caddy_program: Path) -> None:
    """The table would notice: an edge that looks for the file alone lets everybody in."""
    text, count = re.subn(
        r"\n\t@enrolled enrolled .*\n",
        lambda _: NAIVE,
        (SERVER_FILES / "Caddyfile").read_text(),
    )
    assert count == 1
    edge = Edge(caddy_program, caddyfile=text)
    (edge.state / "devices" / hashlib.sha256(b"").hexdigest()).write_text("trap\n")
    try:
        edge.start()
        with edge.connect(edge.new_address()) as connection:
            assert outcome(connection, "http/1.1") is Outcome.DEVICE
    finally:
        edge.stop()


def test_an_authority_counts_from_the_next_request_on(caddy_program: Path, tmp_path: Path) -> None:
    """Nothing is reloaded: the file of the authorities is looked at again when it has changed."""
    edge = Edge(caddy_program)
    other = TestAuthority(tmp_path / "other", "Another CA")
    ours, theirs = edge.device("phone"), other.issue("tablet")
    edge.enrol(theirs)
    pool = edge.state / "device-ca.crt"
    before = pool.read_bytes()
    try:
        edge.start()

        def devices() -> list[bool]:
            answers = [edge.ask("/api/users/me", identity=identity) for identity in (ours, theirs)]
            return [answer.status == 200 for answer in answers]

        assert devices() == [True, False]
        pool.write_bytes(before + other.certificate.read_bytes())
        assert devices() == [True, True]
        pool.write_bytes(other.certificate.read_bytes())
        assert devices() == [False, True]
        pool.unlink()
        assert edge.ask("/api/users/me", identity=theirs).status == 503
        assert edge.ask("/share/abc").status == 200
    finally:
        edge.stop()


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_a_long_chain_is_not_even_read(trapped: Edge, tmp_path: Path, version: ssl.TLSVersion) -> None:
    """Each of its certificates costs the edge something; a phone sends one, and perhaps what led to it."""
    identity = trapped.device("phone")
    alone = identity.certificate.read_bytes()

    def is_served(others: int) -> bool:
        identity.certificate.write_bytes(alone + others * trapped.authority.certificate.read_bytes())
        try:
            with trapped.connect(trapped.new_address(), identity, version=version) as connection:
                return connection.ask("/api/users/me", body=b"x" * 100_000, method="PUT").status == 200
        except ConnectionDroppedError:
            return False

    assert [is_served(others) for others in (0, 3, 100)] == [True, True, False]
