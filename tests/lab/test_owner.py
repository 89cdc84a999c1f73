"""What the owner does on the server, rightly and wrongly, and what the next run makes of it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from lab import Lab
from tests.lab.operator import Operator
from tests.lab.outside import FORBIDDEN, REFUSED, seen
from tests.lab.snapshot import output

pytestmark = pytest.mark.lab

STATE = "/var/lib/immich-exposure"


@pytest.fixture(scope="module")
def operator(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """An operator with an exposure."""
    operator = Operator(tmp_path_factory.mktemp("owner"), lab.info(), stack="owner")
    operator.init()
    operator.up()
    yield operator
    operator.destroy()
    assert seen(lab, "/") == REFUSED


BY_HAND = (
    "The funnel was closed by hand, so nobody can get in; it stays closed until "
    '"sudo immich-exposure open" on the server.'
)


def test_a_funnel_that_the_owner_has_closed_reads_so_and_stays_closed(lab: Lab, operator: Operator) -> None:
    url = operator.outputs()["url"]
    lab.console("immich-exposure close")
    assert BY_HAND in operator.preview()
    assert BY_HAND in operator.up()
    outputs = operator.outputs()
    assert (outputs["url"], outputs["checked"]) == (f"{url} (closed)", {"closed": BY_HAND})
    assert seen(lab, "/") == REFUSED
    assert lab.console("immich-exposure open").returncode == 0
    assert seen(lab, "/") == FORBIDDEN
    assert BY_HAND not in operator.up()
    assert operator.outputs()["url"] == url
    assert set(operator.changes()) == {"same"}


def test_a_monitor_is_told_in_each_state(lab: Lab, operator: Operator) -> None:
    assert operator.stack == "owner"
    assert lab.console("immich-exposure status --json").returncode == 0
    output(lab, "sudo systemctl stop immich-exposure-guard.timer")
    degraded = lab.console("immich-exposure status --json")
    assert (degraded.returncode, json.loads(degraded.stdout)["notRunning"]) == (
        4,
        ["immich-exposure-guard.timer"],
    )
    output(lab, "sudo systemctl start immich-exposure-guard.timer")


ASK_FOR_HELP = """
for verb in status close open lan guard devices revoke who links bans ban unban forget-chapter module; do
  for word in --help -h help "phone --help"; do
    immich-exposure $verb $word | grep -q "^immich-exposure $verb" || echo "$verb $word"
  done
done
immich-exposure --help | grep -q "^immich-exposure VERB" || echo general
"""
MISTAKES = {
    "revoke nobody": "nobody",
    "revoke": "Name the device",
    "open now": "see immich-exposure open --help",
    "guard --now": "see immich-exposure guard --help",
    "close please": "see immich-exposure close --help",
    "devices phone": "see immich-exposure devices --help",
    "lan shut": "Use immich-exposure lan open, close or auto",
    "lan": "see immich-exposure lan --help",
    "ban 300.1.1.1": "is not the address of a visitor",
    "shut": "knows the verbs status, close",
}
# Nothing can be written to its disk.
WITHOUT_ROOM = {
    "lan open": "make room on its disk",
    "ban 203.0.113.9": "make room on its disk",
}


def test_mistakes_at_the_server_change_nothing_and_are_a_sentence(lab: Lab, operator: Operator) -> None:
    assert operator.stack == "owner"
    stands = f"sudo ls -R {STATE}/devices {STATE}/revoked {STATE}/bans; sudo cat {STATE}/lease {STATE}/lan"
    before = output(lab, stands)
    assert lab.console(ASK_FOR_HELP).stdout == ""
    for words, sentence in MISTAKES.items():
        need_sentence(lab, words, sentence)
    output(lab, f"sudo mount --bind {STATE} {STATE}; sudo mount -o remount,ro,bind {STATE}")
    try:
        for words, sentence in WITHOUT_ROOM.items():
            need_sentence(lab, words, sentence)
        assert lab.console("immich-exposure status").returncode == 0
    finally:
        output(lab, f"sudo umount {STATE}")
    assert output(lab, stands) == before
    assert seen(lab, "/") == FORBIDDEN


def need_sentence(lab: Lab, words: str, sentence: str) -> None:
    """Assert that the command fails with this sentence."""
    done = lab.console(f"immich-exposure {words}")
    assert (done.returncode, done.stdout) == (1, ""), words
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and sentence in errors[0], done.stderr


SAW = (
    (f"rm {STATE}/settings/bans.conf", "settings/bans.conf is gone"),
    ("systemctl stop immich-exposure-loopback", "immich-exposure-loopback.service is not running"),
    ("systemctl stop immich-exposure-lease.timer", "immich-exposure-lease.timer is not running"),
    (f"chmod 0644 {STATE}/tls/server.key", "has the wrong mode or owner"),
    (f"echo friend >{STATE}/devices/{'ab' * 32}", 'enrolled by hand as "friend"'),
    (
        "curl -sf --unix-socket /run/immich-edge/admin.sock -X PUT -H 'Content-Type: application/json' "
        "-d '\"ERROR\"' http://localhost/config/logging/logs/default/level",
        "The edge runs with a different configuration",
    ),
)
"""What is done to the server, and how a preview tells it."""


def test_a_handful_of_differences_at_once_is_seen_and_put_right(lab: Lab, operator: Operator) -> None:
    for command, _ in SAW:
        done = lab.console(command)
        assert done.returncode == 0, (command, done.stderr)
    printed = operator.preview("--json")
    for _, sentence in SAW:
        assert json.dumps(sentence)[1:-1] in printed
    operator.up()
    operator.preview("--expect-no-changes")
    assert lab.console("immich-exposure status --json").returncode == 0
    assert seen(lab, "/") == FORBIDDEN
