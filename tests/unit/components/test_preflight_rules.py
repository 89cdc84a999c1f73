"""Every reason not to expose a server is named with its remedy; a sound server passes."""

from __future__ import annotations

import copy
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from components.config.home import ModuleWay
from components.preflight.rules import (
    Expected,
    ExpectedUploads,
    key_notes,
    node_key_end,
    problems,
    warnings,
)
from components.surface.supported_versions import FILE, load, parse_version

DIGEST = "5f" * 32
OURS, OTHER = "aa" * 32, "bb" * 32

WANTED = Expected(
    config_dir="/etc/nixos",
    module=ModuleWay.MANAGED,
    flake_dir=None,
    module_digest=None,
    immich_address=None,
    immich_port=2283,
    immich_managed=True,
    lan="close",
    proxy_port=8443,
    funnel_port=443,
    authorities=(OURS,),
    take_over=False,
    stack_id="ours",
)
YOURS = replace(WANTED, module=ModuleWay.YOURS, module_digest=DIGEST)
ADOPTING = replace(WANTED, adopt=True)
FLAKE = replace(YOURS, flake_dir="/home/a/nix", flake_host="pi")

SOUND: dict[str, Any] = {
    "nixos": True,
    "nixosVersion": "26.05",
    "tailscaleVersion": "1.102.5",
    "tailscale": {
        "state": "Running",
        "domain": "immich.example.ts.net",
        "https": True,
        "funnel": True,
        "funnelPort": True,
        "keyExpiry": None,
    },
    "pastTheEdge": [],
    "proxyPortOwner": "",
    "heldPorts": {},
    "immich": {
        "port": 2283,
        "address": "127.0.0.1",
        "ping": True,
        "initialized": True,
        "version": "3.1.0",
        "unit": True,
    },
    "module": None,
    "configuration": {
        "exists": True,
        "isFolder": False,
        "path": "/etc/nixos/configuration.nix",
        "lanImport": "absent",
        "exposeImport": "absent",
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
    "evaluated": {
        "error": None,
        "exposure": "absent",
        "toplevel": "/s",
        "nixos": "26.05.1",
        "immich": "3.1.0",
    },
    "running": {"toplevel": "/s", "nixos": "26.05.1", "immich": "3.1.0"},
    "theirs": [],
    "theirNames": [],
    "owner": None,
    "authorities": [],
    "diskFreeKiB": {"/nix": 40_000_000},
    "commands": [],
}


def facts_with(path: str, value: Any) -> dict[str, Any]:
    """Return the sound facts with the value at a slash-separated path replaced."""
    facts = copy.deepcopy(SOUND)
    *parents, last = path.split(".")
    target = facts
    for key in parents:
        target = target[key]
    target[last] = value
    return facts


def test_a_sound_server_has_no_problems() -> None:
    assert problems(SOUND, WANTED) == []


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("nixos", False, "not NixOS"),
        ("nixosVersion", "25.11", "NixOS 25.11 lacks Go 1.26"),
        ("commands", ["curl", "flock"], "lacks the commands curl, flock"),
        ("configuration.exists", False, "no /etc/nixos/configuration.nix"),
        ("configuration.importList", False, "Write `imports = [ ];` at its top level"),
        ("configuration.path", "/nix/store/abc-dotfiles/configuration.nix", "nothing can be put beside it"),
        (
            "configuration.flakeBeside",
            "/srv/home",
            "set flake to its folder and host (`flake: /srv/home#HOST`)",
        ),
        (
            "configuration.otherSystem",
            "/etc/nixos/system.nix",
            "import the module there and set module: yours",
        ),
        (
            "configuration.otherConfiguration",
            "/home/me/nixos/configuration.nix",
            "(nixos-config in NIX_PATH says so); set configDir: /home/me/nixos.",
        ),
        ("configuration.otherConfiguration", "/home/me/nixos/pi.nix", "says so); set module: yours."),
        (
            "configuration.exported",
            True,
            "/etc/nixos/immich-exposure was exported by `make module` and is yours; set module: yours",
        ),
        ("evaluated.immichPort", 3001, "has port 3001, and this stack says 2283; set immich: {port: 3001}."),
        (
            "theirNames",
            ["account immich-edge"],
            "The account immich-edge on the server was not made by this project",
        ),
        (
            "theirNames",
            ["group immich-edge"],
            "The group immich-edge on the server was not made by this project",
        ),
        ("configuration.isFolder", True, "is a folder, and no import can be added to it; rename it"),
        ("configuration.obstacle", "read-only", "configuration.nix cannot be written to; make it writable"),
        (
            "configuration.obstacle",
            "mounted",
            "is a mount point of its own; persist its whole folder",
        ),
        ("configuration.obstacle", "linked", "(a hard link), which would no longer be the same file"),
        (
            "evaluated",
            {"error": "undefined variable 'x'"},
            "does not evaluate even before any change (undefined variable 'x')",
        ),
        ("evaluated.exposure", "off", "already imports the module, other than by"),
        ("evaluated.exposure", "on", "set module: yours, or remove that import"),
        ("theirs", ["/etc/nixos/immich-exposure"], "was not made by this project (it lacks the mark)"),
        ("tailscaleVersion", None, "not installed"),
        ("tailscaleVersion", "1.98.8", "1.98.8 is too old"),
        ("tailscaleVersion", "1.102.0", "rejects every funnel connection"),
        ("tailscaleVersion", "1.102.1-t123", "rejects every funnel connection"),
        ("tailscaleVersion", "head", "cannot be read"),
        ("tailscale", None, "does not answer"),
        ("tailscale.state", "NeedsLogin", "its state is NeedsLogin"),
        ("tailscale.state", "Stopped", "tailscale up"),
        ("tailscale.domain", None, "HTTPS certificates are not enabled"),
        ("tailscale.https", False, "HTTPS certificates are not enabled"),
        ("tailscale.funnel", False, "node attribute 'funnel'"),
        ("tailscale.funnelPort", False, "may not use port 443"),
        ("proxyPortOwner", "nginx pid 12", "Port 8443 is taken on the server (nginx pid 12)"),
        (
            "funnel",
            {"TCP": {"443": {"TCPForward": "localhost:22"}}},
            "already serves something else on port 443",
        ),
        (
            "funnel",
            {"TCP": {"443": {"HTTPS": True}}, "Web": {"a.ts.net:443": {}}},
            "something else on port 443",
        ),
        ("immich.initialized", False, "no administrator"),
        ("immich.initialized", None, "no administrator"),
        ("immich.version", "2.7.2", "Immich 2.7.2 has known faults in what visitors see (CVE-2026-40096"),
        (
            "immich.version",
            "1.142.1",
            "upgrade it to version 2.7.3 or newer (services.immich.package",
        ),
        (
            "immich.unit",
            False,
            "Immich is not services.immich of this server's configuration; for one in a container set "
            "immich: {address: 127.0.0.1, port: 2283, managed: false}",
        ),
        ("diskFreeKiB", {"/nix": 1000}, "are free on /nix"),
    ],
)
def test_each_fault_is_named_with_a_remedy(path: str, value: Any, words: str) -> None:
    found = problems(facts_with(path, value), WANTED)
    assert len(found) == 1
    assert words in found[0]
    assert found[0].endswith(".")


