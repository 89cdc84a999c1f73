"""Secrets stay where they belong: not in the state, a log, a command line or on the server."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab import Lab
from pki import Keystore
from tests.lab.operator import PASSPHRASE, Operator
from tests.lab.secrets_walk import CommandLines, found_in, found_in_files, secrets_of

pytestmark = pytest.mark.lab


# The files of the server that never reach a disk, without the bytes that are no text.
VOLATILE = "find /run /tmp /dev/shm -type f -size -2048k -exec cat {} + | tr -cd '[:print:]\\n'"


@dataclass
class Walk:
    """An exposure that was made, changed and made again while somebody watched."""

    lab: Lab
    operator: Operator
    command_lines: set[str]
    secrets: dict[str, str]


@pytest.fixture(scope="module")
def walk(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    """Expose, remove a device and add it again, with an eye on every process."""
    operator = Operator(tmp_path_factory.mktemp("no-secrets"), lab.info(), stack="no-secrets")
    operator.init()
    with CommandLines() as watched:
        operator.up()
        operator.devices("phone")
        operator.up()
        operator.devices("phone", "laptop")
        operator.up()
    secrets = secrets_of(operator)
    assert len(secrets) == 5
    yield Walk(lab, operator, watched.seen, secrets)
    operator.destroy()


def test_the_walk_finds_what_is_planted(tmp_path: Path) -> None:
    secrets = {"a word": "open sesame"}
    assert found_in("so open sesame it is", secrets) == ["a word"]
    assert found_in('"-----BEGIN EC PRIVATE KEY-----\\nMHc"', secrets) == ["a private key"]
    assert found_in("nothing of the kind", secrets) == []
    for before in range(4):
        hidden = base64.b64encode(b"x" * before + b"open sesame!").decode()
        assert found_in(hidden, secrets) == ["a word"]
    assert found_in("?password=open+sesame", secrets) == ["a word"]
    (tmp_path / "log").write_bytes(b"\xff\x00open sesame")
    assert found_in_files([tmp_path / "log"], secrets) == [f"{tmp_path / 'log'}: a word"]


def test_the_walk_sees_command_lines() -> None:
    with CommandLines() as watched:
        subprocess.run([sys.executable, "-c", "import time; time.sleep(0.3)", "open sesame"], check=True)
    assert any("open sesame" in line for line in watched.seen)


def test_the_exported_state_holds_no_secret_in_plain(walk: Walk) -> None:
    state = walk.operator.export()
    assert "immich-ca" in state
    assert found_in(state, walk.secrets) == []


def test_nothing_that_pulumi_printed_holds_a_secret(walk: Walk) -> None:
    assert sum(map(len, walk.operator.log)) > 10_000
    assert found_in("\n".join(walk.operator.log), walk.secrets) == []


def test_no_command_line_held_a_secret(walk: Walk) -> None:
    lines = [line for line in walk.command_lines if "sudo -n sh -s -- --stack=" in line]
    assert any(" stay " in line for line in lines), "nobody watched"
    assert found_in("\n".join(walk.command_lines), walk.secrets) == []


def test_the_backends_files_hold_no_secret_in_plain(walk: Walk) -> None:
    files = list((walk.operator.folder / "backend").rglob("*"))
    assert files
    assert found_in_files(files, walk.secrets) == []


def test_no_log_holds_a_secret(walk: Walk) -> None:
    logs = [file for file in Path(walk.lab.info()["log_dir"]).rglob("*") if file.is_file()]
    assert logs
    assert found_in_files(logs, walk.secrets) == []
    for command in ("journalctl --no-pager -o cat", "sh -c 'cat /var/log/immich-edge/*.log'", VOLATILE):
        text = walk.lab.ssh(f"sudo {command}").stdout
        assert text
        assert found_in(text, walk.secrets) == []


def test_the_server_holds_no_key_of_the_authority_or_a_device(walk: Walk) -> None:
    """Look through every file that was laid into the server or written on it since."""
    files = [file for file in walk.lab.places.upper.rglob("*") if file.is_file()]
    assert any(file.name == "Caddyfile" for file in files), "this is not where the server's files lie"
    keys = sorted(walk.operator.keystore.rglob("*.key"))
    assert len(keys) >= 3
    lines = {f"key {key.name}": key.read_text(encoding="ascii").splitlines()[2] for key in keys}
    passphrase = {"the keystore's passphrase": PASSPHRASE}
    found = found_in_files(files, {**lines, **passphrase})
    # the server's own, which never leave it
    allowed = ("tls/server.key", "lib/tailscale/", "etc/ssh/ssh_host_ed25519_key")
    assert [line for line in found if not any(part in line for part in allowed)] == []


def test_the_keystore_is_for_the_operator_alone(walk: Walk) -> None:
    assert len(Keystore(walk.operator.keystore).probe_credentials()) == 2
    for path in [walk.operator.keystore, *walk.operator.keystore.rglob("*")]:
        wanted = 0o700 if path.is_dir() else 0o600
        assert path.stat().st_mode & 0o777 == wanted, path
