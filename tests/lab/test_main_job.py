"""The life of an exposure with the real engine: preview, up, visits, devices come and go, reboot, destroy.

The tests in this file tell one story and run in file order.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lab import Lab, places
from pki import Keystore, ProbeCredential
from tests.lab.operator import LISTS, PASSPHRASE, PROOF, Operator
from tests.lab.outside import FORBIDDEN, REFUSED, OpenConnection, kept_alive, seen
from tests.lab.snapshot import (
    Snapshot,
    assert_nothing_changed,
    changed_files,
    folder_digest,
    output,
    snapshot,
)
from tests.lab.strangers import PASSPHRASE as FOREIGN_PASSPHRASE
from tests.lab.strangers import foreign_credential, unenrolled_credential
from tests.server.waiting import wait_until

pytestmark = pytest.mark.lab

FOREIGN_ENTRY = '{"TCP":{"9443":{"TCPForward":"localhost:22"}}}'
PING = "/api/server/ping"
SCANNER = "203.0.113.66"
NEIGHBOUR = "203.0.113.67"
DEVICES = "/var/lib/immich-exposure/devices"
OF_THE_SERVER = "ServerScript|ServerCertificate|EdgeSettings|TrustPool|ShortLease"
"""The resources that run a script on the server, but for the funnel's."""


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

    def revoked(self, name: str) -> ProbeCredential:
        """Return the credential of a device that was revoked once, from where its files lie now."""
        (certificate,) = (self.operator.keystore / "revoked").glob(f"{name}-*.crt")
        return ProbeCredential(name, certificate, certificate.with_suffix(".key"))

    @contextmanager
    def immich_hears_nothing(self) -> Iterator[None]:
        """Assert that no request reaches Immich meanwhile."""
        before = len(self.lab.stub_requests())
        yield
        assert [request["target"] for request in self.lab.stub_requests()[before:]] == []

    def enrolled(self) -> dict[str, str]:
        """Return fingerprint by device name, as the outputs tell it."""
        return {name: entry["fingerprint"] for name, entry in self.operator.outputs()["devices"].items()}


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


def test_a_preview_says_in_words_what_becomes_public_and_touches_nothing(story: Story) -> None:
    preview = story.operator.preview("--diff", "--show-full-output")
    assert "immich-funnel-close" in preview
    assert "anyone with a shared link can" in preview
    assert re.search(r'phone *: "ios"', preview)
    assert "client_auth" in preview, "the Caddyfile is not there to be read"
    assert_nothing_changed(story.before, snapshot(story.lab), looks=1)
    assert not story.operator.keystore.exists()


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
    with story.immich_hears_nothing():
        for path in ("/", "/api/users/me", "/api/shared-links/me?key=", "/api/albums?key=", "/wp-login.php"):
            assert seen(story.lab, path) == FORBIDDEN
    assert seen(story.lab, "/api/server/config") == "200"
    assert story.lab.stub_requests()[-1]["target"] == "/api/server/config"


@pytest.mark.parametrize("visitor", ["203.0.113.99", "2001:db8:99::99"])
def test_immich_learns_the_visitors_own_address(story: Story, visitor: str) -> None:
    assert (
        seen(story.lab, "/share/labsharekey", source=visitor, headers={"X-Forwarded-For": "10.9.8.7"})
        == "200"
    )
    pages = [entry for entry in story.lab.stub_requests() if entry["target"] == "/share/labsharekey"]
    assert pages[-1]["headers"]["x-forwarded-for"] == visitor


def test_each_device_gets_in(story: Story) -> None:
    assert story.sees("phone") == "200"
    assert story.sees("laptop") == "200"
    assert story.sees("phone", "/") == "200"


def test_whoever_has_a_certificate_of_others_is_a_stranger(story: Story) -> None:
    for name in ("Somebody Else's CA", "Immich Client CA"):
        stranger = foreign_credential(story.folder / name, common_name=name)
        with story.immich_hears_nothing():
            assert seen(story.lab, PING, credential=stranger, passphrase=FOREIGN_PASSPHRASE) == FORBIDDEN


def test_a_certificate_of_ours_that_is_not_enrolled_is_a_stranger(story: Story) -> None:
    credential = unenrolled_credential(story.operator.keystore, PASSPHRASE, story.operator.stack)
    with story.immich_hears_nothing():
        assert seen(story.lab, PING, credential=credential, passphrase=PASSPHRASE) == FORBIDDEN
    assert seen(story.lab, "/api/server/config", credential=credential, passphrase=PASSPHRASE) == "200"