@pytest.mark.parametrize(
    ("running", "words"),
    [
        (
            {"nixos": "25.11.9"},
            "would also bring NixOS 26.05.1 instead of 25.11.9; bring the server up to date",
        ),
        (
            {"nixos": "25.11.9", "immich": "2.9.1"},
            "NixOS 26.05.1 instead of 25.11.9 and Immich 3.1.0 instead of 2.9.1;",
        ),
        ({"nixos": None, "immich": None}, "a configuration other than the running one (where the system is"),
    ],
)
def test_what_would_come_along_is_named(running: dict[str, Any], words: str) -> None:
    facts = facts_with("running", SOUND["running"] | running | {"toplevel": "/other"})
    [problem] = problems(facts, WANTED)
    assert words in problem and problem.endswith("or set allowUpgrade: true.")
    assert problems(facts, replace(WANTED, allow_upgrade=True)) == []
    assert problems(facts, YOURS) == problems(SOUND, YOURS)
    assert problems(facts | {"module": {"digest": DIGEST}}, WANTED) == [], "the rebuild compares it"
    facts["configuration"]["flakeAbove"] = "/home/me/infra"
    [problem] = problems(facts, WANTED)
    assert ('perhaps flake: "/home/me/infra#HOST"' in problem) is (running["nixos"] is None)


