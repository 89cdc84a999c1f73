"""The program as a whole, without an engine: what it registers, and what never leaves in plain.

Mocks record every resource's inputs. They know neither ``depends_on`` nor deletion; the order is tried
with the real engine in ``tests/lab``.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pulumi
import pytest
from pulumi.runtime.rpc import _special_secret_sig, _special_sig_key
from pulumi_command import remote
from pytest_mock import MockerFixture

from components.config import stack_config as config_module
from components.drift import Seen
from components.exposure import ImmichExposure
from components.remote.module_files import digest
from components.remote.remote_script import SERVER_FILES, PayloadFile, script_digest
from pki import AuthorityProfile, DeviceProfile, Keystore, Platform
from tests.unit.loops import own_loop

PASSPHRASE = "a passphrase that must not be seen"
SUDO_PASSWORD = "the password of sudo's user"
SSH_KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n"
FINGERPRINT = "ab" * 32
FINGERPRINT_BEFORE = "cd" * 32
EDGE = "ef" * 32
OWNER = "immich-exposure/unit"
COMMAND = "command:remote:Command"
RUNS_A_SCRIPT = {
    COMMAND,
    *(
        f"pulumi-python:dynamic/immich:{name}"
        for name in (
            "ServerScript",
            "ServerCertificate",
            "EdgeSettings",
            "TrustPool",
            "ChapterTakeOver",
            "ShortLease",
        )
    ),
}
CLOSE = "immich-funnel-close"
ADOPTED = {"fingerprint": "ef" * 32, "notAfter": "2027-01-01T00:00:00+00:00"}


class Recorder(pulumi.runtime.Mocks):
    """Answers like the engine and keeps what every resource was given."""

    def __init__(self, certificate_pem: str) -> None:
        self.certificate_pem = certificate_pem
        self.resources: dict[str, tuple[str, dict[str, Any]]] = {}

    def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str, dict[str, Any]]:
        self.resources[args.name] = (args.typ, args.inputs)
        outputs = dict(args.inputs)
        if args.typ.startswith("pulumi-python:"):
            outputs.update(
                stdout=json.dumps(
                    {"domain": "immich.example.ts.net", "certificatePem": self.certificate_pem}
                ),
                certificatePem=self.certificate_pem,
                trustedPem=self.certificate_pem,
                trusted=[FINGERPRINT],
                fingerprint=FINGERPRINT,
                previousFingerprint=FINGERPRINT_BEFORE,
                previousUntil="2026-12-24T00:00:00+00:00",
                notAfter="2036-01-01T00:00:00+00:00",
                bundlePath="phone.p12",
                bundlePassword="the bundle's password",
                results=["GET / 403: fine"],
                warnings=[],
                notes=[],
                machine="aarch64",
                sha256=EDGE,
                domain="immich.example.ts.net",
                adopted={name: ADOPTED for name in ("phone", "ben")},
                files={"server:/var/lib/certs/ca-cert.pem": "ef" * 32},
                bans=["203.0.113.9"],
            )
        return f"{args.name}-id", outputs

    def call(self, args: pulumi.runtime.MockCallArgs) -> tuple[dict[Any, Any], list[tuple[str, str]] | None]:
        raise AssertionError(f"the program calls no function of a provider, but called {args.token}")

    def commands(self) -> dict[str, dict[str, Any]]:
        """Return the inputs of all that runs a script on the server by name, without whose run each is."""
        return {
            name: {key: _of_nobody(value) if key in LINES else value for key, value in inputs.items()}
            for name, (typ, inputs) in self.resources.items()
            if typ in RUNS_A_SCRIPT
        }


LINES = ("create", "update", "delete")
BEGINNING = "set -eu\numask 022\n"
"""Of every script that travels."""


def _of_nobody(line: str) -> str:
    return line.replace("--stack=immich-identity-id ", "").replace("--leaving=immich-identity-id ", "")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorder:
    """Run the program once for two devices and return what it registered."""
    return run_program(tmp_path_factory.mktemp("project"))


def run_program(
    folder: Path, seen: Seen | None = None, *, preview: bool = False, **settings: Any
) -> Recorder:
    """Run the program for two devices and with these settings, and return what it registered.

    ``seen`` is what a look at the server finds: nothing unless given.
    """
    (folder / "ssh-key").touch(mode=0o600)
    (folder / "ssh-key").write_text(SSH_KEY)
    (folder / "ssh-key").chmod(0o600)
    store = Keystore(folder / "keystore", PASSPHRASE, kdf_rounds=2)
    recorder = Recorder(store.adopt_or_create_authority(AuthorityProfile()).certificate_pem)

    async def program() -> None:
        config = config_module.load(
            {
                "host": "192.168.1.20",
                "hostKey": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICd9Sn/CrLavrIHzvx3RuZLyh4tRBT7PQTx533eBaTsJ",
                "sshPrivateKeyFile": str(folder / "ssh-key"),
                "keystorePassphrase": PASSPHRASE,
                "devices": [{"name": "phone", "platform": "ios"}, {"name": "laptop", "platform": "linux"}],
                **settings,
            },
            stack="unit",
            project_dir=folder,
            preview=preview,
        )
        exposure = ImmichExposure("immich", config)
        await exposure.urn.future()

    # Nobody is asked: there is no such server.
    with patch("components.drift.look", return_value=seen or Seen()), own_loop() as loop:
        pulumi.runtime.set_mocks(recorder, project="immich-exposure", stack="unit", preview=preview)
        loop.run_until_complete(
            pulumi.runtime.stack.run_pulumi_func(lambda: asyncio.ensure_future(program()))
        )
    return recorder


def test_each_step_of_the_chapter_is_a_resource(recorded: Recorder) -> None:
    names = {typ.rsplit(":", 1)[1] for typ, _ in recorded.resources.values()}
    assert names >= {
        "ImmichExposure",
        "Preflight",
        "CertificateAuthority",
        "ClientCertificate",
        "EdgeSettings",
        "ServerCertificate",
        "TrustPool",
        "NixosConfiguration",
        "DeviceList",
        "DeviceWithdrawal",
        "Funnel",
        "InstallSheets",
        "ExposureCheck",
    }


def test_no_command_is_ever_replaced(recorded: Recorder) -> None:
    """A replacement runs the new create and then the old delete: it would leave the funnel closed."""
    commands = recorded.commands()
    assert len(commands) >= 8
    for name, inputs in commands.items():
        assert "triggers" not in inputs, name
        # What begins an exposure anew is not for an update: its list of devices is that of the beginning.
        anew = f"sudo -n sh -s -- prepare {OWNER}"
        if name.endswith("-guard"):
            assert not {"create", "update"} & set(inputs), name
            continue
        assert inputs.get("update") == (anew if name == "immich-state-folder" else None), name


@pytest.mark.parametrize("preview", [False, True])
def test_a_keystore_that_cannot_be_looked_into_keeps_no_lost_device_in(tmp_path: Path, preview: bool) -> None:
    """A failing drive, or a folder that is root's: the steps that need it say what is wrong with it."""
    recorded = run_program(tmp_path, preview=preview, keystore=str(tmp_path / ("k" * 300)))
    assert set(recorded.resources["immich-withdrawal"][1]["mayComeIn"]) == {"phone", "laptop"}