def test_a_connection_without_proxy_header_is_refused(story: Story) -> None:
    ask = (
        f"curl -sk --max-time 5 --connect-to ::127.0.0.1:8443 https://{places.DOMAIN}:8443/api/server/config"
    )
    with story.immich_hears_nothing():
        assert story.lab.console(ask).returncode != 0
    assert story.lab.console(f"{ask} --haproxy-protocol").returncode == 0
    with story.immich_hears_nothing():
        assert story.lab.ssh(f"{ask} --haproxy-protocol").returncode == 7, "nobody but root forges a visitor"


def test_another_account_learns_nothing_and_stands_in_for_nobody(story: Story) -> None:
    """On a server where something else was broken into; Immich is down, and its port is free to take."""
    lab, fingerprint = story.lab, story.enrolled()["phone"]
    places_of_ours = "/var/lib/immich-exposure/devices /var/lib/immich-exposure/bans /var/log/immich-edge"
    seen = lab.console(f"setpriv --reuid=games --clear-groups find {places_of_ours} 2>/dev/null").stdout
    assert fingerprint not in seen and len(seen.splitlines()) <= 1, seen
    squat = "systemd-run -q --unit=squatter -p User=games python3 -m http.server 2283 --bind 127.0.0.1"
    lab.console(f"systemctl stop immich-server; {squat}")
    try:
        listens = "ss -Hltnp sport = :2283"
        wait_until(lambda: "python3" in lab.console(listens).stdout, "somebody has Immich's port", 30)
        assert story.sees("phone") != "200"
        assert "GET" not in lab.console("journalctl -u squatter -o cat").stdout
    finally:
        lab.console("systemctl stop squatter; systemctl start immich-server")
    wait_until(lambda: story.sees("phone") == "200", "Immich answers its devices again", 60)


def test_http3_is_not_offered(story: Story) -> None:
    assert "alt-svc" not in story.lab.visit("/api/server/config").headers
    assert output(story.lab, "sudo ss -Hulnp | grep caddy || :") == ""


def test_a_second_up_and_a_refresh_change_nothing(story: Story) -> None:
    before = snapshot(story.lab)
    story.operator.preview("--expect-no-changes")
    story.operator.up()
    assert set(story.operator.changes()) == {"same"}
    story.operator.refresh()
    # One connection for each of the three.
    assert_nothing_changed(before, snapshot(story.lab), looks=3)


def test_the_state_is_small(story: Story) -> None:
    """The engine writes it anew with each step: what stands in it is waited for dozens of times."""
    state = json.loads(story.operator.export())
    assert len(json.dumps(state, separators=(",", ":"))) < 300_000


def test_the_order_stands_in_the_graph(story: Story) -> None:
    graph = story.folder / "graph.dot"
    story.operator.pulumi("stack", "graph", str(graph), "--stack", story.operator.stack)
    dot = graph.read_text(encoding="utf-8")
    needs = transitive_needs(dot)
    funnel = needs["immich-funnel-close"]
    assert {"immich-devices", "immich-nixos-module"} <= funnel
    assert "immich-funnel-close" in needs["immich-check"]
    assert "immich-withdrawal" in needs["immich-preflight"], "who lost a phone must not wait"
    assert "immich-preflight" in needs["immich-ca"]
    assert "immich-device-phone" in needs["immich-state-folder"]
    prepared = {"immich-server-certificate", "immich-settings", "immich-trust-pool"}
    assert prepared <= needs["immich-nixos-module"]
    commands = re.findall(rf"(?:remote:Command|immich:(?:{OF_THE_SERVER}))::([^\"]+)", dot)
    assert len(commands) >= 9
    unprepared = [name for name in commands if "immich-preflight" not in needs[name]]
    assert unprepared == [], "these change the server before anybody has looked at it"


def test_the_funnel_closes_without_asking_for_anything_else(story: Story) -> None:
    """What stands on it goes with it, unasked: by then the program's files may be others, or broken."""
    resources = json.loads(story.operator.export())["deployment"]["resources"]
    with_the_funnel = {
        each["urn"].rpartition("::")[2]
        for each in resources
        if each.get("deletedWith", "").endswith("::immich-funnel-close")
    }
    assert with_the_funnel == {"immich-check"}


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


def edge_life(lab: Lab) -> tuple[str, str]:
    """Return the edge's process and how often it loaded a configuration: both stay when nobody touches it."""
    process = output(lab, "systemctl show immich-edge --property=MainPID --value")
    journal = "sudo journalctl -u immich-edge --no-pager -o cat"
    loads = output(lab, f"{journal} | grep -c -i -e 'reload' -e 'serving initial' || :")
    return process, loads


