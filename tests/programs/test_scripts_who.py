"""who.sh, and the key by which links are named: kept from others, and gone when nobody asks any more."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.programs.harness import Machine, assert_sentence, available_shells

EDGE_ENV = "IMMICH_EXPOSURE_PROXY_PORT=8443\n"
COUNTING = f"{EDGE_ENV}IMMICH_EXPOSURE_WHO=on\nIMMICH_EXPOSURE_WHO_DAYS=30\n"
BANS = "[DEFAULT]\nmaxretry = 10\n"
API_KEY = "canaryApiKeyAbc123"
NEVER = "Of 5 shared links, 2 never expire."
TOO_MUCH = "The key may do more than it needs (all)."


@pytest.fixture(params=available_shells())
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    """A pretend server with a channel, once for each shell."""
    machine = Machine(tmp_path, request.param)
    machine.prepare()
    machine.write(machine.state / "notices/channel", "kind webhook\n", 0o600)
    (machine.state / "notices/waiting").mkdir(mode=0o700)
    machine.write(machine.state / "owner", "ours organization/immich/home\n")
    machine.remember(module='{"immich":"127.0.0.1:2283"}', words="", sum="links 0 opens 0", day="2026-11-26")
    machine.fake("edge", 'case $3 in sum | words) sed "/^$/d" "$FAKES/$3" ;; *) echo "said $3" ;; esac')
    machine.fake("date", 'case $1 in +%s) cat "$FAKES/clock" ;; +%F) cat "$FAKES/day" ;; esac')
    return machine


def settings(machine: Machine, edge_env: str) -> None:
    assert machine.run("settings", "install", payload={"edge.env": edge_env, "bans.conf": BANS}).status == 0


def waiting(machine: Machine) -> list[tuple[str, str]]:
    """Return the notices that wait, each with its kind, and forget them."""
    found = [
        (file.name.split(".")[1], file.read_text().removesuffix("\n"))
        for file in (machine.state / "notices/waiting").iterdir()
    ]
    for file in (machine.state / "notices/waiting").iterdir():
        file.unlink()
    return sorted(found)


def key_of(machine: Machine) -> str:
    return (machine.state / "who/key").read_text()


def test_the_key_is_made_once_and_goes_when_nobody_asks(machine: Machine) -> None:
    settings(machine, EDGE_ENV)
    assert not (machine.state / "who").exists()
    settings(machine, COUNTING)
    first = key_of(machine)
    assert re.fullmatch(r"[0-9a-f]{64} 1000000\n", first)
    assert (
        (machine.state / "who").stat().st_mode & 0o777,
        (machine.state / "who/key").stat().st_mode & 0o777,
    ) == (0o750, 0o600)
    settings(machine, COUNTING.replace("30", "40"))
    assert machine.run("state", "prepare").status == 0
    assert key_of(machine) == first
    assert machine.run("who", "sum").status == 0
    settings(machine, EDGE_ENV)
    assert not (machine.state / "who").exists()
    settings(machine, COUNTING)
    assert key_of(machine) != first


def test_a_key_that_was_lost_is_made_before_the_edge_starts(machine: Machine) -> None:
    settings(machine, COUNTING)
    (machine.state / "who/key").unlink()
    assert machine.run("state", "prepare").status == 0
    assert key_of(machine)


def test_settings_that_the_edge_refuses_forget_nothing(machine: Machine) -> None:
    settings(machine, COUNTING)
    first = key_of(machine)
    machine.edge_runs()
    (machine.fakes / "reload-fails").touch()
    assert machine.run("settings", "install", payload={"edge.env": EDGE_ENV, "bans.conf": BANS}).status == 1
    assert key_of(machine) == first


def test_a_first_open_is_told_and_what_was_counted_is_noted_down(machine: Machine) -> None:
    settings(machine, COUNTING)
    machine.remember(sum="first 1111111111111111\nfirst 2222222222222222\nmore 7\nlinks 9 opens 40")
    machine.forget_commands()
    assert machine.run("who", "sum").status == 0
    assert machine.commands("edge") == [
        "edge who --ask sum --state /var/lib/immich-exposure --logs /var/log/immich-edge"
        " --immich 127.0.0.1:2283 --days 30"
    ]
    assert waiting(machine) == [("opened-link", "So were 7 more.")] + [
        ("opened-link", f'The shared link {each} was opened for the first time; see "immich-exposure who".')
        for each in ("1111111111111111", "2222222222222222")
    ]
    assert machine.files(machine.state / "who")["counted"] == "0600 links 9 opens 40\n"
    assert "who        40 opens of 9 shared links" in machine.run("exposure", "status").stdout
    assert '"who":{"links":9,"opens":40}}' in machine.run("exposure", "status", "--json").stdout


def test_where_nobody_asks_nothing_is_counted_and_status_is_silent(machine: Machine) -> None:
    settings(machine, EDGE_ENV)
    machine.forget_commands()
    assert machine.run("who", "sum").status == 0
    assert machine.commands("edge") == []
    status = machine.run("exposure", "status").stdout + machine.run("exposure", "status", "--json").stdout
    assert "who  " not in status and '"who":' not in status
    assert_sentence(machine.run("who", "who"), "set who: true")
    assert_sentence(machine.run("who", "links"), "set immichApiKey")


def test_what_the_links_allow_is_told_once_a_day_and_when_it_is_news(machine: Machine) -> None:
    machine.remember(words=NEVER)
    assert machine.run("who", "install", payload={"api-key": f"{API_KEY}\n"}).status == 0
    assert machine.run("who", "sum").status == 0
    assert waiting(machine) == [("links", NEVER)]
    machine.remember(words=f"{TOO_MUCH}\n{NEVER}")
    assert machine.run("who", "sum").status == 0
    assert waiting(machine) == [], "once a day"
    machine.remember(day="2026-11-27")
    assert machine.run("who", "sum").status == 0
    assert waiting(machine) == [("links", TOO_MUCH)]
    machine.remember(day="2026-11-28", words="")
    assert machine.run("who", "sum").status == 0
    machine.remember(day="2026-11-29", words=NEVER)
    assert machine.run("who", "sum").status == 0
    assert waiting(machine) == [("links", NEVER)]


def test_the_api_key_is_roots_alone_and_told_nowhere(machine: Machine) -> None:
    machine.remember(words=TOO_MUCH)
    done = machine.run("who", "install", payload={"api-key": f"{API_KEY}\n"})
    assert (done.status, done.stdout, TOO_MUCH in done.stderr) == (0, "", True)
    assert machine.files(machine.state / "who") == {"api-key": f"0600 {API_KEY}\n"}
    assert API_KEY not in "\n".join([*machine.commands(), done.stderr])
    assert machine.run("who", "links").stdout == "said links\n"
    assert machine.run("who", "who", "--html").stdout == "said page\n"
    assert machine.run("who", "remove").status == 0
    assert not (machine.state / "who").exists()


@pytest.mark.parametrize("text", ["a b\n", "\n", "a\nb\n", "a'b\n", f"{'x' * 501}\n"])
def test_what_is_no_api_key_is_refused(machine: Machine, text: str) -> None:
    assert_sentence(machine.run("who", "install", payload={"api-key": text}), "correct immichApiKey")
    assert not (machine.state / "who/api-key").exists()


def test_another_file_is_refused(machine: Machine) -> None:
    assert_sentence(machine.run("who", "install", payload={"key": "x\n"}), "only hold the file api-key")


def test_destroy_takes_all_of_it(machine: Machine) -> None:
    settings(machine, COUNTING)
    assert machine.run("who", "install", payload={"api-key": f"{API_KEY}\n"}).status == 0
    assert machine.run("who", "sum").status == 0
    assert machine.run("state", "remove").status == 0
    assert not machine.state.exists()