@pytest.mark.parametrize(
    ("besides", "words"), [("time.timeZone", "also sets time.timeZone;"), (None, "cannot be determined")]
)
def test_what_an_own_expose_immich_says_besides_is_named(besides: str | None, words: str) -> None:
    facts = facts_with("configuration.exposeBesides", besides)
    facts["configuration"]["exposeImport"] = "active"
    [problem] = problems(facts, WANTED)
    assert words in problem and "/etc/nixos/expose-immich.nix" in problem
    facts["configuration"]["exposeImport"] = "commented"
    assert problems(facts, WANTED) == []


def test_a_program_on_the_funnels_port_is_told_what_it_would_lose() -> None:
    """Tailscale binds the port at the node's own addresses, and a web server that starts later gets none."""
    facts = facts_with("heldPorts", {"443": "nginx", "10000": "grafana"})
    [problem] = problems(facts, WANTED)
    assert problem.startswith("nginx on the server has port 443 at the node's own address as well")
    assert "set funnelPort: 8443, or" in problem
    assert problems(facts, replace(WANTED, funnel_port=8443)) == []
    assert problems(facts_with("heldPorts", {"8443": "nginx"}), WANTED) == []
    facts |= {"funnel": BY_HAND, "owner": {"id": "ours", "name": "home"}}
    assert problems(facts, WANTED) == problems(facts, ADOPTING) == [], "it has it in spite of a funnel"
    assert warnings(facts, WANTED) == [problem] and warnings(SOUND, WANTED) == []
    [problem] = problems(facts_with("heldPorts", {"443": "a", "8443": "b", "10000": "c"}), WANTED)
    assert "funnelPort" not in problem and "let it listen on addresses of the home network alone" in problem


def test_all_faults_are_told_at_once() -> None:
    facts = facts_with("tailscaleVersion", "1.90.0")
    facts["immich"]["initialized"] = False
    facts["proxyPortOwner"] = "nginx"
    assert len(problems(facts, WANTED)) == 3


@pytest.mark.parametrize(
    "serve",
    [
        {},
        None,
        {"TCP": {"443": {"TCPForward": "localhost:8443", "ProxyProtocol": 1}}},
        {"TCP": {"443": {"TCPForward": "localhost:8444", "ProxyProtocol": 1}}},
        {"TCP": {"9443": {"TCPForward": "localhost:22"}}, "Web": {"a.ts.net:10000": {}}},
    ],
)
def test_what_the_node_serves_elsewhere_and_our_own_funnel_are_fine(serve: Any) -> None:
    facts = facts_with("funnel", serve)
    facts["owner"] = {"id": "ours", "name": "home"}
    assert problems(facts, WANTED) == []


BY_HAND = {"TCP": {"443": {"TCPForward": "localhost:8443", "ProxyProtocol": 1}}}


def test_a_funnel_that_was_opened_by_hand_is_taken_over_only_when_that_is_asked_for() -> None:
    [problem] = problems(facts_with("funnel", BY_HAND), WANTED)
    assert "opened by hand" in problem and "adopt" in problem
    assert problems(facts_with("funnel", BY_HAND), ADOPTING) == []


