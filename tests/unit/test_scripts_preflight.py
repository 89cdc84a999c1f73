"""Golden cases of preflight.sh: every fact of a good server, and that a bad one still gets a whole answer."""

from pathlib import Path

import pytest

from tests.unit.scripts.harness import DOMAIN, Machine, assert_sentence, available_shells, result

IMMICH = """\
no /api/server/ping 200 {"res":"pong"}
no /api/server/config 200 {"loginPageMessage":"","isInitialized": true, "isOnboarded":true}
no /api/server/version 200 {"major":3,"minor":0,"patch":2,"prerelease":null}"""
TAILSCALE = """
    case $* in
      version) printf '1.98.9\\n  tailscale commit: abc\\n' ;;
      "status --json --peers=false") echo '{"BackendState":"Running",'; echo '"CertDomains":["DOMAIN"]}' ;;
      "funnel status --json") printf '{\\n}\\n' ;;
    esac""".replace("DOMAIN", DOMAIN)
LISTENERS = 'LISTEN 0 4096   127.0.0.1:8443 0.0.0.0:*    users:(("{}",pid=7,fd=3))'


@pytest.fixture(params=available_shells())
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    """A NixOS server with Immich on the LAN."""
    machine = Machine(tmp_path, request.param)
    machine.write(machine.root / "etc/NIXOS", "")
    machine.write(machine.root / "etc/os-release", 'ID=nixos\nVERSION_ID="26.05"\n')
    machine.write(
        machine.config / "configuration.nix", "{ imports = [ ./lan-immich.nix ]; } # ./expose-immich.nix\n"
    )
    (machine.root / "nix").mkdir()
    machine.remember(answers=IMMICH)
    machine.fake("tailscale", TAILSCALE)
    machine.fake(
        "df", 'printf "Filesystem 1024-blocks Used Available Capacity Mounted on\\n/dev/x 9 1 4711 1%% /\\n"'
    )
    return machine


def facts(machine: Machine) -> dict[str, object]:
    return result(machine.run("preflight", "facts", str(machine.config), "2283", "8443"))


def test_facts_of_a_good_server(machine: Machine) -> None:
    assert facts(machine) == {
        "nixos": True,
        "nixosVersion": "26.05",
        "root": True,
        "systemdRunning": True,
        "tailscaleVersion": "1.98.9",
        "tailscale": {"BackendState": "Running", "CertDomains": [DOMAIN]},
        "funnel": {},
        "proxyPortOwner": "",
        "immich": {"port": 2283, "ping": True, "initialized": True, "version": "3.0.2"},
        "configuration": {"exists": True, "lanImport": "active", "exposeImport": "commented"},
        "diskFreeKiB": {"/nix": 4711, "/var": 4711},
        "commands": [],
    }


def test_it_only_reads(machine: Machine) -> None:
    before = machine.files(machine.root)
    facts(machine)
    assert machine.files(machine.root) == before
    assert not list((machine.root / "run").iterdir()), "a preflight takes no lock"


def test_facts_of_a_machine_that_has_nothing(machine: Machine) -> None:
    for name in ("tailscale", "curl", "df", "systemctl", "ss"):
        machine.fake(name, "exit 1")
    machine.fake("id", "echo 1000")
    for place in ("etc/NIXOS", "etc/os-release", "etc/nixos/configuration.nix"):
        (machine.root / place).unlink()
    machine.unfake("nixos-rebuild")
    seen = facts(machine)
    # Whether there is a nixos-rebuild depends on the machine that runs this test.
    assert seen.pop("commands") in ([], ["nixos-rebuild"])
    assert seen == {
        "nixos": False,
        "nixosVersion": "",
        "root": False,
        "systemdRunning": False,
        "tailscaleVersion": None,
        "tailscale": None,
        "funnel": None,
        "proxyPortOwner": "",
        "immich": {"port": 2283, "ping": False, "initialized": None, "version": None},
        "configuration": {"exists": False, "lanImport": "absent", "exposeImport": "absent"},
        "diskFreeKiB": {"/nix": None, "/var": None},
    }


@pytest.mark.parametrize(
    ("config", "initialized"),
    [('{"isInitialized":false}', False), ("<html>", None), ('{"isInitialized":true}', True)],
)
def test_an_immich_without_an_admin_is_seen(machine: Machine, config: str, initialized: bool | None) -> None:
    machine.remember(answers=f'no /api/server/ping 200 {{"res":"pong"}}\nno /api/server/config 200 {config}')
    assert facts(machine)["immich"] == {
        "port": 2283,
        "ping": True,
        "initialized": initialized,
        "version": None,
    }


def test_who_holds_the_proxy_port(machine: Machine) -> None:
    machine.remember(listeners=LISTENERS.format("nginx"))
    assert (
        facts(machine)["proxyPortOwner"]
        == 'LISTEN 0 4096 127.0.0.1:8443 0.0.0.0:* users:(("nginx",pid=7,fd=3))'
    )
    machine.remember(listeners=LISTENERS.format("caddy"))
    assert "caddy" in str(facts(machine)["proxyPortOwner"]), "a Caddy of the user's own is in the way"
    machine.write(machine.config / "configuration.nix", "{ imports = [ ./expose-immich.nix ]; }\n")
    assert facts(machine)["proxyPortOwner"] == "", "our own Caddy is not"


def test_immich_is_asked_where_it_listens_while_it_is_exposed(machine: Machine) -> None:
    machine.write(machine.config / "immich-exposure/settings.json", '{\n  "immichPort": 3001,\n  "x": 1\n}\n')
    rest = {"ping": True, "initialized": True, "version": "3.0.2"}
    assert facts(machine)["immich"] == {"port": 2283, **rest}, "settings of an exposure that is gone"
    machine.write(machine.config / "configuration.nix", "{ imports = [ ./expose-immich.nix ]; }\n")
    assert facts(machine)["immich"] == {"port": 3001, **rest}


@pytest.mark.parametrize("answer", ["not json", "[1]", '{"half": ', ""])
def test_what_is_not_an_object_is_null(machine: Machine, answer: str) -> None:
    machine.remember(answer=answer)
    machine.fake("tailscale", 'cat "$FAKES/answer"')
    seen = facts(machine)
    assert (seen["tailscale"], seen["funnel"]) == (None, None)


def test_its_arguments_are_checked(machine: Machine) -> None:
    assert_sentence(machine.run("preflight", "facts", "etc", "2283", "8443"), "absolute path; correct")
    assert_sentence(
        machine.run("preflight", "facts", "/etc/nixos", "x", "8443"), "The immichPort must be a whole number"
    )
    assert_sentence(machine.run("preflight"), "absolute path; correct")
