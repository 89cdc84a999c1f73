"""What a visit tells curl, and how its answer is read."""

from pathlib import Path

import pytest

from lab.places import Places
from lab.visit import Visit, parse

WHERE = Places(Path("/project"))


def config(visit: Visit, body: int | None = None) -> list[str]:
    """The lines curl gets on its stdin."""
    return visit._config(WHERE, body).splitlines()


def test_headers_and_body_are_taken_apart() -> None:
    reply = parse(b"HTTP/2 403 \r\ncontent-type: application/json\r\n\r\n{}\r\n\r\nrest")
    assert (reply.status, reply.version, reply.body) == (403, "2", b"{}\r\n\r\nrest")
    assert reply.headers == {"content-type": "application/json"}


def test_interim_answers_are_skipped() -> None:
    assert parse(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\n\r\n").status == 201


def test_repeated_headers_are_joined() -> None:
    assert parse(b"HTTP/1.1 200 OK\r\nVary: a\r\nvary: b\r\n\r\n").headers == {"vary": "a, b"}


def test_switching_protocols_is_the_answer() -> None:
    assert (
        parse(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x81\x02hi").body
        == b"\x81\x02hi"
    )


def test_what_is_no_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="not an HTTP answer"):
        parse(b"")


@pytest.mark.parametrize(
    ("source", "ingress"), [("203.0.113.7", "203.0.113.1"), ("2001:db8:7::7", "[2001:db8::1]")]
)
def test_visitor_takes_the_ingress_of_its_own_family(source: str, ingress: str) -> None:
    lines = config(Visit("/", source=source))
    assert f'interface = "host!{source}"' in lines
    assert f'resolve = "immich.lab-tailnet.ts.net:443:{ingress}"' in lines


def test_path_reaches_the_server_as_it_was_given() -> None:
    lines = config(Visit("/a/../b//[c]?d=%2e"))
    assert 'url = "https://immich.lab-tailnet.ts.net/a/../b//[c]?d=%2e"' in lines
    assert {"path-as-is", "globoff"} <= set(lines)


def test_quotes_in_a_passphrase_stay_inside_its_value() -> None:
    assert r'pass = "a\"b\\c"' in config(Visit("/", passphrase='a"b\\c'))


def test_line_break_cannot_begin_another_option() -> None:
    with pytest.raises(ValueError, match="line break"):
        config(Visit("/", headers={"X": "a\noutput = /etc/passwd"}))


def test_passphrase_and_body_are_not_shown_when_printed() -> None:
    shown = repr(Visit("/", passphrase="geheim", data=b"inhalt"))
    assert "geheim" not in shown and "inhalt" not in shown


def test_head_asks_without_a_body() -> None:
    lines = config(Visit("/", method="HEAD"))
    assert "head" in lines and 'request = "HEAD"' not in lines