@pytest.mark.parametrize(
    ("fact", "value"), [("funnel", BY_HAND), ("pastTheEdge", ["tcp 10000 edge", "web 8443 edge"])]
)
def test_on_a_server_that_lost_its_state_the_stacks_own_funnel_is_no_obstacle(fact: str, value: Any) -> None:
    facts = facts_with(fact, value)
    assert problems(facts, WANTED) != []
    assert problems(facts, replace(WANTED, exposed=True)) == []


@pytest.mark.parametrize("entry", [{"TCPForward": "localhost:8443"}, {"TCPForward": "127.0.0.1:9443"}])
def test_it_may_lead_anywhere_on_the_server(entry: dict[str, Any]) -> None:
    assert problems(facts_with("funnel", {"TCP": {"443": entry}}), ADOPTING) == []


@pytest.mark.parametrize(
    "serve",
    [
        {"TCP": {"443": {"TCPForward": "192.168.1.9:443"}}},
        {"TCP": {"443": {"HTTPS": True}}, "Web": {"a.ts.net:443": {}}},
    ],
)
def test_what_serves_something_else_is_not_taken_over(serve: dict[str, Any]) -> None:
    [problem] = problems(facts_with("funnel", serve), ADOPTING)
    assert "serves something else" in problem


@pytest.mark.parametrize("version", ["26.05", "26.11", "27.05", "", None, "unstable"])
def test_a_release_that_is_new_enough_or_unreadable_is_left_to_the_build(version: str | None) -> None:
    assert problems(facts_with("nixosVersion", version), WANTED) == []


@pytest.mark.parametrize("name", ["ourImport", "lanImport"])
def test_an_import_that_is_there_or_swapped_needs_no_list(name: str) -> None:
    facts = facts_with(f"configuration.{name}", "active")
    facts["configuration"]["importList"] = False
    assert problems(facts, WANTED) == []


def test_the_file_behind_a_link_is_the_one_that_is_named() -> None:
    facts = facts_with("configuration.path", "/home/a/nix/configuration.nix")
    facts["configuration"]["importList"] = False
    [problem] = problems(facts, WANTED)
    assert problem.startswith("/home/a/nix/configuration.nix has no list of imports")


def test_the_caddy_of_a_module_that_is_swapped_may_hold_the_port() -> None:
    facts = facts_with("configuration.exposeImport", "active")
    facts["proxyPortOwner"] = 'LISTEN 0 4096 *:8443 *:* users:(("caddy",pid=7,fd=3))'
    assert problems(facts, WANTED) == []
    assert len(problems(facts, YOURS)) == 2, "nothing is swapped there, and the module is missing"
    facts["configuration"]["ourImport"] = "active"
    assert len(problems(facts, WANTED)) == 1, "then both are imported, and theirs stays"
    facts["configuration"] |= {"exposeImport": "commented", "ourImport": "absent"}
    assert len(problems(facts, WANTED)) == 1


# Modules that the owner brings


MODULE = {"digest": DIGEST, "lan": "close", "managed": True, "immich": "127.0.0.1:2283", "home": "0.0.0.0"}


@pytest.mark.parametrize(
    "configuration", [None, {"exists": False}, {"exists": True, "flakeBeside": "/etc/nixos"}]
)
def test_whoever_brings_the_module_may_have_any_configuration(configuration: Any) -> None:
    facts = {**facts_with("module", MODULE), "configuration": configuration}
    assert problems(facts, YOURS) == []
    assert problems({**facts, **FLAKE_FACTS}, FLAKE) == []


