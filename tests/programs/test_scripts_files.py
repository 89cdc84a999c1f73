"""Golden cases of files.sh, trust.sh and state.sh: what they leave on the server, and what they refuse."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from components.funnel import LEASE_SECONDS
from components.remote.module_files import export
from components.remote.remote_script import PayloadFile, script_text
from tests.programs.harness import SCRIPTS, Machine, Outcome, assert_sentence, available_shells

FILES = {
    "immich-exposure/default.nix": "{ }\n",
    "immich-exposure/Caddyfile": "# $HOME `id` \\n\n",
    "immich-exposure/nix/edge.nix": "edge\n",
}
MARK = 'Made by immich-exposure, and removed by "pulumi destroy".\n'
AUTHORITY = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


@pytest.fixture(params=available_shells())
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    """A pretend server, once for each shell."""
    return Machine(tmp_path, request.param)


def install(machine: Machine, files: dict[str, str] | None = None) -> Outcome:
    return machine.run("files", "install", str(machine.config), payload=FILES if files is None else files)


def remove(machine: Machine) -> Outcome:
    return machine.run("files", "remove", str(machine.config))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


INSTALLED = {
    "immich-exposure/.immich-exposure": f"0644 {MARK}default.nix\nCaddyfile\nnix/edge.nix\n",
    "immich-exposure/default.nix": "0644 { }\n",
    "immich-exposure/Caddyfile": "0644 # $HOME `id` \\n\n",
    "immich-exposure/nix/edge.nix": "0644 edge\n",
}


def test_files_arrive_as_sent_and_only_they_stay(machine: Machine) -> None:
    machine.write(machine.config / "configuration.nix", "{ }\n")
    own = {"expose-immich.nix": "the user's own\n", "lan-immich.nix": "the user's own\n"}
    for name, text in own.items():
        machine.write(machine.config / name, text)
    expected = {"configuration.nix": "0644 { }\n", **{name: f"0644 {text}" for name, text in own.items()}}
    install(machine, {**FILES, "immich-exposure/scripts/gone.sh": "old\n"})
    assert "immich-exposure/scripts/gone.sh" in machine.files(machine.config)
    assert install(machine) == Outcome(0, "", "0 of 3 files in /etc/nixos/immich-exposure changed\n")
    assert machine.files(machine.config) == {**expected, **INSTALLED}
    assert not (machine.config / "immich-exposure/scripts").exists()


def test_modes_arrive_as_sent_and_are_put_back(machine: Machine) -> None:
    machine.write(machine.config / "configuration.nix", "{ }\n")
    modes = {"default.nix": "0644", "nix/run": "0755", "nix/edge.nix": "0644"}
    text = script_text(
        "files", tuple(PayloadFile(f"immich-exposure/{name}", "x\n", mode) for name, mode in modes.items())
    )
    for changed in ("3 of 3", "0 of 3"):
        outcome = machine.run_text(text, "install", str(machine.config))
        assert outcome == Outcome(0, "", f"{changed} files in /etc/nixos/immich-exposure changed\n")
        for name, mode in modes.items():
            place = machine.config / "immich-exposure" / name
            assert f"{place.stat().st_mode & 0o777:04o}" == mode
            place.chmod(0o600)


def test_what_became_another_kind_of_thing_counts_as_changed(machine: Machine) -> None:
    machine.write(machine.config / "configuration.nix", "{ }\n")
    install(machine)
    folder = machine.config / "immich-exposure"
    (folder / "default.nix").unlink()
    (folder / "nix/edge.nix").rename(folder / "edge.nix")
    (folder / "nix/edge.nix").symlink_to(folder / "edge.nix")
    (folder / "Caddyfile").write_text("changed\n")
    assert install(machine).stderr == "2 of 3 files in /etc/nixos/immich-exposure changed\n"
    assert not (folder / "nix/edge.nix").is_symlink()


def test_files_again_change_nothing(machine: Machine) -> None:
    machine.write(machine.config / "configuration.nix", "{ }\n")
    assert install(machine) == Outcome(0, "", "3 of 3 files in /etc/nixos/immich-exposure changed\n")
    before = machine.files(machine.config)
    assert install(machine) == Outcome(0, "", "0 of 3 files in /etc/nixos/immich-exposure changed\n")
    assert machine.files(machine.config) == before


def test_files_lie_beside_what_a_link_leads_to(machine: Machine) -> None:
    """Nix reads ./immich-exposure there, and never beside the link."""
    real = machine.root / "home/admin/photo-server/configuration.nix"
    machine.write(real, "{ }\n")
    (machine.config / "configuration.nix").symlink_to(real)
    install(machine)
    assert names(machine.config) == {"configuration.nix"}
    assert machine.files(real.parent) == {"configuration.nix": "0644 { }\n", **INSTALLED}
    remove(machine)
    assert names(real.parent) == {"configuration.nix"}


@pytest.mark.parametrize("theirs", ["folder", "empty folder", "link", "file"])
def test_what_is_not_ours_is_never_touched(machine: Machine, theirs: str) -> None:
    machine.write(machine.config / "configuration.nix", "{ }\n")
    place = machine.config / "immich-exposure"
    machine.write(machine.root / "elsewhere/.immich-exposure", MARK)
    if theirs == "link":
        place.symlink_to(machine.root / "elsewhere")
    elif theirs == "file":
        machine.write(place, "mine\n")
    else:
        place.mkdir()
        if theirs == "folder":
            machine.write(place / "mine.nix", "mine\n")
    before = machine.files(machine.root)
    assert_sentence(install(machine), "/etc/nixos/immich-exposure was not made by this project", "rename it")
    assert remove(machine).status == 0
    assert machine.files(machine.root) == {**before, "run/lock/immich-exposure.lock": "0600 "}
    assert names(machine.config) == {"configuration.nix", "immich-exposure"}


def test_a_file_of_the_users_in_our_folder_stays(machine: Machine) -> None:
    machine.write(machine.config / "configuration.nix", "{ }\n")
    install(machine)
    machine.write(machine.config / "immich-exposure/notes.txt", "mine\n")
    install(machine, {"immich-exposure/default.nix": "new\n"})
    assert machine.files(machine.config / "immich-exposure") == {
        ".immich-exposure": f"0644 {MARK}default.nix\n",
        "default.nix": "0644 new\n",
        "notes.txt": "0644 mine\n",
    }
    outcome = remove(machine)
    assert "contains files that are not ours, which stay" in outcome.stderr
    assert machine.files(machine.config / "immich-exposure") == {"notes.txt": "0644 mine\n"}


def test_a_mark_leads_to_no_file_elsewhere(machine: Machine) -> None:
    machine.write(machine.config / "configuration.nix", "{ }\n")
    install(machine)
    with (machine.config / "immich-exposure/.immich-exposure").open("a") as mark:
        mark.write("../configuration.nix\nnix/../../configuration.nix\n/etc/NIXOS\n")
    machine.write(machine.root / "etc/NIXOS", "")
    remove(machine)
    assert (machine.config / "configuration.nix").exists() and (machine.root / "etc/NIXOS").exists()


@pytest.mark.parametrize(
    "path",
    ["configuration.nix", "expose-immich.nix", "../x", "/etc/x", "immich-exposure/../../x",
     "immich-exposure/a b"],
)  # fmt: skip
def test_files_go_nowhere_else_and_nothing_is_half_written(machine: Machine, path: str) -> None:
    outcome = install(machine, {**FILES, path: "x\n"})
    assert_sentence(outcome, f'may not write to "{path}"')
    assert list(machine.config.iterdir()) == []


def test_a_read_only_folder_is_left_without_a_trace(machine: Machine) -> None:
    machine.write(machine.config / "configuration.nix", "{ }\n")
    machine.fake("mktemp", 'case $* in */etc/nixos/*) exit 1 ;; esac; exec /bin/mktemp "$@"')
    assert_sentence(install(machine), "Nothing can be written to /etc/nixos; make that folder writable")
    assert names(machine.config) == {"configuration.nix"}


def test_what_a_killed_run_left_is_cleared_up_and_nothing_else(machine: Machine) -> None:
    machine.write(machine.config / "configuration.nix", "{ }\n")
    machine.write(machine.config / "immich-exposure-stage.AAAAAA/.immich-exposure", MARK)
    machine.write(machine.config / "immich-exposure-stage.BBBBBB/mine", "mine\n")
    install(machine)
    assert names(machine.config) == {"configuration.nix", "immich-exposure", "immich-exposure-stage.BBBBBB"}


def test_the_files_of_the_running_system_are_kept_until_it_is_built_anew(machine: Machine) -> None:
    """What the system was built from, once, however often newer files come before the rebuild."""
    machine.write(machine.config / "configuration.nix", "{ }\n")
    machine.prepare()
    install(machine)
    machine.write(
        machine.config / "immich-exposure/home.nix", "{ imports = [ /etc/nixos/lan-immich.nix ]; }\n"
    )
    install(machine)
    kept = machine.state / "module.before"
    assert not kept.exists()
    first = machine.files(machine.config / "immich-exposure")
    for text in ("newer\n", "newest\n"):
        install(machine, {**FILES, "immich-exposure/default.nix": text})
        assert machine.files(kept) == first
    assert (machine.config / "immich-exposure/home.nix").exists()
    remove(machine)
    assert names(machine.config) == {"configuration.nix"}


def test_what_a_run_left_that_was_killed_at_its_start_goes(machine: Machine) -> None:
    """Files that were still to be renamed; but an empty folder without our mark may be anybody's."""
    machine.fake("tailscale", "exit 1")
    machine.write(machine.config / "configuration.nix", "{ }\n")
    (machine.config / "immich-exposure-stage.AAAAAA").mkdir()
    machine.state.mkdir(parents=True)
    assert remove(machine).status == 0
    assert names(machine.config) == {"configuration.nix", "immich-exposure-stage.AAAAAA"}
    (machine.config / "immich-exposure-stage.AAAAAA").rmdir()
    for place in ("run/immich-exposure.AAAAAA", "dev/shm/immich-exposure.AAAAAA", "run/immich-exposure-mine"):
        machine.write(machine.root / place / "status.json", "{}")
    assert machine.run("state", "remove").status == 0
    assert not machine.state.exists()
    assert names(machine.root / "run") == {"immich-exposure-mine", "lock"}
    install(machine)
    machine.prepare()
    machine.write(machine.config / "immich-exposure/.immich-exposure.AAAAAA", "half\n")
    for name in ("module.before.new/default.nix", "edge-abc.new", ".immich-exposure.AAAAAA"):
        machine.write(machine.state / name, "half\n")
    assert remove(machine).status == machine.run("state", "remove").status == 0
    assert names(machine.config) == {"configuration.nix"}
    assert not machine.state.exists()