def test_each_line_says_whose_run_it_is_and_whether_it_is_a_way_back(recorded: Recorder) -> None:
    for name, (typ, inputs) in recorded.resources.items():
        if typ not in RUNS_A_SCRIPT:
            continue
        for key in set(LINES) & set(inputs):
            word = "--leaving" if key == "delete" else "--stack"
            assert inputs[key].startswith(f"sudo -n sh -s -- {word}=immich-identity-id "), name
    for looks in ("immich-preflight", "immich-check"):
        assert recorded.resources[looks][1]["stackId"] == "immich-identity-id"


def test_an_exposure_begins_with_the_devices_of_the_config_and_no_others(recorded: Recorder) -> None:
    assert recorded.commands()["immich-state-folder"]["create"] == (
        f"sudo -n sh -s -- begin {OWNER} no phone laptop"
    )


def test_lines_are_bare_and_scripts_are_named_by_their_digest(recorded: Recorder) -> None:
    for name, inputs in recorded.commands().items():
        for key in LINES:
            assert inputs.get(key, "sudo -n sh -s -- ").startswith("sudo -n sh -s -- "), name
        if name == CLOSE:
            continue
        assert BEGINNING not in json.dumps(inputs), name
        # A way back is run by the script that lies here by then.
        wanted = script_digest(inputs["script"]) if "create" in inputs else None
        assert inputs.get("digest") == wanted, name