def test_a_server_that_builds_nothing_needs_nothing_to_build_with() -> None:
    """Pushed there by deploy-rs or colmena, with the edge of `make edge`; system.disableInstallerTools."""
    facts = {**facts_with("module", MODULE), "nixosVersion": "25.11"}
    facts["commands"] = ["nix-env", "nix-instantiate", "nixos-rebuild"]
    assert problems(facts, YOURS) == []
    assert len(problems({**facts, "commands": ["curl", "nixos-rebuild"]}, YOURS)) == 1
    assert len(problems({**facts, **FLAKE_FACTS}, FLAKE)) == 2
    assert len(problems({**facts, "module": None}, YOURS)) == 2, "then it may be this release that lacks it"


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (None, "lacks the module: in a flake, add this project as the input immich-exposure"),
        (
            {**MODULE, "digest": "e" * 64},
            "a different version of the module (eeeeeeeeeeee) from this project",
        ),
        ({**MODULE, "lan": "keep"}, "has lan = keep, and this stack says close"),
        ({**MODULE, "managed": False}, "has immich.managed = false, and this stack says true"),
        ({**MODULE, "immich": "127.0.0.1:3001"}, "has immich.port = 3001, and this stack says 2283"),
    ],
)
def test_a_module_of_yours_that_is_missing_or_another_is_named(module: Any, words: str) -> None:
    [problem] = problems(facts_with("module", module), YOURS)
    assert words in problem and problem.endswith(".")


def test_an_address_of_immich_counts_when_the_stack_names_one() -> None:
    facts = facts_with("module", {**MODULE, "immich": "[::1]:2283"})
    assert problems(facts, YOURS) == []
    assert problems(facts, replace(YOURS, immich_address="::1")) == []
    [problem] = problems(facts, replace(YOURS, immich_address="10.88.0.5"))
    assert "has immich.address = ::1, and this stack says 10.88.0.5" in problem


FLAKE_FACTS: dict[str, Any] = {
    "flake": {"exists": True},
    "evaluated": {"error": None, "hosts": ["nas", "pi"], "exposure": "on", "module": MODULE},
}


def test_a_flake_must_be_there() -> None:
    found = problems(SOUND, FLAKE)
    assert len(found) == 1 and "There is no /home/a/nix/flake.nix on the server" in found[0]
    assert problems({**SOUND, **FLAKE_FACTS}, FLAKE) == []
    assert problems({**SOUND, **FLAKE_FACTS, "evaluated": None}, FLAKE) == [], "it took too long"


@pytest.mark.parametrize(
    ("evaluated", "words"),
    [
        (
            {"hosts": ["nas", "box"], "exposure": None},
            "has no host pi among its nixosConfigurations (it has nas, box)",
        ),
        ({"hosts": [], "exposure": None}, "(it has none); correct flake (DIR#HOST)"),
        ({"exposure": "absent"}, "The system /home/a/nix#pi lacks the module: in a flake, add this project"),
        (
            {"exposure": "off"},
            "has the module but does not enable it; set `services.immich-exposure.enable",
        ),
        (
            {"module": {**MODULE, "digest": "e" * 64}},
            "The system /home/a/nix#pi has a different version of the module (eeeeeeeeeeee) from this "
            "project",
        ),
        ({"module": None}, "has a different version of the module (unknown) from this project"),
        ({"module": {**MODULE, "lan": "keep"}}, "has lan = keep, and this stack says close"),
        ({"error": "undefined variable 'x'"}, "/home/a/nix#pi does not evaluate (undefined variable 'x')"),
        (
            {"error": "getting status of '/nix/store/x-source/immich-exposure': No such file or directory"},
            "in a git checkout, Nix sees only the files that git tracks: `git add` them",
        ),
        (
            {"error": "path '/nix/store/x-source/a.nix' does not exist"},
            "(path '/nix/store/x-source/a.nix' does not exist); correct what Nix reports (in a git checkout",
        ),
        (
            {"error": "repository path '/home/a' is not owned by current user"},
            "run `git config --global --add safe.directory /home/a` as root",
        ),
    ],
)
def test_a_flake_that_would_not_do_is_told_before_anything_is_made(
    evaluated: dict[str, Any], words: str
) -> None:
    facts = {**SOUND, **FLAKE_FACTS, "evaluated": {**FLAKE_FACTS["evaluated"], **evaluated}}
    [found] = problems(facts, FLAKE)
    assert words in found and found.endswith(".")


