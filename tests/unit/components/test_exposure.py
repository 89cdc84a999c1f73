"""The program as a whole, without an engine: what it registers, and what never leaves in plain.

Mocks record every resource's inputs. They know neither ``depends_on`` nor deletion; the order is tried
with the real engine in ``tests/lab``.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pulumi
import pytest
from pulumi.runtime.rpc import _special_secret_sig, _special_sig_key
from pulumi.runtime.settings import SETTINGS

from components import config as config_module
from components.exposure import ImmichExposure
from components.remote_script import SERVER_FILES
from pki import AuthorityProfile, Keystore

PASSPHRASE = "a passphrase that must not be seen"
SSH_KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n"
FINGERPRINT = "ab" * 32
FINGERPRINT_BEFORE = "cd" * 32
COMMAND = "command:remote:Command"


class Recorder(pulumi.runtime.Mocks):
    """Answers like the engine and keeps what every resource was given."""

    def __init__(self, certificate_pem: str) -> None:
        self.certificate_pem = certificate_pem
        self.resources: dict[str, tuple[str, dict[str, Any]]] = {}

    def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str, dict[str, Any]]:
        self.resources[args.name] = (args.typ, args.inputs)
        outputs = dict(args.inputs)
        if args.typ == COMMAND:
            outputs["stdout"] = json.dumps(
                {"domain": "immich.example.ts.net", "certificatePem": self.certificate_pem}
            )
        elif args.typ.startswith("pulumi-python:"):
            outputs.update(
                certificatePem=self.certificate_pem,
                trustedPem=self.certificate_pem,
                trusted=[FINGERPRINT],
                fingerprint=FINGERPRINT,
                previousFingerprint=FINGERPRINT_BEFORE,
                previousUntil="2026-12-24T00:00:00+00:00",
                notAfter="2036-01-01T00:00:00+00:00",
                bundlePath="phone.p12",
                bundlePassword="the bundle's password",
                results=["fine"],
                domain="immich.example.ts.net",
            )
        return f"{args.name}-id", outputs

    def call(self, args: pulumi.runtime.MockCallArgs) -> tuple[dict[Any, Any], list[tuple[str, str]] | None]:
        raise AssertionError(f"the program calls no function of a provider, but called {args.token}")

    def commands(self) -> dict[str, dict[str, Any]]:
        """Return the inputs of all remote commands by name."""
        return {name: inputs for name, (typ, inputs) in self.resources.items() if typ == COMMAND}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorder]:
    """Run the program once for two devices and return what it registered."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "ssh-key").write_text(SSH_KEY)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    store = Keystore(folder / "keystore", PASSPHRASE, kdf_rounds=2)
    # outputs that other tests left on loops long closed would be waited for, and never come
    SETTINGS.outputs.clear()
    recorder = Recorder(store.adopt_or_create_authority(AuthorityProfile()).certificate_pem)
    pulumi.runtime.set_mocks(recorder, project="immich-exposure", stack="unit", preview=False)

    async def program() -> None:
        config = config_module.load(
            {
                "host": "192.168.1.20",
                "hostKey": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICd9Sn/CrLavrIHzvx3RuZLyh4tRBT7PQTx533eBaTsJ",
                "sshPrivateKeyFile": str(folder / "ssh-key"),
                "keystorePassphrase": PASSPHRASE,
                "devices": [{"name": "phone", "platform": "ios"}, {"name": "laptop", "platform": "linux"}],
            },
            stack="unit",
            project_dir=folder,
        )
        exposure = ImmichExposure("immich", config)
        await exposure.urn.future()

    loop.run_until_complete(pulumi.runtime.stack.run_pulumi_func(lambda: asyncio.ensure_future(program())))
    yield recorder
    loop.close()


