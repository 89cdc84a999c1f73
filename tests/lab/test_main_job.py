"""The life of an exposure with the real engine: preview, up, visits, devices come and go, reboot, destroy.

The tests of this file tell one story and run in the order in which they stand.
"""

from __future__ import annotations

import http.client
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lab import Lab, places
from pki import Keystore, ProbeCredential
from tests.lab.operator import PASSPHRASE, Operator
from tests.lab.outside import FORBIDDEN, REFUSED, seen
from tests.lab.snapshot import LOGINS_OF_ONE_LOOK, Snapshot, folder_digest, output, snapshot
from tests.lab.strangers import PASSPHRASE as FOREIGN_PASSPHRASE
from tests.lab.strangers import foreign_credential, unenrolled_credential
from tests.server.waiting import wait_until

pytestmark = pytest.mark.lab

FOREIGN_ENTRY = '{"TCP":{"9443":{"TCPForward":"localhost:22"}}}'
PING = "/api/server/ping"


@dataclass
class Story:
    """What the tests of this file hand on to each other."""

    lab: Lab
    operator: Operator
    folder: Path
    before: Snapshot
    fingerprints: dict[str, str] = field(default_factory=dict)

    def device(self, name: str) -> ProbeCredential:
        """Return a device's credential from the keystore."""
        credentials = Keystore(self.operator.keystore).probe_credentials()
        return next(found for found in credentials if found.name == name)

    def sees(self, name: str, path: str = PING) -> str:
        """Return what a device sees from outside."""
        return seen(self.lab, path, credential=self.device(name), passphrase=PASSPHRASE)

    def enrolled(self) -> dict[str, str]:
        """Return fingerprint by device name, as the outputs tell it."""
        return {entry["name"]: entry["fingerprint"] for entry in self.operator.outputs()["devices"]}


@pytest.fixture(scope="module")
def story(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """A server with another tool's serve entry, and an operator who has not begun yet."""
    folder = tmp_path_factory.mktemp("main-job")
    output(lab, "sudo tailscale serve --bg --tcp 9443 tcp://localhost:22")
    operator = Operator(folder, lab.info(), stack="main-job")
    operator.init()
    yield Story(lab, operator, folder, snapshot(lab))
    operator.destroy()
    output(lab, "sudo tailscale serve --tcp=9443 off")


def test_a_preview_touches_nothing(story: Story) -> None:
    assert "immich-funnel-door" in story.operator.preview()
    after = snapshot(story.lab)
    assert after.logins == story.before.logins + LOGINS_OF_ONE_LOOK, "the preview logged in to the server"
    assert (after.files, after.generation, after.serve) == (
        story.before.files,
        story.before.generation,
        story.before.serve,
    )
    assert not story.operator.keystore.exists()


def test_a_preview_says_in_words_what_becomes_public(story: Story) -> None:
    preview = story.operator.preview("--diff", "--show-full-output")
    assert "whoever has a shared link can" in preview
    assert '"phone (ios)"' in preview
    assert "client_auth" in preview, "the Caddyfile is not there to be read"


def test_up_exposes(story: Story) -> None:
    story.operator.up()
    outputs = story.operator.outputs()
    assert outputs["url"] == f"https://{places.DOMAIN}"
    assert len(outputs["checked"]) == 5
    story.fingerprints = story.enrolled()


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/", FORBIDDEN),
        ("/api/users/me", FORBIDDEN),
        ("/auth/login", FORBIDDEN),
        ("/api/server/config", "200"),
        ("/share/labsharekey", "200"),
        ("/api/shared-links/me?key=labsharekey", "200"),
        ("/api/shared-links/me?key=", FORBIDDEN),
        ("/api/shared-links/me", FORBIDDEN),
    ],
)
def test_what_a_stranger_sees(story: Story, path: str, wanted: str) -> None:
    assert seen(story.lab, path) == wanted


def test_what_is_refused_never_reaches_immich(story: Story) -> None:
    before = len(story.lab.stub_requests())
    for path in ("/", "/api/users/me", "/api/albums?key=", "/wp-login.php"):
        assert seen(story.lab, path) == FORBIDDEN
    assert [request["target"] for request in story.lab.stub_requests()[before:]] == []


@pytest.mark.parametrize("visitor", ["203.0.113.99", "2001:db8:99::99"])
def test_immich_learns_the_visitors_own_address(story: Story, visitor: str) -> None:
    assert (
        seen(story.lab, "/share/labsharekey", source=visitor, headers={"X-Forwarded-For": "10.9.8.7"})
        == "200"
    )
    assert story.lab.stub_requests()[-1]["headers"]["x-forwarded-for"] == visitor


def test_each_device_gets_in(story: Story) -> None:
    assert story.sees("phone") == "200"
    assert story.sees("laptop") == "200"
    assert story.sees("phone", "/") == "200"


def test_certificates_of_others_are_refused_in_the_handshake(story: Story) -> None:
    for name in ("Somebody Else's CA", "Immich Client CA"):
        stranger = foreign_credential(story.folder / name, common_name=name)
        assert seen(story.lab, "/", credential=stranger, passphrase=FOREIGN_PASSPHRASE) == REFUSED


