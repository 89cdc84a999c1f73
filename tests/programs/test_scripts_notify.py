"""notify.sh, and `tell` in lib.sh: noted down without waiting or failing, and told through one channel."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.programs.harness import SCRIPTS, Machine, Outcome, assert_sentence, available_shells, later

LIBRARY = (SCRIPTS / "lib.sh").read_text()
DELIVER = "systemctl start --no-block immich-exposure-notify.service"


@pytest.fixture(params=available_shells())
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    """A pretend server, once for each shell."""
    machine = Machine(tmp_path, request.param)
    machine.unfake("curl")
    machine.prepare()
    return machine


def with_channel(machine: Machine) -> None:
    machine.write(machine.state / "notices/channel", "kind webhook\n", 0o600)
    (machine.state / "notices/waiting").mkdir(mode=0o700)


def tell(machine: Machine, kind: str, sentence: str) -> Outcome:
    return machine.run_text(f'{LIBRARY}\ntell "$1" "$2"\necho after\n', kind, sentence)


def waiting(machine: Machine) -> dict[str, str]:
    """Return the notices that wait, by kind."""
    found = machine.files(machine.state / "notices/waiting")
    return {name.split(".")[1]: text for name, text in found.items()}


def test_without_a_channel_nothing_is_noted_down(machine: Machine) -> None:
    assert tell(machine, "closed", "The funnel is closed.") == Outcome(0, "after\n", "")
    assert not (machine.state / "notices").exists()
    assert machine.commands("systemctl") == []


def test_a_notice_waits_for_its_delivery_which_nobody_waits_for(machine: Machine) -> None:
    with_channel(machine)
    assert tell(machine, "closed", "The funnel is closed.") == Outcome(0, "after\n", "")
    assert waiting(machine) == {"closed": "0600 The funnel is closed.\n"}
    assert machine.commands("systemctl") == [DELIVER]


@pytest.mark.parametrize("broken", ["no folder", "no room", "no unit"])
def test_what_cannot_be_told_stops_nothing(machine: Machine, broken: str) -> None:
    with_channel(machine)
    if broken == "no folder":
        (machine.state / "notices/waiting").rmdir()
    elif broken == "no room":
        for number in range(200):
            machine.write(machine.state / f"notices/waiting/1.bans.{number}", "x\n")
    else:
        machine.fake("systemctl", "exit 5")
    told = tell(machine, "closed", "The funnel is closed.")
    assert (told.status, told.stdout) == (0, "after\n")
    assert ("could not be saved" in told.stderr) == (broken != "no unit")
    assert list((machine.state / "notices").glob(".new.*")) == []


# --- the channel


@dataclass
class Receiver:
    """A real HTTP server on loopback that keeps what it is sent, and answers ``status``."""

    address: str
    status: int = 200
    got: list[tuple[str, dict[str, str], str]] = field(default_factory=list)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Where notices go to."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            found.got.append((self.path, dict(self.headers.items()), body))
            self.send_response(found.status)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    server = HTTPServer(("127.0.0.1", 0), Handler)
    found = Receiver(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


TOKEN = "tk_AgQdq7mVBoFD37zQVN29RhuMzNIz2"
FIRST = "From now on, what happens to the exposure of Immich on this server is reported here."


def install(machine: Machine, **words: str) -> Outcome:
    text = "".join(f"{word} {value}\n" for word, value in words.items())
    return machine.run("notify", "install", payload={"channel": text})


def deliver(machine: Machine) -> Outcome:
    return machine.run("notify", "deliver")


def test_ntfy_gets_title_priority_and_token(machine: Machine, receiver: Receiver) -> None:
    assert install(machine, kind="ntfy", address=f"{receiver.address}/photos", token=TOKEN).status == 0
    tell(machine, "unsafe", "The private path / answers 200.")
    assert deliver(machine) == Outcome(0, "", "")
    assert [(path, body) for path, _, body in receiver.got] == [
        ("/photos", f"{FIRST}\n"),
        ("/photos", "The private path / answers 200.\n"),
    ]
    headers = receiver.got[1][1]
    assert headers["Title"] == "Closed, because it was not safe"
    assert headers["Priority"] == "5"
    assert headers["Authorization"] == f"Bearer {TOKEN}"


def test_gotify_and_a_webhook_get_json(machine: Machine, receiver: Receiver) -> None:
    install(machine, kind="gotify", address=f"{receiver.address}/", token=TOKEN)
    path, headers, body = receiver.got[0]
    assert (path, headers["X-Gotify-Key"]) == ("/message", TOKEN)
    assert json.loads(body) == {"title": "Immich exposure", "message": FIRST, "priority": 4}
    install(machine, kind="webhook", address=f"{receiver.address}/hook?a=1&b=2")
    path, headers, body = receiver.got[1]
    assert path == "/hook?a=1&b=2"
    assert "Authorization" not in headers
    assert json.loads(body) == {
        "kind": "channel",
        "title": "Immich exposure",
        "message": FIRST,
        "time": 1_000_000,
    }


def test_a_command_gets_kind_and_title_and_reads_the_notice(machine: Machine, tmp_path: Path) -> None:
    program, kept = tmp_path / "mail-me", tmp_path / "kept"
    machine.write(program, f'#!/bin/sh\n{{ echo "$1: $2"; cat; }} >>{kept}\n', 0o755)
    assert install(machine, kind="command", command=str(program)).status == 0
    assert kept.read_text() == f"channel: Immich exposure\n{FIRST}\n"


def test_the_token_is_roots_alone_and_on_no_command_line(machine: Machine, receiver: Receiver) -> None:
    install(machine, kind="ntfy", address=f"{receiver.address}/photos", token=TOKEN)
    assert machine.files(machine.state / "notices")["channel"].startswith("0600 ")
    assert (machine.state / "notices").stat().st_mode & 0o777 == 0o700
    assert TOKEN not in "\n".join(machine.commands())
    # curl is the real one here; what it is given on its command line is the script's text.
    [line] = re.findall(
        r"^  curl .*?dev/null \|\| return 1$", (SCRIPTS / "notify.sh").read_text(), re.MULTILINE | re.DOTALL
    )
    assert "$(said" not in line and "$1" not in line


@pytest.mark.parametrize("status", [503, 404, 301, 307])
def test_a_channel_that_does_not_answer_stops_nothing_and_is_tried_again(
    machine: Machine, receiver: Receiver, status: int
) -> None:
    """Nor is one that leads elsewhere followed, with the token: what a redirect got, nobody has read."""
    receiver.status = status
    installed = install(machine, kind="webhook", address=receiver.address)
    assert (installed.status, installed.stdout) == (0, "")
    assert "Notices cannot be delivered" in installed.stderr
    assert str(status) in installed.stderr
    tell(machine, "closed", "The funnel is closed.")
    failed = deliver(machine)
    assert failed.status == 0
    assert "A notice could not be delivered" in failed.stderr
    assert str(status) in (machine.state / "notices/failed").read_text()
    receiver.status = 200
    receiver.got.clear()
    assert deliver(machine) == Outcome(0, "", "")
    assert [json.loads(body)["kind"] for _, _, body in receiver.got] == ["channel", "closed"]
    assert waiting(machine) == {}
    assert not (machine.state / "notices/failed").exists()


def test_a_flood_is_a_few_messages_and_loses_nothing_of_another_kind(
    machine: Machine, receiver: Receiver
) -> None:
    install(machine, kind="webhook", address=receiver.address)
    receiver.got.clear()
    for number in range(10):
        tell(machine, "bans", f"Ban number {number}.")
        deliver(machine)
    tell(machine, "closed", "The funnel is closed.")
    deliver(machine)
    kinds = [json.loads(body)["kind"] for _, _, body in receiver.got]
    assert kinds == ["bans"] * 6 + ["closed"]
    later(machine, 3601)
    deliver(machine)
    messages = json.loads(receiver.got[-1][2])["message"].splitlines()
    assert messages == [f"Ban number {number}." for number in range(6, 10)]
    assert waiting(machine) == {}


def test_many_notices_of_one_kind_are_one_list(machine: Machine, receiver: Receiver) -> None:
    install(machine, kind="webhook", address=receiver.address)
    for number in range(50):
        machine.write(machine.state / f"notices/waiting/{1_000_000 + number}.bans.x", f"Number {number}.\n")
    deliver(machine)
    lines = json.loads(receiver.got[-1][2])["message"].splitlines()
    assert lines == [*(f"Number {number}." for number in range(20)), "and 30 more"]


def test_what_is_a_week_old_is_no_news(machine: Machine, receiver: Receiver) -> None:
    install(machine, kind="webhook", address=receiver.address)
    receiver.got.clear()
    tell(machine, "closed", "The funnel is closed.")
    later(machine, 604_801)
    deliver(machine)
    assert receiver.got == []
    assert waiting(machine) == {}


def test_the_channel_goes_with_all_that_waits(machine: Machine, receiver: Receiver) -> None:
    install(machine, kind="webhook", address=receiver.address)
    assert machine.run("notify", "remove") == Outcome(0, "", "")
    assert not (machine.state / "notices").exists()
    assert deliver(machine) == Outcome(0, "", "")
    install(machine, kind="webhook", address=receiver.address)
    assert machine.run("state", "remove").status == 0
    assert not machine.state.exists()


KINDS = (
    "opened",
    "closed",
    "healed",
    "dead",
    "ailing",
    "unsafe",
    "enrolled",
    "revoked",
    "seen",
    "ending",
    "bans",
    "outdated",
)


def test_each_kind_is_sent_once_with_a_title_of_its_own(machine: Machine, receiver: Receiver) -> None:
    install(machine, kind="webhook", address=receiver.address)
    receiver.got.clear()
    for kind in KINDS:
        tell(machine, kind, f"What there is to say of {kind}.")
    for _ in range(2):
        assert deliver(machine) == Outcome(0, "", "")
    sent = {json.loads(body)["kind"]: json.loads(body) for _, _, body in receiver.got}
    assert len(receiver.got) == len(sent) == len(KINDS)
    assert {kind: sent[kind]["message"] for kind in KINDS} == {
        kind: f"What there is to say of {kind}." for kind in KINDS
    }
    assert len({message["title"] for message in sent.values()} - {"Immich exposure"}) == len(KINDS)


def kinds(receiver: Receiver) -> list[str]:
    """Return the kinds of what has come since the last time."""
    found = [json.loads(body)["kind"] for _, _, body in receiver.got]
    receiver.got.clear()
    return found


def test_a_funnel_that_opens_or_closes_is_told_whoever_did_it(machine: Machine, receiver: Receiver) -> None:
    install(machine, kind="webhook", address=receiver.address)
    assert kinds(receiver) == ["channel"]
    deliver(machine)
    assert kinds(receiver) == []
    machine.write(machine.state / "domain.env", "IMMICH_EXPOSURE_DOMAIN=immich.example.ts.net\n")
    machine.write(machine.state / "lease", "until 2000000\n")
    deliver(machine)
    assert "https://immich.example.ts.net/" in receiver.got[0][2]
    assert kinds(receiver) == ["opened"]
    machine.write(machine.state / "lease", "confirmed\n")
    deliver(machine)
    assert kinds(receiver) == []
    (machine.state / "lease").unlink()
    machine.write(machine.state / "closed-by-hand", "")
    deliver(machine)
    assert "by hand" in receiver.got[0][2]
    assert kinds(receiver) == ["closed"]


def test_devices_are_told_by_name(machine: Machine, receiver: Receiver) -> None:
    devices = machine.state / "devices"
    machine.write(devices / ("a" * 64), "phone\n")
    install(machine, kind="webhook", address=receiver.address)
    assert kinds(receiver) == ["channel"], "what stands already is no news"
    machine.write(devices / ("b" * 64), "laptop\nuntil 2000000\n")
    machine.write(devices / ("c" * 64), "phone\n")
    deliver(machine)
    assert "The device laptop is enrolled." in receiver.got[0][2]
    assert kinds(receiver) == ["enrolled"]
    (devices / ("a" * 64)).unlink()
    deliver(machine)
    assert kinds(receiver) == [], "a renewed device is the same"
    (devices / ("c" * 64)).unlink()
    deliver(machine)
    assert "The device phone is no longer enrolled." in receiver.got[0][2]
    assert kinds(receiver) == ["revoked"]


def test_the_end_is_told_before_the_channel_goes(machine: Machine, receiver: Receiver) -> None:
    install(machine, kind="webhook", address=receiver.address)
    machine.write(machine.state / "lease", "confirmed\n")
    deliver(machine)
    kinds(receiver)
    (machine.state / "lease").unlink()
    assert machine.run("notify", "remove").status == 0
    assert kinds(receiver) == ["closed"]


@pytest.mark.parametrize(
    "text",
    [
        "kind pigeon\naddress https://a.example\n",
        "kind ntfy\n",
        "kind command\naddress https://a.example\n",
        "kind command\ncommand relative/program\n",
        "kind ntfy\naddress file:///etc/shadow\n",
        'kind ntfy\naddress https://a.example/"\n',
        "kind ntfy\naddress https://a.example\ntoken a b\n",
        "kind ntfy\naddress https://a.example\noutput /etc/passwd\n",
    ],
)
def test_what_is_no_channel_is_refused(machine: Machine, text: str) -> None:
    refused = machine.run("notify", "install", payload={"channel": text})
    assert_sentence(refused, "correct notify")
    assert not (machine.state / "notices").exists()


@pytest.mark.parametrize("arguments", [(), ("guard",), ("send",)])
def test_other_verbs_are_refused(machine: Machine, arguments: tuple[str, ...]) -> None:
    assert_sentence(machine.run("notify", *arguments), "install, deliver and remove")
