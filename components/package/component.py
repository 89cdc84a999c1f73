"""The exposure for other people's programs: what `import immich_exposure` offers (docs/package.md).

Without `from __future__ import annotations`, because Pulumi's SDK evaluates the annotations.
"""

import functools
import ipaddress
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pulumi

from components import exposure
from components.config.checks import local_path
from components.config.stack_config import SECRETS, ConfigError, ExposureConfig, load
from components.config.stack_settings import HIDDEN
from components.package.args import ImmichExposureArgs

PASSPHRASE = SECRETS[0]


class ImmichExposure(exposure.ImmichExposure):
    """A home Immich on the internet: shared links for everybody, all of it for the owner's devices."""

    url: pulumi.Output[str]
    """Where Immich can be reached."""
    devices: pulumi.Output[dict[str, dict[str, str]]]
    """By device name: platform, fingerprint, expiry, and the paths of bundle and install sheet."""
    bundle_passwords: pulumi.Output[dict[str, str]]
    """The import password of each device's bundle; a secret."""
    frame_secrets: pulumi.Output[dict[str, str]]
    """The secret that each frame sends in a header, by its name."""
    checked: pulumi.Output[dict[str, str]]
    """What was proven from outside, by question; `closed` says why the funnel is closed."""
    public: dict[str, dict[str, str]]
    """Who can reach what, within which limits and for how long, in words."""
    in_immich: pulumi.Output[str]
    """What to set in Immich itself, in words."""

    def __init__(
        self, name: str, args: ImmichExposureArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        """Expose one server.

        Raises:
            ConfigError: with every problem of the arguments, or for a second exposure of the same server or
                keystore in one program.
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
    if not isinstance(args, Mapping):
        raise ConfigError(
            stack, [f'the arguments of {name} must be a mapping, such as {{"host": "192.168.1.20", ...}}']
        )
    secrets = {key: args[key] for key in SECRETS if args.get(key) is not None}
    unfit = [*_plain_secrets(secrets), *_outputs({key: args[key] for key in args if key not in secrets})]
    if unfit:
        raise ConfigError(stack, unfit)
    plain = {key: _as_lists(value) for key, value in args.items() if value is not None}
    settings = {"keystore": f"keystore/{stack}/{name}", **plain, **dict.fromkeys(secrets, HIDDEN)}
    config = load(settings, stack=stack, project_dir=_folder(), preview=pulumi.runtime.is_dry_run())
    found = {
        key: pulumi.Output.secret(value).apply(functools.partial(_fit, stack, settings, key))
        for key, value in secrets.items()
    }
    return replace(
        config,
        keystore_passphrase=found[PASSPHRASE],
        sudo_password=found.get("sudoPassword"),
        adopt_ca_passphrase=found.get("adoptCaPassphrase"),
        notify_token=found.get("notifyToken"),
        immich_api_key=found.get("immichApiKey"),
        crowdsec_key=found.get("crowdsecKey"),
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


def _as_lists(value: object) -> object:
    """Return a value with its tuples as lists: a sequence is what the types ask for."""
    if isinstance(value, Mapping):
        return {key: _as_lists(item) for key, item in value.items()}
    return [_as_lists(item) for item in value] if isinstance(value, list | tuple) else value


def _fit(stack: str, settings: Mapping[str, object], key: str, value: object) -> str:
    """Return a secret, checked as in a stack file, where it is known from the beginning."""
    if not isinstance(value, str) or not value:
        raise ConfigError(stack, [f"{key} = [secret]: must be text, and not empty"])
    load({**settings, key: value}, stack=stack, project_dir=None, preview=True)
    return value


_seen: dict[str, str] = {}
"""The exposures of this program by what only one of them may have."""


def _same(host: str) -> str:
    """Return one spelling of a host for all that mean the same."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host.lower().rstrip(".")


def _refuse_twice(name: str, config: ExposureConfig) -> None:
    stack = pulumi.get_stack()
    keystore = os.path.realpath(local_path(config.keystore, _folder()))
    for what, key in (
        (f"the server {config.host}, port {config.ssh_port}", f"{_same(config.host)} {config.ssh_port}"),
        (f"the keystore {config.keystore}", keystore),
    ):
        other = _seen.setdefault(f"{stack} {key}", name)
        if other != name:
            raise ConfigError(
                stack, [f"{name} and {other} both have {what}; give each exposure its own, or leave one out"]
            )
