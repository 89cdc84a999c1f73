"""The configuration: defaults, every mistake in words, all mistakes at once, and what the server is told."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pulumi
import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pulumi.runtime import config as engine_config

from components.config.home import EdgeBuilder, Flake, Immich, Lan, ModuleWay
from components.config.notify import Notify, NotifyKind
from components.config.stack_config import (
    FIELDS,
    NAMESPACE,
    SECRETS,
    ConfigError,
    ExposureConfig,
    from_pulumi,
    load,
)
from components.config.uploads import DEFAULT_LIMITS
from components.edge_settings import edge_environment
from pki import AuthorityProfile, DeviceProfile, KeyType, Platform
from toolchain.paths import PROJECT

PASSPHRASE = "correct horse battery"
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


def ssh_key(kind: str, *parts: bytes) -> str:
    """A public key as `authorized_keys` holds it."""
    blob = b"".join(len(part).to_bytes(4, "big") + part for part in (kind.encode(), *parts))
    return f"{kind} {base64.b64encode(blob).decode()}"


HOST_KEY = ssh_key("ssh-ed25519", bytes(range(32)))
MINIMAL: dict[str, Any] = {
    "host": "192.168.1.20",
    "hostKey": HOST_KEY,
    "keystorePassphrase": PASSPHRASE,
}


def load_with(project_dir: Path = PROJECT, **changes: Any) -> ExposureConfig:
    """Load the least configuration with some keys changed; None takes a key out."""
    raw = {key: value for key, value in {**MINIMAL, **changes}.items() if value is not None}
    return load(raw, stack="home", project_dir=project_dir, now=NOW)


def problems_of(project_dir: Path = PROJECT, **changes: Any) -> list[str]:
    with pytest.raises(ConfigError) as refusal:
        load_with(project_dir, **changes)
    assert PASSPHRASE not in str(refusal.value)
    return list(refusal.value.problems)


# Defaults


def test_three_keys_are_enough() -> None:
    config = load_with()
    assert (config.host, config.host_key) == ("192.168.1.20", HOST_KEY)
    assert (config.ssh_user, config.ssh_port, config.ssh_private_key_file) == ("admin", 22, None)
    assert (config.config_dir, config.module, config.flake) == ("/etc/nixos", ModuleWay.MANAGED, None)
    assert config.edge_build is EdgeBuilder.SERVER
    assert (config.immich, config.lan) == (Immich(None, 2283, managed=True), Lan.CLOSE)
    assert (config.sudo_password, config.allow_upgrade, config.take_over) == (None, False, False)
    assert (config.proxy_port, config.funnel_port) == (8443, 443)
    assert (config.devices, config.frames) == ((), ())
    assert (config.client_validity_days, config.renew_before_days, config.grace_days) == (3650, 30, 14)
    assert config.key_type is KeyType.ECDSA_P256
    assert (config.keystore, config.purge_keystore) == ("stacks/keystore/home", False)
    assert (config.uploads, config.reject_with) == (False, "forbidden")
    assert set(config.features.values()) == {True}
    assert (config.lease_hours, config.expose_until) == (None, None)
    assert (config.check.connect_to, config.check.roots_file) == (None, None)


def test_frames_are_those_that_are_not_revoked() -> None:
    frames = [{"name": "hall", "revoked": True}, {"name": "kitchen"}]
    assert [frame.name for frame in load_with(frames=frames).frames] == ["kitchen"]


def test_the_passphrase_stays_a_secret_output(loop: asyncio.AbstractEventLoop) -> None:
    passphrase = load_with().keystore_passphrase
    assert isinstance(passphrase, pulumi.Output)

    assert loop.run_until_complete(_look_into(passphrase)) == (PASSPHRASE, True)
    assert PASSPHRASE not in repr(load_with())


async def _look_into(output: pulumi.Output[str]) -> tuple[str | None, bool]:
    return await output.future(), await output.is_secret()


def test_the_certificates_defaults_are_those_of_pki() -> None:
    config = load_with(devices=[{"name": "phone", "platform": "android"}])
    ca, authority = config.ca, AuthorityProfile()
    assert (ca.common_name, ca.organization) == (authority.common_name, authority.organization)
    assert (ca.country, ca.validity_days) == (authority.country, authority.validity_days)
    [device], profile = config.devices, DeviceProfile("phone")
    assert (device.common_name, device.organization) == (profile.common_name, profile.organization)
    assert config.client_validity_days == profile.validity_days
    assert config.key_type is profile.key_type


# Pulumi.yaml and the example


@pytest.fixture(scope="module")
def schema() -> dict[str, dict[str, Any]]:
    """The config section of Pulumi.yaml."""
    document = yaml.safe_load((PROJECT / "Pulumi.yaml").read_text())
    assert document["name"] == NAMESPACE
    section: dict[str, dict[str, Any]] = document["config"]
    return section


def test_every_key_is_typed_described_and_defaulted(schema: dict[str, dict[str, Any]]) -> None:
    for key, entry in schema.items():
        assert entry["type"] in ("string", "integer", "boolean", "array", "object"), key
        assert entry["description"].endswith("."), key
        assert "default" in entry, key


def test_the_schemas_defaults_are_the_programs(schema: dict[str, dict[str, Any]]) -> None:
    defaults = {key: entry["default"] for key, entry in schema.items()}
    assert visible(load({**defaults, **MINIMAL}, stack="home", project_dir=PROJECT)) == visible(load_with())


def test_the_schema_has_the_programs_keys(schema: dict[str, dict[str, Any]]) -> None:
    names = {re.sub(r"[A-Z]", lambda match: f"_{match[0].lower()}", key) for key in schema}
    assert names == {field.name for field in fields(ExposureConfig)}


def visible(value: object) -> object:
    """A configuration as plain values, without the passphrase."""
    if is_dataclass(value):
        names = [field.name for field in fields(value) if field.name != "keystore_passphrase"]
        return {name: visible(getattr(value, name)) for name in names}
    return value


def example_values(text: str) -> dict[str, Any]:
    document = yaml.safe_load(text)
    return {key.removeprefix(f"{NAMESPACE}:"): value for key, value in document["config"].items()}


def test_the_example_is_right_when_its_key_is_filled_in() -> None:
    values = example_values((PROJECT / "stacks/Pulumi.home.yaml.example").read_text())
    devices = load_with(**{**values, "hostKey": HOST_KEY}).devices
    assert [(device.name, device.platform) for device in devices] == [
        ("phone-anna", Platform.IOS),
        ("phone-ben", Platform.ANDROID),
    ]


def test_nothing_in_the_example_is_commented_out_below_the_devices() -> None:
    """`pulumi config set` writes the file anew; a comment at the end of `config:` then stands outside it."""
    _, _, devices = (PROJECT / "stacks/Pulumi.home.yaml.example").read_text().partition(":devices:\n")
    assert devices.startswith("    - name: ")
    assert "#" not in devices


def test_what_the_example_comments_out_is_right_as_well() -> None:
    lines = (PROJECT / "stacks/Pulumi.home.yaml.example").read_text().splitlines()
    body = lines[lines.index("config:") + 1 :]
    setting = re.compile(r"^(\s+)# ((immich-exposure:|- |  )\w+)")
    text = "\n".join(["config:", *(setting.sub(r"\1\2", line) for line in body)])
    values = example_values(text)
    assert {"ca", "bans", "rateLimits", "keystore", "leaseHours", "exposeUntil", "immich"} <= values.keys()
    key_file = values.pop("sshPrivateKeyFile")
    until = values.pop("exposeUntil")
    config = load_with(**{**values, "hostKey": HOST_KEY})
    assert key_file == "~/.ssh/id_ed25519"
    assert config.lease_hours == 48
    assert config.ban_lists is not None and config.who
    assert config.upload_limits == DEFAULT_LIMITS
    assert (config.flake, config.immich.managed) == (Flake("/etc/nixos", "homeserver"), False)
    assert load_with(exposeUntil=until).expose_until is not None


# Good values


@pytest.mark.parametrize("host", ["10.0.0.7", "fd7a:115c:a1e0::1", "pi", "pi.local", "pi.tailnet.ts.net."])
def test_a_host_is_an_address_or_a_name(host: str) -> None:
    assert load_with(host=host).host == host


@pytest.mark.parametrize(
    "key",
    [
        HOST_KEY,
        ssh_key("ecdsa-sha2-nistp256", b"nistp256", b"\x04" + bytes(64)),
    ],
)
def test_a_host_key_is_taken_without_its_comment(key: str) -> None:
    assert load_with(hostKey=f"{key} root@pi").host_key == key


def write_key(
    file: Path,
    key: ec.EllipticCurvePrivateKey,
    form: serialization.PrivateFormat = serialization.PrivateFormat.OpenSSH,
    encryption: serialization.KeySerializationEncryption | None = None,
) -> bytes:
    """Write a private key that ssh takes; return its bytes."""
    content = key.private_bytes(serialization.Encoding.PEM, form, encryption or serialization.NoEncryption())
    file.write_bytes(content)
    file.chmod(0o600)
    return content


def test_a_key_file_that_ssh_does_not_read_is_told_with_what_mends_it(tmp_path: Path) -> None:
    file = tmp_path / "key"
    content = write_key(file, ec.generate_private_key(ec.SECP256R1()))
    for spoilt, words in (
        (content.replace(b"\n", b"\r\n"), "has Windows line endings, .* `tr -d"),
        (content.rstrip(), "does not end with a newline, .* `echo >> key`"),
        (content[:120], "is cut short"),
        (b"\xef\xbb\xbf" + content, "before or after -----BEGIN"),
        (b"\n" + content, "before or after -----BEGIN"),
        (content.replace(b"-----\n", b"----- \n"), "before or after -----BEGIN"),
        (b"  " + content.replace(b"\n", b"\n  "), "before or after -----BEGIN"),
        (content.replace(b"\n", b" ") + b"\n", "before or after -----BEGIN"),
    ):
        file.write_bytes(spoilt)
        with pytest.raises(ConfigError, match=words):
            load_with(tmp_path, sshPrivateKeyFile="key")
    file.write_bytes(content)
    file.chmod(0o644)
    with pytest.raises(ConfigError, match=r"may be read by others \(its mode is 0644\), .* `chmod 600 key`"):
        load_with(tmp_path, sshPrivateKeyFile="key")
    file.chmod(0o600)
    assert load_with(tmp_path, sshPrivateKeyFile="key").ssh_private_key_file == "key"


def test_a_private_key_file_may_be_relative_or_at_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_key(tmp_path / "key", ec.generate_private_key(ec.SECP256R1()))
    monkeypatch.setenv("HOME", str(tmp_path))
    for text in ("key", "~/key", str(tmp_path / "key")):
        assert load_with(tmp_path, sshPrivateKeyFile=text).ssh_private_key_file == text


def test_a_preview_needs_no_private_key_but_a_right_path(tmp_path: Path) -> None:
    """A pull request's runner has no key. What is at hand must be right all the same."""

    def previewed(text: str) -> ExposureConfig:
        return load(
            {**MINIMAL, "sshPrivateKeyFile": text}, stack="home", project_dir=tmp_path, now=NOW, preview=True
        )

    assert previewed("no/such/key").ssh_private_key_file == "no/such/key"
    (tmp_path / "notes").write_text("hello\n")
    for text, words in (("notes", "is not a private key"), (PRIVATE_KEY, "not the key itself")):
        with pytest.raises(ConfigError, match=words):
            previewed(text)


