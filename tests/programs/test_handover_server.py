"""The hand-over's server, asked by real TLS clients on loopback."""

from __future__ import annotations

import hashlib
import http.client
import ipaddress
import logging
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509

from handover.files import PKCS12, Handover, read_handover
from handover.one_time_download import OneTimeDownload
from handover.server import HandoverServer, Limits, Outcome, new_token, page_url
from handover.tls import new_identity
from pki import KeystoreError
from tests.unit.pki.facts import PASSPHRASE

LOOPBACK = ipaddress.ip_address("127.0.0.1")
PATIENCE = 20.0


class Running:
    """A server that serves in a thread, and a client of it."""

    def __init__(self, handover: Handover, seconds: float, limits: Limits | None, linger: float) -> None:
        self.handover = handover
        self.token = new_token()
        self.identity = new_identity(LOOPBACK)
        self.download = OneTimeDownload(handover, self.token, seconds)
        self.server = HandoverServer(self.download, self.identity, LOOPBACK, limits=limits)
        self.port = self.server.port
        self.outcome: Outcome | None = None
        self._seconds, self._linger = seconds, linger
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        self.outcome = self.server.serve(self._seconds, linger_seconds=self._linger)

    def connect(self) -> ssl.SSLSocket:
        """Shake hands as a phone does whose owner has compared the fingerprint."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection = context.wrap_socket(self.plain())
        seen = hashlib.sha256(connection.getpeercert(binary_form=True) or b"").hexdigest()
        assert seen == self.identity.fingerprint
        return connection

    def plain(self) -> socket.socket:
        """Open a connection and say nothing."""
        return socket.create_connection((str(LOOPBACK), self.port), timeout=PATIENCE)

    def ask(self, method: str, path: str, body: bytes = b"") -> http.client.HTTPResponse:
        """Ask once and read the whole answer."""
        with self.connect() as connection:
            head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            response = http.client.HTTPResponse(connection, method=method)
            response.begin()
            self.body = response.read()
        return response

    def fetch(self) -> http.client.HTTPResponse:
        """Ask for the bundle."""
        return self.ask("POST", f"/{self.token}/phone.p12")


Start = Callable[..., Running]


@pytest.fixture(scope="module")
def handover(keystore: Path) -> Handover:
    return read_handover(keystore, "phone", PASSPHRASE)


@pytest.fixture
def start(handover: Handover) -> Iterator[Start]:
    """Start servers that are ended with the test."""
    running: list[Running] = []

    def one(seconds: float = 60.0, limits: Limits | None = None, linger: float = 0.0) -> Running:
        running.append(Running(handover, seconds, limits, linger))
        return running[-1]

    yield one
    for each in running:
        each.server.stop()
        each.thread.join(PATIENCE)
        assert not each.thread.is_alive()


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_first_fetch_gets_the_bundle_byte_for_byte(start: Start, keystore: Path) -> None:
    running = start()
    response = running.fetch()
    assert response.status == 200
    assert response.headers["Content-Type"] == PKCS12
    assert running.body == (keystore / "devices" / "phone.p12").read_bytes()


def test_it_ends_by_itself_after_the_fetch(start: Start) -> None:
    running = start()
    running.fetch()
    running.thread.join(PATIENCE)
    assert running.outcome is Outcome.FETCHED
    with pytest.raises(ConnectionRefusedError):
        running.plain()


def test_a_second_fetch_is_refused(start: Start, handover: Handover) -> None:
    running = start(linger=PATIENCE)
    try:
        assert running.fetch().status == 200
        assert running.fetch().status == 410
        assert handover.files[0].content not in running.body
    finally:
        running.server.stop()


def test_of_many_at_once_one_alone_gets_the_bundle(start: Start) -> None:
    running = start(linger=PATIENCE)
    try:
        statuses: list[int] = []
        clients = [threading.Thread(target=lambda: statuses.append(running.fetch().status)) for _ in range(6)]
        for client in clients:
            client.start()
        for client in clients:
            client.join(PATIENCE)
        assert sorted(statuses) == [200, 410, 410, 410, 410, 410]
    finally:
        running.server.stop()


def test_looking_at_the_page_takes_nothing(start: Start) -> None:
    running = start()
    assert not running.server.anybody_came
    for method in ("GET", "HEAD", "GET"):
        assert running.ask(method, f"/{running.token}").status == 200
        assert running.ask(method, f"/{running.token}/phone.p12").status == 405
    assert running.server.anybody_came
    assert running.fetch().status == 200


def test_an_answer_to_head_has_no_body(start: Start) -> None:
    running = start()
    with running.connect() as connection:
        connection.sendall(f"HEAD /{running.token} HTTP/1.1\r\n\r\n".encode())
        assert all_of(connection).endswith(b"\r\n\r\n")


def test_a_bad_token_is_refused(start: Start) -> None:
    running = start()
    for path in ("/", "/phone.p12", f"/{running.token[:-1]}/phone.p12", f"/{new_token()}/phone.p12"):
        assert running.ask("POST", path).status == 404
    assert running.fetch().status == 200


def test_the_time_over_closes_it(start: Start) -> None:
    running = start(seconds=0.3)
    running.thread.join(PATIENCE)
    assert running.outcome is Outcome.TIME_OVER
    with pytest.raises(ConnectionRefusedError):
        running.plain()


def test_answers_are_stored_nowhere_and_load_nothing(start: Start) -> None:
    running = start()
    for response in (
        running.ask("GET", f"/{running.token}"),
        running.ask("GET", "/wrong"),
        running.fetch(),
    ):
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["Referrer-Policy"] == "no-referrer"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Content-Security-Policy"].startswith("default-src 'none'; ")
        assert response.headers["Server"] is None


def test_an_answer_repeats_nothing_of_a_malformed_request(start: Start) -> None:
    running = start()
    with running.connect() as connection:
        connection.sendall(b"BREW /<script>pot</script> HTTP/1.1 what\r\n\r\n")
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.0 400 ")
    assert b"pot" not in answer
    assert running.ask("BREW", "/<script>").status == 501
    assert b"script" not in running.body


def test_a_body_is_read_up_to_a_bound(start: Start) -> None:
    running = start()
    path = f"/{running.token}/phone.p12"
    with running.connect() as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\nContent-Length: 999999999\r\n\r\n".encode())
        assert connection.recv(65536).startswith(b"HTTP/1.0 413 ")
    with running.connect() as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\nContent-Length: -5\r\n\r\n".encode())
        assert connection.recv(65536).startswith(b"HTTP/1.0 413 ")
    assert running.ask("POST", path, b"a=b").status == 200


def test_who_says_nothing_holds_up_nobody_and_is_cut_off(
    start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    """Before and after the handshake; the accepting thread waits for neither."""
    running = start(limits=Limits(idle_seconds=0.3))
    with running.plain() as silent, running.connect() as idle:
        assert running.ask("GET", f"/{running.token}").status == 200
        assert silent.recv(1) == b""
        assert idle.recv(1) == b""
    running.server.stop()
    running.thread.join(PATIENCE)
    assert capfd.readouterr() == ("", "")


def test_who_drips_is_cut_off(start: Start) -> None:
    """A byte now and then resets every timeout of the socket, but not the connection's own end."""
    running = start(limits=Limits(idle_seconds=PATIENCE, connection_seconds=0.5))
    with running.connect() as dripping:
        with pytest.raises(OSError):
            drip(dripping)
        assert running.ask("GET", f"/{running.token}").status == 200