def test_a_state_that_was_begun_is_ours_at_once(machine: Machine) -> None:
    machine.fake("chmod", "kill -9 $PPID")
    machine.fake("mv", "kill -9 $PPID")
    try:
        machine.begin()
    except AssertionError:
        shutil.rmtree(next(machine.root.glob("run/immich-exposure.*")))
    machine.unfake("chmod")
    machine.unfake("mv")
    assert machine.begin().status == 0


def test_files_need_the_folder_of_the_configuration(machine: Machine) -> None:
    assert_sentence(
        machine.run("files", "install", "/nowhere", payload=FILES), "/nowhere is not there", "set configDir"
    )
    assert_sentence(machine.run("files", "install", "etc/nixos", payload=FILES), "absolute path")
    assert_sentence(machine.run("files", "enlarge", "/etc/nixos", payload=FILES), "install CONFIG_DIR")


def test_files_remove_leaves_the_users_own(machine: Machine) -> None:
    machine.write(machine.config / "configuration.nix", "{ } # ./immich-exposure\n")
    machine.write(machine.config / "expose-immich.nix", "the user's own\n")
    install(machine)
    for _ in range(2):
        assert remove(machine) == Outcome(0, "", "")
        assert names(machine.config) == {"configuration.nix", "expose-immich.nix"}


