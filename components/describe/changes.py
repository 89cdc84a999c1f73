"""What a change to the settings does, as sentences under headings, for people who know neither Nix nor Caddy.

Two configurations go in, either of which may be missing, and sentences in Markdown come out. The words are
those of the preview (public_surface.py); each difference is named.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from components.config.home import Immich, Lan, ModuleWay
from components.config.limits import RateLimits
from components.config.stack_config import FIELDS, DeviceConfig, ExposureConfig
from components.describe.checkout_changes import Digests
from components.describe.markdown import code, prose
from components.describe.public_surface import (
    BANNED,
    CAN,
    CANNOT,
    DEVICES,
    FRAMES,
    HOME,
    LIMITS,
    NAME,
    NOBODY,
    STRANGERS,
    UNTIL,
    WATCH,
    WAY_IN,
    PublicSurface,
    public_surface,
)
from components.device_withdrawal import LOSES
from components.preflight.preflight import PreflightError, refuse_moving

TOPIC_KEYS: Mapping[str, frozenset[str]] = {
    NAME: frozenset({"funnelPort"}),
    CAN: frozenset({"uploads", "uploadMegabytes", "uploadLimits", "features"}),
    CANNOT: frozenset({"uploads", "uploadMegabytes", "features"}),
    STRANGERS: frozenset({"rejectWith"}),
    BANNED: frozenset({"banLists"}),
    DEVICES: frozenset({"devices", "adopt"}),
    FRAMES: frozenset({"frames"}),
    LIMITS: frozenset({"rateLimits", "bans"}),
    UNTIL: frozenset({"leaseHours", "exposeUntil"}),
    WATCH: frozenset({"guard", "notify", "who", "whoDays"}),
    HOME: frozenset({"immich", "lan"}),
    WAY_IN: frozenset({"module", "flake", "configDir", "edgeBuild", "immich", "lan"}),
}
"""The settings behind each topic: if one of them is encrypted, the topic cannot be described."""

Sections = dict[str, list[str]]
"""Sentences in Markdown by heading; headings without sentences are left out."""


@dataclass(frozen=True)
class Summary:
    """The sentences that come first, and all others under their headings."""

    first: tuple[str, ...]
    sections: Sections


@dataclass(frozen=True)
class Module:
    """The NixOS module before and after; None if it cannot be determined."""

    old: Digests | None
    new: Digests | None

    @classmethod
    def the_same(cls) -> Module:
        """A module that stays the same."""
        return cls(Digests("", ""), Digests("", ""))

    @property
    def differs(self) -> bool:
        """Whether the server gets another module, or this is unknown."""
        return self.old is None or self.new is None or self.old.module != self.new.module

    @property
    def is_recompiled(self) -> bool:
        """Whether another edge is compiled, or this is unknown."""
        return self.old is None or self.new is None or self.old.edge != self.new.edge


@dataclass(frozen=True)
class Hidden:
    """The encrypted settings before and after; topics that depend on them cannot be compared."""

    old: Collection[str] = ()
    new: Collection[str] = ()

    @property
    def either(self) -> frozenset[str]:
        """The settings that are encrypted on at least one side."""
        return frozenset({*self.old, *self.new})


NOTHING_HIDDEN = Hidden()


def changes(
    old: ExposureConfig, new: ExposureConfig, module: Module, secret: Hidden = NOTHING_HIDDEN
) -> Summary:
    """Return what changes when one configuration replaces another.

    A topic that was encrypted and can be read now is described in full.
    """
    hidden = secret.either
    revealed = _revealed(new, secret)
    new = _as_before(old, new, hidden)
    compared = _Comparison(public_surface(old), public_surface(new), hidden)
    gained, lost = _gained_and_lost(compared)
    rebuild, is_rebuilt = _rebuild(old, new, module)
    sections: Sections = {
        "Who gets in": [*_devices(old, new, compared)],
        "What strangers can do": [
            *_public(compared),
            *_address(compared),
            *_strangers(compared),
            *_lines(compared, BANNED),
        ],
        "Limits": [*_limits(old, new, compared)],
        "Until when": [*_lines(compared, UNTIL)],
        "Who watches": [*_lines(compared, WATCH), *_notices(old, new)],
        "At home": [*_home(compared)],
        "Keys and certificates": [*_keys(old, new)],
        "How the server is reached": [*_whose_server(old, new, hidden), *_server(old, new)],
        "On the server": [*_way_in(compared), *rebuild],
        **revealed,
    }
    first = [
        *(["**What was encrypted before and can be read now is shown in full.**"] if revealed else []),
        *_who_first(compared),
        *(_first("More becomes public", gained)),
        *(_first("Less is public", lost)),
        *_home_first(old, new, compared),
        "**The server is rebuilt.**" if is_rebuilt else "Nothing is rebuilt.",
    ]
    return Summary(tuple(first), sections)


def _revealed(new: ExposureConfig, secret: Hidden) -> Sections:
    """Return the topics that were encrypted, and can be read now."""
    words = _shown(public_surface(new), secret.new)
    return _whole({topic: words[topic] for topic in words if not TOPIC_KEYS[topic].isdisjoint(secret.old)})


def _as_before(old: ExposureConfig, new: ExposureConfig, hidden: Collection[str]) -> ExposureConfig:
    """Return `new` with the old value of each hidden setting, so that no default is taken for a change."""
    names = {FIELDS[key] for key in hidden if key in FIELDS}
    if "flake" in names:
        names.add("module")
    return replace(new, **{name: getattr(old, name) for name in names})


def beginning(new: ExposureConfig, hidden: Collection[str] = ()) -> Summary:
    """Return what a new stack does."""
    words = _shown(public_surface(new), hidden)
    first = [
        "**A new exposure: Immich becomes reachable from the internet.**",
        *(_first("All of Immich, with a certificate, for", _names(words, DEVICES))),
        *(_first("Photos and albums, with a secret header, for", _names(words, FRAMES))),
        *(_first("Anyone with a shared link can", words.get(CAN, {}).values())),
        *([_HOME_ENDS] if _closes_home(new) and HOME in words else []),
        "**The server is rebuilt.**" if _is_built(new) else "Nothing is built by this program.",
    ]
    sections = {
        "How the server is reached": [*_first_reached(new, hidden)],
        **_whole(words),
        "Keys": [_PURGED] if new.purge_keystore else [],
    }
    return Summary(tuple(first), sections)


def end(old: ExposureConfig) -> Summary:
    """Return what it means to remove a stack's file."""
    words = public_surface(old)
    devices = [*words[DEVICES], *words.get(FRAMES, {})]
    first = (
        "**This removes the settings of an exposure, and does not end it.** `pulumi destroy` does that, and "
        "needs this file: run it first, and merge this afterwards.",
    )
    back = [
        "The funnel is closed first and verified to be closed: no link opens any more.",
        *(f"{code(name)} no longer gets in." for name in devices if name != NOBODY),
        "The keystore stays, so that the same devices get in again after a later `pulumi up`."
        if not old.purge_keystore
        else "**The keystore is deleted** (`purgeKeystore`): every device needs a new bundle next time.",
        *_home_again(old),
        *_config_again(old),
    ]
    return Summary(first, {"What `pulumi destroy` takes back": back})


