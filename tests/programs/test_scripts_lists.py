"""lists.sh: the sources are on the server whole or as before, and each list that they make is in force."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from components.config.lists import UNSEEN
from tests.programs.harness import Machine, assert_sentence, available_shells

SOURCES = "countries CN\ndatabase {}\ndatabase-days 45\nnetworks {}\nnetworks-days 7\n"
CROWDSEC = "crowdsec http://127.0.0.1:8080\n"
KEY = "a-key-that-only-crowdsec-knows"


@pytest.fixture(params=available_shells())
def machine(tmp_path: Path, request: pytest.FixtureRequest) -> Machine:
    """Return a server with the folder of the exposure, on which the writers' units work."""
    made = Machine(tmp_path, request.param)
    made.remember(groups="immich-edge\nimmich-bans")
    made.prepare()
    # Tests of root's lie where nobody else may look.
    made.fake("setpriv", 'for file; do :; done; case $(stat -c %a "$file") in *[4-7]) ;; *) exit 1 ;; esac')
    reports(made, countries="good 12 1000000 CN, by x of 2026-11-20", networks="good 3 1000000 /x")
    (made.fakes / "edge").unlink(missing_ok=True)
    return made


def reports(machine: Machine, **said: str) -> None:
    """Have the writers say so when their units start."""
    folder = machine.fakes / "reports"
    folder.mkdir(exist_ok=True)
    for name, line in said.items():
        (folder / name).write_text(f"{line}\nmade-from\n")
    body = (machine.fakes / "systemctl").read_text().split("\n", 2)[2]
    write = f'case "$*" in *start*crowdsec*|*start*lists.service*) mkdir -p "{machine.state}/lists"; '
    write += f'cp "$FAKES"/reports/* "{machine.state}/lists/" ;; esac\n'
    if "reports" not in body:
        machine.fake("systemctl", write + body)


def sources(machine: Machine) -> str:
    """Put the owner's files there, and return what names them."""
    database, networks = machine.root / "etc/countries.mmdb", machine.root / "etc/networks.txt"
    machine.write(database, "tree\xab\xcd\xefMaxMind.com")
    machine.write(networks, "# mine\n203.0.113.0/24 ; x\n2001:db8::/48\n")
    return SOURCES.format(database, networks)


def look(machine: Machine, conf: str, **more: str) -> list[str]:
    outcome = machine.run("lists", "look", payload={"lists.conf": conf, **more})
    assert outcome.status == 0, outcome.stderr
    return outcome.stdout.replace(str(machine.root), "").splitlines()


SETTINGS = {"edge.env": "IMMICH_EXPOSURE_UPLOADS=off\n", "bans.conf": "[DEFAULT]\nmaxretry = 10\n"}


def test_the_lists_of_another_copy_of_the_state_go_with_the_settings_of_one_that_has_none(
    machine: Machine,
) -> None:
    machine.run("lists", "install", payload={"lists.conf": sources(machine)})
    for word, left in (((), True), (("no-lists",), False)):
        assert machine.run("settings", "install", *word, payload=SETTINGS).status == 0
        assert (machine.state / "settings/lists.conf").exists() is left
    assert not (machine.state / "lists").exists()


def test_the_sources_are_there_and_each_unit_works(machine: Machine) -> None:
    reports(machine, crowdsec="good 4 1000000 http://127.0.0.1:8080")
    conf = sources(machine) + CROWDSEC
    outcome = machine.run("lists", "install", payload={"lists.conf": conf, "crowdsec.key": f"{KEY}\n"})
    assert outcome.status == 0, outcome.stderr
    files = machine.files(machine.state / "settings")
    assert files == {"lists.conf": f"0644 {conf}", "crowdsec.key": f"0600 {KEY}\n"}
    assert [line for line in machine.commands("systemctl") if "start" in line] == [
        "systemctl start immich-exposure-lists.timer",
        "systemctl start immich-exposure-lists.service",
        "systemctl restart immich-exposure-crowdsec.service",
    ]
    assert "The list countries bans 12 networks: CN, by x of 2026-11-20\n" in outcome.stderr
    assert KEY not in outcome.stdout + outcome.stderr + "".join(machine.commands())


def test_without_crowdsec_its_list_and_key_are_gone(machine: Machine) -> None:
    conf = sources(machine)
    reports(machine, crowdsec="good 4 1000000 x")
    payload = {"lists.conf": conf + CROWDSEC, "crowdsec.key": f"{KEY}\n"}
    assert machine.run("lists", "install", payload=payload).status == 0
    machine.write(machine.state / "bans/lists/crowdsec", "203.0.113.1/32 x\nend 1\n")
    (machine.fakes / "reports/crowdsec").unlink()
    machine.forget_commands()
    assert machine.run("lists", "install", payload={"lists.conf": conf}).status == 0
    assert "systemctl stop immich-exposure-crowdsec.service" in machine.commands("systemctl")
    assert not list(machine.state.rglob("crowdsec*"))


