"""certificate.sh: the pair comes whole, readable by the edge alone, and the edge loads it exactly once."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.programs import tailscale
from tests.programs.harness import DOMAIN, Machine, Outcome, assert_sentence, available_shells, result
from tests.server.certificates import Identity, TestAuthority

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> TestAuthority:
    """Who signs what Tailscale fetches."""
    return TestAuthority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(params=available_shells())
def machine(request: pytest.FixtureRequest, tmp_path: Path, authority: TestAuthority) -> Machine:
    """A server whose Tailscale has a certificate to give; the edge has never run on it."""
    machine = Machine(tmp_path, request.param)
    tailscale.install(machine.fakes)
    offer(machine, authority)
    return machine


def offer(machine: Machine, authority: TestAuthority) -> Identity:
    """Let Tailscale have a new certificate, followed by its issuer's as from Let's Encrypt."""
    identity = authority.issue("server", dns_name=DOMAIN)
    chain = identity.certificate.read_bytes() + authority.certificate.read_bytes()
    (machine.fakes / "issued.cert").write_bytes(chain)
    (machine.fakes / "issued.key").write_bytes(identity.key.read_bytes())
    return identity


def issue(machine: Machine) -> Outcome:
    return machine.run("certificate", "issue")


def edge_runs(machine: Machine) -> None:
    machine.remember(groups="immich-edge")
    machine.edge_runs()


def reloads(machine: Machine) -> int:
    return machine.commands().count("systemctl reload immich-edge")


def modes(machine: Machine) -> dict[str, str]:
    return {name: content.split(" ")[0] for name, content in machine.files(machine.state / "tls").items()}


def mood(machine: Machine, word: str) -> None:
    (machine.fakes / "mood").write_text(word)


def test_first_certificate_before_there_is_an_edge(machine: Machine, authority: TestAuthority) -> None:
    identity = offer(machine, authority)
    answer = result(issue(machine))
    pem = (machine.fakes / "issued.cert").read_text()
    assert answer == {"domain": DOMAIN, "fingerprint": identity.fingerprint, "certificatePem": pem}
    assert modes(machine) == {"server.crt": "0644", "server.key": "0600"}
    assert machine.state.joinpath("tls").stat().st_mode & 0o777 == 0o700
    assert (machine.state / "tls/server.key").read_bytes() == identity.key.read_bytes()
    assert (machine.state / "domain.env").read_text() == f"IMMICH_EXPOSURE_DOMAIN={DOMAIN}\n"
    assert machine.files(machine.config) == {}
    assert machine.commands("tailscale", "systemctl") == [
        "tailscale status --json --peers=false",
        "systemctl is-active --quiet immich-bans",
        "tailscale cert --min-validity 720h --cert-file /var/lib/immich-exposure/tls/.new/server.crt "
        f"--key-file /var/lib/immich-exposure/tls/.new/server.key {DOMAIN}",
        "systemctl is-active --quiet immich-edge",
    ]


def test_the_key_never_leaves_the_server(machine: Machine) -> None:
    outcome = issue(machine)
    assert "PRIVATE KEY" in (machine.fakes / "issued.key").read_text()
    assert "PRIVATE KEY" not in outcome.stdout + outcome.stderr + "\n".join(machine.commands())


def test_owner_and_mode_are_set_each_time_for_the_edge(machine: Machine) -> None:
    issue(machine)
    edge_runs(machine)
    machine.forget_commands()
    assert issue(machine).status == 0
    assert modes(machine) == {"server.crt": "0644", "server.key": "0640"}
    assert machine.state.joinpath("tls").stat().st_mode & 0o777 == 0o750
    folders, *keys = (line for line in machine.commands("chown") if "/tls" in line)
    assert folders.startswith("chown root:immich-edge ") and "/var/lib/immich-exposure/tls" in folders.split()
    assert keys == [
        "chown root:immich-edge /var/lib/immich-exposure/tls/server.key",
        "chown root:immich-edge /var/lib/immich-exposure/tls/.new/server.key",
    ]
    assert reloads(machine) == 0, "the certificate is the same"


def test_renewal_reloads_the_edge_once_and_says_nothing(machine: Machine, authority: TestAuthority) -> None:
    issue(machine)
    edge_runs(machine)
    identity = offer(machine, authority)
    machine.fake("systemctl", f'[ "$1" = is-active ] || cp {machine.state}/tls/server.* "$FAKES"')
    for _ in range(2):
        outcome = machine.run("certificate", "renew")
        assert (outcome.status, outcome.stdout) == (0, "")
    assert reloads(machine) == 1
    assert (machine.fakes / "server.key").read_bytes() == identity.key.read_bytes(), "loaded before it came"
    assert (machine.fakes / "server.crt").read_bytes() == (machine.fakes / "issued.cert").read_bytes()


def test_a_reload_that_failed_is_made_up_for(machine: Machine, authority: TestAuthority) -> None:
    issue(machine)
    edge_runs(machine)
    offer(machine, authority)
    machine.remember(**{"reload-fails": ""})
    assert_sentence(machine.run("certificate", "renew"), "The edge refused to reload")
    (machine.fakes / "reload-fails").unlink()
    assert machine.run("certificate", "renew").status == 0
    assert reloads(machine) == 2
    assert machine.run("certificate", "renew").status == 0
    assert reloads(machine) == 2


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("refusing", "(500 Internal Server Error: SetDNS: rate limited ); fix that and run this again"),
        ("emptying", f'left no usable certificate and key for {DOMAIN}; run "sudo tailscale cert {DOMAIN}"'),
        ("waiting", f"could not get a certificate for {DOMAIN}"),
        ("down", "Tailscale does not answer (failed to connect to local tailscaled; it doesn't appear"),
    ],
)
def test_a_failure_leaves_the_pair_that_works(
    machine: Machine, authority: TestAuthority, word: str, reason: str
) -> None:
    issue(machine)
    edge_runs(machine)
    machine.prepare()
    before = machine.files(machine.state)
    offer(machine, authority)
    mood(machine, word)
    machine.fake("timeout", 'shift; exec /usr/bin/timeout 3 "$@"')
    assert_sentence(issue(machine), reason)
    assert machine.files(machine.state) == before
    assert not (machine.state / "tls/.new").exists()
    assert reloads(machine) == 0


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"BackendState": "Stopped"}, "state Stopped"),
        ({"CertDomains": None}, "HTTPS certificates are not enabled for this tailnet; enable"),
        ({"CertDomains": []}, "HTTPS certificates are not enabled"),
        ({"CertDomains": ["a b"]}, "HTTPS certificates are not enabled"),
        ({"CertDomains": ["../../x"]}, "HTTPS certificates are not enabled"),
        ({"Self": {"CapMap": {"funnel": None}}}, "HTTPS certificates are not enabled"),
    ],
)
def test_what_tailscale_must_grant_first(machine: Machine, changes: dict[str, Any], reason: str) -> None:
    (machine.fakes / "status.json").write_text(json.dumps({**tailscale.STATUS, **changes}))
    assert_sentence(issue(machine), reason)
    assert machine.files(machine.state) == {}
    assert machine.files(machine.config) == {}


def test_a_node_that_was_renamed_keeps_its_certificate_until_the_next_up(machine: Machine) -> None:
    """The edge serves one name; the timer does half of nothing, and says what has happened."""
    issue(machine)
    edge_runs(machine)
    before = machine.files(machine.state)
    name = DOMAIN.replace("immich", "photos")
    (machine.fakes / "status.json").write_text(json.dumps({**tailscale.STATUS, "CertDomains": [name]}))
    assert_sentence(machine.run("certificate", "renew"), f"changed from {DOMAIN} to {name}")
    assert machine.files(machine.state) == before and reloads(machine) == 0
    status = machine.run("exposure", "status").stdout.splitlines()[0]
    assert f"https://{DOMAIN}/ leads nowhere: this node is now called {name}" in status
    for _ in range(2):
        issue(machine)
    assert (machine.state / "domain.env").read_text() == f"IMMICH_EXPOSURE_DOMAIN={name}\n"
    assert reloads(machine) == 1, "its name is new, though the certificate is the same"


def test_there_is_nothing_to_renew_without_an_exposure(machine: Machine) -> None:
    """The module and its timer may stand on a server that exposes nothing."""
    assert machine.run("certificate", "renew") == Outcome(0, "", "")
    assert machine.commands("tailscale") == []
    assert not machine.state.exists()


def test_it_goes_with_the_folder_of_the_exposure(machine: Machine) -> None:
    issue(machine)
    assert machine.run("state", "remove").status == 0
    assert not machine.state.exists()


def test_arguments_are_checked(machine: Machine) -> None:
    for arguments in (["issue", "/etc/nixos"], ["renew", "/etc/nixos"], ["remove"], ["fetch"], []):
        assert_sentence(machine.run("certificate", *arguments), "issue and renew, alone", "use one of them")
    assert machine.commands("tailscale") == []