def test_a_private_key_with_a_passphrase_is_told_in_every_form(tmp_path: Path) -> None:
    key, secret = ec.generate_private_key(ec.SECP256R1()), serialization.BestAvailableEncryption(b"geheim")
    forms = serialization.PrivateFormat
    for form in (forms.OpenSSH, forms.PKCS8, forms.TraditionalOpenSSL):
        for encryption in (serialization.NoEncryption(), secret):
            write_key(tmp_path / "key", key, form, encryption)
            if encryption is not secret:
                assert load_with(tmp_path, sshPrivateKeyFile="key").ssh_private_key_file == "key"
                continue
            with pytest.raises(ConfigError, match="has a passphrase, which nobody can type .*`ssh-add key`"):
                load_with(tmp_path, sshPrivateKeyFile="key")


@pytest.mark.parametrize("address", ["192.168.1.20", "100.101.102.103", "2003:ec::7", "::1"])
def test_an_immich_that_is_not_managed_may_be_at_home_or_in_the_tailnet(address: str) -> None:
    config = load_with(immich={"address": address, "managed": False})
    assert config.immich.address == address


def test_what_is_left_out_of_a_group_has_its_default() -> None:
    config = load_with(ca={"country": "DE"}, rateLimits={"requests": 100}, bans={"banTime": "1w"})
    assert (config.ca.country, config.ca.common_name) == ("DE", "Immich Client CA")
    assert (config.rate_limits.requests, config.rate_limits.window_seconds) == (100, 30)
    assert (config.bans.ban_time, config.bans.max_retry) == ("1w", 10)


