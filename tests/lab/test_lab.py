"""The lab itself: it boots, is isolated, reboots, carries a funnel, and leaves nothing behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from cryptography.x509.oid import NameOID

from lab import Lab, LabError, Refused, ownership, places, processes, server
from lab.places import INTERNET_NAMESPACE, OWNER_FILE, SERVER_NAMESPACE, Places
from tests.lab.whole_server import look, settle

pytestmark = pytest.mark.lab

HERE = Path(__file__).parent
FUNNEL = "tailscale funnel --bg --proxy-protocol 1 --tcp 443 tcp://localhost:8443"


def in_namespace(name: str, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in one of the lab's namespaces."""
    return subprocess.run(
        ["ip", "netns", "exec", name, *command], capture_output=True, text=True, check=False
    )


# What a booted server is


def test_server_looks_like_nixos_and_trusts_the_operator(lab: Lab) -> None:
    release = lab.ssh(". /etc/os-release && echo $ID && test -e /etc/NIXOS && systemctl is-system-running")
    assert release.stdout.split() == ["nixos", "running"]
    assert lab.ssh("id -un").stdout.strip() == "admin"
    assert lab.ssh("sudo -n id -un").stdout.strip() == "root"


def test_programs_that_steps_need_are_on_the_path_of_sudo(lab: Lab) -> None:
    for program in ("tailscale", "nixos-rebuild", "nix-instantiate", "curl", "systemctl", "flock"):
        assert lab.ssh(f"sudo sh -c 'command -v {program}'").returncode == 0, program


def test_programs_that_nixos_lacks_are_not_there(lab: Lab) -> None:
    for program in ("jq", "perl", "openssl", "apt-get", "dpkg"):
        assert lab.ssh(f"sudo sh -c 'command -v {program}'").returncode != 0, program


def test_host_is_hidden_from_the_server(lab: Lab) -> None:
    assert lab.ssh(f"test ! -e {lab.places.project}/Pulumi.yaml").returncode == 0
    assert lab.ssh("sudo ls -A /home /srv /mnt").stdout.split() == ["/home:", "admin", "/mnt:", "/srv:"]
    people = lab.ssh("getent passwd").stdout.splitlines()
    assert [line.split(":")[0] for line in people if 1000 <= int(line.split(":")[2]) < 65534] == ["admin"]


def test_immich_answers_on_the_lan_and_is_recorded(lab: Lab) -> None:
    before = len(lab.stub_requests())
    asked = lab.ssh(
        f"curl -sS -H 'X-Twice: a' -H 'X-Twice: b' "
        f"'http://{places.SERVER_WAN_ADDRESS}:2283/api/server/ping?x=%2F'"
    )
    assert json.loads(asked.stdout) == {"res": "pong"}
    (entry,) = lab.stub_requests()[before:]
    assert (entry["method"], entry["target"]) == ("GET", "/api/server/ping?x=%2F")
    assert entry["headers"]["x-twice"] == "a, b"
    assert (entry["remote"], entry["body_bytes"]) == (places.SERVER_WAN_ADDRESS, 0)


def test_info_reaches_the_server_with_nothing_but_itself(lab: Lab, tmp_path: Path) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "lab", "info", "--json"], capture_output=True, text=True, check=True
    )
    ssh = json.loads(shown.stdout)["ssh"]
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_text(f"{ssh['host']} {ssh['host_key']}\n")
    options = [
        "-o",
        f"UserKnownHostsFile={known_hosts}",
        "-o",
        "StrictHostKeyChecking=yes",
        "-o",
        "BatchMode=yes",
    ]
    command = ["ssh", "-F", "none", *options, "-i", ssh["private_key_file"], "-p", str(ssh["port"])]
    done = subprocess.run(
        [*command, f"{ssh['user']}@{ssh['host']}", "true"], capture_output=True, check=False
    )
    assert done.returncode == 0


# The fence


@pytest.mark.parametrize("namespace", [SERVER_NAMESPACE, INTERNET_NAMESPACE])
def test_namespace_has_no_way_out(lab: Lab, namespace: str) -> None:
    for family, address in (("-4", "192.0.2.1"), ("-6", "2606:4700::1111")):
        route = in_namespace(namespace, "ip", family, "route", "get", address).stdout
        # The server's default route ends in the lab's internet, which has none and does not forward.
        assert route == "" or (namespace == SERVER_NAMESPACE and f"via {places.INTERNET_ADDRESS}" in route)
    links = json.loads(in_namespace(namespace, "ip", "-json", "link").stdout)
    allowed = {"lo", "tailscale0", places.MANAGEMENT_LINK, places.WAN_LINK, places.UPLINK}
    assert {link["ifname"] for link in links} <= allowed


