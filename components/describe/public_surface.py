"""What an exposure makes public, in words: for the preview, the outputs and a pull request.

The lines are short, each with a name, grouped by topic, because ``pulumi preview`` cuts long texts. With
fixed names, a reviewer sees only the line that changes, whatever comes before or after it. A text from the
settings is between backticks, so that a comment can show it as a quotation.
"""

from __future__ import annotations

from collections.abc import Sequence

from components.config.home import EdgeBuilder, Lan, ModuleWay
from components.config.lists import BanLists
from components.config.stack_config import ExposureConfig
from components.nixos_configuration import configuration_digest
from components.surface.table import SETTING_OF_ITS_OWN, load

PublicSurface = dict[str, dict[str, str]]
"""Lines by topic and name."""

NAME = "the name"
CAN = "anyone with a shared link can"
CANNOT = "anyone with only a shared link cannot"
STRANGERS = "everything else"
BANNED = "turned away by lists"
DEVICES = "full access, with a certificate"
FRAMES = "read-only, with a secret header"
LIMITS = "limits of one address"
UNTIL = "until"
WATCH = "when something happens"
HOME = "at home"
WAY_IN = "how it gets in"

NOBODY = "nobody"
"""The name of the only line if no device is enrolled."""


def public_surface(config: ExposureConfig) -> PublicSurface:
    """Return, by topic, who can reach what, within which limits and for how long."""
    can, cannot = _links(config)
    return {
        NAME: {
            "port": f"port {config.funnel_port} of the node's name answers anyone on the internet",
            "certificate": "the name becomes public through certificate transparency logs",
        },
        CAN: can,
        CANNOT: cannot,
        STRANGERS: {"answer": _strangers(config)},
        **({BANNED: _ban_lists(config.ban_lists)} if config.ban_lists else {}),
        DEVICES: _devices(config) or {NOBODY: "no device is named"},
        **(
            {FRAMES: {each.name: "sees photos and albums" for each in config.frames}} if config.frames else {}
        ),
        LIMITS: _limits(config),
        UNTIL: {"end": _until(config)},
        WATCH: {**_guard(config), "notices": _notices(config), **_who(config)},
        HOME: _at_home(config),
        WAY_IN: _way_in(config),
    }


def what_to_set_in_immich(url: str) -> str:
    """Return the setting that makes Immich write links that open outside; it needs no other change."""
    return (
        f"Administration, Settings, Server settings: External domain = {url} "
        "(otherwise the links that people copy contain the address at home)"
    )


def _links(config: ExposureConfig) -> tuple[dict[str, str], dict[str, str]]:
    """Return what people with a link can do, and what is switched off."""
    on = {SETTING_OF_ITS_OWN: config.uploads, **config.features}
    can: dict[str, str] = {}
    cannot: dict[str, str] = {}
    for feature in load().features:
        side = can if on.get(feature.name, feature.default) else cannot
        side[feature.name] = feature.visitors
    if config.uploads:
        can[SETTING_OF_ITS_OWN] += f" (up to {config.upload_megabytes} MB each)"
        can |= _upload_budgets(config)
    return can, cannot


def _upload_budgets(config: ExposureConfig) -> dict[str, str]:
    limits = config.upload_limits
    return {
        "uploads of a link": (
            f"upload up to {limits.link_megabytes} MB and {limits.link_files} files an hour through each, "
            f"until {limits.free_gigabytes} GB are free"
        ),
        "uploads of all links": (
            f"upload up to {limits.megabytes} MB and {limits.files} files an hour through all links together"
        ),
    }


def _devices(config: ExposureConfig) -> dict[str, str]:
    """Return the devices with a certificate, adopted ones included; a device can be both."""
    devices = {device.name: str(device.platform) for device in config.devices}
    for device in config.adopt.devices if config.adopt else ():
        new = devices.get(device.name)
        devices[device.name] = "adopted" if new is None else f"{new}, and adopted"
    return devices


def _strangers(config: ExposureConfig) -> str:
    return "answers 403" if config.reject_with == "forbidden" else "is not answered"


MOST_COUNTRIES = 12
"""How many names a line lists, because Pulumi shows only 150 characters of it."""