def _whole(words: PublicSurface) -> Sections:
    """Return all words, by topic."""
    return {
        topic[0].upper() + topic[1:]: [_named(topic, name, line) for name, line in lines.items()]
        for topic, lines in words.items()
    }


def whole(config: ExposureConfig, hidden: Collection[str] = ()) -> Sections:
    """Return everything that a configuration makes public, by topic."""
    return _whole(_shown(public_surface(config), hidden))


def _shown(words: PublicSurface, hidden: Collection[str]) -> PublicSurface:
    return {topic: lines for topic, lines in words.items() if TOPIC_KEYS[topic].isdisjoint(hidden)}


def _named(topic: str, name: str, line: str) -> str:
    return f"{code(name)} ({prose(line)})" if topic in (DEVICES, FRAMES) and name != NOBODY else prose(line)


def _names(words: PublicSurface, topic: str) -> list[str]:
    return [code(name) for name in words.get(topic, {}) if name != NOBODY]


def _first(what: str, items: Collection[str]) -> Iterator[str]:
    if items:
        yield f"**{what}:** {_listed(items)}."


def _listed(items: Collection[str]) -> str:
    """Return the items separated by commas, or only the first few of them."""
    few = list(items)[:5]
    rest = len(items) - len(few)
    return f"{', '.join(few)} and {rest} more" if rest else ", ".join(few)


