"""The channel's file, and an address that does not answer."""

from __future__ import annotations

import socket

import pytest

from components.config.notify import Notify, NotifyKind
from components.notices import channel_file, silence


def test_the_channel_is_lines_of_a_word_and_a_value() -> None:
    ntfy = Notify(NotifyKind.NTFY, "https://ntfy.sh/topic", None)
    assert channel_file(ntfy, "tk_1") == "kind ntfy\naddress https://ntfy.sh/topic\ntoken tk_1\n"
    command = Notify(NotifyKind.COMMAND, None, "/bin/mail-me")
    assert channel_file(command, None) == "kind command\ncommand /bin/mail-me\n"


def test_an_address_that_answers_is_silent_about_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.create_connection
    with socket.create_server(("127.0.0.1", 0)) as server:
        there = server.getsockname()
        monkeypatch.setattr(socket, "create_connection", lambda _, timeout: connect(there, timeout))
        assert silence(Notify(NotifyKind.WEBHOOK, "http://gotify.lan:8080/hook", None)) is None
    told = silence(Notify(NotifyKind.WEBHOOK, "http://gotify.lan:8080/a-secret-path", None))
    assert told is not None
    assert told.startswith("notify: gotify.lan:8080 does not answer from this machine")
    assert "goes on without notices" in told and "a-secret-path" not in told


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "[::1]", "localhost"])
def test_what_is_on_the_server_cannot_be_asked_from_here(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.delattr(socket, "create_connection")
    assert silence(Notify(NotifyKind.COMMAND, None, "/bin/mail-me")) is None
    assert silence(Notify(NotifyKind.WEBHOOK, f"http://{host}:8080/hook", None)) is None