def test_the_funnel_is_closed_by_what_the_state_holds_alone(recorded: Recorder) -> None:
    """Whatever has become of this program's files by then."""
    commands = {name for name, (typ, _) in recorded.resources.items() if typ == COMMAND}
    assert commands == {CLOSE}
    guard = recorded.commands()[CLOSE]
    assert not {"create", "update", "environment"} & set(guard)
    assert guard["addPreviousOutputInEnv"] is False
    assert guard["stdin"].startswith(BEGINNING)
    for function in ("close_exposure() {", "close_funnel() {", "stop_edge() {"):
        assert f"\n{function}\n" in guard["stdin"]
    assert guard["stdin"].endswith('\nneed_root\nshift\nclose_exposure "$@"\n')


def test_the_funnel_closes(recorded: Recorder) -> None:
    commands = recorded.commands()
    close = "sudo -n sh -s -- close 443 8443 destroy"
    assert commands[CLOSE]["delete"] == close


def test_each_way_back_is_gone_once_and_what_lies_in_the_folder_goes_with_it(recorded: Recorder) -> None:
    back = {name for name, inputs in recorded.commands().items() if "delete" in inputs}
    guarded = {"immich-state-folder", "immich-nixos-module"}
    assert back == {CLOSE, *(f"{name}-guard" for name in (*guarded, "immich-nixos-files"))}
    within = {"immich-settings", "immich-server-certificate", "immich-trust-pool"}
    changes_nothing = {"immich-short-lease"}
    assert set(recorded.commands()) == back | guarded | within | changes_nothing


@pytest.mark.parametrize(
    "changed",
    [
        {"uploads": True},
        {"bans": {"maxRetry": 9}},
        {"lan": "keep"},
        {"edgeBuild": "operator"},
        {"leaseHours": 5},
        {"check": {"connectTo": "127.0.0.1:9"}},
        {"devices": [{"name": "phone", "platform": "ios"}]},
        {"rejectWith": "drop"},
        {"allowUpgrade": True},
        {"configDir": "/etc/nixos/pi"},
    ],
)
def test_whatever_changes_the_funnel_goes_on_a_short_lease_first(
    recorded: Recorder, tmp_path: Path, changed: dict[str, Any]
) -> None:
    """And then the check runs again: what the server says of it is among what that is given."""
    now, then = (
        each.commands()["immich-short-lease"] for each in (recorded, run_program(tmp_path, **changed))
    )
    assert re.fullmatch("sudo -n sh -s -- trial 443 8443 600 no [0-9a-f]{16}", then["create"])
    assert then["create"] != now["create"]
    _, check = recorded.resources["immich-check"]
    assert check["begun"] == json.dumps(
        {"domain": "immich.example.ts.net", "certificatePem": recorded.certificate_pem}
    )


def test_where_nothing_changes_the_funnel_is_left_alone(recorded: Recorder, tmp_path: Path) -> None:
    now, then = (each.commands()["immich-short-lease"] for each in (recorded, run_program(tmp_path)))
    assert now["create"] == then["create"]


