"""Taking over an exposure that was made by hand: adopt.sh, over JSON that the real Nix reads."""

import base64
import hashlib
from pathlib import Path
from typing import Any

import pytest

from tests.programs import tailscale
from tests.programs.harness import DOMAIN, Machine, Outcome, assert_sentence, available_shells, serve, serving

pytestmark = pytest.mark.server

BY_HAND: dict[str, Any] = {
    "TCP": {"443": {"TCPForward": "localhost:8443", "ProxyProtocol": 1}},
    "AllowFunnel": {f"{DOMAIN}:443": True},
}
OTHERS: dict[str, Any] = {
    "TCP": {"10000": {"HTTPS": True}, "5432": {"TCPForward": "localhost:5432"}},
    "Web": {f"{DOMAIN}:10000": {"Handlers": {"/": {"Proxy": "http://localhost:3000"}}}},
    "AllowFunnel": {f"{DOMAIN}:10000": True},
}
CA_KEY = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
CA_KEY_PATH = "/mnt/immich_drive/secrets/ca-key.pem"
CERTS = "/var/lib/certs"


@pytest.fixture(params=available_shells())
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    """A server on which the chapter was done by hand."""
    machine = Machine(tmp_path, request.param)
    tailscale.install(machine.fakes)
    serve(machine, BY_HAND)
    machine.write(machine.root / CA_KEY_PATH[1:], CA_KEY, 0o600)
    for name in ("ca-cert.pem", "cert.pem", "key.pem"):
        machine.write(machine.root / f"var/lib/certs/{name}", f"{name} of the chapter\n")
    machine.write(machine.root / "var/lib/caddy/banlist", "remote_ip 203.0.113.9\n")
    machine.write(machine.config / "configuration.nix", "{ imports = [ ./immich-exposure ]; }\n")
    return machine


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def note(machine: Machine, *paths: str, configuration: str | None = None) -> str:
    """The note of these files, as they are on the server."""
    lines = [f"configuration {configuration or '/etc/nixos'}"]
    lines += [f"{digest((machine.root / path[1:]).read_text())} {path}" for path in paths]
    return "".join(f"{line}\n" for line in lines)


def begin(machine: Machine, *paths: str, bans: str = "", proxy_port: int = 8443) -> Outcome:
    payload = {"adopted": note(machine, *paths), "bans": bans}
    return machine.run("adopt", "begin", "443", str(proxy_port), payload=payload)


def assert_done(outcome: Outcome) -> Outcome:
    assert outcome.status == 0, outcome.stderr
    return outcome


# Reading


def test_files_are_read_whole_and_nothing_is_changed(machine: Machine) -> None:
    machine.write(machine.root / "srv/empty file", "")
    before = machine.files(machine.root)
    outcome = assert_done(machine.run("adopt", "read", CA_KEY_PATH, "/srv/none", "/srv/empty file", "/srv"))
    assert outcome.stdout == f"{base64.b64encode(CA_KEY.encode()).decode()}\n-\n\n-\n"
    assert outcome.stderr == ""
    assert machine.files(machine.root) == before
    assert machine.commands("tailscale", "systemctl", "flock") == []


def test_a_long_file_is_one_line(machine: Machine) -> None:
    text = "remote_ip 203.0.113.9\n" * 5000
    machine.write(machine.root / "var/lib/caddy/banlist", text)
    outcome = assert_done(machine.run("adopt", "read", "/var/lib/caddy/banlist"))
    assert outcome.stdout.count("\n") == 1
    assert base64.b64decode(outcome.stdout).decode() == text


def test_reading_refuses_what_is_no_file_of_a_chapter(machine: Machine) -> None:
    assert_sentence(machine.run("adopt", "read", "ca-key.pem"), "absolute path")
    machine.write(machine.root / "srv/film", "x" * 300_000)
    assert_sentence(machine.run("adopt", "read", "/srv/film"), "far too large")


# Taking over


def by_hand(machine: Machine) -> str | None:
    """What is noted down of funnels that were opened by hand."""
    path = machine.state / "by-hand"
    return path.read_text() if path.exists() else None


def test_the_funnel_that_was_opened_by_hand_is_noted_down(machine: Machine) -> None:
    """It closes when something else comes to stand behind it, and not before: a build takes long."""
    assert_done(begin(machine))
    assert serving(machine) == BY_HAND
    assert by_hand(machine) == "443 8443\n"


def test_what_other_tools_serve_is_not_ours_to_take(machine: Machine) -> None:
    both = {key: {**OTHERS[key], **BY_HAND.get(key, {})} for key in OTHERS}
    serve(machine, both)
    assert_done(begin(machine))
    assert by_hand(machine) == "443 8443\n"
    serve(machine, OTHERS)
    assert_done(begin(machine))
    assert by_hand(machine) == ""


