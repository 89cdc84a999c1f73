"""What an exposure makes public, in words: for the preview, the outputs and the person who reads them.

A mapping of short lines, because that is what ``pulumi preview`` shows well: it cuts long texts, and with
fixed keys a reviewer sees the one line that changes.
"""

from __future__ import annotations

from components.config import ExposureConfig
from components.config_home import EdgeBuilder, Lan, ModuleWay
from components.nixos_configuration import configuration_digest
from components.surface_table import SETTING_OF_ITS_OWN, load

Words = dict[str, list[str]]


def what_becomes_public(config: ExposureConfig) -> Words:
    """Return, by topic, who can reach what, within which limits and for how long."""
    can, cannot = _links(config)
    return {
        "the name": [
            f"port {config.funnel_port} of the node's name answers anyone on the internet",
            "the name becomes public through certificate transparency logs",
        ],
        "whoever has a shared link can": can,
        "whoever has only a shared link cannot": cannot,
        "everything else": [_strangers(config)],
        "full access, with a certificate": _devices(config) or ["nobody"],
        "limits of one address": _limits(config),
        "until": [_until(config)],
        "when something happens": [*_guard(config), _notices(config)],
        "at home": _at_home(config),
        "how it gets in": _way_in(config),
    }


def what_to_set_in_immich(url: str) -> str:
    """Return what makes Immich write links that open outside; nothing else of Immich's is touched."""
    return (
        f"Administration, Settings, Server settings: External domain = {url} "
        "(else the links that people copy hold the address at home)"
    )


def _links(config: ExposureConfig) -> tuple[list[str], list[str]]:
    """Return what a link lets people do, and what is switched off."""
    on = {SETTING_OF_ITS_OWN: config.uploads, **config.features}
    features = load().features
    can = [feature.visitors for feature in features if on.get(feature.name, feature.default)]
    cannot = [feature.visitors for feature in features if not on.get(feature.name, feature.default)]
    if config.uploads:
        can[-1] += f" (up to {config.upload_megabytes} MB each)"
    return can, cannot


def _devices(config: ExposureConfig) -> list[str]:
    """Return whom a certificate lets in, those taken over as well; a device with both is named twice."""
    new = [f"{device.name} ({device.platform})" for device in config.devices]
    return new + [f"{device.name} (adopted)" for device in (config.adopt.devices if config.adopt else ())]


def _strangers(config: ExposureConfig) -> str:
    return "answers 403" if config.strangers == "refuse" else "is not answered"


def _limits(config: ExposureConfig) -> list[str]:
    limits, bans = config.rate_limits, config.bans
    return [
        f"{limits.requests} requests in {limits.window_seconds} seconds",
        f"{limits.password_attempts} link passwords in {limits.password_window_seconds} seconds",
        f"{limits.link_passwords_per_hour} wrong passwords in an hour for one link, from wherever",
        f"{limits.bundles} zip files in {limits.bundle_window_seconds} seconds",
        f"{bans.max_retry} offences within {bans.find_time} ban it for {bans.ban_time}",
    ]


def _until(config: ExposureConfig) -> str:
    if config.expose_until is not None:
        return f"the server closes the funnel by itself at {config.expose_until.isoformat()}"
    if config.lease_hours is not None:
        return f"the server closes the funnel by itself {config.lease_hours} hours after it was opened"
    return "pulumi destroy closes the funnel"


def _guard(config: ExposureConfig) -> list[str]:
    if not config.guard:
        return ["nobody looks from outside after pulumi up has ended (guard: false)"]
    return [
        "every five minutes the server looks at itself from outside, as a stranger does",
        "what does not answer is healed, what is not safe is closed at once",
    ]


def _notices(config: ExposureConfig) -> str:
    if config.notify is None:
        return "nobody is told; set notify, or look at `sudo immich-exposure status` on the server"
    told = f"the server tells {config.notify.place} ({config.notify.kind})"
    return f"{told}; no key, password or photo name"


def _at_home(config: ExposureConfig) -> list[str]:
    """Return who loses Immich at home while the funnel is open."""
    port = config.immich.port
    if not config.immich.managed:
        return ["nothing changes: Immich is reached as before, by its own address"]
    if config.lan is Lan.KEEP:
        return [f"nothing changes: Immich's port {port} stays as it is, without the edge and its bans"]
    return [
        f"while the funnel is open, nobody reaches Immich's port {port} on the LAN or VPN address",
        f"nor do proxies on the server that use another address than 127.0.0.1:{port} ([::1], say)",
        "when the funnel shuts, Immich is there again, by itself",
        "`sudo immich-exposure lan open` on the server opens it before that, `lan: keep` for good",
    ]


def _way_in(config: ExposureConfig) -> list[str]:
    """Return what is written to the server's configuration, and which change of this text rebuilds it.

    These words stand for as long as the exposure does, so that they may say nothing of this one run.
    """
    version = configuration_digest(config)[:12]
    cost = _cost_of_a_build(config)
    if config.flake is not None:
        return [f"{config.flake} is built whenever its system lacks the module; no file is written", cost]
    if config.module is ModuleWay.YOURS:
        return [
            "the module is in your own repository; no Nix file is written and nothing is built",
            f"the running system must have module {version}",
        ]
    return [
        f"one line of the imports in {config.config_dir}/configuration.nix, and a folder beside that file",
        "pulumi destroy puts every byte of it back",
        f"module {version}: only another one (by project, immich, lan, edgeBuild) rebuilds the server",
        cost,
    ]


def _cost_of_a_build(config: ExposureConfig) -> str:
    if config.edge_build is EdgeBuilder.OPERATOR:
        return "a new Caddy is compiled on this machine, with Go, and sent to the server"
    return "a new Caddy is compiled on the server: minutes on a PC, far longer on a Pi (see edgeBuild)"
