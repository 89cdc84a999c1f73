"""Golden cases of files.sh, trust.sh and devices.sh: what they leave on the server, and what they refuse."""

import shutil
from pathlib import Path

import pytest

from tests.unit.scripts.harness import Machine, Outcome, assert_sentence, available_shells

FILES = {"expose-immich.nix": "{ }\n", "immich-exposure/Caddyfile": "# $HOME `id` \\n\n"}
AUTHORITY = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
FINGERPRINTS = ["a" * 64, "b" * 64]


@pytest.fixture(params=available_shells())
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    """A pretend server, once for each shell."""
    return Machine(tmp_path, request.param)


def test_files_arrive_as_sent_and_only_they_stay(machine: Machine) -> None:
    machine.write(machine.config / "configuration.nix", "{ }\n")
    machine.write(machine.config / "immich-exposure/scripts/gone.sh", "old\n")
    machine.write(machine.config / "immich-exposure/domain", "immich.example.ts.net\n")
    outcome = machine.run("files", "install", str(machine.config), payload=FILES)
    assert outcome == Outcome(0, "", "2 of 2 files in /etc/nixos changed\n")
    assert machine.files(machine.config) == {
        "configuration.nix": "0644 { }\n",
        "expose-immich.nix": "0644 { }\n",
        "immich-exposure/Caddyfile": "0644 # $HOME `id` \\n\n",
        "immich-exposure/domain": "0644 immich.example.ts.net\n",
    }
    assert machine.commands() == ["id -u"]


def test_files_again_change_nothing(machine: Machine) -> None:
    machine.run("files", "install", str(machine.config), payload=FILES)
    before = machine.files(machine.config)
    outcome = machine.run("files", "install", str(machine.config), payload=FILES)
    assert outcome == Outcome(0, "", "0 of 2 files in /etc/nixos changed\n")
    assert machine.files(machine.config) == before


@pytest.mark.parametrize(
    "path", ["configuration.nix", "../x", "/etc/passwd", "immich-exposure/../../x", "immich-exposure/a b"]
)
def test_files_go_nowhere_else_and_nothing_is_half_written(machine: Machine, path: str) -> None:
    outcome = machine.run("files", "install", str(machine.config), payload={**FILES, path: "x\n"})
    assert_sentence(outcome, f'may not write to "{path}"')
    assert machine.files(machine.config) == {}
    assert list(machine.config.iterdir()) == []


def test_files_need_the_folder_of_the_configuration(machine: Machine) -> None:
    assert_sentence(
        machine.run("files", "install", "/nowhere", payload=FILES), "/nowhere is not there", "set configDir"
    )
    assert_sentence(machine.run("files", "install", "etc/nixos", payload=FILES), "absolute path")
    assert_sentence(machine.run("files", "enlarge", "/etc/nixos", payload=FILES), "install CONFIG_DIR")


def test_files_remove_leaves_the_users_own(machine: Machine) -> None:
    machine.write(
        machine.config / "configuration.nix", "{ imports = [ ./lan-immich.nix ]; } # ./expose-immich.nix\n"
    )
    machine.run("files", "install", str(machine.config), payload=FILES)
    for _ in range(2):
        assert machine.run("files", "remove", str(machine.config)) == Outcome(0, "", "")
        assert list(machine.files(machine.config)) == ["configuration.nix"]
        assert [path.name for path in machine.config.iterdir()] == ["configuration.nix"]


def test_files_stay_while_they_are_imported(machine: Machine) -> None:
    machine.write(machine.config / "configuration.nix", "{ imports = [ ./expose-immich.nix ]; }\n")
    machine.run("files", "install", str(machine.config), payload=FILES)
    before = machine.files(machine.config)
    assert_sentence(
        machine.run("files", "remove", str(machine.config)), "still imports ./expose-immich.nix", "restore"
    )
    assert machine.files(machine.config) == before