def test_what_our_import_already_stands_in_is_not_judged_again() -> None:
    facts = facts_with("configuration.ourImport", "active")
    facts["configuration"] |= {"importList": False, "obstacle": "read-only"}
    facts["evaluated"] = {"error": "anything"}
    assert problems(facts, WANTED) == []


def test_a_build_elsewhere_needs_no_room_here() -> None:
    facts = {**facts_with("module", MODULE), "diskFreeKiB": {"/nix": 1000}}
    assert problems(facts, YOURS) == []


# An Immich that the internet reaches past the edge


def test_an_immich_in_a_container_needs_no_unit_and_may_have_one_beside_it() -> None:
    container = replace(WANTED, immich_managed=False, immich_address="127.0.0.1")
    for unit in (False, True):
        assert problems(facts_with("immich.unit", unit), container) == []


KEEP = replace(WANTED, lan="keep")
HOME = ["192.168.1.5", "10.0.0.2", "172.20.0.1", "100.101.102.103", "169.254.7.7"]


@pytest.mark.parametrize("expected", [KEEP, replace(WANTED, immich_managed=False)])
def test_an_immich_that_stays_open_may_not_listen_at_a_public_address(expected: Expected) -> None:
    assert problems(facts_with("immich.listensAt", HOME), expected) == []
    [problem] = problems(facts_with("immich.listensAt", [*HOME, "8.8.8.8"]), expected)
    assert problem.startswith("Immich itself listens at 8.8.8.8, port 2283, where strangers")
    assert ("set lan: close, or" in problem) is expected.immich_managed


def test_what_the_edge_closes_may_listen_anywhere_before() -> None:
    assert problems(facts_with("immich.listensAt", ["8.8.8.8"]), WANTED) == []


# Two stacks on one server


HOLIDAY: dict[str, Any] = {"id": "theirs", "name": "organization/immich/holiday"}
HOME_STACK: dict[str, Any] = {"id": "ours", "name": "organization/immich/home"}


def test_a_server_of_another_stack_is_refused_with_its_owner() -> None:
    facts: dict[str, Any] = {**SOUND, "owner": HOLIDAY, "authorities": [OTHER]}
    [problem] = problems(facts, WANTED)
    assert (
        "by the stack organization/immich/holiday, with a certificate authority that is not" in problem
        and "set takeOver: true" in problem
    )
    assert len(problems(facts, replace(WANTED, authorities=()))) == 1, "a lost keystore is another one, too"
    assert problems(facts, replace(WANTED, take_over=True)) == []


def test_a_stack_of_the_same_name_is_another_stack() -> None:
    """Everybody's first stack is called home, or dev."""
    [problem] = problems({**SOUND, "owner": {**HOME_STACK, "id": "theirs"}, "authorities": [OURS]}, WANTED)
    assert "by the stack organization/immich/home. Run pulumi destroy" in problem


@pytest.mark.parametrize("authorities", [[], [OURS], [OTHER, OURS]])
def test_a_server_of_this_keystore_is_fine(authorities: list[str]) -> None:
    assert problems({**SOUND, "owner": HOME_STACK, "authorities": authorities}, WANTED) == []


@pytest.mark.parametrize("authorities", [(), (OTHER,)])
def test_a_stack_whose_own_keystore_is_away_is_not_told_to_take_itself_over(
    authorities: tuple[str, ...],
) -> None:
    facts = {**SOUND, "owner": HOME_STACK, "authorities": [OURS]}
    [problem] = problems(facts, replace(WANTED, authorities=authorities))
    assert problem.startswith("This stack has exposed the server") and "takeOver" not in problem
    assert "Set `keystore` to its folder" in problem