@pytest.mark.parametrize(
    ("port", "entry", "noted"),
    [
        ("443", {"TCPForward": "localhost:8443"}, "443 8443\n"),
        ("443", {"TCPForward": "127.0.0.1:8443", "ProxyProtocol": 1}, "443 8443\n"),
        ("443", {"TCPForward": "localhost:9443", "ProxyProtocol": 1}, "443 9443\n"),
        ("8443", {"TCPForward": "localhost:8443", "ProxyProtocol": 1}, "8443 8443\n"),
        ("10000", {"TCPForward": "localhost:5000"}, ""),
        ("443", {"TCPForward": "192.168.1.9:443"}, ""),
        ("443", {"HTTPS": True}, ""),
    ],
)
def test_it_is_the_one_on_our_port_or_before_our_edge(
    machine: Machine, port: str, entry: dict[str, Any], noted: str
) -> None:
    serve(machine, {"TCP": {port: entry}, "AllowFunnel": {f"{DOMAIN}:{port}": True}})
    assert_done(begin(machine))
    assert by_hand(machine) == noted


def test_our_own_funnel_is_left_alone(machine: Machine) -> None:
    """Begun again after it had been opened: it stands on a lease of its own."""
    machine.write(machine.state / ".immich-exposure", "ours\n")
    machine.write(machine.state / "funnel", "443 8443\n")
    machine.write(machine.state / "lease", "confirmed\n")
    assert_done(begin(machine))
    assert by_hand(machine) is None
    assert (machine.state / "lease").read_text() == "confirmed\n"


def test_a_tailscale_that_does_not_answer_ends_the_run(machine: Machine) -> None:
    (machine.fakes / "mood").write_text("down")
    assert_sentence(begin(machine), "does not report the funnel's state")


def test_given_up_before_it_closed_the_funnel_of_before_stays(machine: Machine) -> None:
    """The build failed, say, and the owner runs `pulumi destroy`: all is as it was."""
    assert_done(begin(machine))
    assert_done(machine.run("state", "remove"))
    assert serving(machine) == BY_HAND
    assert not machine.state.exists()


def test_bans_are_ours_too(machine: Machine) -> None:
    assert_done(begin(machine, bans="203.0.113.9\n2001:db8::9\n2001:db8:1:2::_64\n"))
    folder = machine.state / "bans/manual"
    assert sorted(path.name for path in folder.iterdir()) == [
        "2001:db8:1:2::_64",
        "2001:db8::9",
        "203.0.113.9",
    ]
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}


@pytest.mark.parametrize("name", ["../../devices/ab", ".", "..", "a/b", "203.0.113.9;reboot", "*", ""])
def test_a_ban_that_is_no_name_of_a_file(machine: Machine, name: str) -> None:
    outcome = begin(machine, bans=f"{name}\n")
    assert_sentence(outcome, "is not the name of a ban")
    assert serving(machine) == BY_HAND


def test_the_note_is_roots_alone(machine: Machine) -> None:
    assert_done(begin(machine, CA_KEY_PATH))
    path = machine.state / "adopted"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text() == note(machine, CA_KEY_PATH)


def test_a_later_note_touches_neither_funnel_nor_bans(machine: Machine) -> None:
    payload = {"adopted": note(machine, CA_KEY_PATH), "bans": "203.0.113.9\n"}
    assert_done(machine.run("adopt", "note", payload=payload))
    assert (machine.state / "adopted").read_text() == payload["adopted"]
    assert list((machine.state / "bans/manual").iterdir()) == []
    assert serving(machine) == BY_HAND


def test_the_chapters_own_files_are_left_where_they_are(machine: Machine) -> None:
    places = (machine.root / "mnt", machine.root / "var/lib/certs", machine.root / "var/lib/caddy")
    before = [machine.files(place) for place in places]
    assert_done(begin(machine, CA_KEY_PATH, bans="203.0.113.9\n"))
    assert [machine.files(place) for place in places] == before


def test_somebody_elses_folder_is_left_alone(machine: Machine) -> None:
    machine.write(machine.state / "notes.txt", "mine\n")
    assert_sentence(begin(machine), "was not made by this project")
    assert machine.files(machine.state) == {"notes.txt": "0644 mine\n"}
    assert serving(machine) == BY_HAND


# Clearing up


def taken(machine: Machine) -> None:
    """Take everything over, with the server certificate of today."""
    assert_done(begin(machine, CA_KEY_PATH, f"{CERTS}/ca-cert.pem", "/var/lib/caddy/banlist"))
    for name, ours in (("cert.pem", "server.crt"), ("key.pem", "server.key")):
        machine.write(machine.state / "tls" / ours, f"{name} of the chapter\n")


ALL = (CA_KEY_PATH, *(f"{CERTS}/{name}.pem" for name in ("ca-cert", "cert", "key")), "/var/lib/caddy/banlist")


def test_the_leftovers_are_listed_first(machine: Machine) -> None:
    taken(machine)
    before = machine.files(machine.root)
    outcome = assert_done(machine.run("adopt", "forget"))
    assert outcome.stdout == "".join(f"can go   {path}\n" for path in ALL)
    assert "forget-chapter --yes" in outcome.stderr
    assert machine.files(machine.root) == before