def test_what_a_killed_run_leaves_is_taken_back_by_a_guard(recorded: Recorder) -> None:
    """A step whose create was killed is not in state: destroy would not even try to take it back."""
    commands = recorded.commands()
    for name in ("immich-state-folder", "immich-nixos-module"):
        assert commands[f"{name}-guard"]["script"] == commands[name]["script"], name
        assert "delete" not in commands[name] and commands[f"{name}-guard"]["delete"], name


def test_the_devices_are_one_list_by_name(recorded: Recorder) -> None:
    devices = recorded.resources["immich-devices"][1]["devices"]
    assert set(devices) == {"phone", "laptop"}
    assert devices["phone"] == {
        "fingerprint": FINGERPRINT,
        "until": "2036-01-01T00:00:00+00:00",
        "before": FINGERPRINT_BEFORE,
        "beforeUntil": "2026-12-24T00:00:00+00:00",
    }


def test_a_frame_stands_among_the_devices_by_the_hash_of_its_secret(tmp_path: Path) -> None:
    recorded = run_program(tmp_path, frames=[{"name": "kitchen"}])
    devices = recorded.resources["immich-devices"][1]["devices"]
    assert devices["kitchen"] == {
        "fingerprint": FINGERPRINT,
        "until": "frame",
        "before": "",
        "beforeUntil": "",
    }
    names = recorded.resources["immich-withdrawal"][1]["mayComeIn"]
    assert names["kitchen"] == "loses access for good when it is no longer named here as a frame"
    assert recorded.resources["immich-ca"][1]["devices"] == ["phone", "laptop", "kitchen"]
    secret = recorded.resources["immich-frame-kitchen"][1]
    assert secret["frame"] == "kitchen" and "secret" not in secret


def test_without_frames_nothing_is_other_than_before(recorded: Recorder) -> None:
    assert not any("frame" in name.lower() for name in recorded.resources)
    assert "frame" not in json.dumps([inputs.get("public") for _, inputs in recorded.resources.values()])


def test_who_may_stay_is_told_by_names_alone(recorded: Recorder) -> None:
    """Nothing that may fail is asked for them: no key, no certificate; nor need the server answer."""
    inputs = recorded.resources["immich-withdrawal"][1]
    assert inputs["mayComeIn"] == dict.fromkeys(
        ("phone", "laptop"), "loses access for good when it is no longer named here"
    )
    assert inputs["toBeRevoked"] == {}
    assert PASSPHRASE not in json.dumps(inputs) and FINGERPRINT not in json.dumps(inputs)


def test_who_is_inside_and_not_named_is_to_be_shut_out(tmp_path: Path) -> None:
    seen = Seen(devices=[f"{FINGERPRINT} laptop", f"{FINGERPRINT_BEFORE} tablet"])
    inputs = run_program(tmp_path, seen).resources["immich-withdrawal"][1]
    words = "tablet is enrolled on the server, but the config does not name it"
    assert inputs["toBeRevoked"] == {FINGERPRINT_BEFORE: words}


def test_devices_cost_no_commands(recorded: Recorder, tmp_path: Path) -> None:
    many = run_program(
        tmp_path, devices=[{"name": f"device-{number}", "platform": "ios"} for number in range(9)]
    )
    assert set(many.commands()) == set(recorded.commands())


def test_every_connection_is_secret_and_pins_the_host_key(recorded: Recorder) -> None:
    for name, inputs in recorded.commands().items():
        if name != CLOSE:
            assert inputs["hostKey"].startswith("ssh-ed25519 ") and "connection" not in inputs, name
    connection = recorded.commands()[CLOSE]["connection"]
    assert is_secret(connection)
    assert connection["value"]["hostKey"].startswith("ssh-ed25519 ")