def test_files_stay_while_the_running_system_has_the_module(machine: Machine) -> None:
    """It comes in by another file, say, and each of the owner's rebuilds would fail without them."""
    machine.write(machine.config / "configuration.nix", "{ imports = [ ./mine.nix ]; }\n")
    machine.write(machine.config / "mine.nix", "{ imports = [ ./immich-exposure ]; }\n")
    install(machine)
    before = machine.files(machine.config)
    command = machine.root / "run/current-system/sw/bin/immich-exposure"
    machine.write(command, "")
    assert_sentence(
        remove(machine),
        "still has the module from /etc/nixos/immich-exposure (it is named in /etc/nixos/mine.nix)",
        'remove every import of it, run "sudo nixos-rebuild switch"',
    )
    assert machine.files(machine.config) == before
    command.unlink()
    assert remove(machine).status == 0
    assert names(machine.config) == {"configuration.nix", "mine.nix"}


def test_files_go_with_a_configuration_that_is_gone(machine: Machine) -> None:
    """Its owner went over to a flake, and was told by module.sh."""
    machine.write(machine.root / "run/current-system/sw/bin/immich-exposure", "")
    install(machine)
    assert remove(machine).status == 0
    assert names(machine.config) == set()


def test_files_stay_while_they_are_imported(machine: Machine) -> None:
    machine.write(machine.config / "configuration.nix", "{ imports = [ ./immich-exposure ]; }\n")
    install(machine)
    before = machine.files(machine.config)
    assert_sentence(remove(machine), "still imports ./immich-exposure", "remove the module first")
    assert machine.files(machine.config) == before


