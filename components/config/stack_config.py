"""The stack's configuration: every key, its default, its bounds, and a message for every mistake.

`load` is a pure function of a mapping; `from_pulumi` gathers that mapping from the engine. `Pulumi.yaml`
describes the keys for the user; a test compares its defaults with those here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

import pulumi
from pulumi.runtime import config as engine_config

from components.config import stack_file
from components.config.adopt import AdoptConfig, check_names, check_opener, read_adopt, read_opener
from components.config.checks import (
    address_problem,
    config_dir_problem,
    device_name_problem,
    host_key_problem,
    host_problem,
    keystore_problem,
    private_key_problem,
    roots_problem,
    sudo_password_problem,
    user_problem,
)
from components.config.frames import FrameConfig, check_frame_names, read_frames
from components.config.home import (
    EdgeBuilder,
    Flake,
    Immich,
    Lan,
    ModuleWay,
    check_public_address,
    read_edge_build,
    read_flake,
    read_immich,
    read_lan,
    read_module,
)
from components.config.limits import (
    REJECT_WITH,
    Bans,
    RateLimits,
    read_bans,
    read_expose_until,
    read_features,
    read_rate_limits,
)
from components.config.lists import BanLists, check_crowdsec_key, read_ban_lists, read_crowdsec_key
from components.config.notify import Notify, check_token, read_notify, read_token
from components.config.policy import read_policy, refuse_secrets, secrets_of_others
from components.config.reader import Problems, Section
from components.config.secret import IN_PLAIN_TEXT, read_secret, report_secret
from components.config.uploads import UploadLimits, check_uploads, read_upload_limits, read_upload_size
from components.config.who import check_api_key, read_api_key, read_who
from components.engine.props import camel_case
from pki import KeyType, Platform
from pki.passphrase import PASSPHRASE_LENGTH, is_weak
from pki.profile import DAYS_LIMIT, authority_name_problem, country_problem, text_problem
from policy.rules import Level

NAMESPACE = "immich-exposure"
"""The Pulumi project's name, which is the namespace of its keys."""

FUNNEL_PORTS = (443, 8443, 10000)
"""The ports that Tailscale Funnel offers (tailscale.com/kb/1223/funnel)."""

UNPRIVILEGED_PORT = 1024
"""The first port that Caddy can listen on, because it runs without privileges."""

GRACE_DAYS = 14
"""How many days a renewed device's old certificate stays valid, unless the config says otherwise."""

SECRETS = (
    "keystorePassphrase",
    "sudoPassword",
    "adoptCaPassphrase",
    "notifyToken",
    "immichApiKey",
    "crowdsecKey",
)
"""Keys that must be stored encrypted, and whose values no message shows."""

HOST_KEY_EXAMPLE = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI and 43 more characters"
"""Cannot be mistaken for a key, and differs from the placeholder in the example file, which is refused."""
HIDDEN_HOST = "hidden.invalid"
HIDDEN_HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
"""These two stand in for a server's encrypted address or key when nobody has the passphrase."""

DEVICES_EXAMPLE = "[{name: phone-anna, platform: ios}]"


