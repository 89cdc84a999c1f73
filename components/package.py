"""The exposure for other people's programs: what `import immich_exposure` offers (docs/package.md).

Its annotations are not put off (no `from __future__ import annotations`), because Pulumi's SDK reads them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import pulumi

from components import exposure
from components.config import SECRETS, ConfigError, ExposureConfig, load
from components.stack_settings import HIDDEN
from pki.passphrase import PASSPHRASE_LENGTH, is_weak

PASSPHRASE = SECRETS[0]


class DeviceArgs(TypedDict):
    """A device that gets a client certificate."""

    name: str
    """Its name in the keystore and on the server."""
    platform: str
    """ios, android, macos, windows or linux."""
    commonName: NotRequired[str]
    """The name in its certificate; its own name if left out."""
    organization: NotRequired[str]
    """The organization in its certificate."""
    revoked: NotRequired[bool]
    """Whether its certificate is revoked."""


class ImmichExposureArgs(TypedDict):
    """What an exposure is: the settings of a stack file, which `Pulumi.yaml` describes one by one.

    They are plain values, because a preview says in words what they do; secrets are secret outputs.
    """

    host: str
    """Address or host name of the NixOS server."""
    hostKey: str
    """The server's public SSH host key, `ssh-ed25519 AAAA...`."""
    keystorePassphrase: pulumi.Input[str]
    """Secret: encrypts the keys in the keystore."""
    keystore: NotRequired[str]
    """Folder for keys and certificates on this machine; `keystore/<stack>/<name>` if left out."""
    devices: NotRequired[Sequence[DeviceArgs]]
    """The devices that get a client certificate."""
    sshUser: NotRequired[str]
    """User on the server, who may use sudo; or root."""
    sshPort: NotRequired[int]
    """Port of the server's SSH."""
    sshPrivateKeyFile: NotRequired[str]
    """Private SSH key; the SSH agent's if left out."""
    sudoPassword: NotRequired[pulumi.Input[str]]
    """Secret: what sudo asks for."""
    configDir: NotRequired[str]
    """Folder of configuration.nix on the server."""
    module: NotRequired[str]
    """managed or yours."""
    flake: NotRequired[str]
    """DIR#HOST of a flake on the server."""
    immich: NotRequired[Mapping[str, object]]
    """Where Immich listens: address, port, managed."""
    lan: NotRequired[str]
    """close or keep: what becomes of Immich at home while the funnel is open."""
    edgeBuild: NotRequired[str]
    """server or operator: whose machine compiles the edge."""
    allowUpgrade: NotRequired[bool]
    """Whether a rebuild may bring in what else waits in the server's configuration."""
    takeOver: NotRequired[bool]
    """Whether this stack may take the place of another one."""
    proxyPort: NotRequired[int]
    """Port on the server's loopback."""
    funnelPort: NotRequired[int]
    """Public port: 443, 8443 or 10000."""
    adopt: NotRequired[Mapping[str, object]]
    """What is taken over of an exposure that was made by hand."""
    adoptCaPassphrase: NotRequired[pulumi.Input[str]]
    """Secret: opens the key that is taken over."""
    ca: NotRequired[Mapping[str, object]]
    """The certificate authority of the devices."""
    clientValidityDays: NotRequired[int]
    """Days that a device's certificate is valid."""
    keyType: NotRequired[str]
    """ecdsa-p256 or rsa-4096."""
    purgeKeystore: NotRequired[bool]
    """Whether `pulumi destroy` deletes the keys."""
    uploads: NotRequired[bool]
    """Whether visitors may upload through links that allow it."""
    uploadMegabytes: NotRequired[int]
    """The most that one upload may hold."""
    features: NotRequired[Mapping[str, bool]]
    """What the page of a shared link may do."""
    strangers: NotRequired[str]
    """refuse or drop."""
    rateLimits: NotRequired[Mapping[str, int]]
    """What one visitor may do without a certificate."""
    bans: NotRequired[Mapping[str, object]]
    """When a visitor is banned, and for how long."""
    leaseHours: NotRequired[int]
    """Hours after which the server closes the funnel by itself."""
    exposeUntil: NotRequired[str]
    """Moment at which the server closes the funnel by itself."""
    renewBeforeDays: NotRequired[int]
    """Days before its end from which on a certificate is renewed."""
    graceDays: NotRequired[int]
    """Days for which the old certificate of a renewed device counts."""
    guard: NotRequired[bool]
    """Whether the server looks at the exposure from outside."""
    notify: NotRequired[Mapping[str, object]]
    """Where the server tells what happens."""
    notifyToken: NotRequired[pulumi.Input[str]]
    """Secret: what that place asks for."""
    policy: NotRequired[Mapping[str, str]]
    """How much each rule counts."""
    check: NotRequired[Mapping[str, object]]
    """How the check from outside reaches the server, for tests."""


