"""drift.sh: what has become of an exposure since it was proven, told in sentences and never changed."""

from __future__ import annotations

import grp
import hashlib
import os
import pwd
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.programs.harness import BODIES, DOMAIN, NODE, OPEN, RECORD, RUNNING, Machine, available_shells

PHONE = "a" * 64
FRAME = "f" * 64
LAPTOP = "b" * 64
PORTS = ("443", "8443")
DIGEST = "0123456789abcdef"
NOW = 1_000_000  # the harness's clock: Monday 12 January 1970, 13:46
IMMICH = {
    "http://127.0.0.1:2283/api/server/ping": '{"res":"pong"}',
    "http://127.0.0.1:2283/api/server/config": '{"isInitialized":true}',
    "http://127.0.0.1:2283/api/server/version": '{"major":2,"minor":7,"patch":3}',
    "http://localhost/config/": '{"apps":{}}',
}
# Every address has a file with its answer.
CURL = """
for url; do :; done
cat "$FAKES/web/$(printf %s "$url" | tr / _)" 2>/dev/null"""
EDGE = """
case $1 in
  version) echo "v2.11.9 h1:abc=" ;;
  certificate-end) cat "$FAKES/certificate-end" ;;
esac"""
ASKED = """
case $1 in who) cat "$9" >"$FAKES/key-used"; cat "$FAKES/words" ;; esac"""
TAILSCALE_VERSION = "1.98.9\n  tailscale commit: abc"


@pytest.fixture(params=available_shells())
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    """A pretend server, once for each shell."""
    return Machine(tmp_path, request.param)


DAY = 86400
MODULE = '{"digest":"one","immich":"127.0.0.1:2283"}'


def web(machine: Machine, url: str) -> Path:
    """Return the file with what answers at an address."""
    return machine.fakes / "web" / url.replace("/", "_")


@pytest.fixture
def proven(machine: Machine) -> Machine:
    """Return a server on which an exposure was proven just now."""
    machine.prepare()
    machine.fake(
        "stat",
        'case $* in *tls/server.key) echo "640 root:immich-edge" ;; *) exec /usr/bin/stat "$@" ;; esac',
    )
    for name, text in {
        "settings/edge.env": "IMMICH_EXPOSURE_REQUESTS=3000\n",
        "settings/bans.conf": "[DEFAULT]\n",
        "device-ca.crt": "-----BEGIN CERTIFICATE-----\n",
        "domain.env": "IMMICH_EXPOSURE_DOMAIN=immich.lab-tailnet.ts.net\n",
        "tls/server.key": "key\n",
        f"devices/{PHONE}": "phone\n",
        f"devices/{FRAME}": "kitchen\nframe\n",
    }.items():
        machine.write(machine.state / name, text)
    for system in ("run/current-system", "nix/var/nix/profiles/system"):
        machine.write(machine.root / system / "sw/bin/immich-exposure", "")
    machine.write(machine.config / "immich-exposure/default.nix", "{ }\n")
    machine.write(machine.config / "configuration.nix", "{ imports = [ ./immich-exposure ]; }\n")
    machine.write(machine.state / "lease", "confirmed\n")
    machine.write(machine.state / "term", "always\n")
    machine.remember(
        active=RUNNING, module=MODULE, **{"serve.json": OPEN, "certificate-end": f"{NOW + 60 * DAY}"}
    )
    machine.fake("curl", CURL)
    machine.fake("edge", EDGE)
    tailscale = textwrap.dedent(BODIES["tailscale"])
    machine.fake("tailscale", f'[ "$1" != version ] || {{ echo "{TAILSCALE_VERSION}"; exit; }}\n{tailscale}')
    for url, answer in IMMICH.items():
        machine.write(web(machine, url), answer)
    assert machine.run_text(RECORD, *PORTS, str(machine.config), DIGEST).status == 0
    return machine


def look(machine: Machine) -> list[str]:
    """Return what a look finds, but for who is let in; it changes nothing but its own scratch folder."""
    before = machine.files(machine.root)
    outcome = machine.run("drift", "look", *PORTS)
    assert outcome.status == 0, outcome.stderr
    after = machine.files(machine.root)
    assert before == after
    lines = outcome.stdout.replace(str(machine.root), "").splitlines()
    return [line for line in lines if line not in AS_EVER and not line.startswith("device ")]


