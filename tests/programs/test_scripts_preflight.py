"""Golden cases of preflight.sh: every fact of a good server, and that a bad one still gets a whole answer."""

import base64
import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import pytest

from components.remote.module_files import export
from components.remote.remote_script import SERVER_FILES
from tests.programs.harness import DOMAIN, Machine, assert_sentence, available_shells, result

IMMICH = """\
no /api/server/ping 200 {"res":"pong"}
no /api/server/config 200 {"loginPageMessage":"","isInitialized": true, "isOnboarded":true}
no /api/server/version 200 {"major":3,"minor":0,"patch":2,"prerelease":null}"""
TAILSCALE = """
    case $* in
      version) printf '1.98.9\\n  tailscale commit: abc\\n' ;;
      "status --json --peers=false") echo '{"BackendState":"Running",'; echo '"CertDomains":["DOMAIN"]}' ;;
      "funnel status --json") cat "$FAKES/serve.json" ;;
    esac""".replace("DOMAIN", DOMAIN)
# What a configuration evaluates to stands in a file; none is an error.
NIX = """
    case $* in
      *--find-file*) cat "$FAKES/$2" 2>/dev/null ;;
      *services.immich-exposure*)
        cat "$FAKES/evaluated" 2>/dev/null || { echo "error: undefined variable" >&2; exit 1; }
        ;;
    esac"""
OFF: dict[str, object] = {
    "port": 2283,
    "address": None,
    "ping": False,
    "initialized": None,
    "version": None,
    "unit": True,
    "listensAt": [],
}
EVALUATED = {"error": None, "exposure": "absent"}
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
    machine.write(machine.root / "old/nixos-version", "26.05.1")
    unit = "ExecStart=/nix/store/abc-immich-3.0.2/bin/server\n"
    machine.write(machine.root / "old/etc/systemd/system/immich-server.service", unit)
    (machine.root / "run/current-system").symlink_to(machine.root / "old")
    machine.remember(answers=IMMICH, units="immich-server.service")
    machine.fake("tailscale", TAILSCALE)
    machine.fake("nix-instantiate", NIX)
    machine.remember(**{"evaluated": '{"exposure":"absent"}', "serve.json": "{\n}\n"})
    machine.fake(
        "df", 'printf "Filesystem 1024-blocks Used Available Capacity Mounted on\\n/dev/x 9 1 4711 1%% /\\n"'
    )
    return machine


def facts(machine: Machine) -> dict[str, object]:
    return ask(machine)


def ask(machine: Machine, flake: str = "-", address: str = "-", way: str = "managed") -> dict[str, object]:
    way, host = (way, "-") if flake == "-" else ("flake", "pi")
    place = (str(machine.config), flake, host)
    return result(machine.run("preflight", "facts", way, *place, address, "2283", "8443", "443"))


def part(machine: Machine, name: str) -> dict[str, object]:
    facts_of_part = facts(machine)[name]
    assert isinstance(facts_of_part, dict)
    return facts_of_part


def test_facts_of_a_good_server(machine: Machine) -> None:
    assert facts(machine) == {
        "clock": 1000000,
        "nixos": True,
        "nixosVersion": "26.05",
        "tailscaleVersion": "1.98.9",
        "tailscale": {
            "state": "Running",
            "domain": DOMAIN,
            "https": False,
            "funnel": False,
            "funnelPort": False,
            "keyExpiry": None,
        },
        "funnel": {},
        "pastTheEdge": [],
        "proxyPortOwner": "",
        "heldPorts": {},
        "immich": {
            "port": 2283,
            "address": "127.0.0.1",
            "ping": True,
            "initialized": True,
            "version": "3.0.2",
            "unit": True,
            "listensAt": [],
        },
        "module": None,
        "configuration": {
            "exists": True,
            "isFolder": False,
            "path": str(machine.config / "configuration.nix"),
            "lanImport": "active",
            "exposeImport": "commented",
            "ourImport": "absent",
            "importList": True,
            "flakeBeside": None,
            "otherSystem": None,
            "otherConfiguration": None,
            "obstacle": None,
            "exported": False,
            "flakeAbove": None,
            "exposeBesides": "",
        },
        "flake": None,
        "evaluated": EVALUATED,
        "running": {"toplevel": str(machine.root / "old"), "nixos": "26.05.1", "immich": "3.0.2"},
        "theirs": [],
        "theirNames": [],
        "owner": None,
        "authorities": [],
        "diskFreeKiB": {"/nix": 4711},
        "uploads": None,
        "commands": [],
    }


