"""Other accounts of the server: who may talk to the edge on loopback, and who may answer in Immich's place.

The table is what the NixOS module makes; kernel, nftables and users are the real ones, in a network and a
mount namespace of the test's own.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import toolchain
from tests.server.nix import ConfigFolder, Nix
from toolchain.paths import PROJECT

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(os.geteuid() != 0, reason="a network of its own needs root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="nftables must be there"),
]

USERS = {"immich-edge": 61001, "immich": 61002, "games": 61003, "immich-bans": 61004}
PROXY, IMMICH, OTHER = 8443, 2283, 8080

# Run in the namespaces: as one user listen, as another connect, and say whether bytes came through.
TALK = """
import os, socket, sys
server, client, port, address = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
os.seteuid(server)
listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind((address, port)); listener.listen(); os.seteuid(0)
if (child := os.fork()) == 0:
    os.setuid(client)
    visitor = socket.socket(listener.family); visitor.settimeout(0.6)
    try: visitor.connect((address, port)); visitor.sendall(b"cookie")
    except OSError: os._exit(1)
    os._exit(0)
listener.settimeout(0.8); heard = b""
try:
    connection, _ = listener.accept(); connection.settimeout(0.8); heard = connection.recv(100)
except OSError: pass
print("heard" if heard else "silence"); os.waitpid(child, 0)
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the program that the unit starts."""
    nix = Nix(tmp_path_factory.mktemp("nix"), toolchain.program("caddy").parent)
    folder = ConfigFolder.exposed(tmp_path_factory.mktemp("config") / "nixos")
    unit = nix.build(folder.configuration) / "etc/systemd/system/immich-exposure-loopback.service"
    found = re.search(r"^ExecStart=(\S+) guard$", unit.read_text(), re.MULTILINE)
    assert found, unit.read_text()
    return Path(found[1])


@pytest.fixture
def inside(tmp_path: Path) -> str:
    """Return the beginning of a script that runs with the server's users and an empty network of its own."""
    accounts = "".join(f"{name}:x:{uid}:{uid}::/:/bin/false\n" for name, uid in USERS.items())
    groups = "".join(f"{name}:x:{uid}:\n" for name, uid in USERS.items())
    (tmp_path / "passwd").write_text(Path("/etc/passwd").read_text() + accounts)
    (tmp_path / "group").write_text(Path("/etc/group").read_text() + groups)
    (tmp_path / "talk.py").write_text(TALK)
    mounts = "".join(f"mount --bind {tmp_path}/{name} /etc/{name}; " for name in ("passwd", "group"))
    return f"set -eu; {mounts} ip link set lo up; cd {tmp_path}\n"


def run(script: str) -> list[str]:
    command = ["unshare", "--net", "--mount", "sh", "-c", script]
    environment = {**os.environ, "IMMICH_EXPOSURE_PROXY_PORT": str(PROXY)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def talk(server: str, client: str, port: int, address: str = "127.0.0.1") -> str:
    uids = {"root": 0, **USERS}
    return f"{sys.executable} talk.py {uids[server]} {uids[client]} {port} {address}\n"


CASES = {
    ("immich-edge", "root", PROXY): "heard",  # tailscaled
    ("immich-edge", "games", PROXY): "silence",  # a forged PROXY line
    ("immich-edge", "immich", PROXY): "silence",
    ("games", "root", PROXY): "silence",  # visitors to somebody in the edge's place
    ("immich", "immich-edge", IMMICH): "heard",
    ("immich", "games", IMMICH): "heard",  # as on any server
    ("root", "immich-edge", IMMICH): "heard",  # a socket of systemd's
    ("games", "immich-edge", IMMICH): "silence",  # cookies to somebody in Immich's place
    ("games", "games", OTHER): "heard",
    ("root", "games", OTHER): "heard",
}


def test_other_accounts_neither_forge_visitors_nor_answer_for_immich(program: Path, inside: str) -> None:
    script = inside + f"{program} guard\n" + "".join(talk(*case) for case in CASES)
    assert dict(zip(CASES, run(script), strict=True)) == CASES


def test_without_the_table_they_would(program: Path, inside: str) -> None:
    """So the kernel, and not the test, makes the difference; and nothing of it stays behind."""
    refused = [case for case, heard in CASES.items() if heard == "silence"]
    script = (
        inside
        + f"{program} guard; {program} guard; {program} forget\n"
        + "".join(talk(*case) for case in refused)
    )
    assert run(script + "nft list ruleset\n") == ["heard"] * len(refused)


def test_addresses_that_are_not_ours_are_left_alone(program: Path, inside: str) -> None:
    """A proxy of the owner's own may stand on the same port of another address."""
    elsewhere = [
        ("games", "games", port, address) for port in (PROXY, IMMICH) for address in ("127.0.0.2", "::1")
    ]
    script = inside + f"{program} guard\n" + "".join(talk(*case) for case in elsewhere)
    assert run(script) == ["heard"] * len(elsewhere)


def test_tables_of_others_stay_as_they_are(program: Path, inside: str) -> None:
    theirs = (
        "nft add table inet theirs; nft add chain inet theirs c '{ type filter hook output priority 0; }'"
    )
    script = inside + f"{theirs}; nft list ruleset >before; {program} guard; {program} forget\n"
    assert run(script + "nft list ruleset >after; cmp before after && echo same\n") == ["same"]


LOOKS = {
    "immich-edge": "61001",
    "immich-bans": "61001",  # the edge's group, as its unit has it
    "games": "61003",
}
"""Users, and the groups that each has."""

MADE = """
mount -t tmpfs none /run; mkdir -p /run/lock /run/root/run /run/root/var/log
export IMMICH_EXPOSURE_ROOT=/run/root IMMICH_EXPOSURE_STATE=/run/immich-exposure
cat {scripts} >all; sh all prepare; cd /run/immich-exposure
made='devices/phone bans/manual/203.0.113.9 settings/bans.conf device-ca.crt tls/server.key'
for file in $made; do echo x >$file; done
try() {{
  as="setpriv --reuid=$1 --regid=$1 --groups=$2"
  if $as sh -c "$3" >/dev/null 2>&1; then echo yes; else echo no; fi
}}
"""


@pytest.mark.parametrize(
    ("what", "who"),
    [
        ("cat devices/phone", {"immich-edge", "immich-bans"}),
        ("ls bans/auth", {"immich-edge", "immich-bans"}),
        ("cat device-ca.crt settings/bans.conf", {"immich-edge", "immich-bans"}),
        ("touch bans/auth/203.0.113.9", {"immich-bans"}),
        ("touch devices/stranger", set()),
        ("rm bans/manual/203.0.113.9", set()),
        ("cat tls/server.key", {"immich-edge", "immich-bans"}),  # and hidden from the bans by their unit
    ],
)
def test_only_the_units_users_look_into_the_exposure(inside: str, what: str, who: set[str]) -> None:
    scripts = " ".join(str(PROJECT / "server/scripts" / name) for name in ("lib.sh", "state.sh"))
    tries = "".join(f"try {USERS[name]} {groups} '{what}'\n" for name, groups in LOOKS.items())
    said = run(inside + MADE.format(scripts=scripts) + tries)
    assert {name for name, word in zip(LOOKS, said, strict=True) if word == "yes"} == who