def test_a_change_is_shown_as_a_text_diff_and_touches_nothing(story: Story) -> None:
    before, keystore = snapshot(story.lab), folder_digest(story.operator.keystore)
    story.operator.set(uploads=True)
    preview = story.operator.preview("--diff")
    story.operator.set(uploads=None)
    assert "- IMMICH_EXPOSURE_UPLOADS=off" in preview
    assert "+ IMMICH_EXPOSURE_UPLOADS=on" in preview
    assert "upload files where the link allows it" in preview
    assert_nothing_changed(before, snapshot(story.lab), looks=3)
    assert folder_digest(story.operator.keystore) == keystore


def test_a_new_device_is_its_own_business(story: Story) -> None:
    before, edge = snapshot(story.lab), edge_life(story.lab)
    story.operator.devices("phone", "laptop", "tablet")
    story.operator.up()
    assert {name for name in story.operator.touched() if "tablet" not in name} == LISTS | PROOF
    assert set(story.operator.changes()) == {"create", "update", "same"}
    assert story.sees("tablet") == "200"
    after = snapshot(story.lab)
    file = f"{DEVICES}/{story.enrolled()['tablet']}"
    assert changed_files(before, after) == {"gone": set(), "new": {file}}
    assert after.generation == before.generation
    assert edge_life(story.lab) == edge


def test_a_removed_device_is_out_at_its_next_request(story: Story) -> None:
    before, edge = snapshot(story.lab), edge_life(story.lab)
    tablet = story.device("tablet")
    file = f"{DEVICES}/{story.enrolled()['tablet']}"
    story.operator.devices("phone", "laptop")
    preview = story.operator.preview("--diff")
    assert re.search('- tablet *: "loses access for good when it is no longer named here"', preview)
    open_connection = OpenConnection(story.lab, tablet, PASSPHRASE)
    assert open_connection.status(PING) == 200
    with kept_alive(open_connection):
        printed = story.operator.up()
    assert "tablet is revoked: its certificate is never accepted again" in printed
    assert {name for name in story.operator.touched() if "tablet" not in name} == LISTS | PROOF
    assert set(story.operator.changes()) == {"delete", "update", "same"}
    with story.immich_hears_nothing():
        assert open_connection.is_cut(), "a revoked device keeps no connection"
    assert story.sees("phone") == "200"
    after = snapshot(story.lab)
    assert changed_files(before, after) == {"gone": {file}, "new": {file.replace("/devices/", "/revoked/")}}
    assert after.generation == before.generation
    assert edge_life(story.lab) == edge


def test_a_device_that_comes_back_gets_a_new_certificate(story: Story) -> None:
    revoked = story.revoked("tablet")
    story.operator.devices("phone", "laptop", "tablet")
    story.operator.up()
    assert story.device("tablet").certificate_path.read_bytes() != revoked.certificate_path.read_bytes()
    assert story.sees("tablet") == "200"
    assert seen(story.lab, PING, credential=revoked, passphrase=PASSPHRASE) == FORBIDDEN


def scan(lab: Lab, address: str) -> None:
    """Ask for what only a scanner asks for, until the address is cut off."""
    for number in range(12):
        seen(lab, f"/backup-{number}.zip", source=address)
    wait_until(lambda: seen(lab, "/share/labsharekey", source=address) == REFUSED, f"{address} is banned", 15)


def test_a_scanner_is_banned_and_nobody_else(story: Story) -> None:
    scan(story.lab, SCANNER)
    phone = story.device("phone")
    saw = seen(story.lab, PING, credential=phone, passphrase=PASSPHRASE, source=SCANNER)
    assert saw == "200", "a device must not suffer for its neighbour"
    assert seen(story.lab, "/share/labsharekey", source=NEIGHBOUR) == "200"


def test_who_floods_the_log_keeps_nobody_from_being_banned(story: Story) -> None:
    logs = "sudo sh -c 'cd /var/log/immich-edge && stat -c \"%n %a %U:%G\" *.log'"
    flood_the_log(story.lab)
    names = ("access.log", "devices.log", "offences.log")
    assert output(story.lab, logs).splitlines() == [f"{name} 640 immich-edge:immich-edge" for name in names]
    scan(story.lab, NEIGHBOUR)