def _some(names: Sequence[str], most: int) -> str:
    """Return the first names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _ban_lists(lists: BanLists) -> dict[str, str]:
    """Return who is refused by lists, and who never is."""
    words = {}
    if lists.database is not None:
        some = _some(lists.countries, MOST_COUNTRIES)
        which = f"every country but {some}"
        if not lists.only:
            which = f"{_count(lists.countries, 'country', 'countries')} ({some})"
        words["countries"] = f"visitors from {which} are turned away"
        words["database"] = f"`{lists.database}` on the server says which country a visitor is in"
    if lists.networks:
        quoted = [f"`{path}`" for path in lists.networks]
        files = _count(lists.networks, "network list", "network lists")
        words["networks"] = f"visitors from {files} are turned away ({_some(quoted, 1)})"
    if lists.crowdsec is not None:
        words["crowdsec"] = f"visitors that CrowdSec at `{lists.crowdsec}` has banned are turned away"
    return {
        **words,
        "nobody else": "visitors on no list, or in no known country, get in; devices and frames always do",
        "links": "listed visitors are turned away even if they have a link open",
    }


def _count(things: Sequence[str], one: str, more: str) -> str:
    return f"{len(things)} {one if len(things) == 1 else more}"


def _limits(config: ExposureConfig) -> dict[str, str]:
    limits, bans = config.rate_limits, config.bans
    return {
        "requests": f"{limits.requests} requests in {limits.window_seconds} seconds",
        "passwords": f"{limits.password_attempts} link passwords in {limits.password_window_seconds} seconds",
        "wrong passwords": (
            f"{limits.link_passwords_per_hour} wrong passwords in an hour for one link, from all addresses "
            "together"
        ),
        "zip files": f"{limits.bundles} zip files in {limits.bundle_window_seconds} seconds",
        "bans": f"{bans.max_retry} offences within {bans.find_time} ban it for {bans.ban_time}",
        "visitor": f"an IPv4 address, or the first {bans.ipv6_prefix} bits of an IPv6 one, is one visitor",
    }


def _until(config: ExposureConfig) -> str:
    if config.expose_until is not None:
        return f"the server itself closes the funnel at {config.expose_until.isoformat()}"
    if config.lease_hours is not None:
        return f"the server itself closes the funnel {config.lease_hours} hours after it was opened"
    return "pulumi destroy closes the funnel"


def _guard(config: ExposureConfig) -> dict[str, str]:
    if not config.guard:
        return {"look": "nobody checks from outside after pulumi up has ended (guard: false)"}
    return {
        "look": "every five minutes the server checks itself from outside, as a stranger does",
        "then": "what does not answer is repaired, what is not safe is closed at once",
    }


def _notices(config: ExposureConfig) -> str:
    if config.notify is None:
        return "nobody is notified; set notify, or look at `sudo immich-exposure status` on the server"
    place = f"`{config.notify.place}` ({config.notify.kind})"
    return f"the server notifies {place}, without any key, password or photo name"


def _who(config: ExposureConfig) -> dict[str, str]:
    """Return what is recorded about visitors, if the owner asked for it."""
    words = {}
    if config.who:
        words["opens"] = "the server counts each shared link's opens, downloads and uploads, but not by whom"
        words["seen"] = "it records when each device and frame was last seen, and from which address"
        words["unused"] = f"a link that nobody uses for {config.who_days} days is forgotten"
    if config.immich_api_key is not None:
        words["links"] = (
            "the server asks Immich with your API key what its user's shared links allow, and tells you"
        )
    return words


def _at_home(config: ExposureConfig) -> dict[str, str]:
    """Return who cannot reach Immich at home while the funnel is open."""
    port = config.immich.port
    if not config.immich.managed:
        return {"Immich": "nothing changes: Immich is reached as before, by its own address"}
    if config.lan is Lan.KEEP:
        return {
            "Immich": f"nothing changes: Immich's port {port} stays as it is, without the edge and its bans"
        }
    return {
        "Immich": f"while the funnel is open, nobody reaches Immich's port {port} on the LAN or VPN address",
        "proxies": (
            f"nor do proxies on the server that use another address than 127.0.0.1:{port} ([::1], say)"
        ),
        "afterwards": "when the funnel closes, Immich can be reached there again automatically",
        "sooner": "`sudo immich-exposure lan open` on the server opens it sooner, `lan: keep` for good",
    }


def _way_in(config: ExposureConfig) -> dict[str, str]:
    """Return what is written to the server's configuration, and which change of this text means a rebuild.

    These words stay the same for the life of the exposure, so they must say nothing about a single run.
    """
    version = configuration_digest(config)[:12]
    cost = _cost_of_a_build(config)
    if config.flake is not None:
        written = f"`{config.flake}` is built whenever its system lacks the module; no file is written"
        return {"files": written, "build": cost}
    if config.module is ModuleWay.YOURS:
        return {
            "files": "the module is in your own repository; no Nix file is written and nothing is built",
            "module": f"the running system must have module {version}",
        }
    return {
        "files": (
            f"one line of the imports in `{config.config_dir}/configuration.nix`, and a folder beside that "
            "file"
        ),
        "afterwards": "pulumi destroy puts every byte of it back",
        "module": (
            f"module {version}: the server is rebuilt when this changes (with project, immich, lan, "
            "edgeBuild)"
        ),
        "build": cost,
    }


def _cost_of_a_build(config: ExposureConfig) -> str:
    if config.edge_build is EdgeBuilder.OPERATOR:
        return "a new Caddy is compiled on this machine, with Go, and sent to the server"
    return "a new Caddy is compiled on the server: minutes on a PC, far longer on a Pi (see edgeBuild)"