def test_the_folders_of_the_exposure(machine: Machine) -> None:
    jails = ("bans/auth", "bans/keys", "bans/scan", "bans/lists")
    folders = ("", "devices", "revoked", "bans", "settings", "bans/manual", "tls", *jails)
    for groups, mode in (("", 0o700), ("immich-edge\nimmich-bans", 0o750)):
        machine.remember(groups=groups)
        assert machine.run("state", "prepare") == Outcome(0, "", "")
        assert {machine.state.joinpath(name).stat().st_mode & 0o777 for name in folders} == {mode}
        assert machine.files(machine.state) == {".immich-exposure": f"0644 {MARK}"}
    state, *places = (f"/var/lib/immich-exposure/{name}".rstrip("/") for name in folders)
    ours, of_bans = " ".join(places[: -len(jails)]), " ".join(places[-len(jails) :])
    assert machine.commands("chown") == [
        f"chown root:root {state}",
        f"chown root:root {ours}",
        f"chown root:root {of_bans}",
        f"chown root:immich-edge {state}",
        f"chown root:immich-edge {ours}",
        f"chown immich-bans:immich-edge {of_bans}",
    ]


ROOTS = """exec /usr/bin/stat "$@" | sed 's/ [^ ]*:[^ ]*$/ root:root/' """


def test_folders_that_are_as_they_must_be_are_left_alone(machine: Machine) -> None:
    machine.fake("stat", ROOTS)
    assert machine.run("state", "prepare").status == 0
    machine.forget_commands()
    assert machine.run("state", "prepare") == Outcome(0, "", "")
    assert machine.commands("chown") == []


@pytest.mark.parametrize("spoilt", ["mode", "gone", "link", "mark", "owner", "jail's owner"])
def test_a_folder_that_is_not_as_it_must_be_is_put_right(machine: Machine, spoilt: str) -> None:
    machine.fake("stat", ROOTS)
    assert machine.run("state", "prepare").status == 0
    machine.forget_commands()
    devices = machine.state / "devices"
    if spoilt == "mode":
        devices.chmod(0o755)
    elif spoilt == "mark":
        # Of a folder that is empty, as a killed run has left it.
        shutil.rmtree(machine.state)
        machine.state.mkdir()
    elif spoilt in ("gone", "link"):
        devices.rmdir()
    else:
        # The line of devices, and the one of bans/auth.
        line = 2 if spoilt == "owner" else 8
        machine.fake("stat", f"{ROOTS} | sed '{line}s/root:/admin:/'")
    if spoilt == "link":
        machine.write(machine.root / "elsewhere/kept", "")
        devices.symlink_to(machine.root / "elsewhere")
    assert machine.run("state", "prepare").status == 0
    assert machine.commands("chown")[0] == "chown root:root /var/lib/immich-exposure"
    assert devices.is_dir() and devices.stat().st_mode & 0o777 == 0o700


def test_the_edge_is_given_its_key_before_it_starts(machine: Machine) -> None:
    """The first certificate comes before the edge has a group."""
    machine.prepare()
    machine.write(machine.state / "tls/server.key", "key\n", 0o600)
    machine.remember(groups="immich-edge")
    machine.run("state", "prepare")
    assert (machine.state / "tls/server.key").stat().st_mode & 0o777 == 0o640
    assert "chown root:immich-edge /var/lib/immich-exposure/tls/server.key" in machine.commands("chown")


def test_preparing_waits_for_no_lock(machine: Machine) -> None:
    """A unit does it before it starts, while the run that starts the unit holds the lock."""
    assert machine.run("state", "prepare").status == 0
    assert machine.commands("flock") == []
    assert not (machine.root / "run/lock").exists()