def test_the_end_of_an_exposure_is_a_moment() -> None:
    config = load_with(exposeUntil="2027-01-06T20:00:00+01:00")
    assert config.expose_until == datetime(2027, 1, 6, 19, tzinfo=UTC)
    assert load_with(exposeUntil="2027-01-06T19:00:00Z").expose_until == config.expose_until
    assert load_with(leaseHours=48).lease_hours == 48


def test_a_flake_is_a_folder_and_a_host_and_its_owner_writes_it() -> None:
    config = load_with(flake="/etc/nixos/#home-server")
    assert config.flake == Flake("/etc/nixos", "home-server")
    assert (str(config.flake), config.module) == ("/etc/nixos#home-server", ModuleWay.YOURS)
    assert load_with(flake="/home/a/nix#pi.home", module="yours").module is ModuleWay.YOURS


def test_an_immich_that_is_not_managed_has_an_address() -> None:
    assert load_with(immich={"managed": False}).immich == Immich("127.0.0.1", 2283, managed=False)
    assert load_with(immich={"managed": False, "address": "::1", "port": 3001}).immich.address == "::1"
    assert load_with(immich={"port": 2284}).immich == Immich(None, 2284, managed=True)


def test_the_sudo_password_stays_a_secret_output(loop: asyncio.AbstractEventLoop) -> None:
    config = load_with(sudoPassword="geheim $'\"#")
    assert config.sudo_password is not None
    assert loop.run_until_complete(_look_into(config.sudo_password)) == ("geheim $'\"#", True)
    assert "geheim" not in repr(config)


def test_root_needs_no_sudo() -> None:
    assert load_with(sshUser="root").ssh_user == "root"


def test_an_empty_text_means_not_set() -> None:
    assert (
        load_with(sshPrivateKeyFile="", keystore="", flake="", exposeUntil="").keystore
        == "stacks/keystore/home"
    )


# Bad values: each names the key, the value, what is wrong, and an example

PRIVATE_KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n"