def test_internet_does_not_forward(lab: Lab) -> None:
    assert in_namespace(INTERNET_NAMESPACE, "cat", "/proc/sys/net/ipv4/ip_forward").stdout.strip() == "0"


def test_server_cannot_reach_the_operator(lab: Lab) -> None:
    listener = subprocess.Popen(
        [sys.executable, "-m", "http.server", "29999", "--bind", places.OPERATOR_ADDRESS]
    )
    try:
        url = f"http://{places.OPERATOR_ADDRESS}:29999/"
        tried = [
            "curl",
            "--noproxy",
            "*",
            "-s",
            "-o",
            "/dev/null",
            "--retry",
            "9",
            "--retry-connrefused",
            url,
        ]
        assert subprocess.run(tried, check=False).returncode == 0, "the operator reaches its own service"
        assert lab.ssh(f"curl -s -m 2 {url}").returncode == 28, "the server's packets are dropped"
    finally:
        listener.terminate()
        listener.wait()


# The tailnet and the funnel


def test_node_may_have_certificates_and_a_funnel(lab: Lab) -> None:
    seen = json.loads(lab.ssh("tailscale status --json").stdout)
    assert seen["BackendState"] == "Running"
    assert seen["CertDomains"] == [places.DOMAIN]
    ports = "https://tailscale.com/cap/funnel-ports?ports=443,8443,10000"
    assert {"https", "funnel", ports} <= set(seen["Self"]["CapMap"])


@pytest.fixture
def funnel(lab: Lab) -> Iterator[Lab]:
    """A funnel to a tiny backend with the node's own certificate."""
    files = "--cert-file /run/probe.crt --key-file /run/probe.key"
    assert lab.ssh(f"sudo tailscale cert {files} {places.DOMAIN}").returncode == 0
    assert lab.ssh("sudo tee /run/probe.py", text=(HERE / "proxy_backend.py").read_text()).returncode == 0
    backend = "/usr/bin/python3 /run/probe.py 8443 /run/probe.crt /run/probe.key"
    assert lab.ssh(f"sudo systemd-run --unit probe {backend}").returncode == 0
    connects = "(: </dev/tcp/127.0.0.1/8443) 2>/dev/null"
    assert lab.ssh(f"for i in $(seq 100); do {connects} && exit; sleep 0.1; done; exit 1").returncode == 0
    opened = lab.ssh(f"sudo timeout 30 {FUNNEL}")
    assert opened.returncode == 0, opened.stderr
    yield lab
    lab.ssh("sudo tailscale funnel reset; sudo systemctl stop probe; sudo rm /run/probe.*")


@pytest.mark.parametrize(
    ("source", "family"), [("203.0.113.77", "TCP4"), ("203.0.113.9", "TCP4"), ("2001:db8:7::7", "TCP6")]
)
def test_visitor_comes_through_the_funnel_under_its_own_address(
    funnel: Lab, source: str, family: str
) -> None:
    reply = funnel.visit("/", source=source)
    assert reply.status == 200
    assert reply.text.split()[:3] == ["PROXY", family, source]


