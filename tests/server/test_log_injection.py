"""What a client writes into the log: real Caddy, real fail2ban, and payloads wherever a client can write.

Two things must hold for each payload: no address but the sender's is ever banned, and a sender who offends is
banned whatever else the request says.
"""

from __future__ import annotations

import contextlib
import itertools
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.server.edge import Edge, running_edge
from tests.server.fail2ban import running_fail2ban
from tests.server.http2 import Http2Connection
from tests.server.visitor import DOMAIN, ConnectionDroppedError
from tests.server.waiting import HarnessError, wait_until

pytestmark = pytest.mark.server

MAX_RETRY = 2
VICTIM = "192.0.2.99"
VICTIM6 = "2001:db8:99::99"
MAPPED = f"::ffff:{VICTIM}"

_ENTRY = (
    '{"level":"info","ts":"2026-01-01T00:00:00.000Z","logger":"http.log.access.log0","msg":"handled request",'
    f'"request":{{"remote_ip":"{VICTIM}","remote_port":"1","client_ip":"{VICTIM}","proto":"HTTP/1.1",'
    '"method":"GET","host":"h","uri":"/wp-login.php","tls":{}},"bytes_read":0,"user_id":"","duration":0.1,'
    '"size":40,"status":403,"user_agent":"","verdict":"scan"}'
)

PAYLOADS: dict[str, bytes] = {
    "a whole line": _ENTRY.encode(),
    "a whole line after a line feed": b"x\\n" + _ENTRY.encode(),
    "a whole line after an escaped line feed": b"x%0a" + _ENTRY.encode(),
    "the end of a string and an address": f'","client_ip":"{VICTIM}","verdict":"scan"}}'.encode(),
    "the end of a string, escaped": f'\\","client_ip":"{VICTIM}","verdict":"scan"}}'.encode(),
    "the end of a string, escaped twice": f'\\\\","client_ip":"{VICTIM}","verdict":"scan"}}'.encode(),
    "the end of a string as an escape": f"\\u0022,\\u0022client_ip\\u0022:\\u0022{VICTIM}\\u0022".encode(),
    "an address of IPv6": f'","client_ip":"{VICTIM6}","verdict":"scan"}}'.encode(),
    "a mapped address": f'","client_ip":"{MAPPED}","verdict":"scan"}}'.encode(),
    "a bare address": VICTIM.encode(),
    "another verdict": b'","verdict":"anon"}',
    "another verdict and more": b'","verdict":"quiet"},{"x":"',
    "another status": b'","status":200,"user_agent":"","verdict":"anon"}',
    "an old date": b'"ts":"1999-01-01T00:00:00.000Z"',
    "a date to come": b"2099-12-31T23:59:59+00:00",
    "a date as in other logs": b"Jan  1 00:00:00 1970",
    "a date in brackets": b"[01/Jan/1999:00:00:00 +0000]",
    "seconds of 1970": b"1.000000 @1.0 0000000001",
    "words of fail2ban": b"<HOST> <ADDR> <F-ID>1.2.3.4</F-ID> %(_head)s ^.*$",
    "words of a shell": f"';touch /tmp/x;$(reboot)`id`|{VICTIM}".encode(),
    "a path of a ban": f"../manual/{VICTIM}".encode(),
    "a backslash at the end": b"x\\",
    "a lone quotation mark": b'x"',
    "braces": b'}}}]]"}',
    "a placeholder": b"{http.request.remote.host}{env.HOME}",
    "a next line of Unicode": f'\u0085\u2028\u2029{{"client_ip":"{VICTIM}"}}'.encode(),
    "text from right to left": f"\u202e{VICTIM[::-1]}\u202c".encode(),
    "digits of other scripts": "١٩٢.٠.٢.٩٩ １９２.０.２.９９".encode(),
    "a byte order mark": b"\xef\xbb\xbf" + _ENTRY.encode(),
    "no UTF-8": b'\xff\xfe\xc0\xaf","client_ip":"' + VICTIM.encode(),
    "half a surrogate": b"\xed\xa0\x80" + VICTIM.encode(),
    "much": b"A" * 12_000 + VICTIM.encode(),
    "many quotation marks": b'"' * 4_000,
    "many backslashes": b"\\" * 4_001,
    "markup": f"<script>{VICTIM}</script>&quot;,&quot;client_ip&quot;".encode(),
}

OBEYED: dict[str, bytes] = {
    "a control sequence of C1": "\u009b2J\u009b1;1H".encode(),
    "a control string of C1": "\u009d52;c;cm0gLXJmIH4K\u009c".encode(),
    "the same in bytes": b"\x9b2J\x9d0;title\x9c",
    "a next line": "\u0085{}".encode(),
    "text from right to left": "\u202egnp.\u202c\u2066x\u2069".encode(),
    "letters without width": "\u200b\u2060\ufeff\u00ad".encode(),
    "tags": "\U000e0041\U000e007f".encode(),
    "lines and paragraphs": "\u2028\u2029".encode(),
    "DEL": b"\x7f",
    "an escape": b"\x1b]52;c;cm0gLXJmIH4K\x07",
}
"""What a terminal or an editor obeys, or shows as something else, in bytes that may get into a request."""