def test_with_yes_they_are_removed(machine: Machine) -> None:
    taken(machine)
    outcome = assert_done(machine.run("adopt", "forget", "--yes"))
    assert outcome.stdout == "".join(f"removed  {path}\n" for path in ALL)
    assert not any((machine.root / path[1:]).exists() for path in ALL)
    assert assert_done(machine.run("adopt", "forget", "--yes")).stdout == ""


@pytest.mark.parametrize("path", ALL)
def test_what_is_not_what_was_taken_over_stays(machine: Machine, path: str) -> None:
    taken(machine)
    file = machine.root / path[1:]
    file.write_text(file.read_text() + "changed since\n")
    outcome = assert_done(machine.run("adopt", "forget", "--yes"))
    assert f"stays    {path}: is not what was taken over\n" in outcome.stdout
    assert file.exists()


def test_what_was_never_taken_over_stays(machine: Machine) -> None:
    """Another key in the chapter's place, say."""
    machine.write(machine.root / "var/lib/certs/ca-key.pem", CA_KEY.replace("AAAA", "BBBB"), 0o600)
    taken(machine)
    assert_done(machine.run("adopt", "forget", "--yes"))
    assert (machine.root / "var/lib/certs/ca-key.pem").exists()


def test_another_copy_of_the_key_goes_as_well(machine: Machine) -> None:
    machine.write(machine.root / "var/lib/certs/ca-key.pem", CA_KEY, 0o600)
    taken(machine)
    assert_done(machine.run("adopt", "forget", "--yes"))
    assert not (machine.root / "var/lib/certs/ca-key.pem").exists()


def test_what_came_from_the_operators_machine_is_known_on_the_server(machine: Machine) -> None:
    payload = {"adopted": f"configuration /etc/nixos\n{digest(CA_KEY)} -\n", "bans": ""}
    assert_done(machine.run("adopt", "note", payload=payload))
    assert f"can go   {CA_KEY_PATH}\n" in assert_done(machine.run("adopt", "forget")).stdout


def test_what_destroy_would_put_back_into_force_stays(machine: Machine) -> None:
    """Behind the link, too: their Caddy would not start without its certificates."""
    checkout = machine.root / "root/immich-rpi-nix"
    machine.write(
        checkout / "configuration.nix", f'{{ secretsFile = "{CA_KEY_PATH.rpartition("/")[0]}/x"; }}\n'
    )
    machine.write(checkout / "configs/remote.Caddyfile", f"tls {CERTS}/cert.pem {CERTS}/key.pem\n")
    (machine.config / "configuration.nix").unlink()
    (machine.config / "configuration.nix").symlink_to(checkout / "configuration.nix")
    taken(machine)
    outcome = assert_done(machine.run("adopt", "forget", "--yes"))
    for name in ("cert", "key"):
        assert f"stays    {CERTS}/{name}.pem: the configuration in " in outcome.stdout
    assert f"stays    {CERTS}/ca-cert.pem: the configuration in " in outcome.stdout
    assert "names its folder" in outcome.stdout
    # the authority's key is nobody's to read any more
    assert f"removed  {CA_KEY_PATH}\n" in outcome.stdout


def test_a_key_that_the_configuration_names_stays(machine: Machine) -> None:
    machine.write(machine.config / "more.nix", f'{{ caKey = "{CA_KEY_PATH}"; }}\n')
    taken(machine)
    outcome = assert_done(machine.run("adopt", "forget", "--yes"))
    assert f"stays    {CA_KEY_PATH}: the configuration in " in outcome.stdout
    assert (machine.root / CA_KEY_PATH[1:]).exists()


def test_our_own_files_in_the_configuration_name_nothing(machine: Machine) -> None:
    machine.write(machine.config / "immich-exposure/nix/edge.nix", f"# not {CERTS}/cert.pem\n")
    taken(machine)
    assert f"can go   {CERTS}/cert.pem\n" in assert_done(machine.run("adopt", "forget")).stdout


def test_a_link_is_not_followed(machine: Machine) -> None:
    taken(machine)
    place = machine.root / CA_KEY_PATH[1:]
    place.rename(machine.root / "srv-key.pem")
    place.symlink_to(machine.root / "srv-key.pem")
    assert CA_KEY_PATH not in assert_done(machine.run("adopt", "forget", "--yes")).stdout
    assert (machine.root / "srv-key.pem").exists()


def test_without_a_note_nothing_goes(machine: Machine) -> None:
    assert_sentence(machine.run("adopt", "forget", "--yes"), "Nothing was taken over")
    assert (machine.root / CA_KEY_PATH[1:]).exists()


def test_wrong_words(machine: Machine) -> None:
    assert_sentence(machine.run("adopt", "forget", "all"), "--yes or nothing")
    assert_sentence(machine.run("adopt", "clean"), "verbs")
    assert_sentence(machine.run("adopt", "begin", "443"), "proxyPort")