@pytest.mark.parametrize(
    ("state", "fails"), [("kept 12 1000000", False), ("none 0 1000000", True), ("", True), ("rubbish", True)]
)
def test_a_list_of_which_nothing_is_in_force_fails(machine: Machine, state: str, fails: bool) -> None:
    reports(machine, countries=f"{state} /x.mmdb is not there" if state else "")
    machine.write(machine.state / "settings/lists.conf", "networks /before\n")
    outcome = machine.run("lists", "install", payload={"lists.conf": sources(machine)})
    kept = (machine.state / "settings/lists.conf").read_text()
    if fails:
        assert_sentence(outcome, "The list countries would ban nobody, so nothing was changed")
        assert kept == "networks /before\n"
    else:
        assert outcome.status == 0
        assert "is out of date, and keeps 12 networks banned: /x.mmdb is not there" in outcome.stderr


@pytest.mark.parametrize(
    "line",
    ["database ../x", "networks /x y", "crowdsec http://example.org", "countries CN; reboot", "other x", ""],
)
def test_a_line_that_is_not_understood_is_refused(machine: Machine, line: str) -> None:
    outcome = machine.run("lists", "install", payload={"lists.conf": f"networks /x\n{line}\n"})
    assert_sentence(outcome, "lists.conf holds a line that is not understood")
    assert not (machine.state / "settings/lists.conf").exists()


def test_a_look_finds_nothing_where_all_is_well_and_changes_nothing(machine: Machine) -> None:
    before = machine.files(machine.root)
    conf = sources(machine)
    after = machine.files(machine.root)
    assert look(machine, conf) == []
    assert machine.files(machine.root) == after != before


@pytest.mark.parametrize("in_force", [False, True])
def test_a_look_names_each_source_that_cannot_be_used(machine: Machine, in_force: bool) -> None:
    conf = sources(machine)
    word = "note" if in_force else "wrong"
    if in_force:
        for name in ("countries", "networks"):
            machine.write(machine.state / f"bans/lists/{name}", "end 0\n")
    database, networks = machine.root / "etc/countries.mmdb", machine.root / "etc/networks.txt"
    networks.write_text("203.0.113.0/24\nexample.org\n")
    database.write_text("no database")
    assert look(machine, conf) == [
        f"{word} /etc/countries.mmdb is damaged, or is not a country database in MaxMind's format (.mmdb)",
        f"{word} /etc/networks.txt is damaged: line 2 is not a network",
    ]
    networks.write_text("203.0.113.0/24\n")
    database.write_text("tree MaxMind.com")
    for path, days in ((database, 46), (networks, 8)):
        os.utime(path, (0, time.time() - days * 86400))
    allowed = "days that banLists.{} allows; fetch a new one"
    assert look(machine, conf) == [
        f"{word} /etc/countries.mmdb is older than the 45 {allowed.format('countryDays')}",
        f"{word} /etc/networks.txt is older than the 7 {allowed.format('networkDays')}",
    ]
    database.chmod(0o600)
    networks.unlink()
    said = look(machine, conf)
    assert said[0].startswith(f"{word} /etc/countries.mmdb cannot be read by the account immich-bans")
    assert said[1:] == [f"{word} /etc/networks.txt is not on the server"]


@pytest.mark.parametrize("folder", UNSEEN)
def test_a_link_to_where_the_service_sees_nothing_is_named(machine: Machine, folder: str) -> None:
    conf = sources(machine)
    database = machine.root / "etc/countries.mmdb"
    hidden = machine.root / folder.lstrip("/") / "me/countries.mmdb"
    hidden.parent.mkdir(parents=True)
    database.rename(hidden)
    database.symlink_to(hidden)
    [said] = look(machine, conf)
    assert said.startswith(
        f"wrong /etc/countries.mmdb leads to {folder}/me/countries.mmdb, which the service"
    )


def test_a_list_as_windows_saves_it_is_one_and_an_empty_one_is_none(machine: Machine) -> None:
    conf = sources(machine)
    networks = machine.root / "etc/networks.txt"
    networks.write_bytes(b"\xef\xbb\xbf203.0.113.0/24\r\n; x\r\n")
    assert look(machine, conf) == []
    networks.write_text(" \n\n")
    assert look(machine, conf) == [
        "wrong /etc/networks.txt is empty; fetch it again, or write a comment into it if it should ban nobody"
    ]