def answer(url: str, text: str | None) -> Callable[[Machine], None]:
    def change(machine: Machine) -> None:
        if text is None:
            web(machine, url).unlink()
        else:
            machine.write(web(machine, url), text)

    return change


AS_EVER = (
    f"clock {NOW}",
    "version tailscale 1.98.9",
    "version caddy 2.11.9",
    f"device {PHONE} phone",
    f"device {FRAME} kitchen",
    f"proven-for {DIGEST}",
    "version immich 2.7.3",
    "node-key ",
)


def test_clock_and_versions_are_said_for_others_to_judge(proven: Machine) -> None:
    assert proven.run("drift", "look", *PORTS).stdout.splitlines() == sorted(AS_EVER, key=ORDER.index)


ORDER = [*AS_EVER[:6], "node-key ", "version immich 2.7.3"]


@pytest.mark.parametrize(
    "change",
    [
        lambda machine: machine.write(machine.state / "lease", "trial 300 boot 0\n"),
        lambda machine: machine.remember(**{"serve.json": "{}"}),
        lambda machine: machine.write(machine.state / "closed-by-hand", ""),
    ],
    ids=["on trial", "closed", "closed by hand"],
)
def test_what_it_was_proven_for_is_told_of_an_open_and_proven_funnel_alone(
    proven: Machine, change: Callable[[Machine], None]
) -> None:
    assert f"proven-for {DIGEST}" in proven.run("drift", "look", *PORTS).stdout.splitlines()
    change(proven)
    assert "proven-for" not in proven.run("drift", "look", *PORTS).stdout


def test_nothing_is_told_of_what_is_as_it_was(proven: Machine) -> None:
    assert look(proven) == []


def drop(path: str) -> Callable[[Machine], None]:
    return lambda machine: (machine.state / path).unlink()


def enrol_by_hand(machine: Machine) -> None:
    machine.write(machine.state / "devices" / LAPTOP, "laptop\n")


def revoke(machine: Machine) -> None:
    """What the run that looks has just done."""
    (machine.state / "revoked").mkdir(exist_ok=True)
    (machine.state / "devices" / PHONE).rename(machine.state / "revoked" / PHONE)


def revoke_by_hand(machine: Machine) -> None:
    """What `immich-exposure revoke` does."""
    revoke(machine)
    with (machine.state / "revoked" / PHONE).open("a") as file:
        file.write("by hand\n")


def end(machine: Machine) -> None:
    """What the timer does with a certificate that has ended is no drift."""
    (machine.state / "ended").mkdir()
    (machine.state / "devices" / PHONE).rename(machine.state / "ended" / PHONE)


def end_too_soon(machine: Machine) -> None:
    """What the timer does while the clock is ahead."""
    end(machine)
    machine.write(machine.state / "ended" / PHONE, f"phone\nuntil {NOW + DAY}\n")


def move_immich(machine: Machine) -> None:
    machine.remember(module=MODULE.replace("2283", "3001"))
    for url, text in IMMICH.items():
        machine.write(web(machine, url.replace("2283", "3001")), text)


def beside(port: str, target: str) -> str:
    """Return our funnel, and another one beside it."""
    open_too = f'"AllowFunnel": {{"{DOMAIN}:{port}": true, '
    entry = f'{{"TCP": {{"{port}": {{"TCPForward": "{target}"}}, '
    return OPEN.replace('{"TCP": {', entry).replace('"AllowFunnel": {', open_too)


def mask(machine: Machine) -> None:
    """What somebody does who masks a unit of NixOS by hand."""
    machine.remember(active=RUNNING.replace("immich-bans\n", ""), masked="immich-bans.service")
    folder = machine.root / "etc/systemd/system.control"
    folder.mkdir(parents=True)
    (folder / "immich-bans.service").symlink_to("/dev/null")