def test_a_certificate_of_ours_that_is_not_enrolled_is_a_stranger(story: Story) -> None:
    credential = unenrolled_credential(story.operator.keystore, PASSPHRASE, story.operator.stack)
    assert seen(story.lab, PING, credential=credential, passphrase=PASSPHRASE) == FORBIDDEN
    assert seen(story.lab, "/api/server/config", credential=credential, passphrase=PASSPHRASE) == "200"


def test_a_connection_without_proxy_header_is_refused(story: Story) -> None:
    ask = (
        f"curl -sk --max-time 5 --connect-to ::127.0.0.1:8443 https://{places.DOMAIN}:8443/api/server/config"
    )
    assert story.lab.ssh(ask).returncode != 0
    assert story.lab.ssh(f"{ask} --haproxy-protocol").returncode == 0


def test_http3_is_not_offered(story: Story) -> None:
    assert "alt-svc" not in story.lab.visit("/api/server/config").headers
    assert output(story.lab, "sudo ss -Hulnp | grep caddy || :") == ""


def test_a_second_up_changes_nothing(story: Story) -> None:
    before = snapshot(story.lab)
    story.operator.up()
    assert set(story.operator.changes()) == {"same"}
    after = snapshot(story.lab)
    assert (after.files, after.generation, after.serve) == (before.files, before.generation, before.serve)
    assert after.logins == before.logins + LOGINS_OF_ONE_LOOK


def test_the_order_stands_in_the_graph(story: Story) -> None:
    graph = story.folder / "graph.dot"
    story.operator.pulumi("stack", "graph", str(graph), "--stack", story.operator.stack)
    needs = transitive_needs(graph.read_text(encoding="utf-8"))
    door = needs["immich-funnel-door"]
    assert {"immich-enrolment-phone-file", "immich-enrolment-laptop-file", "immich-nixos-rebuild"} <= door
    assert "immich-funnel-guard" in door
    assert "immich-funnel-door" in needs["immich-check-outside"]
    assert "immich-preflight-facts" in needs["immich-ca-key-pair"]
    assert "immich-device-phone-credential" in needs["immich-state-folder"]
    assert "immich-server-certificate-files" in needs["immich-nixos-rebuild"]


def transitive_needs(dot: str) -> dict[str, set[str]]:
    """Return, for each resource of ``pulumi stack graph``, the names of all that it depends on."""
    names = {
        node: urn.rsplit("::", 1)[1] for node, urn in re.findall(r'(Resource\d+) \[label="([^"]+)"\]', dot)
    }
    direct: dict[str, set[str]] = {name: set() for name in names.values()}
    for first, second in re.findall(r"(Resource\d+) -> (Resource\d+)", dot):
        direct[names[second]].add(names[first])
    assert any(direct.values()), "the graph has no edges"
    return {name: reachable(name, direct) for name in direct}


def reachable(name: str, direct: dict[str, set[str]]) -> set[str]:
    """Return all names that can be reached from one."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        for other in direct[waiting.pop()] - found:
            found.add(other)
            waiting.append(other)
    return found


def caddy_life(lab: Lab) -> tuple[str, str]:
    """Return Caddy's process and how often it loaded a configuration: both stay when nobody touches it."""
    process = output(lab, "systemctl show caddy --property=MainPID --value")
    journal = "sudo journalctl -u caddy --no-pager -o cat"
    loads = output(lab, f"{journal} | grep -c -i -e 'reload' -e 'serving initial' || :")
    return process, loads


def test_a_change_is_shown_as_a_text_diff(story: Story) -> None:
    story.operator.set(uploads=True)
    preview = story.operator.preview("--diff")
    story.operator.set(uploads=None)
    assert '-   "uploads": false,' in preview
    assert '+   "uploads": true,' in preview
    assert "upload files where the link allows it" in preview


def test_a_new_device_is_its_own_business(story: Story) -> None:
    before, caddy = snapshot(story.lab), caddy_life(story.lab)
    story.operator.devices("phone", "laptop", "tablet")
    planned = story.operator.planned()
    tablets = [step for step in planned if "tablet" in step.name]
    assert {step.op for step in tablets} == {"create"}
    story.operator.up()
    assert story.sees("tablet") == "200"
    assert snapshot(story.lab).generation == before.generation
    assert caddy_life(story.lab) == caddy


class OpenConnection:
    """A device's connection through the operator's window, kept open between requests."""

    def __init__(self, lab: Lab, credential: ProbeCredential) -> None:
        context = ssl.create_default_context(cafile=lab.info()["roots_file"])
        context.load_cert_chain(credential.certificate_path, credential.key_path, PASSPHRASE)
        self.connection = http.client.HTTPSConnection(
            places.WINDOW_HOST, places.WINDOW_PORT, context=context, timeout=20
        )
        # the name is not that of the window's address
        plain = self.connection._create_connection((places.WINDOW_HOST, places.WINDOW_PORT), 20)  # type: ignore[attr-defined]
        self.connection.sock = context.wrap_socket(plain, server_hostname=places.DOMAIN)

    def status(self) -> int:
        """Ask once more on the same connection and return the status."""
        assert self.connection.sock is not None, "the connection has been closed"
        self.connection.request("GET", PING, headers={"Host": places.DOMAIN})
        response = self.connection.getresponse()
        response.read()
        return response.status