def test_a_module_that_its_owner_exported_is_never_touched(machine: Machine) -> None:
    """With `module: managed` by mistake, `up` would replace it and `destroy` take it and its import away."""
    machine.write(machine.config / "configuration.nix", "{ imports = [ ./immich-exposure ]; }\n")
    export(machine.config / "immich-exposure")
    before = machine.files(machine.config)
    assert_sentence(install(machine), "/etc/nixos/immich-exposure was exported by", "set module: yours")
    assert machine.run("module", "restore", str(machine.config)).status == 0
    assert machine.run("files", "remove", str(machine.config)).status == 0
    assert machine.files(machine.config) == before


def test_a_state_of_somebody_else_is_never_touched(machine: Machine) -> None:
    machine.write(machine.state / "photos.db", "theirs\n")
    before = machine.files(machine.state)
    changes = [
        ("state", ("prepare",), None),
        ("state", ("--stack=ours", "begin", "a/b/c", "no", "phone"), None),
        ("settings", ("install",), SETTINGS),
        ("trust", ("install",), {"device-ca.crt": AUTHORITY}),
        ("devices", ("install",), {"devices": f"{'a' * 64} 1000010 phone\n"}),
    ]
    for script, arguments, payload in changes:
        assert_sentence(
            machine.run(script, *arguments, payload=payload), "was not made by this project", "move it away"
        )
    assert machine.run("state", "remove").status == 0
    assert machine.files(machine.state) == before


def test_an_empty_state_is_taken(machine: Machine) -> None:
    """A mount point, or what a killed run has left."""
    machine.state.mkdir()
    # As a folder that an account of the owner's made, which could rename what we put there.
    machine.fake("chown", 'case $2 in */immich-exposure) ls -A "$2" >>"$FAKES/found" ;; esac')
    assert machine.run("state", "prepare").status == 0
    assert (machine.state / ".immich-exposure").exists()
    assert "chown root:root /var/lib/immich-exposure" in machine.commands("chown")
    assert (machine.fakes / "found").read_text() == "", "it is root's before anything of ours lies there"


def test_the_owner_is_written_down(machine: Machine) -> None:
    assert machine.begin("phone").status == 0
    assert (machine.state / "owner").read_text() == "ours organization/immich/home\n"
    assert_sentence(machine.begin(owner="a b"), "is a stack, not", "organization/project/stack")
    assert_sentence(machine.begin(owner=""), "is a stack, not")
    assert_sentence(machine.begin(take_over="perhaps"), "takes OWNER, yes or no, and the names of devices")
    assert_sentence(machine.begin(stack="a b"), "The id of a stack cannot be")
    assert_sentence(machine.run("state", "begin", "a/b/c", "no"), "The id of a stack cannot be")


def test_removing_leaves_what_is_unknown(machine: Machine) -> None:
    machine.begin()
    machine.run("settings", "install", payload=SETTINGS)
    machine.run("trust", "install", payload={"device-ca.crt": AUTHORITY})
    machine.write(machine.state / "notes.txt", "mine\n")
    for digest in ("a" * 64, "b" * 64):
        machine.write(machine.state / f"edge-{digest}", "the edge, built elsewhere\n", 0o755)
    for name in ("access.log", "devices.log", "offences.log", "offences-2026-01-01T00-00-00.000.log.gz"):
        machine.write(machine.root / "var/log/immich-edge" / name, "x\n")
    machine.write(machine.root / "var/log/immich-edge/mine.txt", "x\n")
    stamps = machine.root / "var/lib/systemd/timers"
    for name in ("immich-exposure-devices", "immich-exposure-certificate", "logrotate"):
        machine.write(stamps / f"stamp-{name}.timer", "")
    machine.remember(active="immich-exposure-certificate.timer")
    machine.unfake("tailscale")
    machine.fake("tailscale", "exit 1")
    outcome = machine.run("state", "remove")
    assert (outcome.status, "files that are not ours" in outcome.stderr) == (0, True)
    assert machine.files(machine.root / "var") == {
        "lib/immich-exposure/notes.txt": "0644 mine\n",
        "log/immich-edge/mine.txt": "0644 x\n",
        "lib/systemd/timers/stamp-immich-exposure-certificate.timer": "0644 ",
        "lib/systemd/timers/stamp-logrotate.timer": "0644 ",
    }
    assert machine.run("state", "remove").status == 0


