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


def test_an_address_that_answers_is_silent_about_itself() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert silence(Notify(NotifyKind.WEBHOOK, f"http://127.0.0.1:{port}/hook", None)) is None
    told = silence(Notify(NotifyKind.WEBHOOK, f"http://127.0.0.1:{port}/a-secret-path", None))
    assert told is not None
    assert told.startswith(f"notify: 127.0.0.1:{port} does not answer from this machine")
    assert "goes on without notices" in told and "a-secret-path" not in told


def test_a_program_on_the_server_cannot_be_asked_from_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "create_connection")
    assert silence(Notify(NotifyKind.COMMAND, None, "/bin/mail-me")) is None