def test_a_removed_device_is_out_at_its_next_request(story: Story) -> None:
    before, caddy = snapshot(story.lab), caddy_life(story.lab)
    open_connection = OpenConnection(story.lab, story.device("tablet"))
    assert open_connection.status() == 200
    story.operator.devices("phone", "laptop")
    planned = story.operator.planned()
    assert {step.name for step in planned if step.op == "delete"} >= {"immich-enrolment-tablet-file"}
    assert all("tablet" in step.name for step in planned), planned
    story.operator.up()
    assert open_connection.status() == 403
    assert story.sees("phone") == "200"
    assert snapshot(story.lab).generation == before.generation
    assert caddy_life(story.lab) == caddy


def test_a_device_that_comes_back_gets_a_new_certificate(story: Story) -> None:
    revoked = next((story.operator.keystore / "revoked").glob("tablet-*.crt")).read_text(encoding="ascii")
    story.operator.devices("phone", "laptop", "tablet")
    story.operator.up()
    assert story.device("tablet").certificate_path.read_text(encoding="ascii") != revoked
    assert story.sees("tablet") == "200"


def test_a_reboot_changes_nothing_for_anybody(story: Story) -> None:
    story.lab.reboot()
    wait_until(lambda: seen(story.lab, "/") == FORBIDDEN, "the edge answers again", 60)
    assert story.sees("phone") == "200"
    assert output(story.lab, "systemctl is-active immich-exposure-lease.timer") == "active"


def test_the_generation_is_laid_out_at_every_boot(story: Story) -> None:
    running = output(story.lab, "readlink /run/current-system")
    assert running == output(story.lab, "readlink -f /nix/var/nix/profiles/system")


def test_a_power_cut_changes_nothing_for_anybody(story: Story) -> None:
    story.lab.power_off()
    wait_until(lambda: seen(story.lab, "/") == REFUSED, "the power is cut", 60)
    story.lab.reboot()
    wait_until(lambda: seen(story.lab, "/") == FORBIDDEN, "the edge answers again", 60)
    assert story.sees("phone") == "200"


def test_destroy_closes_the_door_before_anything_else(story: Story) -> None:
    """The door's deletion ends while everything behind it still stands, and from then on nobody gets in."""
    keystore = folder_digest(story.operator.keystore)
    process = story.operator.start("destroy")
    assert process.stdout is not None
    lines: list[str] = []
    saw = ""
    for line in process.stdout:
        lines.append(line)
        if "immich-funnel-door deleted" in line:
            saw = seen(story.lab, "/")
    assert process.wait() == 0, "".join(lines)
    assert saw == REFUSED
    deletions = [line for line in lines if re.search(r"remote:Command \S+ (deleting|deleted)", line)]
    assert "immich-funnel-door" in deletions[0]
    closed = next(index for index, line in enumerate(deletions) if "immich-funnel-door deleted" in line)
    assert all("immich-funnel-door" in line for line in deletions[:closed])
    after = folder_digest(story.operator.keystore)
    assert {name: after[name] for name in keystore if not name.endswith(".html")} == {
        name: digest for name, digest in keystore.items() if not name.endswith(".html")
    }


def test_destroy_leaves_the_server_as_it_was(story: Story) -> None:
    after = snapshot(story.lab)
    assert after.files == story.before.files
    assert after.serve == story.before.serve
    assert "".join(after.serve.split()) == FOREIGN_ENTRY
    assert seen(story.lab, "/") == REFUSED
    ping = output(story.lab, f"curl -s --max-time 5 http://{places.SERVER_ADDRESS}:2283{PING}")
    assert '"pong"' in ping
    assert (
        output(story.lab, "systemctl is-active caddy fail2ban immich-exposure-lease.timer || :").split()
        == ["inactive"] * 3
    )
    leftovers = output(story.lab, "sudo find / -xdev -path /nix -prune -o -name '*immich-exposure*' -print")
    assert leftovers == ""


def test_up_after_destroy_needs_nobody_to_touch_a_device(story: Story) -> None:
    story.operator.devices("phone", "laptop")
    story.operator.up()
    assert story.enrolled() == story.fingerprints
    assert story.sees("phone") == "200"


def test_a_device_that_left_while_nothing_was_exposed_is_revoked(story: Story) -> None:
    """The tablet was in the config at the destroy, and not at the next up."""
    story.operator.devices("phone", "laptop", "tablet")
    assert not (story.operator.keystore / "devices" / "tablet.crt").exists()
    assert list((story.operator.keystore / "revoked").glob("tablet-*.crt"))