def test_each_step_of_the_chapter_is_a_component(recorded: Recorder) -> None:
    names = {
        typ.rsplit(":", 1)[1] for typ, _ in recorded.resources.values() if typ.startswith("immich-exposure:")
    }
    assert names >= {
        "ImmichExposure",
        "Preflight",
        "CertificateAuthority",
        "ClientCertificate",
        "ServerCertificate",
        "NixosConfiguration",
        "DeviceEnrolment",
        "Funnel",
        "InstallSheet",
        "ExposureCheck",
    }


def test_no_command_is_ever_replaced(recorded: Recorder) -> None:
    """A replacement runs the new create and then the old delete: it would leave the funnel closed."""
    commands = recorded.commands()
    assert len(commands) >= 8
    for name, inputs in commands.items():
        assert "triggers" not in inputs, name
        # What begins an exposure anew is not for an update: its list of devices is that of the beginning.
        wanted = "sudo -n sh -s -- prepare" if name == "immich-state-folder" else inputs["create"]
        assert inputs["update"] == wanted, name


def test_an_exposure_begins_with_the_devices_of_the_config_and_no_others(recorded: Recorder) -> None:
    assert recorded.commands()["immich-state-folder"]["create"] == "sudo -n sh -s -- begin phone laptop"


def test_commands_are_bare_and_their_scripts_come_by_standard_input(recorded: Recorder) -> None:
    library = (SERVER_FILES / "scripts" / "lib.sh").read_text(encoding="utf-8")
    for name, inputs in recorded.commands().items():
        for key in ("create", "update", "delete"):
            assert inputs.get(key, "sudo -n sh -s -- ").startswith("sudo -n sh -s -- "), name
        assert inputs["stdin"].startswith(library), name
        assert "environment" not in inputs, name
        assert inputs["addPreviousOutputInEnv"] is False, name


def test_what_opens_also_closes(recorded: Recorder) -> None:
    commands = recorded.commands()
    close = "sudo -n sh -s -- close 443 8443"
    assert commands["immich-funnel-guard"]["delete"] == close
    assert commands["immich-funnel-door"]["delete"] == close
    assert commands["immich-funnel-door"]["create"].startswith("sudo -n sh -s -- open 443 8443 ")
    for name, inputs in commands.items():
        assert "delete" in inputs, f"{name} leaves something behind"


def test_each_device_is_enrolled_by_its_fingerprint(recorded: Recorder) -> None:
    for device in ("phone", "laptop"):
        command = recorded.commands()[f"immich-enrolment-{device}-file"]
        assert command["create"].split()[6:8] == [device, FINGERPRINT]
        assert command["delete"].split()[-1] == device


def test_every_connection_is_secret_and_pins_the_host_key(recorded: Recorder) -> None:
    for name, inputs in recorded.commands().items():
        connection = inputs["connection"]
        assert is_secret(connection), name
        assert connection["value"]["hostKey"].startswith("ssh-ed25519 "), name


def test_no_secret_leaves_in_plain(recorded: Recorder) -> None:
    """Walk all inputs of all resources; whatever is secret must stand inside a secret envelope."""
    for name, (_, inputs) in recorded.resources.items():
        for text in plain_texts(inputs):
            assert PASSPHRASE not in text, name
            assert "PRIVATE KEY" not in text, name


def test_the_walk_finds_what_is_planted() -> None:
    secret = {_special_sig_key: _special_secret_sig, "value": "hidden"}
    assert list(plain_texts({"a": [{"b": "seen"}], "c": secret})) == ["seen"]


def test_the_certificate_authority_gives_the_server_its_certificate_alone(recorded: Recorder) -> None:
    payload = recorded.commands()["immich-nixos-trust-pool"]["stdin"]
    assert recorded.certificate_pem in payload


def test_what_lands_on_the_server_is_what_lies_in_the_tree(recorded: Recorder) -> None:
    text = recorded.commands()["immich-nixos-files"]["stdin"]
    for path in ("expose-immich.nix", "Caddyfile", "caddy/main.go", "fail2ban/filter.d/immich-scan.conf"):
        assert (SERVER_FILES / path).read_text(encoding="utf-8") in text, path


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