def test_it_only_reads(machine: Machine) -> None:
    before = machine.files(machine.root)
    facts(machine)
    assert machine.files(machine.root) == before
    assert [place.name for place in (machine.root / "run").iterdir()] == ["current-system"], "takes no lock"


def test_facts_of_a_machine_that_has_nothing(machine: Machine) -> None:
    for name in ("tailscale", "curl", "df", "systemctl", "ss"):
        machine.fake(name, "exit 1")
    machine.fake("id", "echo 1000")
    for place in ("etc/NIXOS", "etc/os-release", "etc/nixos/configuration.nix", "run/current-system"):
        (machine.root / place).unlink()
    machine.unfake("nixos-rebuild")
    seen = facts(machine)
    # Whether there is a nixos-rebuild depends on the machine that runs this test.
    assert seen.pop("commands") in ([], ["nixos-rebuild"])
    assert seen == {
        "clock": 1000000,
        "nixos": False,
        "nixosVersion": "",
        "tailscaleVersion": None,
        "tailscale": None,
        "funnel": None,
        "pastTheEdge": None,
        "proxyPortOwner": "",
        "heldPorts": {},
        "immich": OFF | {"unit": False},
        "module": None,
        "configuration": {
            "exists": False,
            "isFolder": False,
            "path": str(machine.config / "configuration.nix"),
            "lanImport": "absent",
            "exposeImport": "absent",
            "ourImport": "absent",
            "importList": False,
            "flakeBeside": None,
            "otherSystem": None,
            "otherConfiguration": None,
            "obstacle": None,
            "exported": False,
            "flakeAbove": None,
            "exposeBesides": "",
        },
        "flake": None,
        "evaluated": None,
        "running": {"toplevel": None, "nixos": None, "immich": None},
        "theirs": [],
        "theirNames": [],
        "owner": None,
        "authorities": [],
        "diskFreeKiB": {"/nix": None},
        "uploads": None,
    }


@pytest.mark.parametrize(
    ("config", "initialized"),
    [('{"isInitialized":false}', False), ("<html>", None), ('{"isInitialized":true}', True)],
)
def test_an_immich_without_an_admin_is_seen(machine: Machine, config: str, initialized: bool | None) -> None:
    machine.remember(answers=f'no /api/server/ping 200 {{"res":"pong"}}\nno /api/server/config 200 {config}')
    assert facts(machine)["immich"] == {
        "port": 2283,
        "address": "127.0.0.1",
        "ping": True,
        "initialized": initialized,
        "version": None,
        "unit": True,
        "listensAt": [],
    }


def test_who_holds_the_proxy_port(machine: Machine) -> None:
    machine.remember(listeners=LISTENERS.format("nginx"))
    assert (
        facts(machine)["proxyPortOwner"]
        == 'LISTEN 0 4096 127.0.0.1:8443 0.0.0.0:* users:(("nginx",pid=7,fd=3))'
    )
    machine.remember(listeners=LISTENERS.format("caddy"), **{"edge-pid": "77"})
    assert "caddy" in str(facts(machine)["proxyPortOwner"]), "a Caddy of the user's own is in the way"
    machine.remember(**{"edge-pid": "7"})
    assert facts(machine)["proxyPortOwner"] == "", "our edge is not"


@pytest.mark.parametrize(
    ("place", "held"),
    [
        ("*:443", {"443": "nginx"}),
        ("0.0.0.0:10000", {"10000": "nginx"}),
        ("[::]:8443", {"8443": "nginx"}),
        ("100.101.7.9:443", {"443": "nginx"}),
        ("[fd7a:115c:a1e0::7]:443", {"443": "nginx"}),
        ("192.168.1.5:443", {}),
        ("100.63.7.9:443", {}),
        ("127.0.0.1:8443", {}),
        ("*:80", {}),
    ],
)
def test_who_holds_a_port_of_funnels_at_the_nodes_own_address(
    machine: Machine, place: str, held: dict[str, str]
) -> None:
    line = 'LISTEN 0 511 {} 0.0.0.0:* users:(("{}",pid=7,fd=3),("{}",pid=8,fd=3))'
    machine.remember(listeners=line.format(place, "nginx", "nginx"))
    assert facts(machine)["heldPorts"] == held
    # Wrapped by Nix, and cut off after 15 characters by the kernel, as NixOS's own Tailscale is.
    machine.remember(listeners=line.format(place, ".nginx-wrapped", ".nginx-wrapped"))
    assert facts(machine)["heldPorts"] == held
    for name in ("tailscaled", ".tailscaled-wra"):
        machine.remember(listeners=line.format(place, name, name))
        assert facts(machine)["heldPorts"] == {}, "that is what a funnel does itself"
    machine.remember(listeners=f"LISTEN 0 511 {place} 0.0.0.0:*")
    assert facts(machine)["heldPorts"] == dict.fromkeys(held, "a program")