def test_a_preview_without_the_key_shows_no_change_of_the_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warned: list[str] = []
    told: list[str] = []
    ignored: list[list[str]] = []
    original = remote.Command.__init__

    def watched(self: remote.Command, name: str, **inputs: Any) -> None:
        ignored.append(inputs["opts"].ignore_changes or [])
        original(self, name, **inputs)

    monkeypatch.setattr(pulumi, "warn", warned.append)
    monkeypatch.setattr(pulumi, "info", told.append)
    monkeypatch.setattr(remote.Command, "__init__", watched)
    recorder = run_program(tmp_path, preview=True, sshPrivateKeyFile=str(tmp_path / "elsewhere"))
    assert "privateKey" not in recorder.commands()[CLOSE]["connection"]["value"]
    assert ignored == [["connection"]]
    assert any("There is no private SSH key at" in text for text in warned)
    assert any("A preview asks the server only what has changed there" in text for text in told)
    ignored.clear()
    run_program(tmp_path, preview=True)
    assert not any("connection" in each for each in ignored)


def test_no_secret_leaves_in_plain(recorded: Recorder) -> None:
    """Walk all inputs of all resources; whatever is secret must stand inside a secret envelope."""
    for name, (_, inputs) in recorded.resources.items():
        for text in plain_texts(inputs):
            assert PASSPHRASE not in text, name
            assert not re.search("BEGIN [A-Z ]*PRIVATE KEY-", text), name


def test_the_walk_finds_what_is_planted() -> None:
    secret = {_special_sig_key: _special_secret_sig, "value": "hidden"}
    assert list(plain_texts({"a": [{"b": "seen"}], "c": secret})) == ["seen"]


def test_the_certificate_authority_gives_the_server_its_certificate_alone(recorded: Recorder) -> None:
    files = recorded.commands()["immich-trust-pool"]["files"]
    assert files == {"device-ca.crt": recorded.certificate_pem}


def test_what_lands_on_the_server_is_what_lies_in_the_tree(recorded: Recorder) -> None:
    files = recorded.resources["immich-nixos-files"][1]["files"]
    for path in ("nix/default.nix", "Caddyfile", "surface.toml", "fail2ban/filter.d/immich-scan.conf"):
        assert files[path] == (SERVER_FILES / path).read_text(encoding="utf-8"), path
    for path in ("caddy/main.go", "scripts/lib.sh"):
        program = (SERVER_FILES / path).read_bytes()
        assert files[path] == f"sha256 {hashlib.sha256(program).hexdigest()[:16]}"


# How the module gets in


def lines_of(recorder: Recorder) -> dict[str, tuple[str, str]]:
    """Return create and delete of the commands of the NixOS configuration, without what makes them root's."""
    commands = recorder.commands()
    return {
        name.removeprefix("immich-nixos-"): tuple(
            line.removeprefix("sudo -n sh -s -- ")
            for line in (inputs["create"], commands[f"{name}-guard"]["delete"])
        )
        for name, inputs in commands.items()
        if name.startswith("immich-nixos-") and not name.endswith("-guard")
    }


def test_managed_puts_files_and_a_line_into_the_configuration(recorded: Recorder) -> None:
    assert lines_of(recorded) == {
        "module": ("managed /etc/nixos 8443 - 2283 no", "restore /etc/nixos"),
    }


def test_the_files_go_only_after_what_imports_them(recorded: Recorder) -> None:
    assert recorded.resources["immich-nixos-files"][1]["configDir"] == "/etc/nixos"
    guard = recorded.commands()["immich-nixos-files-guard"]
    assert guard["delete"] == "sudo -n sh -s -- remove /etc/nixos"


def test_yours_writes_no_nix_file(tmp_path: Path) -> None:
    recorder = run_program(
        tmp_path, module="yours", immich={"managed": False, "address": "::1", "port": 3001}
    )
    assert lines_of(recorder) == {"module": ("yours 8443 ::1 3001", "leave")}


def test_a_flake_is_built_by_its_folder_and_host(tmp_path: Path) -> None:
    recorder = run_program(tmp_path, flake="/home/a/nix#pi", allowUpgrade=True)
    assert lines_of(recorder) == {"module": ("flake /home/a/nix pi 8443 - 2283 yes", "leave")}