def test_who_drips_through_the_handshake_is_cut_off(start: Start) -> None:
    running = start(limits=Limits(idle_seconds=PATIENCE, connection_seconds=0.5))
    with running.plain() as dripping, pytest.raises(OSError):
        drip(dripping, bytes.fromhex("160301400001003ffc"))  # a ClientHello of 16 KiB begins


def drip(connection: socket.socket, beginning: bytes = b"GET / HTTP/1.1\r\nX-Slow: ") -> None:
    """Send what never ends, until the other side has had enough."""
    connection.sendall(beginning)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        connection.sendall(b"a")
        time.sleep(0.02)


def test_one_client_holds_a_few_connections_at_most(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    running = start(limits=Limits(connections_per_client=2))
    with running.plain(), running.plain(), running.plain() as third:
        assert third.recv(1) == b""
    assert "too many connections" in caplog.text
    wait_for(lambda: running.server.open_connections == 0)
    assert running.fetch().status == 200


def test_neighbours_who_hold_every_connection_do_not_keep_the_phone_out(start: Start) -> None:
    """The oldest connection of whoever has most makes room: here of the only one there is."""
    running = start(limits=Limits(connections=4, connections_per_client=8, idle_seconds=PATIENCE))
    with ExitStack() as neighbours:
        held = [neighbours.enter_context(running.plain()) for _ in range(4)]
        wait_for(lambda: running.server.open_connections == 4)
        assert running.ask("GET", f"/{running.token}").status == 200
        assert held[0].recv(1) == b""
        assert running.fetch().status == 200


def test_what_carries_a_file_is_not_cut_off_to_make_room(start: Start) -> None:
    running = start(limits=Limits(connections=1, connections_per_client=8, idle_seconds=PATIENCE))
    with running.plain() as carrying:
        # A file goes over the wrapped socket, which takes the place of the plain one.
        wait_for(lambda: any(isinstance(each, ssl.SSLSocket) for each in running.server._connections))
        [connection] = running.server._connections
        running.server.giving(connection)
        with running.plain() as refused:
            assert refused.recv(1) == b""
        assert running.server.open_connections == 1
        carrying.close()


def test_closing_cuts_off_who_is_still_there(start: Start) -> None:
    running = start(limits=Limits(idle_seconds=3 * PATIENCE, connection_seconds=3 * PATIENCE))
    with running.connect() as idle:
        running.server.stop()
        running.thread.join(PATIENCE)
        assert running.outcome is Outcome.STOPPED
        assert idle.recv(1) == b""


def test_a_client_that_is_not_tls_gets_nothing(start: Start) -> None:
    running = start()
    with running.plain() as plain:
        plain.sendall(f"GET /{running.token} HTTP/1.1\r\n\r\n".encode())
        assert b"HTTP" not in all_of(plain)
    assert running.fetch().status == 200


def all_of(connection: socket.socket) -> bytes:
    """Receive until the other side ends it, in whichever way."""
    received = b""
    with suppress(ConnectionResetError):
        while part := connection.recv(65536):
            received += part
    return received


def test_nothing_secret_is_logged_or_printed(
    start: Start, handover: Handover, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    running = start(linger=PATIENCE)
    try:
        running.ask("GET", f"/{running.token}?x={running.token}")
        running.ask("GET", f"/{running.token[:-1]}")
        running.ask("BREW", f"/{running.token}")
        running.fetch()
        running.fetch()
        with running.plain() as plain:
            plain.sendall(f"GET /{running.token} HTTP/1.1\r\n\r\n".encode())
    finally:
        running.server.stop()
    running.thread.join(PATIENCE)
    printed = capfd.readouterr()
    said = caplog.text + printed.out + printed.err
    assert "was fetched by 127.0.0.1" in said and "(410)" in said and "(404)" in said
    for secret in (running.token[:-1], handover.password, PASSPHRASE):
        assert secret not in said
    assert "Traceback" not in said


def test_the_token_has_128_bits() -> None:
    assert len({new_token() for _ in range(100)}) == 100
    assert len(new_token()) * 6 >= 128


def test_the_address_of_the_page() -> None:
    assert page_url(LOOPBACK, 4711, "token") == "https://127.0.0.1:4711/token"
    assert page_url(ipaddress.ip_address("fd00::7"), 4711, "token") == "https://[fd00::7]:4711/token"


def test_it_listens_at_the_given_address_alone(start: Start) -> None:
    running = start()
    assert running.server.socket.getsockname() == ("127.0.0.1", running.port)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", running.port), timeout=PATIENCE)


def test_the_pages_certificate_is_for_the_address_and_short_lived() -> None:
    first, second = new_identity(LOOPBACK), new_identity(LOOPBACK)
    assert first.fingerprint != second.fingerprint
    assert first.context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_a_client_that_trusts_the_certificate_accepts_it(start: Start) -> None:
    """It is a proper certificate for that address, so only the trust is missing on a phone."""
    running = start()
    with running.connect() as connection:
        der = connection.getpeercert(binary_form=True) or b""
    certificate = x509.load_der_x509_certificate(der)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.IPAddress) == [LOOPBACK]
    assert (certificate.not_valid_after_utc - datetime.now(UTC)).days < 2
    context = ssl.create_default_context(cadata=ssl.DER_cert_to_PEM_cert(der))
    with context.wrap_socket(running.plain(), server_hostname="127.0.0.1") as trusted:
        assert trusted.version() in ("TLSv1.2", "TLSv1.3")


# What is read from the keystore


def test_what_is_handed_over_opens_with_its_password(handover: Handover, keystore: Path) -> None:
    assert [file.file_name for file in handover.files] == ["phone.p12"]
    assert handover.password not in repr(handover)
    assert handover.fingerprint in {
        hashlib.sha256(ssl.PEM_cert_to_DER_cert((keystore / "devices" / "phone.crt").read_text())).hexdigest()
    }


@pytest.mark.parametrize(
    ("device", "passphrase", "message"),
    [
        ("phone", "another passphrase", "does not open with this passphrase"),
        ("phone", "short", "at least 12 characters"),
        ("tablet", PASSPHRASE, "tablet.crt is missing"),
        ("../ca", PASSPHRASE, "cannot be used as a file name"),
    ],
)
def test_what_cannot_be_handed_over_is_refused(
    keystore: Path, device: str, passphrase: str, message: str
) -> None:
    with pytest.raises(KeystoreError, match=message):
        read_handover(keystore, device, passphrase)


@pytest.mark.parametrize("content", [b"", b"not a bundle"])
def test_a_bundle_that_is_not_the_certificates_is_not_handed_over(
    keystore: Path, tmp_path: Path, content: bytes
) -> None:
    copy = Path(shutil.copytree(keystore, tmp_path / "keystore"))
    (copy / "devices" / "phone.p12").write_bytes(content)
    with pytest.raises(KeystoreError, match="does not hold the certificate"):
        read_handover(copy, "phone", PASSPHRASE)


def test_a_bundle_of_another_certificate_is_not_handed_over(keystore: Path, tmp_path: Path) -> None:
    """As after a run that was killed between certificate and bundle."""
    copy = Path(shutil.copytree(keystore, tmp_path / "keystore"))
    shutil.copy(copy / "ca.crt", copy / "devices" / "phone.crt")
    with pytest.raises(KeystoreError, match="does not hold the certificate"):
        read_handover(copy, "phone", PASSPHRASE)


def test_an_apple_profile_is_offered_when_there_is_one(keystore: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(keystore, tmp_path / "keystore"))
    (copy / "devices" / "phone.mobileconfig").write_bytes(b"a profile")
    files = read_handover(copy, "phone", PASSPHRASE).files
    assert [(file.file_name, file.content_type) for file in files] == [
        ("phone.p12", "application/x-pkcs12"),
        ("phone.mobileconfig", "application/x-apple-aspen-config"),
    ]
    assert files[1].content == b"a profile"


def test_an_expired_certificate_is_not_handed_over(keystore: Path) -> None:
    with pytest.raises(KeystoreError, match="expired"):
        read_handover(keystore, "phone", PASSPHRASE, clock=lambda: datetime(2099, 1, 1, tzinfo=UTC))