def test_the_folders_of_the_exposure(machine: Machine) -> None:
    folders = ("", "devices", "bans", "bans/auth", "bans/keys", "bans/scan", "bans/manual")
    for group, mode in ((False, 0o700), (True, 0o750)):
        if group:
            machine.remember(**{"caddy-group": ""})
        assert machine.run("state", "prepare") == Outcome(0, "", "")
        assert {machine.state.joinpath(name).stat().st_mode & 0o777 for name in folders} == {0o755}
        assert (machine.state / "tls").stat().st_mode & 0o777 == mode
    assert machine.commands("chown") == ["chown root:caddy /var/lib/immich-exposure/tls"]


def test_trust_pool_arrives_and_a_running_caddy_reloads_once(machine: Machine) -> None:
    machine.remember(active="caddy")
    for expected in (["systemctl is-active --quiet caddy", "systemctl reload caddy"], []):
        machine.forget_commands()
        assert machine.run("trust", "install", payload={"device-ca.crt": AUTHORITY}).status == 0
        assert machine.commands("systemctl") == expected
    assert machine.files(machine.state) == {"device-ca.crt": f"0644 {AUTHORITY}"}
    assert machine.run("trust", "remove") == Outcome(0, "", "")
    assert machine.files(machine.state) == {}


def test_trust_pool_without_caddy_reloads_nothing(machine: Machine) -> None:
    assert machine.run("trust", "install", payload={"device-ca.crt": AUTHORITY}).status == 0
    assert machine.commands("systemctl") == ["systemctl is-active --quiet caddy"]


def test_trust_pool_that_caddy_refuses_is_taken_back(machine: Machine) -> None:
    machine.run("trust", "install", payload={"device-ca.crt": AUTHORITY})
    machine.remember(active="caddy", **{"reload-fails": ""})
    outcome = machine.run("trust", "install", payload={"device-ca.crt": AUTHORITY.replace("AAAA", "BBBB")})
    assert_sentence(outcome, "Caddy refused to reload", "journalctl -u caddy")
    assert machine.files(machine.state)["device-ca.crt"] == f"0644 {AUTHORITY}"


def test_trust_pool_that_a_killed_run_left_unloaded_is_loaded_by_the_next(machine: Machine) -> None:
    machine.remember(active="caddy")
    machine.fake("mv", "kill -9 $PPID")
    with pytest.raises(AssertionError, match="left its private folder behind"):
        machine.run("trust", "install", payload={"device-ca.crt": AUTHORITY})
    machine.unfake("mv")
    shutil.rmtree(next(machine.root.glob("run/immich-exposure.*")))
    (machine.state / "device-ca.crt").write_text(AUTHORITY)  # as if it had been killed a moment later
    machine.forget_commands()
    assert machine.run("trust", "install", payload={"device-ca.crt": AUTHORITY}).status == 0
    assert "systemctl reload caddy" in machine.commands("systemctl")


def test_trust_pool_takes_certificates_alone(machine: Machine) -> None:
    # Put together here, so that no scanner takes this file for a key.
    key = "-----BEGIN " + "PRIVATE KEY-----\nAAAA\n"
    assert_sentence(
        machine.run("trust", "install", payload={"device-ca.crt": AUTHORITY + key}),
        "private key",
        "never leave",
    )
    assert_sentence(
        machine.run("trust", "install", payload={"device-ca.crt": "hello\n"}), "not a certificate in PEM form"
    )
    assert_sentence(
        machine.run("trust", "install", payload={"other.crt": AUTHORITY}), "only hold device-ca.crt"
    )
    assert_sentence(machine.run("trust", "install", payload={}), "holds no device-ca.crt")
    assert_sentence(machine.run("trust", "renew"), "install and remove")
    assert machine.files(machine.state) == {}


def test_device_is_a_file_that_caddy_can_read(machine: Machine) -> None:
    outcome = machine.run("devices", "enrol", "phone", FINGERPRINTS[0])
    assert outcome == Outcome(0, "", "Device phone may come in\n")
    assert machine.files(machine.state) == {f"devices/{FINGERPRINTS[0]}": "0644 phone\n"}
    assert machine.run("devices", "enrol", "phone", FINGERPRINTS[0]) == Outcome(0, "", "")
    assert machine.commands("systemctl") == [], "enrolling must need no reload"