BAD = [
    ({"host": None}, "host is not set: name the server's address", "host: 192.168.1.20"),
    ({"host": "https://pi"}, "host = 'https://pi': must be an address alone, without a scheme", "host: "),
    (
        {"host": "admin@pi"},
        "host = 'admin@pi': must be an address alone; the user goes into sshUser",
        "host: ",
    ),
    ({"host": "pi:22"}, "host = 'pi:22': must be an address alone; the port goes into sshPort", "host: "),
    ({"host": "my pi"}, "host = 'my pi': is neither an IP address nor a host name", "host: "),
    ({"host": "fe80::1%a b"}, "has a zone (after %) that is not the name of a network interface", "host: "),
    ({"host": 7}, "host = 7: must be text; put it in quotes", "host: "),
    ({"hostKey": None}, "hostKey is not set: the server's key must be pinned", "hostKey: ssh-ed25519 AAAA"),
    ({"hostKey": f"pi {HOST_KEY}"}, "is a line of known_hosts; leave out its first word", "hostKey: "),
    ({"hostKey": "SHA256:abc"}, "is a fingerprint; the whole public key is needed", "hostKey: "),
    (
        {"hostKey": ssh_key("ssh-rsa", b"\x01\x00\x01", bytes(256))},
        "is an RSA key, with which no connection succeeds; take the server's Ed25519 key",
        "hostKey: ssh-ed25519",
    ),
    (
        {"hostKey": "pi " + ssh_key("ssh-rsa", b"\x01\x00\x01", bytes(256))},
        "is an RSA key",
        "hostKey: ssh-ed25519",
    ),
    (
        {"hostKey": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA..."},
        "is the example's placeholder",
        "hostKey: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI and 43 more characters",
    ),
    ({"hostKey": "ssh-ed25519"}, "must be a kind of key (ssh-ed25519, ", "hostKey: "),
    ({"hostKey": "ssh-ed25519 AA$A"}, "the part after the kind of key is not base64", "hostKey: "),
    ({"hostKey": HOST_KEY[:-8]}, "the base64 part does not hold a key of the kind ssh-ed25519", "hostKey: "),
    (
        {"hostKey": ssh_key("ssh-ed25519", bytes(31))},
        "the base64 part does not hold a key of the kind ssh-ed25519",
        "hostKey: ",
    ),
    (
        {"hostKey": ssh_key("ecdsa-sha2-nistp256", b"nistp256", bytes(65))[:-8]},
        "the base64 part does not hold a key of the kind ecdsa-sha2-nistp256",
        "hostKey: ",
    ),
    ({"sshUser": "a b"}, "sshUser = 'a b': is not a user name", "sshUser: admin"),
    ({"sshPort": 0}, "sshPort = 0: must be a whole number from 1 to 65535", "sshPort: 22"),
    ({"sshPort": 65536}, "sshPort = 65536: must be a whole number", "sshPort: 22"),
    ({"sshPort": "ssh"}, "sshPort = 'ssh': must be a whole number", "sshPort: 22"),
    ({"sshPort": True}, "sshPort = True: must be a whole number", "sshPort: 22"),
    ({"sshPort": 22.5}, "sshPort = 22.5: must be a whole number", "sshPort: 22"),
    (
        {"sshPrivateKeyFile": "no/such/key"},
        "sshPrivateKeyFile = 'no/such/key': cannot be read (No such file or directory)",
        "sshPrivateKeyFile: ~/.ssh/id_ed25519",
    ),
    ({"sshPrivateKeyFile": "Pulumi.yaml"}, "is not a private key; leave the key out", "sshPrivateKeyFile: "),
    (
        {"sshPrivateKeyFile": PRIVATE_KEY},
        "sshPrivateKeyFile = [secret]: must be the path of the key file, not the key itself",
        "sshPrivateKeyFile: ",
    ),
    (
        {"configDir": "etc/nixos"},
        "must be the absolute path of the folder of configuration.nix",
        "/etc/nixos",
    ),
    ({"configDir": "/etc/../root"}, "must be the absolute path", "configDir: /etc/nixos"),
    ({"configDir": "/"}, "must be the absolute path", "configDir: /etc/nixos"),
    ({"configDir": "/etc/$(id)"}, "may hold letters, digits, dots, dashes", "configDir: /etc/nixos"),
    ({"module": "mine"}, "module = 'mine': must be one of managed, yours", "module: managed"),
    (
        {"module": "managed", "flake": "/etc/nixos#pi"},
        "module = 'managed': cannot be managed together with flake",
        "module: yours",
    ),
    (
        {"flake": ".#pi"},
        "flake = '.#pi': must begin with the absolute path",
        'flake: "/etc/nixos#homeserver"',
    ),
    ({"flake": "github:a/b#pi"}, "another machine builds, leave it out and set module: yours", "flake: "),
    ({"flake": "/etc/nixos"}, "must end with # and the name of the system", "flake: "),
    ({"flake": "/etc/nixos#a b"}, "must end with # and the name of the system", "flake: "),
    ({"flake": "/etc/../x#pi"}, "may have only letters, digits", "flake: "),
    ({"flake": "/etc/$(id)#pi"}, "may have only letters, digits", "flake: "),
    ({"immich": "docker"}, "immich = 'docker': must be a group of settings", "immich: {address: 127.0.0.1"),
    (
        {"immich": {"address": "localhost"}},
        "immich.address = 'localhost': must be an IP address, without a port; for localhost write 127.0.0.1",
        "address: 127.0.0.1",
    ),
    (
        {"immich": {"address": "127.0.0.1:2283"}},
        "must be an IP address, without a port",
        "address: 127.0.0.1",
    ),
    ({"immich": {"address": "0.0.0.0"}}, "means every address; name one", "address: 127.0.0.1"),
    ({"immich": {"address": "fe80::1%eth0"}}, "has a zone, which the edge cannot use", "address: 127.0.0.1"),
    (
        {"immich": {"address": "8.8.8.8", "managed": False}},
        "immich.address = '8.8.8.8': is a public address, at which strangers would reach Immich",
        "immich: {address: 127.0.0.1, managed: false}",
    ),
    (
        {"immich": {"address": "192.168.1.20"}},
        "immich.address = '192.168.1.20': applies only to an Immich that services.immich does not manage",
        "address: 192.168.1.20, managed: false",
    ),
    ({"immich": {"port": 0}}, "immich.port = 0: must be a whole number from 1", "port: 2283"),
    ({"immich": {"managed": "no"}}, "immich.managed = 'no': must be true or false", "managed: true"),
    ({"edgeBuild": "pi"}, "edgeBuild = 'pi': must be one of server, operator", "edgeBuild: server"),
    (
        {"edgeBuild": "operator", "module": "yours"},
        "edgeBuild = 'operator': cannot be operator while your own configuration imports the module",
        "edgeBuild: server",
    ),
    ({"lan": "open"}, "lan = 'open': must be one of close, keep", "lan: close"),
    ({"allowUpgrade": "yes"}, "allowUpgrade = 'yes': must be true or false", "allowUpgrade: false"),
    ({"takeOver": 1}, "takeOver = 1: must be true or false", "takeOver: false"),
    (
        {"sudoPassword": "geheim\ngeheim"},
        "sudoPassword = [secret]: must be one line",
        "pulumi config set --secret sudoPassword",
    ),
    ({"sudoPassword": 123456}, "sudoPassword = [secret]: must be text; put it in quotes", "sudoPassword"),
    (
        {"sudoPassword": "geheim", "sshUser": "root"},
        "sudoPassword = [secret]: is not needed with sshUser root",
        "sudoPassword",
    ),
    (
        {"funnelPort": 80},
        "funnelPort = 80: Tailscale Funnel offers 443, 8443 and 10000 only",
        "funnelPort: 443",
    ),
    ({"proxyPort": 2283}, "proxyPort = 2283: is the port of immich.port as well", "proxyPort: 8443"),
    (
        {"proxyPort": 2222, "sshPort": 2222},
        "proxyPort = 2222: is the port of sshPort as well",
        "proxyPort: 8443",
    ),
    ({"proxyPort": 443}, "proxyPort = 443: must be a whole number from 1024 to 65535", "proxyPort: 8443"),
    ({"immich": {"port": 22}}, "immich.port = 22: is the port of sshPort as well", "immich: {port: 2283}"),
    ({"devices": {"name": "x"}}, "must be a list", "devices: [{name: phone-anna, platform: ios}]"),
    ({"devices": ["phone"]}, "devices[0] = 'phone': must be a group of settings", "{name: phone-anna"),
    ({"devices": [{"platform": "ios"}]}, "devices[0].name is not set: a device needs a name", "name: phone-"),
    ({"devices": [{"name": "x"}]}, "devices[0].platform is not set: a bundle is made for", "platform: ios"),
    (
        {"devices": [{"name": "x", "platform": "Andriod"}]},
        "devices[0].platform = 'Andriod': must be one of ios, android, macos, windows, linux "
        "(did you mean 'android'?)",
        "platform: ios",
    ),
    (
        {"devices": [{"name": "../x", "platform": "ios"}]},
        "devices[0].name = '../x': must be 1 to 63 letters a-z, digits",
        "name: phone-anna",
    ),
    (
        {"devices": [{"name": "ｘ", "platform": "ios"}]},
        "has look-alike characters; write it as 'x'",
        "name: phone-anna",
    ),
    (
        {"devices": [{"name": "x", "platform": "ios"}, {"name": "X", "platform": "ios"}]},
        "devices[1].name = 'X': clashes with the device 'x'",
        "name: phone-anna-2",
    ),
    ({"frames": [{}]}, "frames[0].name is not set: a frame needs a name", "name: frame-kitchen"),
    (
        {"frames": [{"name": "../x"}]},
        "frames[0].name = '../x': must be 1 to 63 letters a-z, digits",
        "name: frame-kitchen",
    ),
    (
        {"frames": [{"name": "x"}, {"name": "X"}]},
        "frames[1].name = 'X': clashes with the frame 'x'",
        "name: frame-kitchen-2",
    ),
    (
        {
            "devices": [{"name": "Tablet", "platform": "ios"}],
            "frames": [{"name": "hall"}, {"name": "tablet"}],
        },
        "frames = 'tablet': is already the name of the device 'Tablet'; give the frame another name",
        "name: frame-tablet",
    ),
    (
        {"devices": [{"name": "x", "platform": "ios", "commonName": "y" * 65}]},
        "must have 1 to 64 printable characters",
        "commonName: Anna's phone",
    ),
    ({"ca": "mine"}, "ca = 'mine': must be a group of settings", "ca: {commonName: "),
    ({"ca": {"commonName": "a.b"}}, "ca.commonName = 'a.b': looks like a host name", "Immich Client CA"),
    (
        {"host": "pi", "ca": {"commonName": "Pi"}},
        "ca.commonName = 'Pi': is the name of the host, and Android rejects",
        "commonName: Immich Client CA",
    ),
    ({"ca": {"country": "Germany"}}, "ca.country = 'Germany': must be two capital letters", "country: US"),
    ({"ca": {"validityDays": 0}}, "ca.validityDays = 0: must be a whole number from 1", "validityDays: 3650"),
    (
        {"clientValidityDays": 4000},
        "clientValidityDays = 4000: is longer than ca.validityDays (3650)",
        "clientValidityDays: 3650",
    ),
    (
        {"clientValidityDays": 30},
        "renewBeforeDays is not set: must be shorter than clientValidityDays (30)",
        "renewBeforeDays: 3",
    ),
    ({"renewBeforeDays": 3650}, "renewBeforeDays = 3650: must be shorter than", "renewBeforeDays: 365"),
    ({"graceDays": 31}, "graceDays = 31: is longer than renewBeforeDays (30)", "graceDays: 30"),
    (
        {"renewBeforeDays": 7, "graceDays": 8},
        "graceDays = 8: is longer than renewBeforeDays (7)",
        "graceDays: 7",
    ),
    ({"graceDays": 0}, "graceDays = 0: must be a whole number from 1", "graceDays: 14"),
    (
        {"ca": {"renewBeforeDays": 30}},
        "ca.renewBeforeDays = 30: must be longer than renewBeforeDays (30)",
        "ca: {renewBeforeDays: 31}",
    ),
    (
        {"ca": {"renewBeforeDays": 3650}},
        "ca.renewBeforeDays = 3650: must be shorter than ca.validityDays (3650)",
        "ca: {renewBeforeDays: 31}",
    ),
    (
        {"devices": [{"name": "x", "platform": "ios", "revoked": "perhaps"}]},
        "devices[0].revoked = 'perhaps': must be true or false",
        "revoked: false",
    ),
    (
        {"keyType": "rsa4096"},
        "keyType = 'rsa4096': must be one of ecdsa-p256, rsa-4096 (did you mean 'rsa-4096'?)",
        "keyType: ecdsa-p256",
    ),
    (
        {"keystore": "Pulumi.yaml"},
        "is a file, but the keystore must be a folder",
        "keystore: stacks/keystore/home",
    ),
    (
        {"keystorePassphrase": None},
        "keystorePassphrase is not set: it encrypts the keys",
        "pulumi config set",
    ),
    (
        {"keystorePassphrase": "elevenchars"},
        "keystorePassphrase = [secret]: must have at least 12 characters",
        "pulumi config set --secret keystorePassphrase",
    ),
    ({"purgeKeystore": "yes"}, "purgeKeystore = 'yes': must be true or false", "purgeKeystore: false"),
    ({"uploads": 1}, "uploads = 1: must be true or false", "uploads: false"),
    ({"rateLimits": []}, "rateLimits = []: must be a group of settings", "rateLimits: {requests: 3000"),
    ({"rateLimits": {"requests": 0}}, "rateLimits.requests = 0: must be a whole number", "requests: 3000"),
    (
        {"rateLimits": {"passwordAttempts": 700, "passwordWindowSeconds": 5}},
        "rateLimits.passwordAttempts = 700: allows more passwords of links (700 in 5 s) than requests",
        "passwordAttempts: 10",
    ),
    (
        {"rateLimits": {"requests": 60, "windowSeconds": 60, "bundles": 70}},
        "rateLimits.bundles = 70: allows more zip files (70 in 60 s) than requests",
        "bundles: 10",
    ),
    (
        {"rateLimits": {"requests": 40}},
        "rateLimits.requests = 40: lets nobody in: the first visit to a link counts as 50 requests",
        "requests: 3000",
    ),
    (
        {"rateLimits": {"requests": 200, "windowSeconds": 3600, "bundles": 1, "passwordAttempts": 3}},
        "rateLimits.windowSeconds = 3600: keeps your guests out: with 200 requests in 3600 s, a guest "
        "may have to wait more than 10 minutes",
        "windowSeconds: 30",
    ),
    (
        {"rateLimits": {"passwordAttempts": 20, "linkPasswordsPerHour": 15}},
        "rateLimits.linkPasswordsPerHour = 15: is used up by one visitor, who may try 20 passwords",
        "linkPasswordsPerHour: 60",
    ),
    (
        {"rateLimits": {"bundles": -1}},
        "rateLimits.bundles = -1: must be a whole number from 1",
        "bundles: 10",
    ),
    (
        {"uploadMegabytes": 5},
        "uploadMegabytes = 5: has no effect unless uploads is true",
        "uploadMegabytes: 2000",
    ),
    ({"uploads": True, "uploadMegabytes": 0}, "uploadMegabytes = 0: must be a whole number from 1", "2000"),
    ({"uploadLimits": {"freeGigabytes": 5}}, "has no effect unless uploads is true", "uploadLimits: {"),
    (
        {"uploads": True, "uploadLimits": {"linkMegabytesPerHour": 12_000}},
        "uploadLimits.linkMegabytesPerHour = 12000: allows one link more megabytes in an hour than all links",
        "linkMegabytesPerHour: 10000",
    ),
    (
        {"uploads": True, "uploadLimits": {"filesPerHour": 9}},
        "uploadLimits.linkFilesPerHour is not set: allows one link more files in an hour than all links",
        "linkFilesPerHour: 9",
    ),
    (
        {"uploads": True, "uploadMegabytes": 6000},
        "uploadMegabytes = 6000: an upload of 6000 MB never fits a link that accepts 5000 MB",
        "uploadMegabytes: 5000",
    ),
    (
        {"uploads": True, "uploadLimits": {"linkMegabytesPerHour": 100}},
        "uploadLimits.linkMegabytesPerHour = 100: an upload of 2000 MB never fits",
        "uploadMegabytes: 100",
    ),
    (
        {"uploads": True, "uploadLimits": {"freeGigabytes": 0}},
        "uploadLimits.freeGigabytes = 0: must be a whole number from 1",
        "freeGigabytes: 20",
    ),
    (
        {"uploads": True, "uploadLimits": {"folder": "photos"}},
        "uploadLimits.folder = 'photos': must be an absolute path on the server",
        "folder: /srv/immich",
    ),
    (
        {"uploads": True, "uploadLimits": {"folder": "/srv/../etc"}},
        "must be an absolute path on the server",
        "folder: /srv/immich",
    ),
    (
        {"uploads": True, "immich": {"managed": False}},
        "uploadLimits.folder is not set: with uploads, the server must check the free space",
        "uploadLimits: {folder: /srv/immich}",
    ),
    ({"features": ["map"]}, "features = ['map']: must be a group of settings", "features: {map: false}"),
    ({"features": {"map": "off"}}, "features.map = 'off': must be true or false", "map: true"),
    ({"features": {"uploads": True}}, "features.uploads = True: is a setting of its own", "uploads: true"),
    (
        {"features": {"originals": False}},
        "features.originals = False: has no effect while features.download is on",
        "originals: true",
    ),
    (
        {"rejectWith": "dropp"},
        "rejectWith = 'dropp': must be one of forbidden, drop (did you mean 'drop'?)",
        "forbidden",
    ),
    (
        {"bans": {"maxRetry": 2}},
        "bans.maxRetry = 2: bans a guest who mistypes a link's password twice",
        "maxRetry: 10",
    ),
    (
        {"bans": {"maxRetry": 90, "findTime": "10m", "banTime": "1m"}},
        "bans.maxRetry = 90: stops nobody: with findTime 10m and banTime 1m it allows more than one guess",
        "maxRetry: 10",
    ),
    (
        {"bans": {"maxRetry": 1000, "findTime": "10m"}},
        "bans.maxRetry = 1000: stops nobody: with findTime 10m and banTime 1h",
        "maxRetry: 10",
    ),
    ({"bans": {"maxRetry": 0}}, "bans.maxRetry = 0: must be a whole number from 1 to 1000", "maxRetry: 10"),
    (
        {"bans": {"findTime": "10 min"}},
        "bans.findTime = '10 min': must be a number and a unit",
        "findTime: 10m",
    ),
    ({"bans": {"ipv6Prefix": 96}}, "bans.ipv6Prefix = 96: is 64", "ipv6Prefix: 64"),
    ({"bans": {"banTime": "-1"}}, "bans.banTime = '-1': must be a number and a unit", "banTime: 1h"),
    ({"leaseHours": -1}, "leaseHours = -1: must be a whole number from 0 to 8784", "leaseHours: 48"),
    ({"exposeUntil": "Sunday"}, "exposeUntil = 'Sunday': must be a date and a time", "exposeUntil: "),
    (
        {"exposeUntil": "2026-11-25T12:00:00+01:00"},
        "is in the past; set a later moment, leave it out, or close the funnel with pulumi destroy",
        'exposeUntil: "2026-12-09T20:00:00Z"',
    ),
    ({"exposeUntil": "2027-01-06T20:00:00"}, "has no time zone; end it with Z", "exposeUntil: "),
    (
        {"exposeUntil": "2027-01-06T20:00:00Z", "leaseHours": 2},
        "is set together with leaseHours; set one of the two",
        "exposeUntil: ",
    ),
    ({"check": {"connectTo": "127.0.0.1"}}, "must be a host and a port, with a colon", "127.0.0.1:24443"),
    ({"check": {"connectTo": "pi:99999"}}, "must end with a port from 1 to 65535", "127.0.0.1:24443"),
    ({"check": {"rootsFile": "none.pem"}}, "check.rootsFile = 'none.pem': cannot be read", "rootsFile: "),
    ({"check": {"rootsFile": "Pulumi.yaml"}}, "holds no certificate in PEM form", "rootsFile: "),
]


@pytest.mark.parametrize(("changes", "reason", "example"), BAD, ids=lambda value: str(value)[:40])
def test_a_mistake_is_told_in_words_with_an_example(
    changes: dict[str, Any], reason: str, example: str
) -> None:
    [problem] = problems_of(**changes)
    told, separator, shown = problem.partition(" Example: `")
    assert separator, problem
    assert reason in told
    assert told.endswith(".")
    assert example in f"`{shown}"
    assert "c2VjcmV0" not in problem


def test_a_key_that_is_best_left_out_needs_no_example() -> None:
    [problem] = problems_of(features={"pages": False})
    assert problem.startswith("features.pages = False: is always on")
    assert problem.endswith("; leave it out")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"hostkey": "x"}, "hostkey is not a known key: did you mean 'hostKey'?"),
        ({"keystorePasphrase": "geheim"}, "keystorePasphrase is not a known key: did you mean"),
        ({"ca": {"commonname": "x"}}, "ca.commonname is not a known key: did you mean 'commonName'?"),
        (
            {"devices": [{"name": "x", "platform": "ios", "colour": "geheim"}]},
            "devices[0].colour is not a known key: known keys are commonName, name, organization, platform",
        ),
        ({"bans": {"bantime": "1h"}}, "bans.bantime is not a known key: did you mean 'banTime'?"),
        ({"rateLimits": {"request": 1}}, "rateLimits.request is not a known key: did you mean 'requests'?"),
        ({"features": {"maps": True}}, "features.maps is not a known key: did you mean 'map'?"),
        ({"immich": {"adress": "::1"}}, "immich.adress is not a known key: did you mean 'address'?"),
        ({"immichPort": 2283}, "immichPort is not a known key: did you mean 'immich'?"),
        ({"check": {"roots": "x"}}, "check.roots is not a known key: did you mean 'rootsFile'?"),
    ],
)
def test_an_unknown_key_is_refused_without_its_value(changes: dict[str, Any], problem: str) -> None:
    [seen] = problems_of(**changes)
    assert seen.startswith(problem)
    assert "geheim" not in seen