def test_the_logs_of_somebody_else_are_never_taken(machine: Machine) -> None:
    """Whose system has our module by their own hand, say, and whose exposure never began."""
    machine.remember(module='{"digest":"abc"}')
    machine.fake("tailscale", "exit 1")
    logs = machine.root / "var/log/immich-edge"
    machine.write(logs / "access.log", "theirs\n")
    for _ in range(2):
        assert machine.run("state", "prepare").status == 0
    assert machine.run("state", "remove").status == 0
    assert machine.files(logs) == {"access.log": "0644 theirs\n"}


def test_an_empty_folder_of_logs_is_marked_and_goes_with_what_the_edge_wrote(machine: Machine) -> None:
    machine.fake("tailscale", "exit 1")
    logs = machine.root / "var/log/immich-edge"
    logs.mkdir(parents=True)
    assert machine.run("state", "prepare") == Outcome(0, "", "")
    assert machine.files(logs) == {".immich-exposure": f"0644 {MARK}"}
    machine.write(logs / "access.log", "ours\n")
    assert machine.run("state", "prepare") == Outcome(0, "", "")
    shutil.rmtree(machine.state)
    assert machine.run("state", "remove").status == 0
    assert not logs.exists()


def test_a_link_in_the_place_of_the_mark_leads_nowhere(machine: Machine) -> None:
    """The edge owns that folder, and root writes the mark."""
    machine.begin()
    logs, elsewhere = machine.root / "var/log/immich-edge", machine.root / "etc/elsewhere"
    logs.mkdir(parents=True)
    (logs / ".immich-exposure").symlink_to(elsewhere)
    assert machine.run("state", "prepare") == Outcome(0, "", "")
    assert not elsewhere.exists()
    assert machine.files(logs) == {".immich-exposure": f"0644 {MARK}"}
    (logs / ".immich-exposure").unlink()
    (logs / ".immich-exposure").mkdir()
    outcome = machine.run("state", "prepare")
    assert (outcome.status, "could not be written" in outcome.stderr) == (0, True)


def test_a_unit_that_was_masked_by_hand_is_unmasked_before_anything_else(machine: Machine) -> None:
    folder = machine.root / "etc/systemd/system.control"
    folder.mkdir(parents=True)
    for name in ("immich-bans.service", "theirs.service"):
        (folder / name).symlink_to("/dev/null")
    (folder / "immich-edge.service").write_text("[Unit]\n")
    machine.prepare()
    outcome = machine.run_text(script_text("state"), "--stack=ours", "prepare", "a/b/c")
    assert outcome.status == 0, outcome.stderr
    assert sorted(each.name for each in folder.iterdir()) == ["immich-edge.service", "theirs.service"]
    assert "which masks immich-bans.service\n" in outcome.stderr
    assert machine.commands("systemctl") == ["systemctl daemon-reload"]


def test_nothing_is_removed_while_the_edge_runs(machine: Machine) -> None:
    machine.prepare()
    machine.fake("tailscale", "exit 1")
    machine.remember(active="immich-edge")
    assert_sentence(machine.run("state", "remove"), "The edge is still running", "remove the module first")
    assert (machine.state / ".immich-exposure").exists()


SETTINGS = {
    "edge.env": "# made\nIMMICH_EXPOSURE_UPLOADS=off\nIMMICH_EXPOSURE_REJECT_WITH=forbidden\n",
    "bans.conf": "[DEFAULT]\nmaxretry = 10\n",
}


def settings(machine: Machine, **changes: str) -> Outcome:
    files = {name: changes.get(name.split(".")[0], text) for name, text in SETTINGS.items()}
    return machine.run("settings", "install", payload=files)


def test_a_hanging_edge_is_restarted_before_it_is_told(machine: Machine) -> None:
    assert settings(machine).status == 0
    machine.edge_runs("immich-bans")
    machine.remember(answers="no /config/ 000")
    machine.forget_commands()
    assert settings(machine, edge=SETTINGS["edge.env"].replace("off", "on")).status == 0
    done = [line for line in machine.commands("systemctl") if "is-active" not in line]
    assert done == ["systemctl restart immich-edge", "systemctl reload immich-edge"]