def test_immich_is_where_it_answers(machine: Machine) -> None:
    """NixOS's own default, localhost, is [::1] alone."""
    machine.fake("curl", "case $* in *'//[::1]:2283/'*) " + LOCALHOST + " ;; *) exit 7 ;; esac")
    assert part(machine, "immich")["address"] == "::1"
    assert ask(machine, address="::1")["immich"] == part(machine, "immich")
    assert machine.commands("curl")[0].endswith(" http://127.0.0.1:2283/api/server/ping")
    elsewhere = ask(machine, address="172.17.0.2")["immich"]
    assert elsewhere == OFF


def test_immich_at_one_address_of_the_home_network_is_found(machine: Machine) -> None:
    machine.remember(addresses="2: eth0 inet 192.168.1.5/24 scope global")
    machine.fake("curl", "case $* in *'//192.168.1.5:2283/'*) " + LOCALHOST + " ;; *) exit 7 ;; esac")
    assert part(machine, "immich")["address"] == "192.168.1.5"


LOCALHOST = """
    case $* in
      *ping) echo '{"res":"pong"}' ;;
      *config) echo '{"isInitialized":true}' ;;
      *version) echo '{"major":3,"minor":0,"patch":2}' ;;
    esac"""


@pytest.mark.parametrize(
    ("listeners", "expected"),
    [
        (["127.0.0.1:2283", "[::1]:2283"], []),
        (["0.0.0.0:2283"], ["192.168.1.5", "203.0.113.7"]),
        (["*:2283"], ["192.168.1.5", "203.0.113.7"]),
        (["[::]:2283", "192.168.1.5:2283"], ["192.168.1.5", "203.0.113.7"]),
        (["203.0.113.7%eth0:2283", "[2001:db8::1]:2283"], ["203.0.113.7"]),
    ],
)
def test_where_immich_can_be_reached(machine: Machine, listeners: list[str], expected: list[str]) -> None:
    machine.remember(
        listeners="\n".join(f"LISTEN 0 511 {place} 0.0.0.0:*" for place in listeners),
        addresses="\n".join(
            f"{at}: eth{at} inet {address} scope global"
            for at, address in enumerate(["127.0.0.1/8", "192.168.1.5/24", "203.0.113.7/32"])
        ),
    )
    assert part(machine, "immich")["listensAt"] == expected


def test_the_module_of_the_running_system(machine: Machine) -> None:
    machine.remember(
        module='{"digest":"abc","lan":"close","managed":true,"immich":"127.0.0.1:2283","home":"::"}'
    )
    assert part(machine, "module")["digest"] == "abc"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{ imports = [ ./immich-exposure ./lan-immich.nix ]; }", ("active", "active", "absent", True)),
        (
            "{ # ./immich-exposure\n imports = map f [ ./expose-immich.nix ]; }",
            ("absent", "commented", "active", False),
        ),
        ("{ }", ("absent", "absent", "absent", False)),
    ],
)
def test_what_is_imported(machine: Machine, text: str, expected: tuple[str, str, str, bool]) -> None:
    machine.write(machine.config / "configuration.nix", text)
    seen = part(machine, "configuration")
    lan, ours, expose, importable = expected
    assert (seen["lanImport"], seen["ourImport"], seen["exposeImport"]) == (lan, ours, expose)
    assert seen["importList"] is importable


def test_a_link_is_followed(machine: Machine) -> None:
    real = machine.root / "home/admin/photo-server/configuration.nix"
    machine.write(real, "{ imports = [ ]; }\n")
    (machine.config / "configuration.nix").unlink()
    (machine.config / "configuration.nix").symlink_to(real)
    machine.write(real.parent / "immich-exposure/mine.nix", "")
    seen = facts(machine)
    configuration = part(machine, "configuration")
    assert configuration["path"] == str(real)
    assert configuration["flakeBeside"] is None
    assert seen["theirs"] == [str(real.parent / "immich-exposure")]
    machine.write(real.parent / "flake.nix", "")
    assert part(machine, "configuration")["flakeBeside"] == str(real.parent)
    machine.write(machine.config / "flake.nix", "")
    assert part(machine, "configuration")["flakeBeside"] == str(machine.config), (
        "nixos-rebuild takes this one"
    )