def test_all_mistakes_come_at_once() -> None:
    changes: dict[str, Any] = {
        "host": None,
        "sshPort": 99999,
        "funnelPort": 80,
        "devices": [{"name": "a/b", "platform": "palm"}, {"name": "ok", "platform": "ios", "x": 1}],
        "ca": {"country": "x"},
        "keystorePassphrase": "short",
        "hsot": "pi",
    }
    with pytest.raises(ConfigError) as refusal:
        load_with(**changes)
    keys = [re.split(r" (?:=|is not)", problem)[0] for problem in refusal.value.problems]
    assert sorted(keys) == sorted(
        [
            "host",
            "sshPort",
            "funnelPort",
            "devices[0].name",
            "devices[0].platform",
            "devices[1].x",
            "ca.country",
            "keystorePassphrase",
            "hsot",
        ]
    )
    message = str(refusal.value)
    assert message.startswith("The configuration of the stack 'home' has 9 problems:\n  - ")
    assert len(message.splitlines()) == 10
    assert isinstance(refusal.value, pulumi.RunError)


def test_one_mistake_is_not_told_twice() -> None:
    assert len(problems_of(proxyPort="x", immich={"port": 8443})) == 1
    assert len(problems_of(clientValidityDays=-1, renewBeforeDays=5000)) == 1
    assert (
        len(
            problems_of(
                rateLimits={
                    "requests": 0,
                    "passwordAttempts": 1000,
                    "passwordWindowSeconds": 1,
                    "linkPasswordsPerHour": 1000,
                }
            )
        )
        == 1
    )