class _Comparison:
    """The words before and after, and where they differ."""

    def __init__(self, old: PublicSurface, new: PublicSurface, hidden: Collection[str]) -> None:
        self.old, self.new = _shown(old, hidden), _shown(new, hidden)

    def removed(self, topic: str) -> dict[str, str]:
        """Lines that were removed, by name."""
        after = self.new.get(topic, {})
        return {name: line for name, line in self.old.get(topic, {}).items() if name not in after}

    def added(self, topic: str) -> dict[str, str]:
        """Lines that were added, by name."""
        before = self.old.get(topic, {})
        return {name: line for name, line in self.new.get(topic, {}).items() if name not in before}

    def changed(self, topic: str) -> Iterator[tuple[str, str, str]]:
        """Yield name, old line and new line of each line that changed."""
        for name, line in self.new.get(topic, {}).items():
            before = self.old.get(topic, {}).get(name, line)
            if before != line:
                yield name, before, line


def _lines(compared: _Comparison, topic: str) -> Iterator[str]:
    for _, before, after in compared.changed(topic):
        yield f"{prose(before)} → **{prose(after)}**"
    for line in compared.added(topic).values():
        yield f"new: {prose(line)}"
    for line in compared.removed(topic).values():
        yield f"no longer: {prose(line)}"


# Who gets in


def _who_first(compared: _Comparison) -> Iterator[str]:
    lost = [code(name) for name in (*compared.removed(DEVICES), *compared.removed(FRAMES)) if name != NOBODY]
    got = [code(name) for name in (*compared.added(DEVICES), *compared.added(FRAMES)) if name != NOBODY]
    if lost:
        yield f"**{_listed(lost)} {LOSES if len(lost) == 1 else LOSES.replace('loses', 'lose')}.**"
    if got:
        yield f"**{_listed(got)} {'gets' if len(got) == 1 else 'get'} in.**"


def _devices(old: ExposureConfig, new: ExposureConfig, compared: _Comparison) -> Iterator[str]:
    for name in compared.removed(DEVICES):
        if name != NOBODY:
            yield f"{code(name)} **{LOSES}**, with the first step of `pulumi up`, whatever fails after that"
    for name, line in compared.added(DEVICES).items():
        if name == NOBODY:
            yield "nobody has full access any more"
        else:
            yield f"{code(name)} ({prose(line)}) **gets in**: all of Immich, with a certificate of its own"
    for name in compared.removed(FRAMES):
        yield f"{code(name)} **{LOSES}**, with the first step of `pulumi up`, whatever fails after that"
    for name, line in compared.added(FRAMES).items():
        yield f"{code(name)} **{prose(line)}**, read-only, with a secret header of its own"
    before = {device.name: device for device in old.devices}
    if DEVICES in compared.new:
        for device in new.devices:
            if device.name in before:
                yield from _same_device(before[device.name], device)
    for name, was, now in compared.changed(DEVICES):
        if "adopted" in was or "adopted" in now:
            yield f"{code(name)}: {prose(was)} → **{prose(now)}**"


