"""Every reason not to expose a server is named with its remedy; a sound server passes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from components.preflight_rules import Wanted, funnel_port_allowed, problems
from components.version_floors import FILE, load, parse_version

WANTED = Wanted(config_dir="/etc/nixos", immich_port=2283, proxy_port=8443, funnel_port=443)

SOUND: dict[str, Any] = {
    "nixos": True,
    "nixosVersion": "26.05",
    "root": True,
    "tailscaleVersion": "1.102.5",
    "tailscale": {
        "BackendState": "Running",
        "CertDomains": ["immich.example.ts.net"],
        "Self": {
            "CapMap": {
                "https": None,
                "funnel": None,
                "https://tailscale.com/cap/funnel-ports?ports=443,8443,10000": None,
            }
        },
    },
    "proxyPortOwner": "",
    "immich": {"ping": True, "initialized": True, "version": "3.1.0"},
    "configuration": {"exists": True, "lanImport": "active", "exposeImport": "commented"},
    "diskFreeKiB": {"/nix": 40_000_000, "/var": 40_000_000},
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
        ("configuration.lanImport", "commented", "./lan-immich.nix"),
        ("tailscaleVersion", None, "not installed"),
        ("tailscaleVersion", "1.98.8", "1.98.8 is too old"),
        ("tailscaleVersion", "1.102.0", "rejects every funnel connection"),
        ("tailscaleVersion", "1.102.1-t123", "rejects every funnel connection"),
        ("tailscaleVersion", "head", "cannot be read"),
        ("tailscale", None, "does not answer"),
        ("tailscale.BackendState", "NeedsLogin", "its state is NeedsLogin"),
        ("tailscale.BackendState", "Stopped", "tailscale up"),
        ("tailscale.CertDomains", None, "HTTPS certificates are not enabled"),
        ("tailscale.Self.CapMap", {"https": None}, "node attribute 'funnel'"),
        ("tailscale.Self.CapMap", {"https": None, "funnel": None}, "may not use port 443"),
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
        ("immich.ping", False, "does not answer on port 2283"),
        ("immich.port", 2284, "set immichPort back, run `pulumi destroy`"),
        ("immich.initialized", False, "no administrator"),
        ("immich.initialized", None, "no administrator"),
        ("immich.version", "2.7.2", "Immich 2.7.2 has known faults in what visitors see (CVE-2026-40096"),
        ("immich.version", "1.142.1", "set services.immich.package to version 2.7.3 or newer"),
        ("diskFreeKiB", {"/nix": 1000}, "are free on /nix"),
    ],
)
def test_each_fault_is_named_with_a_remedy(path: str, value: Any, words: str) -> None:
    found = problems(facts_with(path, value), WANTED)
    assert len(found) == 1
    assert words in found[0]
    assert found[0].endswith(".")


def test_all_faults_are_told_at_once() -> None:
    facts = facts_with("tailscaleVersion", "1.90.0")
    facts["immich"]["ping"] = False
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
    assert problems(facts_with("funnel", serve), WANTED) == []


@pytest.mark.parametrize("version", ["26.05", "26.11", "27.05", "", None, "unstable"])
def test_a_release_that_is_new_enough_or_unreadable_is_left_to_the_build(version: str | None) -> None:
    assert problems(facts_with("nixosVersion", version), WANTED) == []


def test_a_configuration_already_swapped_is_fine() -> None:
    facts = facts_with("configuration.lanImport", "absent")
    facts["configuration"]["exposeImport"] = "active"
    assert problems(facts, WANTED) == []


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
    assert set(floors) == {"caddy", "caddy-ratelimit", "go", "tailscale", "immich"}
    for floor in floors.values():
        assert floor.because and all(
            text.endswith(".") for reason in floor.because for text in (reason.about, reason.guard)
        )
        assert all(version > floor.lowest for version in floor.refused), "the floor refuses it already"
        assert floor.pinned is None or floor.accepts(floor.pinned)
    lowest = {name: floor.lowest_text() for name, floor in floors.items()}
    assert (lowest["caddy"], lowest["tailscale"], lowest["immich"]) == ("2.11.4", "1.98.9", "2.7.3")


def test_the_floors_are_three_numbers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "versions.json"
    broken.write_text(FILE.read_text().replace("2.11.4", "2.11"))
    monkeypatch.setattr("components.version_floors.FILE", broken)
    load.cache_clear()
    try:
        with pytest.raises(ValueError, match="'2.11', which is no version of three numbers"):
            load()
    finally:
        load.cache_clear()


def test_funnel_ports_may_be_ranges() -> None:
    capabilities = {"https://tailscale.com/cap/funnel-ports?ports=443,10000-10010": None}
    assert funnel_port_allowed(capabilities, 10005)
    assert not funnel_port_allowed(capabilities, 8443)