def test_a_value_that_is_stored_as_a_secret_is_not_shown() -> None:
    raw = {**MINIMAL, "sshUser": "geheim geheim", "ca": {"country": "geheim"}}
    with pytest.raises(ConfigError) as refusal:
        load(raw, stack="home", project_dir=PROJECT, secret_keys={"keystorePassphrase", "sshUser", "ca"})
    assert "geheim" not in str(refusal.value)
    assert "sshUser = [secret]: is not a user name" in str(refusal.value)
    assert "ca.country = [secret]: must be two" in str(refusal.value)


def test_a_long_value_is_cut_short() -> None:
    [problem] = problems_of(host="x " * 500)
    assert len(problem) < 200


@pytest.mark.parametrize("key", SECRETS)
def test_a_secret_in_plain_text_is_refused(key: str) -> None:
    secrets = {"keystorePassphrase": PASSPHRASE, "sudoPassword": "geheim geheim", "adoptCaPassphrase": "x1y2"}
    secrets["notifyToken"] = "tk_x1y2"
    secrets["immichApiKey"] = "ik_x1y2"
    secrets["crowdsecKey"] = "a-bouncers-key"
    notify = {"kind": "ntfy", "address": "https://ntfy.sh/topic"}
    adopt = {"caCertificate": "ca.pem", "caKey": "ca-key.pem"}
    with pytest.raises(ConfigError, match=rf"{key} = \[secret\]: must be stored encrypted") as refusal:
        raw = {**MINIMAL, **secrets, "adopt": adopt, "notify": notify}
        raw["banLists"] = {"crowdsec": "http://127.0.0.1:8080"}
        load(raw, stack="home", project_dir=PROJECT, secret_keys=set(SECRETS) - {key})
    assert len(refusal.value.problems) == 1
    assert not any(secret in str(refusal.value) for secret in secrets.values())