def test_encrypted_key_opens_with_its_passphrase_only(funnel: Lab, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate, key_file = tmp_path / "device.crt", tmp_path / "device.key"
    certificate.write_bytes(self_signed(key).public_bytes(Encoding.PEM))
    encryption = BestAvailableEncryption(b'open "sesame" \\')
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    reply = funnel.visit("/", cert=certificate, key=key_file, passphrase='open "sesame" \\')
    assert reply.status == 200
    with pytest.raises(Refused) as refusal:
        funnel.visit("/", cert=certificate, key=key_file, passphrase="open sesame")
    assert refusal.value.code == 58  # curl's: problem with the local client certificate


def self_signed(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    """A certificate that lives for an hour."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "device")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    return builder.not_valid_before(now).not_valid_after(now + timedelta(hours=1)).sign(key, SHA256())


def test_operator_has_a_window_to_the_ingress(funnel: Lab) -> None:
    window = funnel.info()["window"]
    to_window = f"{places.DOMAIN}:443:{window['host']}:{window['port']}"
    options = ["-sS", "--max-time", "20", "--noproxy", "*", "--cacert", funnel.info()["roots_file"]]
    command = ["curl", *options, "--connect-to", to_window, f"https://{places.DOMAIN}/"]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    assert shown.stdout.startswith("PROXY TCP4 203.0.113."), shown.stderr


def test_without_a_funnel_the_ingress_refuses(lab: Lab) -> None:
    with pytest.raises(Refused) as refusal:
        lab.visit("/")
    assert refusal.value.code == 35


# Looking at the whole server


@pytest.mark.parametrize(
    ("change", "undo", "told"),
    [
        ("touch /etc/nixos/lan-immich.nix", ":", "file etc/nixos/lan-immich.nix was "),
        ("chmod 600 /etc/ssh/sshd_config", "chmod 644 /etc/ssh/sshd_config", "file etc/ssh/sshd_config was "),
        ("mkdir /var/lib/immich-exposure", "rmdir /var/lib/immich-exposure", "var/lib/immich-exposure was "),
        ("mv /etc/login.defs /root/", "mv /root/login.defs /etc/", "file etc/login.defs was "),
        ("systemd-run -q --unit=x sleep 99", "systemctl stop x", "unit x.service was 'absent'"),
        ("tailscale serve --bg --tcp 9 tcp://localhost:22", "tailscale serve reset", "what Tailscale serves"),
        ("touch /run/immich-edge", "rm /run/immich-edge", "names in /run was "),
    ],
)
def test_a_look_at_the_whole_server_finds(lab: Lab, change: str, undo: str, told: str) -> None:
    settle(lab)
    before = look(lab)
    assert look(lab).since(before) == ""
    assert lab.console(change).returncode == 0
    try:
        assert told in look(lab).since(before)
    finally:
        lab.console(undo)


def test_a_look_waits_for_what_a_timer_started(lab: Lab) -> None:
    settle(lab)
    before = look(lab)
    run = "touch /run/immich-exposure.passing; sleep 3; rm /run/immich-exposure.passing"
    lab.console(
        "systemd-run -q --no-block --unit=immich-exposure-guard.service --property=Type=oneshot"
        f" -- sh -c '{run}'"
    )
    assert look(lab).since(before) == ""


# Lifecycle


def test_up_twice_changes_nothing(lab: Lab) -> None:
    said: list[str] = []
    before = lab.ssh("cat /proc/sys/kernel/random/boot_id").stdout
    Lab(report=said.append).up()
    assert said == ["The lab is already up."]
    assert lab.ssh("cat /proc/sys/kernel/random/boot_id").stdout == before


def test_reboot_is_a_real_one(lab: Lab) -> None:
    lab.ssh("sudo touch /run/before /var/lib/before")
    before = lab.ssh("cat /proc/sys/kernel/random/boot_id").stdout
    lab.reboot()
    assert lab.ssh("cat /proc/sys/kernel/random/boot_id").stdout not in ("", before)
    assert lab.ssh("test -e /run/before").returncode != 0
    assert lab.ssh("sudo rm /var/lib/before").returncode == 0
    assert lab.status().up


def test_power_cut_is_seen_and_mended(lab: Lab) -> None:
    lab.power_off()
    assert (lab.status().word, lab.status().server) == ("broken", False)
    lab.reboot()
    assert lab.status().up


def test_another_clone_is_told_whose_lab_is_up(lab: Lab, tmp_path: Path) -> None:
    other = Lab(Places(tmp_path))
    for forbidden in (other.up, other.down, other.reboot):
        with pytest.raises(LabError, match=str(lab.places.project)):
            forbidden()
    assert lab.status().up


@dataclass(frozen=True)
class Machine:
    """What a lab could leave behind on this machine."""

    mounts: frozenset[str]
    links: frozenset[str]
    namespaces: frozenset[str]
    processes: frozenset[int]
    files: frozenset[str]

    @classmethod
    def now(cls, where: Places) -> "Machine":
        """As the machine is."""
        links = json.loads(subprocess.run(["ip", "-json", "link"], capture_output=True, check=True).stdout)
        netns = Path("/run/netns")
        ours = [
            process
            for process in _commands()
            if str(where.state) in process[1] or "lab-internet" in process[1]
        ]
        files = [where.state, OWNER_FILE, Path("/run/systemd/nspawn/propagate/immich-lab")]
        files += [*Path("/sys/fs/cgroup").glob("*/immich-lab"), Path("/sys/fs/cgroup/immich-lab")]
        return cls(
            frozenset(line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()),
            frozenset(link["ifname"] for link in links),
            frozenset(os.listdir(netns) if netns.exists() else ()),
            frozenset(pid for pid, _ in ours),
            frozenset(str(path) for path in files if path.exists()),
        )

    def since(self, earlier: "Machine") -> dict[str, set[object]]:
        """What is there now and was not earlier; empty when nothing is."""
        new = {name: set(getattr(self, name) - getattr(earlier, name)) for name in self.__dataclass_fields__}
        return {name: things for name, things in new.items() if things}


def _commands() -> Iterator[tuple[int, str]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and processes.find(int(entry.name)):
            try:
                yield int(entry.name), (entry / "cmdline").read_text(errors="replace").replace("\0", " ")
            except OSError:
                continue


@pytest.fixture
def clean(lab: Lab) -> Machine:
    """The machine without the lab."""
    lab.down()
    machine = Machine.now(lab.places)
    assert (machine.processes, machine.files) == (frozenset(), frozenset())
    return machine


def victim(lab: Lab, name: str) -> int:
    """Process id of a part of the lab."""
    if name == "PID 1":
        first = server.first_process()
        assert first
        return first.pid
    (process,) = processes.marked(lab.places, name)
    return process.pid


@pytest.mark.takes_lab_down
@pytest.mark.parametrize("name", ["supervisor", "server", "PID 1", "internet", "nothing"])
def test_down_leaves_nothing_after_a_kill(lab: Lab, clean: Machine, name: str) -> None:
    lab.up()
    assert Machine.now(lab.places).since(clean).keys() == {
        "mounts",
        "links",
        "namespaces",
        "processes",
        "files",
    }
    if name != "nothing":
        handle = os.pidfd_open(victim(lab, name))
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        os.close(handle)
        assert lab.status().word == "broken"
    lab.down()
    assert Machine.now(lab.places).since(clean) == {}
    assert lab.status().word == "down"


@pytest.mark.takes_lab_down
@pytest.mark.parametrize("lines", [1, 2, 3, 4])
def test_down_leaves_nothing_after_half_an_up(lab: Lab, clean: Machine, lines: int) -> None:
    boot = subprocess.Popen([sys.executable, "-m", "lab", "up"], stderr=subprocess.PIPE, text=True)
    assert boot.stderr
    for _ in range(lines):
        boot.stderr.readline()
    boot.kill()
    boot.wait()
    boot.stderr.close()
    assert Machine.now(lab.places).since(clean) != {}
    lab.down()
    assert Machine.now(lab.places).since(clean) == {}


@pytest.mark.takes_lab_down
def test_down_leaves_nothing_after_namespaces_were_deleted_by_hand(lab: Lab, clean: Machine) -> None:
    lab.up()
    subprocess.run(["ip", "link", "delete", places.OPERATOR_LINK], check=True)
    for namespace in (SERVER_NAMESPACE, INTERNET_NAMESPACE):
        subprocess.run(["ip", "netns", "delete", namespace], check=True)
    os.kill(victim(lab, "supervisor"), signal.SIGKILL)
    os.kill(victim(lab, "server"), signal.SIGKILL)
    assert lab.status().word == "broken"
    lab.down()
    assert Machine.now(lab.places).since(clean) == {}


@pytest.mark.takes_lab_down
def test_up_mends_a_lab_in_pieces(lab: Lab, clean: Machine) -> None:
    lab.up()
    os.kill(victim(lab, "supervisor"), signal.SIGKILL)
    lab.up()
    assert lab.status().up


@pytest.mark.takes_lab_down
def test_force_takes_down_another_clones_lab(lab: Lab, clean: Machine, tmp_path: Path) -> None:
    lab.up()
    Lab(Places(tmp_path)).down(force=True)
    assert Machine.now(lab.places).since(clean) == {}


@pytest.fixture
def other_clone(lab: Lab, tmp_path: Path) -> Iterator[Places]:
    """A second clone that can boot a lab: the parts the lab is made of, and this clone's programs."""
    project = tmp_path / "clone"
    for package in ("lab", "toolchain"):
        shutil.copytree(lab.places.project / package, project / package, symlinks=True)
    (project / ".toolchain").symlink_to(lab.places.project / ".toolchain")
    yield Places(project)
    Lab(Places(project)).down()


def kill_and_wait(found: list[processes.Process]) -> None:
    """As the end of the machine would; all of them are gone when it returns."""
    assert found and processes.kill(found) == []


@pytest.mark.takes_lab_down
def test_another_clones_dead_lab_is_cleared_away(lab: Lab, clean: Machine, other_clone: Places) -> None:
    said: list[str] = []
    lab.up()
    other = Lab(other_clone, said.append)
    kill_and_wait(processes.marked(lab.places))
    for forbidden in (other.up, other.down):  # an orphan of a server is a server
        with pytest.raises(LabError, match=str(lab.places.project)):
            forbidden()
    kill_and_wait(ownership.inhabitants())
    assert other.status().abandoned == lab.places
    assert Machine.now(lab.places).since(clean).keys() == {"mounts", "links", "namespaces", "files"}

    other.up()
    assert other.status().up
    assert [line for line in said if str(lab.places.project) in line] == [said[0]]
    assert Machine.now(lab.places).mounts.isdisjoint(map(str, (lab.places.disk, lab.places.root)))

    kill_and_wait(ownership.running(other_clone))
    lab.down()
    assert Machine.now(other_clone).since(clean) == {}
    assert lab.status().word == "down"