def test_what_nixos_rebuild_would_build_instead(machine: Machine) -> None:
    machine.write(machine.root / "etc/nixos/system.nix", "")
    assert part(machine, "configuration")["otherSystem"] == str(machine.root / "etc/nixos/system.nix")
    machine.remember(**{"nixos-system": "/srv/fleet/default.nix"})
    assert part(machine, "configuration")["otherSystem"] == "/srv/fleet/default.nix"


def test_another_configuration_that_nixos_rebuild_takes(machine: Machine) -> None:
    """As `nix.nixPath` has it; the one that was asked for is none, whatever link leads there."""
    machine.remember(**{"nixos-config": str(machine.config / "configuration.nix")})
    assert part(machine, "configuration")["otherConfiguration"] is None
    real = machine.root / "home/me/nixos/pi.nix"
    machine.remember(**{"nixos-config": str(real)})
    assert part(machine, "configuration")["otherConfiguration"] is None, "it is not there"
    machine.write(real, "{ }\n")
    assert part(machine, "configuration")["otherConfiguration"] == str(real)
    (machine.config / "configuration.nix").unlink()
    (machine.config / "configuration.nix").symlink_to(real)
    assert part(machine, "configuration")["otherConfiguration"] is None


MANAGED = 'Made by immich-exposure, and removed by "pulumi destroy".\ndefault.nix\n'


def test_a_folder_that_the_owner_exported(machine: Machine) -> None:
    export(machine.config / "immich-exposure")
    assert part(machine, "configuration")["exported"] is True
    machine.write(machine.config / "immich-exposure/.immich-exposure", MANAGED)
    assert part(machine, "configuration")["exported"] is False


@pytest.mark.parametrize("name", ["edge", "bans"])
def test_our_accounts_are_known_by_what_the_module_calls_them(name: str) -> None:
    """Else our own account, left behind by an exposure, would pass for somebody else's."""
    module = (SERVER_FILES / "nix" / f"{name}.nix").read_text(encoding="utf-8")
    account = module[module.index(f"users.users.${{names.{name}}}") :]
    [called] = re.findall(r'description = "(.*)";', account[: account.index("};")])
    script = (SERVER_FILES / "scripts/preflight.sh").read_text(encoding="utf-8")
    assert f'name_account immich-{name} "{called}"' in script


def test_a_configuration_that_is_a_folder(machine: Machine) -> None:
    """Nix takes its default.nix."""
    place = machine.config / "configuration.nix"
    place.unlink()
    machine.write(place / "default.nix", "{ }")
    seen = facts(machine)["configuration"]
    assert isinstance(seen, dict)
    assert (seen["exists"], seen["isFolder"], seen["path"]) == (False, True, str(place))


def test_accounts_and_units_of_our_names(machine: Machine) -> None:
    """They are somebody else's only while nothing of ours is on the server."""
    theirs = "immich-edge:x:1001:100:Mine:/home/edge:/bin/sh"
    left = "immich-bans:x:998:998:Bans at the edge in front of Immich:/var/empty:/bin/nologin"
    machine.remember(passwd=f"{theirs}\n{left}", **{"unit-files": "immich-bans.service enabled enabled"})
    machine.remember(groups="immich-edge\nimmich-bans")
    assert facts(machine)["theirNames"] == ["account immich-edge", "unit immich-bans.service"]
    machine.remember(passwd=left)
    assert facts(machine)["theirNames"] == ["group immich-edge", "unit immich-bans.service"]
    machine.write(machine.root / "old/sw/bin/immich-exposure", "")
    assert facts(machine)["theirNames"] == []
    (machine.root / "old/sw/bin/immich-exposure").unlink()
    machine.prepare()
    assert facts(machine)["theirNames"] == []