def test_changed_settings_are_taken_over_once_and_only_by_whom_they_concern(machine: Machine) -> None:
    assert settings(machine).status == 0
    machine.edge_runs("immich-bans")
    new = SETTINGS["edge.env"].replace("off", "on")
    steps = [
        ({}, []),
        ({"edge": new}, ["systemctl reload immich-edge"]),
        ({"edge": new}, []),
        ({"edge": new, "bans": "[DEFAULT]\nmaxretry = 3\n"}, ["systemctl reload-or-restart immich-bans"]),
    ]
    for changes, expected in steps:
        machine.forget_commands()
        assert settings(machine, **changes).status == 0
        assert [line for line in machine.commands("systemctl") if "is-active" not in line] == expected
    assert machine.files(machine.state / "settings") == {
        "edge.env": f"0644 {new}",
        "bans.conf": "0644 [DEFAULT]\nmaxretry = 3\n",
    }


@pytest.mark.parametrize(
    ("word", "reason"), [("reload", "edge refused"), ("reload-or-restart", "fail2ban refused")]
)
def test_settings_that_are_refused_are_taken_back(machine: Machine, word: str, reason: str) -> None:
    settings(machine)
    machine.edge_runs("immich-bans")
    before = machine.files(machine.state)
    machine.remember(**{f"{word}-fails": ""})
    changes = {"edge": "IMMICH_EXPOSURE_X=y\n", "bans": "[DEFAULT]\nmaxretry = 3\n"}
    assert_sentence(settings(machine, **changes), reason, "journalctl -u immich-")
    assert machine.files(machine.state) == before


def test_settings_that_a_killed_run_left_are_taken_over_by_the_next(machine: Machine) -> None:
    settings(machine)
    machine.edge_runs("immich-bans")
    machine.write(machine.state / "settings/.edge.unloaded", "")
    machine.forget_commands()
    assert settings(machine).status == 0
    assert "systemctl reload immich-edge" in machine.commands("systemctl")


def test_what_changes_behind_a_proven_funnel_puts_it_on_a_short_lease(machine: Machine) -> None:
    """In `pulumi up --target` nothing else does, and nobody proves what comes."""
    settings(machine)
    machine.run("trust", "install", payload={"device-ca.crt": AUTHORITY})
    other = SETTINGS["edge.env"].replace("off", "on")

    def lease_after(change: Callable[[], Outcome]) -> str:
        machine.write(machine.state / "lease", "confirmed\n")
        machine.write(machine.state / "proven", "443 8443 ab\n")
        machine.forget_commands()
        assert change().status == 0
        lease = (machine.state / "lease").read_text()
        assert (machine.state / "proven").exists() is (lease == "confirmed\n")
        armed = [line for line in machine.commands("systemd-run") if "--on-active=600" in line]
        assert len(armed) == lease.startswith("trial")
        return lease.split(" ")[0].strip()

    def pool(text: str) -> Outcome:
        return machine.run("trust", "install", payload={"device-ca.crt": text})

    assert lease_after(lambda: settings(machine)) == "confirmed"
    assert lease_after(lambda: settings(machine, bans="[DEFAULT]\nmaxretry = 3\n")) == "confirmed"
    assert lease_after(lambda: settings(machine, edge=other)) == "trial"
    assert lease_after(lambda: pool(AUTHORITY)) == "confirmed"
    assert lease_after(lambda: pool(AUTHORITY + AUTHORITY)) == "trial"


def test_a_short_lease_is_as_long_whoever_begins_it() -> None:
    assert f"\nSHORT_LEASE={LEASE_SECONDS}\n" in (SCRIPTS / "lib.sh").read_text()


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"edge.env": "PATH=/tmp\n", "bans.conf": "[DEFAULT]\n"}, "not IMMICH_EXPOSURE_NAME=VALUE"),
        ({"edge.env": "IMMICH_EXPOSURE_A=b\n", "bans.conf": "maxretry = 3\n"}, "no section [DEFAULT]"),
        ({"edge.env": "IMMICH_EXPOSURE_A=b\n"}, "lacks edge.env or bans.conf"),
        (
            {**SETTINGS, "other": "x\n"},
            'may hold edge.env, bans.conf, guard.conf and uploads.conf, not "other"',
        ),
        ({**SETTINGS, "guard.conf": "guard maybe\n"}, 'neither "guard on" nor "guard off"'),
    ],
)
def test_settings_are_looked_at_before_they_are_taken(
    machine: Machine, files: dict[str, str], reason: str
) -> None:
    assert_sentence(machine.run("settings", "install", payload=files), reason)
    assert machine.files(machine.root / "var") == {}


def without_mark(machine: Machine) -> dict[str, str]:
    """What lies in the folder of the exposure, but for its mark."""
    return {name: text for name, text in machine.files(machine.state).items() if name != ".immich-exposure"}