def test_with_the_edge_there_its_program_looks(machine: Machine) -> None:
    conf = sources(machine)
    machine.fake("edge", 'echo "countries /x is damaged"; echo "note left out of /x: \x1b[31m"')
    assert look(machine, conf) == ["wrong /x is damaged", "note left out of /x: [31m"]


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("200", None),
        ("403", "refuses the key (403)"),
        ("000; exit 7", "does not answer; start it"),
        ("000; exit 60", "shows a certificate that this server does not trust; add its authority to"),
        ("000; exit 35", "does not speak TLS"),
        ("302", "returns 302, so it is not CrowdSec's local API"),
        ("404", "returns 404, so it is not CrowdSec's local API"),
    ],
)
def test_a_look_asks_crowdsec_without_taking_news_away(
    machine: Machine, status: str, said: str | None
) -> None:
    machine.fake(
        "curl",
        'case "$*" in *--config*) ;; *) printf 403; exit ;; esac; '
        f'cat "$(echo "$*" | sed "s/.*--config //; s/ .*//")" >"$FAKES/header"; printf {status}',
    )
    found = look(machine, CROWDSEC, **{"crowdsec.key": f"{KEY}\n"})
    assert found == [] if said is None else said in found[0] and found[0].startswith("wrong ")
    asked, *without = machine.commands("curl")
    assert len(without) == (said is None), "whoever says that the key is good is asked without one"
    assert "--head" in asked and asked.endswith(" http://127.0.0.1:8080/v1/decisions/stream")
    assert KEY not in asked and KEY not in "".join(found)
    assert f"X-Api-Key: {KEY}" in (machine.fakes / "header").read_text()


def test_what_answers_without_a_key_is_no_crowdsec(machine: Machine) -> None:
    machine.fake("curl", "printf 200")
    [said] = look(machine, CROWDSEC, **{"crowdsec.key": f"{KEY}\n"})
    assert said.startswith("wrong What answers at http://127.0.0.1:8080 asks for no key")


def test_remove_leaves_nothing(machine: Machine) -> None:
    before = machine.files(machine.state)
    reports(machine, crowdsec="good 4 1000000 x")
    payload = {"lists.conf": sources(machine) + CROWDSEC, "crowdsec.key": f"{KEY}\n"}
    assert machine.run("lists", "install", payload=payload).status == 0
    for name in ("countries", "networks", "crowdsec"):
        machine.write(machine.state / f"bans/lists/{name}", "end 0\n")
    assert machine.run("lists", "remove").status == 0
    assert machine.files(machine.state) == before
    assert machine.run("lists", "remove").status == 0
    assert_sentence(machine.run("lists", "other"), "knows the verbs install, look and remove")


# What status, guard and drift say of them


def in_force(machine: Machine, **said: str) -> None:
    machine.write(
        machine.state / "settings/lists.conf", "countries CN\ndatabase /x\ncrowdsec http://[::1]:8080\n"
    )
    for name, line in said.items():
        machine.write(machine.state / "lists" / name, f"{line}\n\n")
    machine.remember(active="immich-exposure-lists.timer\nimmich-exposure-crowdsec")


def test_status_has_a_line_for_each_list_and_none_without(machine: Machine) -> None:
    assert "countries" not in machine.run("exposure", "status").stdout
    in_force(machine, countries="good 12 1000000 CN, by /x", crowdsec="kept 3 1000000 CrowdSec is away")
    said = machine.run("exposure", "status").stdout
    assert "countries  12 networks banned: CN, by /x; since Mon Jan 12 13:46:40 UTC 1970\n" in said
    assert "crowdsec   OUT OF DATE, 3 networks banned as on Mon Jan 12" in said
    assert said.count("CrowdSec is away\n") == 1 and max(map(len, said.splitlines())) <= 80
    assert (
        '"lists":{"countries":{"state":"good","networks":12},"crowdsec":{"state":"kept","networks":3}}'
        in machine.run("exposure", "status", "--json").stdout
    )
    machine.remember(active="immich-exposure-lists.timer")
    (machine.state / "lists/crowdsec").unlink()
    said = machine.run("exposure", "status").stdout
    told = "bans NOBODY: has not been written yet; immich-exposure-crowdsec.service is NOT active"
    assert told in " ".join(said.split())


def test_lifting_all_bans_leaves_lists_alone(machine: Machine) -> None:
    in_force(machine, countries="good 12 1000000 CN, by /x")
    for place in ("lists/countries", "scan/203.0.113.9", "manual/203.0.113.10"):
        machine.write(machine.state / "bans" / place, "")
    outcome = machine.run("exposure", "unban", "all")
    assert "Nobody is banned any more except by lists (countries, crowdsec)" in outcome.stderr
    assert [path.name for path in machine.state.glob("bans/*/*")] == ["countries"]