def _same_device(old: DeviceConfig, new: DeviceConfig) -> Iterator[str]:
    if old.platform != new.platform:
        yield (
            f"{code(new.name)} changes its platform, {old.platform} → **{new.platform}**: its bundle is "
            "written again, and its certificate stays"
        )
    if (old.common_name, old.organization) != (new.common_name, new.organization):
        yield (
            f"{code(new.name)} would get another name in its certificate ({code(new.common_name)}, "
            f"{code(new.organization)}), which **`pulumi up` refuses** while the device has one"
        )


# What strangers can do


def _gained_and_lost(compared: _Comparison) -> tuple[list[str], list[str]]:
    return list(map(prose, compared.added(CAN).values())), list(map(prose, compared.removed(CAN).values()))


def _public(compared: _Comparison) -> Iterator[str]:
    for line in compared.added(CAN).values():
        yield f"**becomes public**: {CAN} now {prose(line)}"
    for line in compared.removed(CAN).values():
        yield f"**no longer public**: {CAN.removesuffix(' can')} can no longer {prose(line)}"
    for _, before, after in compared.changed(CAN):
        yield f"{CAN} {prose(before)} → **{prose(after)}**"


def _address(compared: _Comparison) -> Iterator[str]:
    yield from _lines(compared, NAME)
    if any(name == "port" for name, _, _ in compared.changed(NAME)):
        yield "every address and every link that was handed out before stops working"


def _strangers(compared: _Comparison) -> Iterator[str]:
    for _, before, after in compared.changed(STRANGERS):
        yield f"{STRANGERS} {before} → **{STRANGERS} {after}**"


# Limits

_RATES: Mapping[str, Callable[[RateLimits], float]] = {
    "requests": lambda limits: limits.requests / limits.window_seconds,
    "passwords": lambda limits: limits.password_attempts / limits.password_window_seconds,
    "wrong passwords": lambda limits: limits.link_passwords_per_hour,
    "zip files": lambda limits: limits.bundles / limits.bundle_window_seconds,
}


def _limits(old: ExposureConfig, new: ExposureConfig, compared: _Comparison) -> Iterator[str]:
    for name, before, after in compared.changed(LIMITS):
        yield f"{prose(before)} → **{prose(after)}**{_tendency(name, old, new)}"


def _tendency(name: str, old: ExposureConfig, new: ExposureConfig) -> str:
    rate = _RATES.get(name)
    if rate is None or rate(old.rate_limits) == rate(new.rate_limits):
        return ""
    looser = rate(new.rate_limits) > rate(old.rate_limits)
    return " (looser: strangers may do more)" if looser else " (tighter)"


# Who watches


def _notices(old: ExposureConfig, new: ExposureConfig) -> Iterator[str]:
    if old.notify and new.notify and old.notify != new.notify and old.notify.place == new.notify.place:
        yield f"notices go to another address at {code(new.notify.place)}"


# At home

_HOME_ENDS = (
    "**Immich's address at home is closed** while the funnel is open: phones there go through the edge."
)


def _home(compared: _Comparison) -> Iterator[str]:
    """Yield all of these lines if one differs, because they belong together."""
    if compared.old.get(HOME) != compared.new.get(HOME):
        yield from map(prose, compared.new.get(HOME, {}).values())


def _closes_home(config: ExposureConfig) -> bool:
    return config.immich.managed and config.lan is Lan.CLOSE


def _home_first(old: ExposureConfig, new: ExposureConfig, compared: _Comparison) -> Iterator[str]:
    if HOME not in compared.new or _closes_home(old) == _closes_home(new):
        return
    if _closes_home(new):
        yield _HOME_ENDS
    else:
        yield "**Immich at home is reached without the edge and its bans**, also while the funnel is open."


def _home_again(old: ExposureConfig) -> Iterator[str]:
    if _closes_home(old):
        yield "Immich can be reached at home again, at its own address."