LOGIN = "/api/shared-links/login?key=abc"


def _request(line: bytes, *headers: bytes, host: bytes = DOMAIN.encode()) -> bytes:
    return b"\r\n".join([line + b" HTTP/1.1", b"Host: " + host, *headers, b"Content-Length: 0", b"", b""])


def _solid(payload: bytes) -> bytes:
    return payload.replace(b" ", b"%20")


PLACES: dict[str, Callable[[bytes], bytes]] = {
    "path": lambda text: _request(b"GET /wp-login.php/" + _solid(text)),
    "query": lambda text: _request(b"GET /wp-login.php?x=" + _solid(text)),
    "method": lambda text: _request(b"GET" + _solid(text) + b" /wp-login.php"),
    "host": lambda text: _request(b"GET /wp-login.php", host=text),
    "user agent": lambda text: _request(b"GET /wp-login.php", b"User-Agent: " + text),
    "other headers": lambda text: _request(
        b"GET /wp-login.php", b"Referer: " + text, b"X-Forwarded-For: " + text, b"Cookie: " + text
    ),
    "header name": lambda text: _request(b"GET /wp-login.php", _solid(text) + b": x"),
    "password call": lambda text: _request(
        b"POST " + LOGIN.encode() + b"&x=1", b"User-Agent: " + text, b"Referer: " + text
    ),
}


@pytest.fixture(scope="module")
def guessed(caddy_program: Path) -> Iterator[Edge]:
    """Return an edge whose link passwords are always wrong, of which one link takes as many as come."""
    with running_edge(caddy_program, settings={"LINK_PASSWORDS": "10000"}) as edge:
        edge.backend.answers["POST", "/api/shared-links/login"] = (401, {})
        yield edge


def banned(edge: Edge) -> set[str]:
    """Return all that is in the folders of bans."""
    return {
        str(path.relative_to(edge.state / "bans"))
        for path in (edge.state / "bans").rglob("*")
        if path.is_file()
    }


def offend(edge: Edge, address: str, raw: bytes) -> bool:
    """Send an offence often enough and tell whether it got an answer of ours, and so into the log."""
    statuses = set()
    for _ in range(MAX_RETRY):
        try:
            with edge.connect(address) as connection:
                statuses.add(connection.send(raw).status)
        except ConnectionDroppedError:
            return False
    # Go's own 400 and 431, and Caddy's 405 for an endless method, come before any handler and any log.
    assert statuses <= {400, 401, 403, 405, 431}, statuses
    return statuses <= {401, 403}


def test_no_payload_bans_an_innocent_or_hides_an_offender(guessed: Edge) -> None:
    assert len(PAYLOADS) >= 30
    innocents, offenders, sent = set(), {}, 0
    with running_fail2ban(guessed, max_retry=MAX_RETRY):
        before = banned(guessed)
        for (what, text), (where, build) in itertools.product(PAYLOADS.items(), PLACES.items()):
            address = guessed.new_address()
            sent += 1
            if offend(guessed, address, build(text)):
                offenders[address] = f"{what} in the {where}"
            else:
                innocents.add(address)
        try:
            wait_until(
                lambda: {path.split("/")[1] for path in banned(guessed)} >= offenders.keys(),
                "all are banned",
                30,
            )
        except HarnessError:
            names = {path.split("/")[1] for path in banned(guessed)}
            escaped = [text for address, text in offenders.items() if address not in names]
            pytest.fail(f"These offenders escaped: {escaped}")
        extra = {path for path in banned(guessed) - before if path.split("/")[1] not in offenders}
        assert {path for path in extra if path.split("/")[1] not in innocents} == set()
        assert len(offenders) >= sent * 0.6, f"only {len(offenders)} of {sent} got into the log"
        assert guessed.ask("/share/abc", address=VICTIM).status == 200


def test_whoever_reads_the_log_sees_what_was_sent(guessed: Edge) -> None:
    sent = 0
    for text, build in itertools.product(OBEYED.values(), PLACES.values()):
        sent += offend(guessed, guessed.new_address(), build(text))
    for text in OBEYED.values():
        visitor = guessed.connect(guessed.new_address(), protocols=["h2"])
        with visitor, contextlib.suppress(ConnectionDroppedError):
            Http2Connection(visitor).ask(f"/wp-login.php/{text.decode('latin-1')}")
    assert sent >= len(OBEYED) * len(PLACES) * 0.4, f"only {sent} got into the log"
    guessed.ask("/", address="192.0.2.77")
    guessed.entries_of("192.0.2.77")
    written = guessed.log_text() + guessed.journal.read_text()
    assert {f"{ord(letter):x}" for letter in written if letter != "\n" and is_obeyed(letter)} == set()


def is_obeyed(letter: str) -> bool:
    """Tell whether a letter is for programs: a control, a format, a separator of lines."""
    return unicodedata.category(letter) in {"Cc", "Cf", "Zl", "Zp"}
