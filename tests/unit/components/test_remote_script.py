"""What is sent to the server: one text, nothing secret, nothing changed on the way."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from components.remote_script import HEREDOC_END, PayloadFile, Server, script_text, sudo_line

SHELLS = [shell for shell in ("dash", "bash", "sh") if shutil.which(shell)]
SERVER = Server(host="pi", port=22, user="admin", host_key="ssh-ed25519 AAAA", private_key_file=None)


def test_arguments_are_quoted_for_the_shell() -> None:
    assert sudo_line("enrol", "a b; rm -rf /", 7) == "sudo -n sh -s -- enrol 'a b; rm -rf /' 7"


@pytest.mark.parametrize("shell", SHELLS)
def test_a_payload_arrives_byte_for_byte(shell: str) -> None:
    text = "line with $HOME and `date`\n\\n \\\\ 'single' \"double\"\n\n\ttab ünïcode\n"
    payload = script_text("files", (PayloadFile("folder/a file", text),))
    start = payload.index("payload() {")
    end = payload.index(f"\n{HEREDOC_END}\n}}\n", start) + len(f"\n{HEREDOC_END}\n}}\n")
    program = 'put() { printf "%s|%s|" "$1" "$2"; cat; }\n' + payload[start:end] + "payload\n"
    done = subprocess.run([shell, "-s"], input=program, capture_output=True, text=True, check=True)
    assert done.stdout == f"0644|folder/a file|{text}"


def test_a_payload_that_would_not_arrive_whole_is_refused() -> None:
    with pytest.raises(ValueError, match="line break"):
        script_text("files", (PayloadFile("a", "no end"),))
    with pytest.raises(ValueError, match="marks its end"):
        script_text("files", (PayloadFile("a", f"one\n{HEREDOC_END}\ntwo\n"),))


def test_the_library_comes_first_and_the_script_last() -> None:
    text = script_text("funnel")
    assert text.index("die()") < text.index("tailscale funnel")


def test_the_connection_pins_the_host_key_and_gives_up_soon() -> None:
    connection = SERVER.connection()
    assert connection.host_key == "ssh-ed25519 AAAA"
    assert connection.dial_error_limit == 2
    assert connection.private_key is None