# Immich that is off


def test_an_immich_that_is_off_is_a_warning_with_its_remedy() -> None:
    facts = {**SOUND, "immich": {"port": 2283, "address": None, "ping": False, "initialized": None}}
    assert problems(facts, WANTED) == []
    [warning] = warnings(facts, WANTED)
    assert "at 127.0.0.1 or ::1, port 2283" in warning and "start Immich" in warning
    assert "at 10.88.0.5, port" in warnings(facts, replace(WANTED, immich_address="10.88.0.5"))[0]
    assert warnings(SOUND, WANTED) == []


def test_facts_that_the_server_could_not_tell_are_no_crash() -> None:
    assert len(problems({"nixos": True}, WANTED)) >= 2
    assert problems({"nixos": True, "diskFreeKiB": {"/nix": None}}, YOURS)


@pytest.mark.parametrize(
    ("text", "version"),
    [("1.98.9", (1, 98, 9)), ("1.102.5-lab", (1, 102, 5)), ("1.102", None), ("", None), ("1.x.2", None)],
)
def test_versions_are_read_or_refused(text: str, version: tuple[int, int, int] | None) -> None:
    assert parse_version(text) == version


@pytest.mark.parametrize("version", ["2.7.3", "2.10.0", "3.1.0", "3.2.2-rc.1", None, "unknown"])
def test_an_immich_that_is_new_enough_or_unreadable_is_left_to_the_owner(version: str | None) -> None:
    assert problems(facts_with("immich.version", version), WANTED) == []


def test_each_floor_has_its_reasons() -> None:
    floors = load()
    assert set(floors) == {"caddy", "go", "tailscale", "immich"}
    for floor in floors.values():
        assert floor.advisories and all(
            text.endswith(".") for reason in floor.advisories for text in (reason.about, reason.guard)
        )
        assert all(version > floor.lowest for version in floor.refused), "the floor refuses it already"
        assert floor.pinned is None or floor.accepts(floor.pinned)
    lowest = {name: floor.lowest_text() for name, floor in floors.items()}
    assert (lowest["caddy"], lowest["tailscale"], lowest["immich"]) == ("2.11.4", "1.98.9", "2.7.3")


def test_the_floors_are_three_numbers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "versions.json"
    broken.write_text(FILE.read_text().replace("2.11.4", "2.11"))
    monkeypatch.setattr("components.surface.supported_versions.FILE", broken)
    load.cache_clear()
    try:
        with pytest.raises(ValueError, match="'2.11', which is not a version of three numbers"):
            load()
    finally:
        load.cache_clear()


@pytest.mark.parametrize(
    ("entry", "way"),
    [
        ("tcp 443 immich", "`sudo tailscale funnel --tcp=443 off`"),
        ("web 8443 immich", "`sudo tailscale funnel --https=8443 off`"),
        ("terminal 10000 immich", "end the `tailscale funnel` that runs in a terminal"),
    ],
)
@pytest.mark.parametrize("owner", [None, {"id": "ours", "name": "a/b/c"}])
def test_a_funnel_straight_at_immich_is_refused(entry: str, way: str, owner: dict[str, str] | None) -> None:
    facts = {**facts_with("pastTheEdge", [entry]), "owner": owner}
    [problem] = problems(facts, WANTED)
    port = entry.split()[1]
    assert problem.startswith(f"Immich itself is public on port {port} ") and way in problem


def test_a_funnel_to_where_the_edge_will_stand_is_refused() -> None:
    facts = facts_with("pastTheEdge", ["tcp 10000 edge"])
    [problem] = problems(facts, WANTED)
    assert "about to use, and would be open before it is proven" in problem
    assert problems(facts, ADOPTING) == []
    assert problems({**facts, "owner": {"id": "ours", "name": "home"}}, WANTED) == []