CASES: dict[str, tuple[Callable[[Machine], None], str | None]] = {
    "the funnel is closed": (
        lambda machine: machine.remember(**{"serve.json": "{}"}),
        "funnel The funnel was closed on the server; up opens and proves it again.",
    ),
    "the funnel is altered": (
        lambda machine: machine.remember(**{"serve.json": OPEN.replace("127.0.0.1", "localhost")}),
        "funnel The funnel on port 443 was altered by hand; up closes it and opens it correctly.",
    ),
    "another tool has the port": (
        lambda machine: machine.remember(**{"serve.json": OPEN.replace("8443", "22")}),
        "closed Port 443 serves another tool, so the funnel is closed; "
        "remove that entry from Tailscale and run up again.",
    ),
    "the edge on another port": (
        lambda machine: machine.remember(**{"serve.json": beside("8443", "127.0.0.1:8443")}),
        "funnel The edge is also public on port 8443 (tcp), bypassing our rules; up closes that.",
    ),
    "Immich on another port": (
        lambda machine: machine.remember(**{"serve.json": beside("10000", "127.0.0.1:2283")}),
        "tell Immich itself is public on port 10000 (tcp), bypassing the edge; close it on the server "
        'with "sudo immich-exposure close", then open the exposure again with "sudo immich-exposure open".',
    ),
    "opened without a lease": (
        drop("lease"),
        "funnel The funnel was opened by hand, without a lease; up proves the exposure.",
    ),
    "an update that was taken back": (
        lambda machine: machine.write(machine.state / "lease", "trial 300 00000001-aaaa 5000\n"),
        "funnel The last run did not end with a proof, so the funnel closes in 5 min; "
        "up proves the exposure again.",
    ),
    "a device by hand": (
        enrol_by_hand,
        'mend A certificate was enrolled by hand as "laptop" (bbbbbbbbbbbb...); up removes it.',
    ),
    "a frame by hand": (
        lambda machine: machine.write(machine.state / "devices" / ("c" * 64), "hall\nframe\n"),
        'mend A frame\'s secret was enrolled by hand as "hall" (cccccccccccc...); up removes it.',
    ),
    "a frame gone": (
        drop(f"devices/{FRAME}"),
        "mend A frame's secret of kitchen is no longer enrolled (ffffffffffff...); up enrols it again.",
    ),
    "a device gone": (
        drop(f"devices/{PHONE}"),
        "mend A certificate of phone is no longer enrolled (aaaaaaaaaaaa...); up enrols it again.",
    ),
    "a device revoked": (revoke, None),
    "a device ended": (end, None),
    "a device ended too soon": (
        end_too_soon,
        "mend A certificate of phone is not accepted although it is valid, because the clock was ahead; up "
        "enrols it again.",
    ),
    "settings gone": (
        drop("settings/edge.env"),
        "mend STATE/settings/edge.env is gone from the server; up puts it back.",
    ),
    "no key": (
        drop("tls/server.key"),
        "mend The server's certificate is gone from the server; up asks Tailscale for it again.",
    ),
    "a ban folder gone": (
        lambda machine: (machine.state / "bans/scan").rmdir(),
        "mend A folder in STATE is gone from the server, or has the wrong mode or owner; up fixes that.",
    ),
    "a ban folder that anybody may write to": (
        lambda machine: (machine.state / "bans/keys").chmod(0o777),
        "mend A folder in STATE is gone from the server, or has the wrong mode or owner; up fixes that.",
    ),
    "renamed": (
        lambda machine: machine.remember(
            **{
                name: text.replace("immich.", "photos.")
                for name, text in {"status.json": NODE, "serve.json": OPEN}.items()
            }
        ),
        "mend The server's name has changed from immich.lab-tailnet.ts.net to photos.lab-tailnet.ts.net; "
        "up exposes it under the new name.",
    ),
    "renamed, and the funnel of its old name": (
        lambda machine: machine.remember(**{"status.json": NODE.replace("immich.", "photos.")}),
        "mend The server's name has changed from immich.lab-tailnet.ts.net to photos.lab-tailnet.ts.net; "
        "up exposes it under the new name.",
    ),
    "a service stopped": (
        lambda machine: machine.remember(active=RUNNING.replace("immich-bans\n", "")),
        "mend immich-bans.service is not running; up starts it.",
    ),
    "a timer stopped": (
        lambda machine: machine.remember(active=RUNNING.replace("immich-exposure-guard.timer\n", "")),
        "mend immich-exposure-guard.timer is not running; up starts it.",
    ),
    "a service masked": (
        lambda machine: machine.remember(
            active=RUNNING.replace("immich-bans\n", ""), masked="immich-bans.service"
        ),
        'tell immich-bans.service is masked, so it is not running; run "sudo systemctl unmask '
        'immich-bans.service" on the server, or remove its "enable = false" from your configuration.',
    ),
    "a service masked by hand": (
        mask,
        "mend immich-bans.service is masked (/etc/systemd/system.control/immich-bans.service), so it is "
        "not running; up unmasks and starts it.",
    ),
    "loopback stopped": (
        lambda machine: machine.remember(active=RUNNING.replace("immich-exposure-loopback\n", "")),
        "mend immich-exposure-loopback.service is not running; up starts it.",
    ),
    "a kernel without nftables": (
        lambda machine: machine.remember(
            active=RUNNING.replace("immich-exposure-loopback\n", ""),
            failed="immich-exposure-loopback.service loaded failed failed",
        ),
        "tell immich-exposure-loopback.service has failed, so other accounts on the server can reach the "
        'edge; see "journalctl -u immich-exposure-loopback.service" there.',
    ),
    "another system boots": (
        lambda machine: (machine.root / "nix/var/nix/profiles/system/sw/bin/immich-exposure").unlink(),
        "mend The system that boots next was built without the module; up fixes that.",
    ),
    "the edge was told something else": (
        answer("http://localhost/config/", '{"apps":{"http":{}}}'),
        "mend The edge runs with a different configuration from the proven one; up loads the right one.",
    ),
    "the log is full": (
        lambda machine: machine.fake("df", "echo; echo tmpfs 64 64 0 100% /var/log"),
        "tell The disk of /var/log/immich-edge is full, so scanners and those who guess passwords are not "
        "banned; make room on it.",
    ),
    "the edge hangs": (
        answer("http://localhost/config/", None),
        "funnel The edge is running but does not respond, so nobody gets in; up restarts it.",
    ),
    "the certificate was not renewed": (
        lambda machine: machine.remember(**{"certificate-end": str(NOW + 5 * DAY)}),
        "tell The server's certificate expires on Saturday 17 January at 13:46 and was not renewed; "
        'see why on the server with "journalctl -u immich-exposure-certificate".',
    ),
    "the node's key ends": (
        lambda machine: machine.remember(
            **{"status.json": NODE.replace("{", '{"KeyExpiry": "1970-02-01T00:00:00Z", ', 1)}
        ),
        "node-key 1970-02-01T00:00:00Z",
    ),
    "Immich elsewhere": (
        move_immich,
        "mend Immich's address has changed from 127.0.0.1:2283 to 127.0.0.1:3001 since it was proven; "
        "up proves it again.",
    ),
    "another Immich": (
        answer("http://127.0.0.1:2283/api/server/version", '{"major":2,"minor":6,"patch":0}'),
        "version immich 2.6.0",
    ),
    "no administrator": (
        answer("http://127.0.0.1:2283/api/server/config", '{"isInitialized":false}'),
        "tell Immich no longer has an administrator, so the first device to connect could become one; "
        "open Immich and create the administrator account.",
    ),
    "Immich away": (
        answer("http://127.0.0.1:2283/api/server/ping", None),
        "tell Immich does not answer at 127.0.0.1:2283 on the server, so shared links do not work; start it.",
    ),
    "module gone": (
        lambda machine: (machine.root / "run/current-system/sw/bin/immich-exposure").unlink(),
        "mend The running system was built without the module; up adds it again.",
    ),
    "another module": (
        lambda machine: machine.remember(module=MODULE.replace("one", "two")),
        "mend The running system has a different version of the module from the proven one; "
        "up proves it again.",
    ),
    "half loaded": (
        lambda machine: machine.write(machine.state / ".device-ca.unloaded", ""),
        "mend The running services have not loaded their newest files yet; up loads them.",
    ),
    "no proof": (
        drop("standing"),
        "mend The last run did not end with a proof; up proves the exposure again.",
    ),
    "no mark": (
        drop(".immich-exposure"),
        "mend There is no exposure on the server; up creates it.",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_each_difference_is_one_sentence(proven: Machine, case: str) -> None:
    change, sentence = CASES[case]
    change(proven)
    wanted = [] if sentence is None else [sentence.replace("STATE", "/var/lib/immich-exposure")]
    assert look(proven) == wanted


@pytest.mark.parametrize(
    "path", ["settings/bans.conf", "device-ca.crt", "etc/nixos/immich-exposure/default.nix"]
)
def test_a_changed_file_is_told_with_its_time(proven: Machine, path: str) -> None:
    changed = proven.root / path if path.startswith("etc") else proven.state / path
    named = str(changed).removeprefix(str(proven.root))
    changed.write_text("changed\n")
    (line,) = look(proven)
    assert line.startswith(f"mend {named} was changed on the server on ")
    assert line.endswith("; up puts it back.")


def test_an_immich_on_an_address_of_ipv6_is_known_by_it(proven: Machine) -> None:
    place = "[fd00::5]:2283"
    proven.remember(module=MODULE.replace("127.0.0.1:2283", place), **{"serve.json": beside("10000", place)})
    for url, text in IMMICH.items():
        proven.write(web(proven, url.replace("127.0.0.1:2283", place)), text)
    public, moved = look(proven)
    assert public.startswith("tell Immich itself is public on port 10000 (tcp), bypassing the edge")
    assert moved.startswith(f"mend Immich's address has changed from 127.0.0.1:2283 to {place}")


ODD_NAMES = ("two words.txt", " blanks ", "back\\slash", "-dash", "*")


def record(machine: Machine) -> list[str]:
    """Note down what stands now, and return the lines of the files beside configuration.nix."""
    outcome = machine.run_text(RECORD, *PORTS, str(machine.config), DIGEST)
    assert (outcome.status, outcome.stderr) == (0, "")
    lines = (machine.state / "standing").read_text().replace(str(machine.root), "").splitlines()
    return [line for line in lines if line.startswith("file ") and "/etc/nixos/" in line]


def file_line(machine: Machine, path: Path) -> str:
    """Return what is to be noted down of a file."""
    where, digest = path.stat(), hashlib.sha256(path.read_bytes()).hexdigest()
    owner = f"{pwd.getpwuid(where.st_uid).pw_name}:{grp.getgrgid(where.st_gid).gr_name}"
    return f"file {digest} {where.st_mode & 0o777:o} {owner} /{path.relative_to(machine.root)}"


def test_files_are_noted_down_by_hash_mode_and_owner_whatever_they_are_called(proven: Machine) -> None:
    folder = proven.config / "immich-exposure"
    for number, name in enumerate(ODD_NAMES):
        proven.write(folder / name, f"{number}\n", 0o600 + number)
    wanted = [file_line(proven, folder / name) for name in ("default.nix", *ODD_NAMES)]
    assert sorted(record(proven)) == sorted(wanted)
    proven.write(folder / "two words.txt", "changed\n", 0o600)
    (folder / "-dash").unlink()
    (folder / "back\\slash").chmod(0o640)
    dash, slash, changed = sorted(look(proven))
    assert dash == "mend /etc/nixos/immich-exposure/-dash is gone from the server; up puts it back."
    assert slash.startswith("mend /etc/nixos/immich-exposure/back\\slash was changed on the server on ")
    assert changed.startswith("mend /etc/nixos/immich-exposure/two words.txt was changed on the server on ")


def test_a_file_that_cannot_be_read_hides_no_other(proven: Machine) -> None:
    """A bad block of an SD card, say: one file in the midst of many has no hash, and is told of."""
    folder = proven.config / "immich-exposure"
    for name in ("a.nix", "b.nix", "c.nix"):
        proven.write(folder / name, f"{name}\n")
    record(proven)
    proven.fake(
        "sha256sum",
        """
        case $* in *b.nix*) exec /usr/bin/sha256sum "$@" /nowhere ;; esac
        case $(readlink /proc/$$/fd/0) in *b.nix) exit 1 ;; esac
        exec /usr/bin/sha256sum "$@" """,
    )
    (line,) = look(proven)
    assert line.startswith("mend /etc/nixos/immich-exposure/b.nix was changed on the server on ")


def test_a_unit_that_reloads_runs(proven: Machine) -> None:
    """systemd says "reloading" of it, and that it is active."""
    reloading = """
        case "$1 $2" in
          "is-active immich-"*) shift; for unit; do echo reloading; done; exit ;;
        esac"""
    proven.fake("systemctl", textwrap.dedent(reloading) + "\n" + textwrap.dedent(BODIES["systemctl"]))
    assert look(proven) == []
    proven.remember(active=RUNNING.replace("immich-bans\n", ""))
    assert look(proven) == ["mend immich-bans.service is not running; up starts it."]


def test_an_import_that_was_taken_out_is_told(proven: Machine) -> None:
    """As `git checkout` does; the running system still has the module, until the next rebuild."""
    proven.write(proven.config / "configuration.nix", "{ imports = [ ]; # ./immich-exposure\n}\n")
    (line,) = look(proven)
    assert line == (
        "mend /etc/nixos/configuration.nix no longer imports ./immich-exposure, and your next rebuild "
        "would end the exposure; up adds the import again."
    )


def test_a_funnel_that_was_closed_by_hand_is_the_owners_to_open(proven: Machine) -> None:
    proven.remember(**{"serve.json": "{}"})
    proven.write(proven.state / "closed-by-hand", "")
    (line,) = look(proven)
    assert line == (
        "closed The funnel was closed by hand, so nobody can get in; it stays closed until "
        '"sudo immich-exposure open" on the server.'
    )


@pytest.mark.parametrize("where", ["devices", "ended"])
@pytest.mark.parametrize("noted", [True, False])
def test_who_is_let_in_is_told_whatever_was_noted_down(proven: Machine, where: str, noted: bool) -> None:
    """A backup brings both back; and one that has ended counts again when the clock was wrong."""
    proven.write(proven.state / where / LAPTOP, "laptop\nuntil 4\n")
    if not noted:
        (proven.state / "standing").unlink()
    said = proven.run("drift", "look", *PORTS).stdout.splitlines()
    assert [line for line in said if line.startswith("device ")] == [
        f"device {PHONE} phone",
        f"device {LAPTOP} laptop",
        f"device {FRAME} kitchen",
    ]


@pytest.mark.parametrize("closed", [False, True])
def test_what_the_owner_has_revoked_is_told_also_where_the_funnel_is_closed(
    proven: Machine, closed: bool
) -> None:
    revoke_by_hand(proven)
    os.utime(proven.state / "revoked" / PHONE, (NOW - 60, NOW - 60))
    proven.write(proven.state / "revoked" / LAPTOP, "laptop\n")
    if closed:
        proven.write(proven.state / "closed-by-hand", "")
    lines = [line for line in look(proven) if not line.startswith("closed ")]
    assert lines == [f"revoked {PHONE} {NOW - 60} phone"]


WHY = {
    "lease": "The funnel's lease expired on Monday 12 January at 13:46; up opens and proves it again.",
    "unsafe": "The funnel was closed on Monday 12 January at 13:46 because the exposure was not safe; "
    "up opens it again only if it proves to be safe.",
    "check": "The last up could not prove the exposure, so the funnel is closed; up tries again.",
    "elsewhere": "The funnel was closed with Tailscale's own command, or Tailscale was down (seen on "
    "Monday 12 January at 13:46); up opens and proves it again.",
}


@pytest.mark.parametrize("why", WHY)
def test_why_a_funnel_is_closed_is_told(proven: Machine, why: str) -> None:
    proven.remember(**{"serve.json": "{}"})
    proven.write(proven.state / "last-change", f"1000000 closed {why}\n")
    assert look(proven) == [f"funnel {WHY[why]}"]


def test_arguments_are_checked(machine: Machine) -> None:
    assert (
        machine.run("drift", "look", "443").error
        == 'The proxyPort must be a whole number, not ""; correct it and run this again.'
    )
    assert 'takes "look' in machine.run("drift", "mend", *PORTS).error


def test_there_is_nothing_to_look_at_before_the_first_exposure(machine: Machine) -> None:
    assert look(machine) == ["mend There is no exposure on the server; up creates it."]


RIGHTS = """
case "$*" in
  *ping*) echo '{"res":"pong"}' ;;
  *) cat "$(echo "$*" | sed 's/.*--config //; s/ .*//')" >"$FAKES/header"
    body="{\\"name\\":\\"x\\",\\"permissions\\":[$(cat "$FAKES/rights")]}"
    echo "$body" >"$(echo "$*" | sed 's/.*--output //; s/ .*//')"
    printf 200 ;;
esac
"""
LACKS = "tell The API key in immichApiKey lacks the permission sharedLink.read, so "


@pytest.mark.parametrize(
    ("rights", "said"),
    [
        ('"sharedLink.read"', None),
        ('"all"', "has more permissions than it needs (all); create one with"),
        ('"sharedLink.read", "album.read"', "has more permissions than it needs (album.read); create one"),
        ('"album.read"', LACKS),
    ],
)
def test_before_the_first_up_it_is_told_what_a_new_key_may_do(
    machine: Machine, rights: str, said: str | None
) -> None:
    machine.fake("curl", RIGHTS)
    machine.remember(rights=rights)
    done = machine.run("drift", "look", *PORTS, "-", "2283", payload={"api-key": "a-new-key\n"})
    told = [line for line in done.stdout.splitlines() if line.startswith("tell ")]
    assert done.status == 0 and len(told) == (said is not None) and (said or "") in "".join(told)
    assert (machine.fakes / "header").read_text() == 'header = "x-api-key: a-new-key"\n'
    assert "a-new-key" not in "\n".join(machine.commands()) + done.stdout + done.stderr
    assert not list(machine.temporary.rglob("curl"))
    machine.forget_commands()
    assert look(machine) and machine.commands("curl") == []


def test_before_the_first_up_a_key_for_an_immich_that_is_away_is_named(machine: Machine) -> None:
    machine.fake("curl", "exit 7")
    done = machine.run("drift", "look", *PORTS, "-", "2283", payload={"api-key": "a-new-key\n"})
    assert "tell Immich does not answer on the server at port 2283, so immichApiKey could" in done.stdout
    assert "correct immich.address" in machine.run("drift", "look", *PORTS, "x;y", "2283").error


@pytest.mark.parametrize("given", ["on the server", "sent along", "nowhere"])
def test_what_the_links_allow_is_told_with_the_key_that_counts(proven: Machine, given: str) -> None:
    proven.fake("edge", EDGE.rstrip() + ASKED)
    sentence = "Of 3 shared links, 1 never expires."
    proven.remember(words=sentence)
    payload = None
    if given != "nowhere":
        proven.write(proven.state / "who/api-key", "an-old-key\n", 0o600)
    if given == "sent along":
        payload = {"api-key": "a-new-key\n"}
    proven.forget_commands()
    done = proven.run("drift", "look", *PORTS, payload=payload)
    assert done.status == 0, done.stderr
    assert (f"tell {sentence}" in done.stdout.splitlines()) == (given != "nowhere")
    if given != "nowhere":
        used = (proven.fakes / "key-used").read_text()
        assert used == ("a-new-key\n" if given == "sent along" else "an-old-key\n")
    assert "a-new-key" not in "\n".join(proven.commands())


def test_ban_lists_are_looked_at(proven: Machine) -> None:
    settings, key = (proven.state / "settings" / name for name in ("lists.conf", "crowdsec.key"))
    proven.write(settings, "networks /x\ncrowdsec http://127.0.0.1:8080\n")
    proven.write(key, "a-key\n", mode=0o600)
    proven.write(proven.state / "lists/networks", "good 3 1000000 /x\n")
    proven.write(proven.state / "lists/crowdsec", "good 3 1000000 x\n")
    running = f"{RUNNING}\nimmich-exposure-lists.timer\nimmich-exposure-crowdsec"
    proven.remember(active=running)
    assert proven.run_text(RECORD, *PORTS, str(proven.config), DIGEST).status == 0
    assert look(proven) == []
    proven.write(proven.state / "lists/networks", "kept 3 1000000 /x is damaged: line 2\x1b[31m\n")
    proven.write(proven.state / "lists/crowdsec", "none 0 1000000 CrowdSec is away\n")
    assert look(proven) == [
        "tell The ban list networks is out of date, and keeps 3 networks banned: /x is damaged: line 2[31m.",
        "tell The ban list crowdsec bans nobody: CrowdSec is away.",
    ]
    proven.remember(active=running.replace("-crowdsec", "-other"))
    proven.write(settings, "networks /y\ncrowdsec http://127.0.0.1:8080\n")
    key.unlink()
    said = "\n".join(look(proven))
    assert "mend immich-exposure-crowdsec.service is not running; up starts it." in said
    assert "mend /var/lib/immich-exposure/settings/lists.conf was changed on the server" in said
    assert "mend /var/lib/immich-exposure/settings/crowdsec.key is gone from the server" in said
