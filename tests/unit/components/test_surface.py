"""The words that a reviewer reads say what the configuration does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from components.config.lists import COUNTRIES
from components.config.stack_config import load
from components.describe.public_surface import PublicSurface, public_surface, what_to_set_in_immich
from components.remote.module_files import module_digest


def words(**settings: Any) -> PublicSurface:
    """Return the words for a sound configuration with these settings."""
    raw = {
        "host": "192.168.1.20",
        "hostKey": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICd9Sn/CrLavrIHzvx3RuZLyh4tRBT7PQTx533eBaTsJ",
        "keystorePassphrase": "twelve or more characters",
        **settings,
    }
    return public_surface(load(raw, stack="unit", project_dir=Path.cwd()))


def test_devices_are_named_and_their_absence_is() -> None:
    topic = "full access, with a certificate"
    assert words(devices=[{"name": "phone", "platform": "ios"}])[topic] == {"phone": "ios"}
    assert words()[topic] == {"nobody": "no device is named"}


def test_devices_that_were_taken_over_are_named() -> None:
    topic = "full access, with a certificate"
    taken = {"name": "anna", "fingerprint": "ab" * 32, "until": "2030-01-01"}
    adopt = {"caCertificate": "server:/ca.pem", "caKey": "server:/ca.key", "devices": [taken]}
    assert words(adopt=adopt, devices=[])[topic] == {"anna": "adopted"}
    both = words(adopt=adopt, devices=[{"name": "anna", "platform": "ios"}])[topic]
    assert both == {"anna": "ios, and adopted"}


def test_uploads_move_from_what_links_cannot_to_what_they_can() -> None:
    can, cannot = "anyone with a shared link can", "anyone with only a shared link cannot"
    assert "upload" in words()[cannot]["uploads"] and "uploads" not in words()[can]
    assert words(uploads=True, uploadMegabytes=50)[can]["uploads"].endswith("(up to 50 MB each)")
    assert "uploads" not in words(uploads=True)[cannot]


def test_limits_and_bans_are_told_in_numbers() -> None:
    told = words(rateLimits={"requests": 77}, bans={"banTime": "3h"})["limits of one address"]
    assert told["requests"].startswith("77 requests") and told["bans"].endswith("for 3h")
    assert "first 128 bits" in words(bans={"ipv6Prefix": 128})["limits of one address"]["visitor"]


def test_the_end_is_told() -> None:
    assert words()["until"] == {"end": "pulumi destroy closes the funnel"}
    assert "5 hours" in words(leaseHours=5)["until"]["end"]
    assert "2030-01-01" in words(exposeUntil="2030-01-01T00:00:00Z")["until"]["end"]


def test_strangers_are_refused_or_not_answered() -> None:
    assert words()["everything else"] == {"answer": "answers 403"}
    assert words(rejectWith="drop")["everything else"] == {"answer": "is not answered"}


def test_who_loses_immich_at_home_is_told() -> None:
    told = words()["at home"]
    assert "port 2283 on the LAN or VPN address" in told["Immich"] and "proxies" in told["proxies"]
    assert "immich-exposure lan open" in told["sooner"]
    assert "when the funnel closes, Immich can be reached there again" in told["afterwards"]
    assert words(lan="keep")["at home"]["Immich"].startswith("nothing changes: Immich's port 2283")
    assert words(immich={"managed": False})["at home"]["Immich"].startswith("nothing changes")


def test_how_the_module_gets_in_is_told() -> None:
    managed = words()["how it gets in"]
    assert "/etc/nixos/configuration.nix" in managed["files"]
    assert "is rebuilt when this changes" in managed["module"] and "Caddy is compiled" in managed["build"]
    yours = words(module="yours")["how it gets in"]
    assert (
        "no Nix file is written and nothing is built" in yours["files"]
        and module_digest()[:12] in yours["module"]
    )
    assert "`/etc/nixos#pi` is built" in words(flake="/etc/nixos#pi")["how it gets in"]["files"]


def test_the_words_say_nothing_of_one_run() -> None:
    """They stand for good, also when a run rebuilds nothing or the module is the owner's."""
    for settings in ({}, {"module": "yours"}, {"flake": "/etc/nixos#pi"}):
        told = " ".join(words(**settings)["how it gets in"].values())
        assert "will be" not in told and "first" not in told
    assert "compiled" not in " ".join(words(module="yours")["how it gets in"].values())


def test_a_rebuild_is_told_by_another_line_and_a_setting_by_none() -> None:
    topic = "how it gets in"
    assert words(uploads=True, bans={"banTime": "2h"}, leaseHours=3)[topic] == words()[topic]
    assert words(lan="keep")[topic] != words()[topic]


def test_immich_is_told_its_address_outside() -> None:
    told = what_to_set_in_immich("https://immich.example.ts.net")
    assert "External domain = https://immich.example.ts.net" in told


def test_every_line_is_short_enough_to_be_shown_whole() -> None:
    everybody = {
        "countries": sorted(COUNTRIES),
        "countryDatabase": "/var/lib/GeoIP/GeoLite2-Country.mmdb",
        "networks": [f"/etc/blocklists/networks-{number}.txt" for number in range(20)],
        "crowdsec": "http://192.168.1.20:8080",
    }
    for settings in (
        {"uploads": True, "leaseHours": 3},
        {"module": "yours"},
        {"flake": "/etc/nixos#pi"},
        {"who": True, "immichApiKey": "geheim", "banLists": everybody, "crowdsecKey": "geheim-key"},
    ):
        for lines in words(**settings).values():
            assert all(len(line) <= 110 for line in lines.values())


def test_who_looks_and_who_is_told_is_told() -> None:
    topic = "when something happens"
    told = words()[topic]
    assert "every five minutes" in told["look"] and "closed at once" in told["then"]
    assert told["notices"].startswith("nobody is notified")
    notify = {"kind": "ntfy", "address": "https://ntfy.sh/secret-topic"}
    told = words(guard=False, notify=notify)[topic]
    assert told["look"].startswith("nobody checks") and "then" not in told
    assert "`ntfy.sh` (ntfy)" in told["notices"] and "secret-topic" not in told["notices"]
    command = words(notify={"kind": "command", "command": "/bin/mail-me"})[topic]
    assert "`/bin/mail-me` (command)" in command["notices"]


def test_one_device_less_moves_no_other_line() -> None:
    """Lists by index make a preview say "~ ben => carl" where ben went."""
    names = ("anna", "ben", "carl")
    all_three = words(devices=[{"name": name, "platform": "ios"} for name in names])
    without = words(devices=[{"name": name, "platform": "ios"} for name in ("anna", "carl")])
    topic = "full access, with a certificate"
    assert {name: line for name, line in all_three[topic].items() if name != "ben"} == without[topic]
    assert {key: lines for key, lines in all_three.items() if key != topic} == {
        key: lines for key, lines in without.items() if key != topic
    }