class ImmichExposure(exposure.ImmichExposure):
    """A home Immich on the internet: shared links for everybody, all of it for the owner's devices."""

    url: pulumi.Output[str]
    """Where Immich can be reached."""
    devices: pulumi.Output[list[dict[str, str]]]
    """One entry per device: name, platform, fingerprint, expiry, paths of bundle and install sheet."""
    bundle_passwords: pulumi.Output[dict[str, str]]
    """The import password of each device's bundle; a secret."""
    checked: pulumi.Output[list[str]]
    """What was proven from outside, one line each."""

    def __init__(
        self, name: str, args: ImmichExposureArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        """Expose one server.

        Raises:
            ConfigError: with every problem of the arguments, or for a second exposure of the same server or
                with the same keystore in one program.
        """
        config = config_of(name, args)
        _refuse_twice(name, config)
        super().__init__(name, config, opts)


def config_of(name: str, args: Mapping[str, Any]) -> ExposureConfig:
    """Return the configuration that the arguments make.

    Raises:
        ConfigError: with every problem.
    """
    stack = pulumi.get_stack()
    secrets = {key: args[key] for key in SECRETS if args.get(key) is not None}
    unfit = [*_plain_secrets(secrets), *_outputs({key: args[key] for key in args if key not in secrets})]
    if unfit:
        raise ConfigError(stack, unfit)
    plain = {key: value for key, value in args.items() if value is not None}
    config = load(
        {"keystore": f"keystore/{stack}/{name}", **plain, **dict.fromkeys(secrets, HIDDEN)},
        stack=stack,
        project_dir=_folder(),
        preview=pulumi.runtime.is_dry_run(),
    )
    found = {key: pulumi.Output.secret(value) for key, value in secrets.items()}
    if PASSPHRASE in found:
        found[PASSPHRASE] = found[PASSPHRASE].apply(_strong)
    return replace(
        config,
        keystore_passphrase=found[PASSPHRASE],
        sudo_password=found.get("sudoPassword"),
        adopt_ca_passphrase=found.get("adoptCaPassphrase"),
        notify_token=found.get("notifyToken"),
    )


def _folder() -> Path:
    """Return where relative paths begin: the folder of the program's Pulumi.yaml."""
    return Path.cwd()


def _plain_secrets(secrets: Mapping[str, object]) -> list[str]:
    return [
        f"{key} must be a secret output, such as pulumi.Config().require_secret({key!r}); as plain text it "
        "would stand in the program or its state"
        for key, value in secrets.items()
        if not isinstance(value, pulumi.Output)
    ]


def _outputs(values: Mapping[str, object]) -> list[str]:
    return [
        f"{key} must be a plain value, because a preview says in words what it does; an output is known too "
        "late"
        for key, value in values.items()
        if _holds_an_output(value)
    ]


def _holds_an_output(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_an_output, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_holds_an_output, value))
    return isinstance(value, pulumi.Output)


def _strong(passphrase: str) -> str:
    if len(passphrase) < PASSPHRASE_LENGTH or is_weak(passphrase):
        raise pulumi.RunError(
            f"{PASSPHRASE} must have at least {PASSPHRASE_LENGTH} characters that are not easily guessed; "
            "four words that have nothing to do with each other are good."
        )
    return passphrase


_seen: dict[str, str] = {}
"""The exposures of this program by what only one of them may have."""


def _refuse_twice(name: str, config: ExposureConfig) -> None:
    stack = pulumi.get_stack()
    for what, key in (
        (f"the server {config.host}, port {config.ssh_port}", f"{stack} {config.host}:{config.ssh_port}"),
        (f"the keystore {config.keystore}", f"{stack} {config.keystore}"),
    ):
        other = _seen.setdefault(key, name)
        if other != name:
            raise ConfigError(
                stack, [f"{name} and {other} both have {what}; give each exposure its own, or leave one out"]
            )