class ConfigError(pulumi.RunError):
    """The configuration cannot be used. The message lists every problem at once.

    A `pulumi.RunError`, so that the engine prints the message and no stack trace.
    """

    def __init__(self, stack: str, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        lines = "".join(f"\n  - {problem}" for problem in problems)
        super().__init__(f"The configuration of the stack {stack!r} has {count}:{lines}")


@dataclass(frozen=True)
class DeviceConfig:
    """A device that gets a certificate: its name in the keystore and on the server, and its subject."""

    name: str
    platform: Platform
    common_name: str
    organization: str


@dataclass(frozen=True)
class AuthorityConfig:
    """Subject of the certificate authority, its validity, and when the next one takes over, in days."""

    common_name: str
    organization: str
    country: str
    validity_days: int
    renew_before_days: int


@dataclass(frozen=True)
class CheckConfig:
    """How the outside check reaches the server.

    `connect_to` (`HOST:PORT`) replaces the public DNS lookup, `roots_file` (PEM, relative to the project) the
    system's trusted roots. Both are None except in the lab.
    """

    connect_to: str | None
    roots_file: str | None


@dataclass(frozen=True)
class ExposureConfig:
    """The whole configuration, valid. Paths on this machine are as configured, relative to the project.

    `devices` and `frames` are those that may come in, without the ones marked as revoked. `features` says
    which parts of a shared link's page are on; `reject_with` is one of `REJECT_WITH`.

    `host_key` is in the form of `authorized_keys` (`ssh-ed25519 AAAA...`), without a comment; a
    `ssh_private_key_file` of None means the SSH agent, a `sudo_password` of None that sudo asks for none.

    With a `flake` the `module` is `yours`; `allow_upgrade` lets a rebuild bring other changes of the server's
    configuration, `take_over` lets this stack expose a server that another stack has exposed. `guard` is
    whether the server checks the exposure from outside; a `notify` of None means that no notices are sent.
    `who` is whether the server counts who opened what, and forgets a link that nobody uses for `who_days`; an
    `immich_api_key` of None means that Immich is not asked for its links. `policy` gives each rule's level. A
    `ban_lists` of None means that no list bans anybody.
    """

    host: str
    host_key: str
    ssh_user: str
    ssh_port: int
    ssh_private_key_file: str | None
    sudo_password: pulumi.Output[str] | None
    config_dir: str
    module: ModuleWay
    flake: Flake | None
    immich: Immich
    lan: Lan
    edge_build: EdgeBuilder
    allow_upgrade: bool
    take_over: bool
    proxy_port: int
    funnel_port: int
    devices: tuple[DeviceConfig, ...]
    frames: tuple[FrameConfig, ...]
    adopt: AdoptConfig | None
    adopt_ca_passphrase: pulumi.Output[str] | None
    ca: AuthorityConfig
    client_validity_days: int
    key_type: KeyType
    keystore: str
    keystore_passphrase: pulumi.Output[str]
    purge_keystore: bool
    uploads: bool
    upload_megabytes: int
    upload_limits: UploadLimits
    features: Mapping[str, bool]
    reject_with: str
    rate_limits: RateLimits
    bans: Bans
    ban_lists: BanLists | None
    crowdsec_key: pulumi.Output[str] | None
    lease_hours: int | None
    expose_until: datetime | None
    renew_before_days: int
    grace_days: int
    guard: bool
    notify: Notify | None
    notify_token: pulumi.Output[str] | None
    who: bool
    who_days: int
    immich_api_key: pulumi.Output[str] | None
    policy: Mapping[str, Level]
    check: CheckConfig


FIELDS = {camel_case(each.name): each.name for each in fields(ExposureConfig)}
"""The fields by the names of their settings."""


def from_pulumi() -> ExposureConfig:
    """Read the configuration of the stack that is being deployed.

    Raises:
        ConfigError: with all problems.
    """
    prefix = f"{NAMESPACE}:"
    values = {**engine_config.get_config_env(), **engine_config.CONFIG.get()}
    in_environment = engine_config.get_config_secret_keys_env()
    secrets = {key for key in values if key in in_environment or engine_config.is_config_secret(key)}
    ours = {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}
    project, stack = pulumi.get_project(), pulumi.get_stack()
    file = stack_file.stack_file(Path.cwd(), stack)
    try:
        return load(
            {key: decoded(key, value) for key, value in ours.items()},
            stack=stack,
            project_dir=Path.cwd(),
            secret_keys={key.removeprefix(prefix) for key in secrets},
            strays=[
                *stack_file.in_other_namespaces(values, NAMESPACE),
                *stack_file.in_the_programs(values.keys(), project, NAMESPACE, FIELDS),
                *secrets_of_others({key: values[key] for key in values.keys() - secrets}, NAMESPACE),
                *stack_file.uncertain(file, NAMESPACE, project),
            ],
            preview=pulumi.runtime.is_dry_run(),
        )
    except ConfigError as error:
        if project == NAMESPACE:
            raise
        raise ConfigError(stack, [_with_namespace(problem) for problem in error.problems]) from None


def _with_namespace(sentence: str) -> str:
    """Return a sentence with the namespace in its commands, which a program of another name needs."""
    return re.sub(r"(`pulumi config set --secret )(?!\S*:|-)", rf"\1{NAMESPACE}:", sentence)


def load(
    raw: Mapping[str, object],
    *,
    stack: str,
    project_dir: Path | None,
    secret_keys: Collection[str] = SECRETS,
    strays: Sequence[stack_file.Stray] = (),
    now: datetime | None = None,
    preview: bool = False,
) -> ExposureConfig:
    """Turn a mapping of keys and decoded values into the configuration.

    Args:
        raw: the keys of the namespace, without it; groups and lists as mappings and lists.
        stack: name of the stack, for messages and the keystore's default path.
        project_dir: where relative paths start; None means that no file on this machine is read.
        secret_keys: keys that are stored encrypted; no message shows their values.
        strays: keys in places where they have no effect, each with its message.
        now: the time to use instead of the present.
        preview: nothing will be changed, so the private SSH key may be missing.

    Raises:
        ConfigError: with all problems.
    """
    problems = Problems(hidden={*secret_keys, *SECRETS})
    top = Section(raw, problems)
    config = _read(top, stack, project_dir, now or datetime.now(UTC), preview)
    _check_passphrase(top, secret_keys)
    _check_sudo_password(top, secret_keys, config)
    check_opener(top, secret_keys)
    check_names(top, config.adopt, [device.name for device in config.devices])
    taken_over = [device.name for device in config.adopt.devices] if config.adopt else []
    check_frame_names(top, config.frames, [*(device.name for device in config.devices), *taken_over])
    check_token(top, config.notify, secret_keys)
    check_api_key(top, secret_keys)
    check_crowdsec_key(top, config.ban_lists, secret_keys)
    check_public_address(top, config.immich)
    check_uploads(top, config.upload_megabytes, config.upload_limits, config.immich)
    _check_ports(top, config)
    _check_validity(top, config)
    top.refuse_unknown()
    refuse_secrets(problems, raw, {*secret_keys, *SECRETS})
    for key, said in strays:
        problems.add_stray(key, said)
    if problems.lines:
        raise ConfigError(stack, problems.lines)
    return config


# Keys whose values are plain text; the engine encodes all others as JSON.
_TEXT_KEYS = frozenset(
    {
        "host", "hostKey", "sshUser", "sshPrivateKeyFile", "configDir", "module", "flake",
        "edgeBuild", "lan", "keyType", "keystore", "exposeUntil", "rejectWith", *SECRETS,
    }
)  # fmt: skip


def decoded(key: str, value: object) -> object:
    """Undo the engine's encoding: it passes every value as text, groups and numbers as JSON."""
    if key in _TEXT_KEYS or not isinstance(value, str):
        return value
    try:
        found: object = json.loads(value)
    except (ValueError, RecursionError):
        return value
    return found


def _read(top: Section, stack: str, project_dir: Path | None, now: datetime, preview: bool) -> ExposureConfig:
    module = read_module(top)
    who, who_days = read_who(top)
    return ExposureConfig(
        host=top.text(
            "host",
            example="192.168.1.20",
            missing="name the server's address or host name",
            check=host_problem,
        ),
        host_key=_host_key(top),
        ssh_user=top.text("sshUser", default="admin", example="admin", check=user_problem),
        ssh_port=top.integer("sshPort", default=22, least=1, most=65535),
        ssh_private_key_file=top.optional_text(
            "sshPrivateKeyFile",
            example="~/.ssh/id_ed25519",
            check=lambda text: private_key_problem(text, project_dir, preview=preview),
        ),
        sudo_password=read_secret(top, "sudoPassword"),
        config_dir=top.text(
            "configDir", default="/etc/nixos", example="/etc/nixos", check=config_dir_problem
        ),
        module=module,
        flake=read_flake(top),
        immich=read_immich(top),
        lan=read_lan(top),
        edge_build=read_edge_build(top, module),
        allow_upgrade=top.boolean("allowUpgrade", default=False),
        take_over=top.boolean("takeOver", default=False),
        proxy_port=top.integer("proxyPort", default=8443, least=UNPRIVILEGED_PORT, most=65535),
        funnel_port=_funnel_port(top),
        devices=_devices(top),
        frames=read_frames(top),
        adopt=read_adopt(top, project_dir),
        adopt_ca_passphrase=read_opener(top),
        ca=_authority(top),
        client_validity_days=top.integer("clientValidityDays", default=3650, least=1, most=DAYS_LIMIT),
        key_type=KeyType(top.choice("keyType", choices=list(KeyType), default=KeyType.ECDSA_P256)),
        keystore=top.text(
            "keystore",
            default=f"stacks/keystore/{stack}",
            example=f"stacks/keystore/{stack}",
            check=lambda text: keystore_problem(text, project_dir),
        ),
        keystore_passphrase=pulumi.Output.secret(str(top.value("keystorePassphrase") or "")),
        purge_keystore=top.boolean("purgeKeystore", default=False),
        uploads=top.boolean("uploads", default=False),
        upload_megabytes=read_upload_size(top),
        upload_limits=read_upload_limits(top),
        features=read_features(top),
        reject_with=top.choice("rejectWith", choices=REJECT_WITH, default="forbidden"),
        rate_limits=read_rate_limits(top),
        bans=read_bans(top),
        ban_lists=read_ban_lists(top),
        crowdsec_key=read_crowdsec_key(top),
        lease_hours=top.integer("leaseHours", default=0, least=0, most=24 * 366, example=48) or None,
        expose_until=read_expose_until(top, now),
        renew_before_days=top.integer("renewBeforeDays", default=30, least=1, most=DAYS_LIMIT),
        grace_days=top.integer("graceDays", default=GRACE_DAYS, least=1, most=DAYS_LIMIT),
        guard=top.boolean("guard", default=True),
        notify=read_notify(top),
        notify_token=read_token(top),
        who=who,
        who_days=who_days,
        immich_api_key=read_api_key(top),
        policy=read_policy(top),
        check=_check(top, project_dir),
    )


# Reaching the server


def _host_key(top: Section) -> str:
    text = top.text(
        "hostKey",
        example=HOST_KEY_EXAMPLE,
        missing="the server's key must be pinned, or the first machine to answer would be trusted; read it "
        "on the server with `cat /etc/ssh/ssh_host_ed25519_key.pub`",
        check=host_key_problem,
    )
    return " ".join(text.split()[:2])


def _check_sudo_password(top: Section, secret_keys: Collection[str], config: ExposureConfig) -> None:
    """Check the password in plain text; no message may contain it."""
    key = "sudoPassword"
    password = top.value(key)
    if password is None:
        return
    if not isinstance(password, str):
        reason = "must be text; put it in quotes"
    elif key not in secret_keys:
        reason = IN_PLAIN_TEXT
    elif config.ssh_user == "root":
        reason = "is not needed with sshUser root, who does not use sudo; leave it out"
    else:
        reason = sudo_password_problem(password) or ""
    if reason:
        report_secret(top, key, reason)


# Ports


def _funnel_port(top: Section) -> int:
    port = top.integer("funnelPort", default=443, least=1, most=65535)
    if port not in FUNNEL_PORTS:
        top.report("funnelPort", "Tailscale Funnel offers 443, 8443 and 10000 only", "443")
    return port


def _check_ports(top: Section, config: ExposureConfig) -> None:
    immich, proxy, ssh = config.immich.port, config.proxy_port, config.ssh_port
    ports = (
        ("proxyPort", proxy, "immich.port", immich, "`proxyPort: 8443`"),
        ("proxyPort", proxy, "sshPort", ssh, "`proxyPort: 8443`"),
        ("immich.port", immich, "sshPort", ssh, "`immich: {port: 2283}`"),
    )
    for key, port, other_key, other_port, example in ports:
        if port == other_port and not top.problems.has(key, other_key):
            reason = f"is the port of {other_key} as well ({port}), and two services cannot share it"
            top.problems.add(key, port, reason, example)


# Certificates and keystore


def _devices(top: Section) -> tuple[DeviceConfig, ...]:
    devices: list[DeviceConfig] = []
    revoked: set[str] = set()
    for section in top.sections("devices", example=DEVICES_EXAMPLE):
        device = _device(section)
        if section.boolean("revoked", default=False):
            revoked.add(device.name)
        section.refuse_unknown()
        twin = next((each.name for each in devices if each.name.lower() == device.name.lower()), None)
        if twin is not None and not section.problems.has(section.name("name")):
            section.report(
                "name",
                f"clashes with the device {twin!r}; names may not differ in case alone",
                "phone-anna-2",
            )
        devices.append(device)
    return tuple(device for device in devices if device.name not in revoked)


def _device(section: Section) -> DeviceConfig:
    name = section.text(
        "name", example="phone-anna", missing="a device needs a name", check=device_name_problem
    )
    platform = section.choice("platform", choices=list(Platform), missing="a bundle is made for a platform")
    return DeviceConfig(
        name=name,
        platform=Platform(platform or Platform.ANDROID),
        common_name=section.text("commonName", default=name, example="Anna's phone", check=text_problem),
        organization=section.text("organization", default="MyOrg", example="MyOrg", check=text_problem),
    )


def _authority(top: Section) -> AuthorityConfig:
    section = top.section("ca", example="{commonName: Immich Client CA}")
    host = str(top.value("host")).lower()
    authority = AuthorityConfig(
        common_name=section.text(
            "commonName",
            default="Immich Client CA",
            example="Immich Client CA",
            check=lambda text: (
                "is the name of the host, and Android rejects servers that are named like the CA"
                if text.lower() == host
                else authority_name_problem(text)
            ),
        ),
        organization=section.text("organization", default="Personal", example="Personal", check=text_problem),
        country=section.text("country", default="US", example="US", check=country_problem),
        validity_days=section.integer("validityDays", default=3650, least=1, most=DAYS_LIMIT),
        renew_before_days=section.integer("renewBeforeDays", default=0, least=0, most=DAYS_LIMIT),
    )
    section.refuse_unknown()
    return authority


def _check_validity(top: Section, config: ExposureConfig) -> None:
    days, authority_days = config.client_validity_days, config.ca.validity_days
    if days > authority_days and not top.problems.has("clientValidityDays", "ca.validityDays"):
        top.report(
            "clientValidityDays",
            f"is longer than ca.validityDays ({authority_days}), and no certificate outlives its authority",
            str(authority_days),
        )
    if config.renew_before_days >= days and not top.problems.has("renewBeforeDays", "clientValidityDays"):
        top.report(
            "renewBeforeDays",
            f"must be shorter than clientValidityDays ({days}), or every certificate would always be due",
            str(max(1, days // 10)),
        )
    _check_grace(top, config)
    _check_authority_renewal(top, config)


def _check_grace(top: Section, config: ExposureConfig) -> None:
    before = config.renew_before_days
    # The default never conflicts: the shorter of the two applies (components/devices/renewal.py).
    too_long = config.grace_days > before and config.grace_days != GRACE_DAYS
    if too_long and not top.problems.has("graceDays", "renewBeforeDays"):
        top.report(
            "graceDays",
            f"is longer than renewBeforeDays ({before}), and the old certificate ends before that",
            str(before),
        )


def _check_authority_renewal(top: Section, config: ExposureConfig) -> None:
    """Check that no device is renewed by an authority that expires as soon as the old certificate."""
    days, authority_days, devices = (
        config.ca.renew_before_days,
        config.ca.validity_days,
        config.renew_before_days,
    )
    keys = ("ca.renewBeforeDays", "ca.validityDays", "renewBeforeDays")
    if days == 0 or top.problems.has(*keys):
        return
    if days >= authority_days:
        reason = f"must be shorter than ca.validityDays ({authority_days}), or every authority would be due"
    elif days <= devices:
        reason = (
            f"must be longer than renewBeforeDays ({devices}): the new authority signs the new certificates"
        )
    else:
        return
    example = min(devices + 1, authority_days - 1)
    top.problems.add("ca.renewBeforeDays", days, reason, f"`ca: {{renewBeforeDays: {example}}}`")


def _check_passphrase(top: Section, secret_keys: Collection[str]) -> None:
    """Check the passphrase in plain text; no message may contain it."""
    key = "keystorePassphrase"
    passphrase = top.value(key)
    if passphrase is None:
        reason = "it encrypts the keys of the authority and the devices"
    elif not isinstance(passphrase, str) or len(passphrase) < PASSPHRASE_LENGTH:
        reason = f"must have at least {PASSPHRASE_LENGTH} characters"
    elif is_weak(passphrase):
        reason = "is easily guessed; four words that have nothing to do with each other are better"
    elif key not in secret_keys:
        reason = f"{IN_PLAIN_TEXT}; choose a new one"
    else:
        return
    report_secret(top, key, reason)


# The outside check


def _check(top: Section, project_dir: Path | None) -> CheckConfig:
    section = top.section("check", example='{connectTo: "127.0.0.1:24443"}')
    check = CheckConfig(
        connect_to=section.optional_text("connectTo", example="127.0.0.1:24443", check=address_problem),
        roots_file=section.optional_text(
            "rootsFile", example="roots.pem", check=lambda text: roots_problem(text, project_dir)
        ),
    )
    section.refuse_unknown()
    return check