def flood_the_log(lab: Lab) -> None:
    """Ask for 12 MB of requests, 12 kB each, that are refused and not counted by fail2ban."""
    url = f"https://{places.DOMAIN}:8443/api/albums/{'a' * 12_000}?[1-1000]"
    options = "--silent --insecure --haproxy-protocol --output /dev/null --connect-to ::127.0.0.1:8443"
    done = lab.console(f"curl {options} --config -", text=f'url = "{url}"\n')
    assert done.returncode == 0, done.stderr


def test_a_reboot_changes_nothing_for_anybody(story: Story) -> None:
    story.lab.reboot()
    assert_all_is_back(story)


def assert_all_is_back(story: Story) -> None:
    """After a boot everybody gets what they got before, and what watches over it runs."""
    wait_until(lambda: seen(story.lab, "/") == FORBIDDEN, "the edge answers again", 60)
    assert story.sees("phone") == "200"
    assert seen(story.lab, PING, credential=story.revoked("tablet"), passphrase=PASSPHRASE) == FORBIDDEN
    wait_until(
        lambda: seen(story.lab, "/share/labsharekey", source=SCANNER) == REFUSED, "the ban is back", 30
    )
    watchers = "immich-bans.service immich-exposure-lease.timer immich-exposure-certificate.timer"
    wait_until(
        lambda: output(story.lab, f"systemctl is-active {watchers}").split() == ["active"] * 3,
        "bans, lease and renewal are watched again",
        30,
    )


def test_the_generation_is_laid_out_at_every_boot(story: Story) -> None:
    running = output(story.lab, "readlink /run/current-system")
    assert running == output(story.lab, "readlink -f /nix/var/nix/profiles/system")


def test_a_power_cut_changes_nothing_for_anybody(story: Story) -> None:
    story.lab.power_off()
    wait_until(lambda: seen(story.lab, "/") == REFUSED, "the power is cut", 60)
    story.lab.reboot()
    assert_all_is_back(story)


def test_destroy_closes_the_funnel_before_anything_else(story: Story) -> None:
    """The funnel's deletion ends while everything behind it still stands, and from then on nobody gets in."""
    keystore = folder_digest(story.operator.keystore)
    process = story.operator.start("destroy")
    assert process.stdout is not None
    lines: list[str] = []
    saw = ""
    for line in process.stdout:
        lines.append(line)
        if "immich-funnel-close deleted" in line:
            saw = seen(story.lab, "/")
    assert process.wait() == 0, "".join(lines)
    assert saw == REFUSED
    of_the_server = rf"(remote:Command|{OF_THE_SERVER}) \S+ (deleting|deleted)"
    deletions = [line for line in lines if re.search(of_the_server, line)]
    assert "immich-funnel-close" in deletions[0]
    closed = next(index for index, line in enumerate(deletions) if "immich-funnel-close deleted" in line)
    assert all("immich-funnel-close" in line for line in deletions[:closed])
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
        output(
            story.lab, "systemctl is-active immich-edge immich-bans immich-exposure-lease.timer || :"
        ).split()
        == ["inactive"] * 3
    )
    for unit in ("immich-edge.service", "immich-bans.service", "immich-exposure-lease.timer"):
        assert output(story.lab, f"systemctl show --property=LoadState --value {unit}") == "not-found", unit
    assert story.lab.ssh("pgrep -x 'caddy|fail2ban-server'").returncode == 1
    leftovers = output(story.lab, "sudo find / -xdev -path /nix -prune -o -name '*immich-exposure*' -print")
    assert leftovers == ""


def test_up_after_destroy_needs_nobody_to_touch_a_device(story: Story) -> None:
    story.operator.devices("phone", "laptop")
    story.operator.up()
    assert story.enrolled() == story.fingerprints
    assert story.sees("phone") == story.sees("laptop") == "200"


def test_a_device_that_left_while_nothing_was_exposed_is_revoked(story: Story) -> None:
    """The tablet was in the config at the destroy, and not at the next up."""
    assert not (story.operator.keystore / "devices" / "tablet.crt").exists()
    revoked = {path.read_bytes() for path in (story.operator.keystore / "revoked").glob("tablet-*.crt")}
    assert len(revoked) == 2, "the one of before, and the one that left meanwhile"
    story.operator.devices("phone", "laptop", "tablet")
    story.operator.set(purgeKeystore=True)  # for the next test, which needs it in the state
    story.operator.up()
    assert story.device("tablet").certificate_path.read_bytes() not in revoked
    assert story.sees("tablet") == "200"


def test_a_keystore_is_purged_when_the_config_says_so(story: Story) -> None:
    assert (story.operator.keystore / "ca.key").exists()
    story.operator.destroy()
    assert not story.operator.keystore.exists()
    assert seen(story.lab, "/") == REFUSED