def _config_again(old: ExposureConfig) -> Iterator[str]:
    if old.module is ModuleWay.MANAGED:
        yield f"The server's configuration in {code(old.config_dir)} is put back byte for byte, and rebuilt."


# Keys and certificates


def _keys(old: ExposureConfig, new: ExposureConfig) -> Iterator[str]:
    if old.client_validity_days != new.client_validity_days:
        yield (
            f"new certificates of devices are valid for {old.client_validity_days} → "
            f"**{new.client_validity_days} days**; existing ones stay as they are"
        )
    if old.ca.validity_days != new.ca.validity_days:
        yield (
            f"a new authority would be valid for {old.ca.validity_days} → **{new.ca.validity_days} days**; "
            "the existing one stays as it is"
        )
    if old.renew_before_days != new.renew_before_days:
        yield (
            f"a device's certificate is renewed {old.renew_before_days} → **{new.renew_before_days} days** "
            "before its end"
        )
    if old.ca.renew_before_days != new.ca.renew_before_days:
        yield (
            f"the next authority takes over {old.ca.renew_before_days} → **{new.ca.renew_before_days} days** "
            "before the end of this one (0: a day before the devices' renewal begins)"
        )
    if old.grace_days != new.grace_days:
        yield (
            f"a renewed device's old certificate stays valid for {old.grace_days} → **{new.grace_days} "
            "days** more"
        )
    if _subject(old) != _subject(new) or old.key_type != new.key_type:
        yield (
            "the authority would get another name or kind of key, which **`pulumi up` refuses** while the "
            "keystore holds one"
        )
    yield from _adoption(old, new)
    if old.keystore != new.keystore:
        yield (
            f"the keys are looked for in another folder, {code(old.keystore)} → {code(new.keystore)}; "
            "`pulumi up` refuses one that does not hold this stack's authority"
        )
    if old.purge_keystore != new.purge_keystore:
        yield (_PURGED if new.purge_keystore else "`pulumi destroy` leaves the keys alone")


_PURGED = "**`pulumi destroy` will delete all keys**: every device needs a new bundle after it"


def _subject(config: ExposureConfig) -> tuple[str, str, str]:
    return config.ca.common_name, config.ca.organization, config.ca.country


def _adoption(old: ExposureConfig, new: ExposureConfig) -> Iterator[str]:
    if new.adopt is None:
        if old.adopt is not None:
            yield "nothing of a manual setup is taken over any more"
        return
    before = (old.adopt.ca_certificate, old.adopt.ca_key) if old.adopt else None
    if before != (new.adopt.ca_certificate, new.adopt.ca_key):
        yield (
            "a manually created authority is taken over: certificate "
            f"{code(new.adopt.ca_certificate)}, key {code(new.adopt.ca_key)}"
        )


# How the server is reached


def _whose_server(old: ExposureConfig, new: ExposureConfig, hidden: Collection[str]) -> Iterator[str]:
    if not {"host", "hostKey"}.isdisjoint(hidden):
        return
    try:
        refuse_moving(_moving(old), _moving(new))
    except PreflightError as error:
        yield f"**`pulumi up` refuses this.** {prose(str(error))}"
    if old.host != new.host:
        yield f"the server is at another address, {code(old.host)} → {code(new.host)}"
    if old.host_key != new.host_key:
        yield (
            f"**another machine is trusted**: the pinned host key is {host_key_print(old.host_key)} → "
            f"{host_key_print(new.host_key)}. Compare it with what "
            "`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` prints on the server"
        )