def test_the_same_settings_are_no_reason_for_anything(recorded: Recorder, tmp_path: Path) -> None:
    assert differing(recorded, run_program(tmp_path)) == set()


def test_what_the_first_up_made_is_nothing_new_for_the_second(tmp_path: Path) -> None:
    """Where only an input differs, the engine says "unchanged" and yet writes its state, once for each."""
    first = run_program(tmp_path)
    store = Keystore(tmp_path / "stacks/keystore/unit", PASSPHRASE, stack="unit", kdf_rounds=2)
    store.adopt_or_create_authority(AuthorityProfile())
    for name, platform in (("phone", Platform.IOS), ("laptop", Platform.LINUX)):
        store.adopt_or_issue_device(name, DeviceProfile(name, platform=platform))
    assert differing(first, run_program(tmp_path)) == set()


def test_a_setting_is_no_reason_for_a_rebuild(recorded: Recorder, tmp_path: Path) -> None:
    """Only what is told and the settings differ, and with them the short lease and the check from outside.

    For uploads the server is asked what room it has, too.
    """
    told = {"immich", "immich-drift", "immich-short-lease"}
    told |= {"immich-settings", "immich-check"}
    some = run_program(tmp_path, features={"map": False}, bans={"banTime": "2h"})
    assert differing(recorded, some) == told
    uploads = run_program(tmp_path, uploads=True)
    assert differing(recorded, uploads) == {*told, "immich-preflight"}


def test_what_is_built_is_a_reason_for_a_rebuild(recorded: Recorder, tmp_path: Path) -> None:
    changed = differing(recorded, run_program(tmp_path, lan="keep"))
    assert changed >= {"immich-nixos-files", "immich-nixos-module", "immich-check"}


def differing(one: Recorder, other: Recorder) -> set[str]:
    """Return the names of the resources whose inputs differ, apart from places and what is random."""

    def comparable(recorder: Recorder, name: str) -> str:
        inputs = {key: value for key, value in recorder.resources[name][1].items() if key not in PLACES}
        text = json.dumps(inputs, sort_keys=True, default=str)
        trusted = digest([PayloadFile("device-ca.crt", recorder.certificate_pem)])
        return text.replace(json.dumps(recorder.certificate_pem)[1:-1], "CERTIFICATE").replace(trusted, "")

    assert set(one.resources) == set(other.resources)
    return {name for name in one.resources if comparable(one, name) != comparable(other, name)}


PLACES = {"keystore", "privateKeyFile", "connection", "begun"}


def test_an_edge_that_is_built_here_is_named_by_its_hash(recorded: Recorder, tmp_path: Path) -> None:
    recorder = run_program(tmp_path, edgeBuild="operator")
    typ, inputs = recorder.resources["immich-edge"]
    assert typ == "pulumi-python:dynamic/immich:EdgeBuild" and re.fullmatch("[0-9a-f]{64}", inputs["source"])
    files = recorder.resources["immich-nixos-files"][1]["files"]["default.nix"]
    assert f'sha256 = "{EDGE}"' in files and f"file = /var/lib/immich-exposure/edge-{EDGE};" in files
    assert not {"immich-edge", "immich-edge-upload"} & set(recorded.resources)
    module = [each.commands()["immich-nixos-module"]["note"] for each in (recorder, recorded)]
    assert module[0] != module[1]


def test_ban_lists_are_among_what_a_server_is_proven_for(tmp_path: Path) -> None:
    """Another copy of the state may have others, or none: then the next up makes them this one's."""
    each_lists = (None, {"networks": ["/x"]}, {"networks": ["/y"]})
    recorders = [run_program(tmp_path, banLists=lists) for lists in each_lists]
    digests = {each.resources["immich-drift"][1]["exposedDigest"] for each in recorders}
    assert len(digests) == 3
    lines = [each.commands()["immich-settings"]["create"] for each in recorders]
    assert [line.endswith(" install no-lists") for line in lines] == [True, False, False]


# Ways to root