def test_a_flake(machine: Machine) -> None:
    machine.fake("nix", NIX)
    folder = machine.root / "home/admin/infra/hosts"
    absent = ask(machine, str(folder))
    assert (absent["flake"], absent["evaluated"]) == ({"exists": False}, None)
    assert machine.commands("nix") == [], "there is nothing to evaluate"
    machine.write(folder / "flake.nix", "")
    machine.remember(evaluated='{"exposure":"on","hosts":["nas","pi"]}')
    there = ask(machine, str(folder))
    assert there["flake"] == {"exists": True}
    assert there["evaluated"] == {"error": None, "exposure": "on", "hosts": ["nas", "pi"]}
    assert any(
        line.endswith(" path:/home/admin/infra/hosts#nixosConfigurations") for line in machine.commands()
    )


# What the configuration evaluates to


def test_what_does_not_evaluate_is_told_in_nixs_words(machine: Machine) -> None:
    (machine.fakes / "evaluated").unlink()
    assert facts(machine)["evaluated"] == {"error": "undefined variable"}
    machine.fake("nix-instantiate", """printf '{"exposure":}'; exit 1""")
    assert facts(machine)["evaluated"] is None, "cut off, so nobody knows"


def test_nothing_is_evaluated_where_our_import_stands_or_nobody_asks(machine: Machine) -> None:
    assert ask(machine, way="yours")["evaluated"] is None
    machine.write(machine.config / "flake.nix", "")
    assert facts(machine)["evaluated"] is None
    (machine.config / "flake.nix").unlink()
    machine.write(machine.config / "configuration.nix", "{ imports = [ ./immich-exposure ]; }")
    assert facts(machine)["evaluated"] is None
    assert not any("services.immich-exposure" in line for line in machine.commands("nix-instantiate"))


def test_a_second_name_of_the_configuration_is_seen(machine: Machine) -> None:
    assert part(machine, "configuration")["obstacle"] is None
    os.link(machine.config / "configuration.nix", machine.root / "the-same.nix")
    assert part(machine, "configuration")["obstacle"] == "linked"


def test_what_stands_there_of_somebody_elses(machine: Machine) -> None:
    machine.write(machine.state / "photos.db", "")
    machine.write(machine.state / "owner", "not ours to read\n")
    (machine.config / "immich-exposure").symlink_to(machine.state)
    seen = facts(machine)
    assert seen["theirs"] == [str(machine.config / "immich-exposure"), str(machine.state)]
    assert (seen["owner"], seen["authorities"]) == (None, [])


def test_a_folder_of_logs_is_somebody_elses_where_nothing_is_ours(machine: Machine) -> None:
    logs = machine.root / "var/log/immich-edge"
    logs.mkdir(parents=True)
    assert facts(machine)["theirs"] == []
    machine.write(logs / "access.log", "")
    assert facts(machine)["theirs"] == [str(logs)]
    machine.remember(module='{"digest":"abc"}')
    assert facts(machine)["theirs"] == [str(logs)], (
        "who set the module themselves may have logs of their own there"
    )
    machine.prepare()
    assert facts(machine)["theirs"] == [str(logs)], "nor do they become ours by a unit that started"
    assert machine.begin().status == 0
    assert facts(machine)["theirs"] == []


def test_a_folder_of_logs_with_our_mark_is_ours_after_a_boot_that_wiped_the_state(machine: Machine) -> None:
    logs = machine.root / "var/log/immich-edge"
    logs.mkdir(parents=True)
    machine.prepare()
    machine.write(logs / "access.log", "")
    shutil.rmtree(machine.state)
    assert facts(machine)["theirs"] == []


def test_who_exposed_this_server_and_whom_it_trusts(machine: Machine) -> None:
    machine.begin()
    ders = [b"first", b"second certificate"]
    pem = "".join(
        f"-----BEGIN CERTIFICATE-----\n{base64.b64encode(der).decode()}\n-----END CERTIFICATE-----\n"
        for der in ders
    )
    machine.write(machine.state / "device-ca.crt", pem)
    machine.write(machine.config / "immich-exposure/.immich-exposure", "ours\n")
    (machine.root / "run/lock/immich-exposure.lock").unlink()
    (machine.root / "run/lock").rmdir()
    seen = facts(machine)
    assert seen["owner"] == {"id": "ours", "name": "organization/immich/home"}
    assert seen["authorities"] == [hashlib.sha256(der).hexdigest() for der in ders]
    assert seen["theirs"] == []