# From the engine


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """The engine's settings as a deployment of the stack `lab` would hand them over; restored afterwards."""
    before = engine_config.CONFIG.get()
    monkeypatch.setattr(pulumi, "get_stack", lambda: "lab")
    monkeypatch.setattr(pulumi, "get_project", lambda: NAMESPACE)
    monkeypatch.delenv("PULUMI_CONFIG", raising=False)
    monkeypatch.delenv("PULUMI_CONFIG_SECRET_KEYS", raising=False)
    engine_config.set_all_config({})
    yield monkeypatch
    engine_config.CONFIG.set(before)


def encoded(**values: object) -> dict[str, str]:
    """Values as the engine encodes them: text as it is, all else as JSON."""
    return {
        f"{NAMESPACE}:{key}": value if isinstance(value, str) else json.dumps(value)
        for key, value in values.items()
    }


def test_the_engines_values_are_decoded(engine: pytest.MonkeyPatch) -> None:
    values = encoded(**MINIMAL, sshPort=2222, uploads=True, devices=[{"name": "7", "platform": "ios"}])
    values["other:host"] = "another project's"
    engine.setenv("PULUMI_CONFIG", json.dumps(values))
    engine.setenv("PULUMI_CONFIG_SECRET_KEYS", json.dumps([f"{NAMESPACE}:keystorePassphrase"]))
    config = from_pulumi()
    assert (config.ssh_port, config.uploads) == (2222, True)
    assert [device.name for device in config.devices] == ["7"]
    assert config.keystore == "stacks/keystore/lab"


def test_a_text_that_looks_like_a_number_stays_text(engine: pytest.MonkeyPatch) -> None:
    values = encoded(**{**MINIMAL, "keystorePassphrase": "738210594662817"}, sshUser="true")
    engine_config.set_all_config(values, [f"{NAMESPACE}:keystorePassphrase"])
    assert from_pulumi().ssh_user == "true"


def test_the_engines_word_on_secrecy_counts(engine: pytest.MonkeyPatch) -> None:
    engine_config.set_all_config(encoded(**MINIMAL, sshPort="abc"), [])
    with pytest.raises(ConfigError) as refusal:
        from_pulumi()
    assert "sshPort = 'abc': must be a whole number" in str(refusal.value)
    assert "keystorePassphrase = [secret]: must be stored encrypted" in str(refusal.value)


@pytest.mark.parametrize("namespace", ["immich_exposure", "immich-expose", "immichexposure", "immich"])
def test_a_namespace_that_is_nearly_ours_is_named(engine: pytest.MonkeyPatch, namespace: str) -> None:
    values = {**encoded(**MINIMAL), f"{namespace}:rejectWith": "geheim", "aws:region": "eu"}
    engine_config.set_all_config(values, [f"{NAMESPACE}:keystorePassphrase"])
    with pytest.raises(ConfigError) as refusal:
        from_pulumi()
    [problem] = refusal.value.problems
    assert problem == (
        f"{namespace}:rejectWith is not a known key: the namespace is immich-exposure, not {namespace}; "
        "write `immich-exposure:rejectWith: ...`"
    )


def test_a_setting_beside_config_is_named(engine: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "stacks").mkdir()
    (tmp_path / "stacks/Pulumi.lab.yaml").write_text(
        "encryptionsalt: v1:x\nconfig:\n  immich-exposure:host: pi\n"
        "immich-exposure:leaseHours: 48\nlan: geheim\n"
    )
    engine.chdir(tmp_path)
    engine_config.set_all_config(encoded(**MINIMAL), [f"{NAMESPACE}:keystorePassphrase"])
    with pytest.raises(ConfigError) as refusal:
        from_pulumi()
    assert [problem.split(" is next to `config:`")[0] for problem in refusal.value.problems] == [
        "immich-exposure:leaseHours",
        "lan",
    ]
    assert "move it below `config:` as `  immich-exposure:leaseHours: ...`" in str(refusal.value)
    assert "geheim" not in str(refusal.value)


def test_a_setting_in_two_spellings_is_named(engine: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "stacks").mkdir()
    (tmp_path / "stacks/Pulumi.lab.yaml").write_text(
        "config: {immich-exposure:uploads: true, uploads: false}\n"
    )
    engine.chdir(tmp_path)
    engine_config.set_all_config(encoded(**MINIMAL), [f"{NAMESPACE}:keystorePassphrase"])
    with pytest.raises(ConfigError) as refusal:
        from_pulumi()
    [problem] = refusal.value.problems
    assert problem.startswith("uploads is the same setting as immich-exposure:uploads")
    engine.setattr(pulumi, "get_project", lambda: "photos")  # another key then, which is the program's own
    assert from_pulumi().host == MINIMAL["host"]


def test_every_setting_has_a_name() -> None:
    project = yaml.safe_load((PROJECT / "Pulumi.yaml").read_text())
    assert set(project["config"]) == FIELDS.keys()