@pytest.mark.parametrize("entry", ["web 443 immich", "web 10000 edge", "terminal 443 immich"])
def test_what_is_not_the_chapters_funnel_is_not_taken_over(entry: str) -> None:
    [problem] = problems(facts_with("pastTheEdge", [entry]), ADOPTING)
    assert "bypasses the edge" in problem or "about to use" in problem


# The node's key and the clocks

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ("2026-11-26T00:00:00Z", "ends on 2026-11-26"),
        ("2026-12-25T11:00:00.5Z", "ends on 2026-12-25"),
        ("2026-11-20T00:00:00+02:00", "ended on 2026-11-20"),
        ("2026-12-26T00:00:00Z", None),
        ("", None),
        (None, None),
        ("soon", None),
        ("2026-11-26T00:00:00", None),
    ],
)
def test_a_node_key_that_ends_soon_is_told(ends: str | None, said: str | None) -> None:
    told = key_notes(ends, NOW)
    assert len(told) == (said is not None)
    assert all(str(said) in each and "disable its expiry" in each for each in told)


@pytest.mark.parametrize("expiry", ["2027-01-01T00:00:00Z", None, "soon", 17, {}])
def test_the_end_of_the_node_key_is_read_from_what_tailscale_says(expiry: object) -> None:
    facts = {"tailscale": {"keyExpiry": expiry}}
    assert node_key_end(facts) == (expiry if expiry == "2027-01-01T00:00:00Z" else "")
    assert node_key_end({"tailscale": None}) == ""


@pytest.mark.parametrize(
    ("apart", "stops", "warns"),
    [
        (0.0, False, False),
        (240.0, False, False),
        (-240.0, False, False),
        (600.0, False, True),
        (-600.0, False, True),
        (7200.0, True, True),
        (-7200.0, True, True),
        (None, False, False),
        ("much", False, False),
    ],
)
def test_clocks_that_differ_are_named(apart: object, stops: bool, warns: bool) -> None:
    facts = {**SOUND, "clockApart": apart}
    assert any("The clocks differ" in each for each in problems(facts, WANTED)) is stops
    assert any("The clocks differ" in each for each in warnings(facts, WANTED)) is warns


def uploads_with(free: float | None, size: float | None = 500, folder: str | None = "/srv/immich") -> Any:
    """Return the facts of a sound server with so many GB free where Immich puts uploads."""
    kibibytes = [None if number is None else int(number * 1e9 / 1024) for number in (free, size)]
    return {**SOUND, "uploads": {"folder": folder, "freeKiB": kibibytes[0], "sizeKiB": kibibytes[1]}}


UPLOADING = replace(WANTED, uploads=ExpectedUploads(None, 20, 10_000))


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        (uploads_with(31), None),
        (uploads_with(29), "29 GB are free at /srv/immich, so guests can use up within an hour"),
        (uploads_with(19), "Guests cannot upload now: 19 GB are free at /srv/immich"),
        (uploads_with(None), "/srv/immich is not a folder there), and guests cannot upload"),
        (uploads_with(None, folder=None), "Immich's unit does not say where it puts uploads"),
        (SOUND, "The server does not know how much is free for uploads"),
    ],
)
def test_what_guests_may_upload_is_held_against_the_disk(facts: dict[str, Any], says: str | None) -> None:
    assert problems(facts, UPLOADING) == []
    told = warnings(facts, UPLOADING)
    assert len(told) == (0 if says is None else 1)
    assert all(says and says in sentence for sentence in told)
    assert warnings(facts, WANTED) == []


def test_a_floor_above_the_whole_disk_is_refused() -> None:
    [problem] = problems(uploads_with(10, 16), UPLOADING)
    assert "the whole disk of /srv/immich, where Immich puts uploads, has 16 GB" in problem
    assert problems(uploads_with(10, 16), WANTED) == []