@pytest.mark.parametrize(
    ("port", "allowed"), [("443", True), ("444", False), ("10005", True), ("10011", False)]
)
def test_what_the_node_may_do(machine: Machine, port: str, allowed: bool) -> None:
    ports = "https://tailscale.com/cap/funnel-ports?ports=443,10000-10010"
    node = {"CapMap": dict.fromkeys(("https", "funnel", ports)), "KeyExpiry": "2027-01-01T00:00:00Z"}
    machine.remember(answer=json.dumps({"BackendState": "Stopped", "CertDomains": None, "Self": node}))
    machine.fake("tailscale", 'cat "$FAKES/answer"')
    place = ("managed", str(machine.config), "-", "-", "-", "2283", "8443", port)
    assert result(machine.run("preflight", "facts", *place))["tailscale"] == {
        "state": "Stopped",
        "domain": None,
        "https": True,
        "funnel": True,
        "funnelPort": allowed,
        "keyExpiry": "2027-01-01T00:00:00Z",
    }


@pytest.mark.parametrize("answer", ["not json", "[1]", '{"half": ', ""])
def test_what_is_not_an_object_is_null(machine: Machine, answer: str) -> None:
    machine.remember(answer=answer)
    machine.fake("tailscale", 'cat "$FAKES/answer"')
    seen = facts(machine)
    assert (seen["tailscale"], seen["funnel"]) == (None, None)


def public(port: str, target: str, *, raw: bool = True) -> dict[str, object]:
    """What `tailscale funnel status --json` says of a funnel on a port."""
    web = {f"{DOMAIN}:{port}": {"Handlers": {"/": {"Proxy": target}}}}
    return {
        "TCP": {port: {"TCPForward": target} if raw else {"HTTPS": True}},
        "Web": {} if raw else web,
        "AllowFunnel": {f"{DOMAIN}:{port}": True},
    }


@pytest.mark.parametrize(
    ("serve", "past"),
    [
        (public("443", "localhost:2283"), ["tcp 443 immich"]),
        (public("443", "http://127.0.0.1:2283", raw=False), ["web 443 immich"]),
        (public("8443", "http://localhost:2283/x", raw=False), ["web 8443 immich"]),
        (public("8443", "http://192.168.1.20:2283", raw=False), ["web 8443 immich"]),
        ({"Foreground": {"a": public("10000", "http://[::1]:2283", raw=False)}}, ["terminal 10000 immich"]),
        (public("10000", "127.0.0.1:8443"), ["tcp 10000 edge"]),
        ({**public("10000", "127.0.0.1:8443"), "AllowFunnel": {}}, []),
        (public("443", "127.0.0.1:8443"), []),
        (public("443", "192.168.1.99:2283"), []),
    ],
)
def test_what_bypasses_the_edge(machine: Machine, serve: dict[str, object], past: list[str]) -> None:
    machine.remember(**{"serve.json": json.dumps(serve)})
    machine.remember(addresses="2: eth0 inet 192.168.1.20/24 scope global")
    assert facts(machine)["pastTheEdge"] == past


def test_an_immich_elsewhere_is_looked_for_where_it_is(machine: Machine) -> None:
    serve = public("443", "http://172.17.0.2:2283", raw=False)
    machine.remember(**{"serve.json": json.dumps(serve)})
    assert facts(machine)["pastTheEdge"] == []
    assert ask(machine, address="172.17.0.2")["pastTheEdge"] == ["web 443 immich"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("managed etc - - - 2283 8443 443", "absolute paths; correct"),
        ("flake /etc/nixos infra pi - 2283 8443 443", "absolute paths; correct"),
        ("flake /etc/nixos - pi - 2283 8443 443", "absolute paths; correct"),
        ("other /etc/nixos - - - 2283 8443 443", "absolute paths; correct"),
        ('flake /etc/nixos /infra "${x}" - 2283 8443', "A host of a flake is a plain name"),
        ("managed /etc/nixos - - - x 8443 443", "The immich.port must be a whole number"),
        ("managed /etc/nixos - - - 2283", "The proxyPort must be a whole number"),
        ("managed /etc/nixos - - - 2283 8443", "The funnelPort must be a whole number"),
        ("managed /etc/nixos - - $(id) 2283 8443 443", "Immich's address must be a plain address"),
        ("managed /etc/nixos - - -x 2283 8443 443", "Immich's address must be a plain address"),
        ("", "absolute paths; correct"),
    ],
)
def test_its_arguments_are_checked(machine: Machine, arguments: str, reason: str) -> None:
    assert_sentence(machine.run("preflight", "facts", *arguments.split()), reason)