def test_a_program_of_another_name_is_told_whose_namespace_it_is(engine: pytest.MonkeyPatch) -> None:
    """Its `pulumi config set uploads` sets photos:uploads, which nobody would read."""
    engine.setattr(pulumi, "get_project", lambda: "photos")
    given = {**encoded(**MINIMAL), "photos:uploads": "true", "photos:host": "its own", "photos:x": "1"}
    del given[f"{NAMESPACE}:keystorePassphrase"]
    engine_config.set_all_config(given)
    with pytest.raises(ConfigError) as refusal:
        from_pulumi()
    assert [problem for problem in refusal.value.problems if "photos" in problem] == [
        "photos:uploads is not read by immich-exposure, whose namespace is its own; write "
        "`immich-exposure:uploads`"
    ]
    assert "Example: `pulumi config set --secret immich-exposure:keystorePassphrase`" in str(refusal.value)


@pytest.mark.parametrize("text", [None, "", "[1, 2]", "{", "config: {}\nsecretsprovider: passphrase\n"])
def test_a_stack_file_without_strays_is_fine(
    engine: pytest.MonkeyPatch, tmp_path: Path, text: str | None
) -> None:
    (tmp_path / "stacks").mkdir()
    if text is not None:
        (tmp_path / "stacks/Pulumi.lab.yaml").write_text(text)
    engine.chdir(tmp_path)
    engine_config.set_all_config(encoded(**MINIMAL), [f"{NAMESPACE}:keystorePassphrase"])
    assert from_pulumi().host == MINIMAL["host"]


# Who opened what


def test_nobody_counts_and_nobody_asks_immich_unless_the_config_says_so() -> None:
    config = load_with()
    assert (config.who, config.who_days, config.immich_api_key) == (False, 90, None)
    assert load_with(immichApiKey="").immich_api_key is None
    assert "WHO" not in edge_environment(config)
    assert edge_environment(load_with(who=True, whoDays=30)).endswith(
        "IMMICH_EXPOSURE_WHO=on\nIMMICH_EXPOSURE_WHO_DAYS=30\n"
    )


@pytest.mark.parametrize("key", ["a b", "x" * 501, 5, "a'b", "a\nb"])
def test_what_is_no_key_of_immichs_api_is_told_and_not_shown(key: object) -> None:
    [problem] = problems_of(immichApiKey=key)
    assert problem.startswith("immichApiKey = [secret]: must be the key that Immich shows once")


@pytest.mark.parametrize("days", [0, 3651, "soon"])
def test_days_that_are_none_are_told(days: object) -> None:
    [problem] = problems_of(who=True, whoDays=days)
    assert problem.startswith(f"whoDays = {days!r}")


def test_days_of_what_nobody_counts_are_told() -> None:
    [problem] = problems_of(whoDays=30)
    assert problem.startswith("whoDays = 30: has no effect unless who is true")
    assert load_with(whoDays=90).who_days == 90


# Notices


def test_nobody_is_told_and_the_guard_looks_unless_the_config_says_otherwise() -> None:
    assert (load_with().notify, load_with().notify_token, load_with().guard) == (None, None, True)
    assert load_with(guard=False).guard is False


@pytest.mark.parametrize(
    ("notify", "token", "expected"),
    [
        (
            {"kind": "ntfy", "address": "https://ntfy.sh/topic"},
            None,
            Notify(NotifyKind.NTFY, "https://ntfy.sh/topic", None),
        ),
        (
            {"kind": "gotify", "address": "http://192.168.1.5:8080"},
            "A.b_c",
            Notify(NotifyKind.GOTIFY, "http://192.168.1.5:8080", None),
        ),
        (
            {"kind": "webhook", "address": "http://nas.lan/hook?a=1"},
            "t" * 500,
            Notify(NotifyKind.WEBHOOK, "http://nas.lan/hook?a=1", None),
        ),
        (
            {"kind": "command", "command": "/run/current-system/sw/bin/tell-me"},
            None,
            Notify(NotifyKind.COMMAND, None, "/run/current-system/sw/bin/tell-me"),
        ),
    ],
)
def test_a_channel_is_of_one_of_four_kinds(
    loop: asyncio.AbstractEventLoop, notify: dict[str, str], token: str | None, expected: Notify
) -> None:
    config = load_with(notify=notify, notifyToken=token)
    assert config.notify == expected
    if token is not None:
        assert config.notify_token is not None
        assert loop.run_until_complete(_look_into(config.notify_token)) == (token, True)


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"notify": {"address": "https://a.example"}}, "notify.kind", "is not set"),
        ({"notify": {"kind": "pigeon", "address": "https://a.example"}}, "notify.kind", "must be one of"),
        ({"notify": {"kind": "ntfy"}}, "notify.address", "is not set"),
        ({"notify": {"kind": "ntfy", "address": "ntfy.sh/topic"}}, "notify.address", "begins with https://"),
        ({"notify": {"kind": "ntfy", "address": "https://a b"}}, "notify.address", "begins with https://"),
        ({"notify": {"kind": "ntfy", "address": 'https://a/"x'}}, "notify.address", "begins with https://"),
        ({"notify": {"kind": "ntfy", "address": "http://ntfy.sh/t"}}, "notify.address", "without TLS"),
        ({"notify": {"kind": "webhook", "address": "http://8.8.8.8/t"}}, "notify.address", "without TLS"),
        (
            {"notify": {"kind": "command", "address": "https://a.example"}},
            "notify.address",
            "does not apply to kind",
        ),
        ({"notify": {"kind": "command"}}, "notify.command", "is not set"),
        ({"notify": {"kind": "command", "command": "mail me"}}, "notify.command", "path of a program"),
        (
            {"notify": {"kind": "gotify", "address": "https://a.example"}},
            "notifyToken",
            "only with an application's token",
        ),
        ({"notifyToken": "abc"}, "notifyToken", "notify has none"),
        (
            {"notify": {"kind": "ntfy", "address": "https://a.example"}, "notifyToken": "a b"},
            "notifyToken",
            "must be letters",
        ),
    ],
)
def test_what_is_wrong_with_a_channel_is_told(changes: dict[str, Any], key: str, words: str) -> None:
    told = problems_of(**changes)
    assert any(line.startswith(key) and words in line for line in told), told
    assert not any("a b" in line for line in told if line.startswith("notifyToken"))


def test_a_token_in_plain_text_is_refused_and_not_shown() -> None:
    raw = {**MINIMAL, "notify": {"kind": "ntfy", "address": "https://a.example"}, "notifyToken": "tk_123"}
    with pytest.raises(ConfigError) as refusal:
        load(raw, stack="home", project_dir=PROJECT, secret_keys=("keystorePassphrase",), now=NOW)
    [problem] = refusal.value.problems
    assert "plain text" in problem and "tk_123" not in problem