def _server(old: ExposureConfig, new: ExposureConfig) -> Iterator[str]:
    for what, before, after in (
        ("SSH user", old.ssh_user, new.ssh_user),
        ("SSH port", str(old.ssh_port), str(new.ssh_port)),
        ("SSH key", old.ssh_private_key_file or _AGENT, new.ssh_private_key_file or _AGENT),
        ("port on the server's loopback", str(old.proxy_port), str(new.proxy_port)),
    ):
        if before != after:
            yield f"{what}: {code(before)} → {code(after)}"
    if old.check != new.check:
        yield _check(new)
    if new.take_over != old.take_over:
        yield _TAKEN_OVER if new.take_over else "no server is taken over from another stack any more"
    if new.allow_upgrade != old.allow_upgrade:
        yield _UPGRADED if new.allow_upgrade else "a rebuild again brings in nothing but the module"


_AGENT = "from the agent"
_TAKEN_OVER = "**the server is taken over from another stack**, whose devices are shut out"
_UPGRADED = "a rebuild may bring in any other pending change of the server's configuration (`allowUpgrade`)"


def _check(config: ExposureConfig) -> str:
    if config.check.connect_to:
        return f"the outside check connects to {code(config.check.connect_to)} instead of the public address"
    if config.check.roots_file:
        return "the outside check connects to the public address as before, with other trusted roots"
    return "the outside check connects to the public address, with the usual trusted roots"


def _first_reached(new: ExposureConfig, hidden: Collection[str]) -> Iterator[str]:
    """Yield which machine a new stack exposes, and what is unusual about how."""
    if {"host", "hostKey"}.isdisjoint(hidden):
        yield f"the server is {code(new.host)}, with the host key {host_key_print(new.host_key)}"
    if new.take_over:
        yield _TAKEN_OVER
    if new.allow_upgrade:
        yield _UPGRADED
    if new.check.connect_to or new.check.roots_file:
        yield _check(new)


def _moving(config: ExposureConfig) -> dict[str, str]:
    return {
        "host": config.host,
        "hostKey": config.host_key,
        "module": config.module,
        "configDir": config.config_dir,
    }


def host_key_print(host_key: str) -> str:
    """Return a host key's fingerprint as OpenSSH prints it."""
    blob = base64.b64decode(host_key.split()[1])
    return code(f"SHA256:{base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip('=')}")


# On the server


def _way_in(compared: _Comparison) -> Iterator[str]:
    """Yield changes of the files that are written; module and build costs are described separately."""
    for name, before, after in compared.changed(WAY_IN):
        if name == "files":
            yield f"{prose(before)} → **{prose(after)}**"


def _is_built(config: ExposureConfig) -> bool:
    return config.flake is not None or config.module is ModuleWay.MANAGED


def _rebuild(old: ExposureConfig, new: ExposureConfig, module: Module) -> tuple[list[str], bool]:
    """Return what is built on the server and why, and whether anything is."""
    reasons = [*_reasons(old, new)] if new.flake is None and new.module is ModuleWay.MANAGED else []
    if module.differs:
        unknown = module.old is None or module.new is None
        reasons.append("the module's files, which cannot be read here" if unknown else "the module's files")
    way_in = public_surface(new)[WAY_IN]
    if not reasons:
        return [], False
    if not _is_built(new):
        return [
            "nothing is built by this program: deploy this version of the module from your own repository "
            "before `pulumi up`"
        ], False
    compiled = module.is_recompiled or old.edge_build != new.edge_build
    cost = prose(way_in["build"]) if compiled else "Caddy is not compiled again, so it takes minutes at most"
    return [f"rebuilt because of {', '.join(reasons)}", cost], True


def _reasons(old: ExposureConfig, new: ExposureConfig) -> Iterator[str]:
    if old.lan != new.lan:
        yield f"`lan` ({old.lan} → {new.lan})"
    if _immich(old.immich) != _immich(new.immich):
        yield "`immich`"
    if old.edge_build != new.edge_build:
        yield f"`edgeBuild` ({old.edge_build} → {new.edge_build})"


def _immich(immich: Immich) -> tuple[object, ...]:
    """Return what the server's configuration says about Immich; address and port only if not managed."""
    return (immich.managed,) if immich.managed else (False, immich.address, immich.port)