def test_root_needs_no_sudo(tmp_path: Path) -> None:
    for name, inputs in run_program(tmp_path, sshUser="root").commands().items():
        assert (inputs.get("create") or inputs["delete"]).startswith("sh -s -- "), name


def test_a_sudo_password_goes_by_standard_input_alone(tmp_path: Path) -> None:
    recorder = run_program(tmp_path, sudoPassword=SUDO_PASSWORD)
    for name, inputs in recorder.commands().items():
        assert (inputs.get("create") or inputs["delete"]).startswith("sh -c 'IFS= read -r password; "), name
        if name != CLOSE:
            assert is_secret(inputs["sudoPassword"]), name
    stdin = recorder.commands()[CLOSE]["stdin"]
    assert is_secret(stdin)
    assert stdin["value"].startswith(f"{SUDO_PASSWORD}\n{SUDO_PASSWORD}\n#immich-exposure\n{BEGINNING}")
    for name, (_, inputs) in recorder.resources.items():
        assert not any(SUDO_PASSWORD in text for text in plain_texts(inputs)), name


def test_with_a_password_what_is_sent_stays_visible(tmp_path: Path) -> None:
    """Otherwise a preview would show [secret] where it shows what root's files will say."""
    settings = run_program(tmp_path, sudoPassword=SUDO_PASSWORD).commands()["immich-settings"]
    assert "\nIMMICH_EXPOSURE_UPLOADS=off\n" in settings["files"]["edge.env"]


def is_secret(value: Any) -> bool:
    """Return whether the engine would see this value as a secret."""
    return isinstance(value, dict) and value.get(_special_sig_key) == _special_secret_sig


def plain_texts(value: Any) -> Iterator[str]:
    """Yield every text within a value that is not inside a secret envelope."""
    if is_secret(value):
        return
    if isinstance(value, dict):
        for item in value.values():
            yield from plain_texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from plain_texts(item)
    elif isinstance(value, str):
        yield value


TOKEN = "tk_a_token_that_must_not_be_seen"


def test_notices_are_a_secret_of_the_servers_and_there_before_the_funnel(
    tmp_path: Path, mocker: MockerFixture
) -> None:
    mocker.patch("components.exposure.silence", return_value="notify: no answer")
    warn = mocker.patch("pulumi.warn")
    settings: dict[str, Any] = {
        "notify": {"kind": "ntfy", "address": "https://ntfy.sh/topic"},
        "notifyToken": TOKEN,
    }
    inputs = run_program(tmp_path, preview=True, **settings).commands()["immich-notices-channel"]
    for key in ("files", "filesDigest"):
        assert is_secret(inputs[key]), "of a digest the token could be guessed"
    assert f"token {TOKEN}\n" in inputs["files"]["value"]["channel"]
    assert inputs["modes"]["value"] == {"channel": "0600"}
    assert TOKEN not in json.dumps({name: value for name, value in inputs.items() if name != "files"})
    assert "notify: no answer" in [call.args[0] for call in warn.call_args_list]


API_KEY = "an.api.key.that.must.not.be.seen"


def test_the_key_of_immichs_api_is_a_secret_of_the_servers(tmp_path: Path) -> None:
    inputs = run_program(tmp_path, preview=True, immichApiKey=API_KEY).commands()["immich-link-report-key"]
    for key in ("files", "filesDigest"):
        assert is_secret(inputs[key]), "of a digest the key could be guessed"
    assert inputs["files"]["value"] == {"api-key": f"{API_KEY}\n"}
    assert inputs["modes"]["value"] == {"api-key": "0600"}
    assert API_KEY not in json.dumps({name: value for name, value in inputs.items() if name != "files"})


def test_without_a_key_of_immichs_api_there_is_no_resource_for_one(recorded: Recorder) -> None:
    assert "immich-link-report-key" not in recorded.commands()


def test_without_a_channel_there_is_no_resource_for_one(recorded: Recorder) -> None:
    assert "immich-notices-channel" not in recorded.commands()