def test_trust_pool_arrives_and_a_running_edge_reloads_once(machine: Machine) -> None:
    machine.prepare()
    machine.edge_runs()
    others = without_mark(machine)
    for expected in (["systemctl is-active --quiet immich-edge", "systemctl reload immich-edge"], []):
        machine.forget_commands()
        assert machine.run("trust", "install", payload={"device-ca.crt": AUTHORITY}).status == 0
        assert machine.commands("systemctl") == expected
    assert without_mark(machine) == {**others, "device-ca.crt": f"0644 {AUTHORITY}"}


def test_an_edge_whose_files_were_deleted_reloads_once_all_are_there_again(machine: Machine) -> None:
    """Half of them it would refuse, and the run would fail at each."""
    machine.prepare()
    machine.edge_runs()
    machine.write(machine.state / "domain.env", "IMMICH_EXPOSURE_DOMAIN=x\n")
    for name in ("settings/edge.env", "device-ca.crt"):
        (machine.state / name).unlink()
    machine.remember(**{"reload-fails": ""})  # so would the real one
    outcome = settings(machine)
    assert outcome.status == 0
    assert "once device-ca.crt is back in /var/lib/immich-exposure" in outcome.stderr
    (machine.fakes / "reload-fails").unlink()
    assert machine.commands("systemctl")[-1] == "systemctl is-active --quiet immich-bans"
    machine.forget_commands()
    assert machine.run("trust", "install", payload={"device-ca.crt": AUTHORITY}).status == 0
    assert machine.commands("systemctl")[-1] == "systemctl reload immich-edge"


def test_a_fail2ban_whose_folders_were_deleted_starts_again(machine: Machine) -> None:
    """It has each jail's folder as a mount, which goes with the folder: it would ban into nothing."""
    machine.prepare()
    machine.remember(active="immich-bans")
    assert machine.run("state", "prepare").status == 0
    assert "restart" not in "".join(machine.commands("systemctl"))
    shutil.rmtree(machine.state / "bans")
    assert machine.run("state", "prepare").status == 0
    assert machine.commands("systemctl")[-1] == "systemctl --no-block try-restart immich-bans"


def test_trust_pool_without_an_edge_reloads_nothing(machine: Machine) -> None:
    machine.prepare()
    assert machine.run("trust", "install", payload={"device-ca.crt": AUTHORITY}).status == 0
    assert machine.commands("systemctl") == ["systemctl is-active --quiet immich-edge"]


def test_trust_pool_that_the_edge_refuses_is_taken_back(machine: Machine) -> None:
    machine.run("trust", "install", payload={"device-ca.crt": AUTHORITY})
    machine.edge_runs()
    machine.remember(**{"reload-fails": ""})
    outcome = machine.run("trust", "install", payload={"device-ca.crt": AUTHORITY.replace("AAAA", "BBBB")})
    assert_sentence(outcome, "The edge refused to reload", "journalctl -u immich-edge")
    assert machine.files(machine.state)["device-ca.crt"] == f"0644 {AUTHORITY}"


def test_trust_pool_that_a_killed_run_left_unloaded_is_loaded_by_the_next(machine: Machine) -> None:
    machine.prepare()
    machine.edge_runs()
    (machine.state / "device-ca.crt").unlink()
    machine.fake("mv", "kill -9 $PPID")
    with pytest.raises(AssertionError, match="left its private folder behind"):
        machine.run("trust", "install", payload={"device-ca.crt": AUTHORITY})
    machine.unfake("mv")
    shutil.rmtree(next(machine.root.glob("run/immich-exposure.*")))
    (machine.state / "device-ca.crt").write_text(AUTHORITY)  # as if it had been killed a moment later
    machine.forget_commands()
    assert machine.run("trust", "install", payload={"device-ca.crt": AUTHORITY}).status == 0
    assert "systemctl reload immich-edge" in machine.commands("systemctl")


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
    assert_sentence(machine.run("trust", "renew"), "the verb install alone")
    assert without_mark(machine) == {}


def test_changes_need_root(machine: Machine) -> None:
    machine.fake("id", "echo 1000")
    for script, verb in [
        ("files", "remove"),
        ("trust", "install"),
        ("devices", "revoke"),
        ("state", "remove"),
    ]:
        assert_sentence(machine.run(script, verb, "/x"), "must run as root; use sudo")