def test_new_certificate_replaces_the_old_of_the_same_device_only(machine: Machine) -> None:
    machine.run("devices", "enrol", "phone", FINGERPRINTS[0])
    machine.run("devices", "enrol", "phone-2", "c" * 64)
    machine.run("devices", "enrol", "phone", FINGERPRINTS[1])
    assert machine.files(machine.state / "devices") == {
        FINGERPRINTS[1]: "0644 phone\n",
        "c" * 64: "0644 phone-2\n",
    }


def test_failed_enrolment_locks_nobody_out(machine: Machine) -> None:
    machine.run("devices", "enrol", "phone", FINGERPRINTS[0])
    # The disk is full: the new file cannot be written.
    machine.fake("cat", "exit 1")
    assert_sentence(
        machine.run("devices", "enrol", "phone", FINGERPRINTS[1]), "could not be written", "make room"
    )
    assert machine.files(machine.state / "devices") == {FINGERPRINTS[0]: "0644 phone\n"}


def test_withdrawn_device_is_gone_at_once_and_others_stay(machine: Machine) -> None:
    machine.run("devices", "enrol", "phone", FINGERPRINTS[0])
    machine.run("devices", "enrol", "laptop", FINGERPRINTS[1])
    assert machine.run("devices", "withdraw", "phone") == Outcome(
        0, "", "Device phone may no longer come in\n"
    )
    assert machine.run("devices", "withdraw", "phone") == Outcome(0, "", "")
    assert machine.files(machine.state / "devices") == {FINGERPRINTS[1]: "0644 laptop\n"}


def test_withdrawing_an_old_certificate_leaves_the_new(machine: Machine) -> None:
    machine.run("devices", "enrol", "phone", FINGERPRINTS[1])
    assert machine.run("devices", "withdraw", "phone", FINGERPRINTS[0]) == Outcome(0, "", "")
    assert machine.files(machine.state / "devices") == {FINGERPRINTS[1]: "0644 phone\n"}
    machine.run("devices", "withdraw", "phone", FINGERPRINTS[1])
    assert machine.files(machine.state / "devices") == {}


def test_one_certificate_is_one_device(machine: Machine) -> None:
    machine.run("devices", "enrol", "phone", FINGERPRINTS[0])
    assert_sentence(machine.run("devices", "enrol", "laptop", FINGERPRINTS[0]), 'enrolled as "phone" already')
    assert machine.files(machine.state) == {f"devices/{FINGERPRINTS[0]}": "0644 phone\n"}


@pytest.mark.parametrize("name", ["", ".", "../x", "a b", "-rf", "é", "a\nb", "x" * 65])
def test_device_names_are_strict(machine: Machine, name: str) -> None:
    for verb in ("enrol", "withdraw"):
        outcome = machine.run("devices", verb, name, FINGERPRINTS[0])
        assert outcome.status == 1
        assert "error: A device's name " in outcome.stderr
    assert machine.files(machine.root / "var") == {}


@pytest.mark.parametrize("fingerprint", ["", "a" * 63, "A" * 64, "../" + "a" * 61, "a" * 65])
def test_fingerprints_are_strict(machine: Machine, fingerprint: str) -> None:
    assert_sentence(machine.run("devices", "enrol", "phone", fingerprint), "A fingerprint is", "correct it")
    assert machine.files(machine.root / "var") == {}


def test_changes_need_root(machine: Machine) -> None:
    machine.fake("id", "echo 1000")
    for script, verb in [
        ("files", "remove"),
        ("trust", "remove"),
        ("devices", "withdraw"),
        ("state", "remove"),
    ]:
        assert_sentence(machine.run(script, verb, "/x"), "must run as root; use sudo")
