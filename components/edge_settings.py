"""The settings that the edge reads when it starts or reloads; changing them never needs a rebuild.

`edge_environment` and `bans_configuration` are pure; `EdgeSettings` installs the files on the server.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import pulumi

from components.config.checks import seconds
from components.config.stack_config import ExposureConfig
from components.remote.remote_script import PayloadFile, Server
from components.remote.server_script import ServerScript
from components.surface.table import SETTING_OF_ITS_OWN, load

PREFIX = "IMMICH_EXPOSURE_"
"""The prefix of every name that the Caddyfile takes from its environment."""


def edge_environment(config: ExposureConfig) -> str:
    """Return edge.env: `KEY=VALUE` lines in a fixed order, which systemd reads literally.

    Raises ``ValueError`` for a value that systemd or Caddy would interpret.
    """
    limits = config.rate_limits
    values: dict[str, str | int] = {
        "PROXY_PORT": config.proxy_port,
        "REJECT_WITH": config.reject_with,
        "UPLOAD_SIZE": f"{config.upload_megabytes}MB",
        **_uploads(config),
        **_features(config),
        "REQUESTS": limits.requests,
        "REQUESTS_WINDOW": f"{limits.window_seconds}s",
        "PASSWORD_ATTEMPTS": limits.password_attempts,
        "PASSWORD_WINDOW": f"{limits.password_window_seconds}s",
        "LINK_PASSWORDS": limits.link_passwords_per_hour,
        "BUNDLES": limits.bundles,
        "BUNDLES_WINDOW": f"{limits.bundle_window_seconds}s",
        "OFFENCES": config.bans.max_retry,
        "OFFENCES_WINDOW": f"{seconds(config.bans.find_time)}s",
        "BAN_PREFIX": config.bans.ipv6_prefix,
        **({"WHO": "on", "WHO_DAYS": config.who_days} if config.who else {}),
    }
    return "".join(f"{line}\n" for line in _lines(values))


def _lines(values: Mapping[str, str | int]) -> list[str]:
    for name, value in values.items():
        # Quotes, spaces, `$`, `#` and backslashes are special in an EnvironmentFile (systemd.exec(5)).
        if not re.fullmatch(r"[A-Za-z0-9.-]+", str(value)):
            raise ValueError(f"{PREFIX}{name} may hold letters, digits, dots and dashes only, not {value!r}.")
    return [f"{PREFIX}{name}={value}" for name, value in values.items()]


def _features(config: ExposureConfig) -> dict[str, str]:
    on = {**config.features, SETTING_OF_ITS_OWN: config.uploads}
    return {each.setting: _switch(on[each.name]) for each in load().features if not each.fixed}


def _uploads(config: ExposureConfig) -> dict[str, str | int]:
    """Return the budgets of guests' uploads; empty if uploads are off."""
    limits = config.upload_limits
    if not config.uploads:
        return {}
    return {
        "UPLOADS_OF_LINK": f"{limits.link_megabytes}MB",
        "UPLOAD_FILES_OF_LINK": limits.link_files,
        "UPLOADS_OF_ALL": f"{limits.megabytes}MB",
        "UPLOAD_FILES_OF_ALL": limits.files,
        "UPLOADS_LEAVE": f"{limits.free_gigabytes}GB",
    }


def uploads_configuration(config: ExposureConfig) -> str:
    """Return uploads.conf, by which the server checks the free space where Immich stores uploads."""
    limits = config.upload_limits
    folder = f"folder {limits.folder}\n" if limits.folder else ""
    return f"floor {limits.free_gigabytes}\n{folder}"


def _switch(on: bool) -> str:
    return "on" if on else "off"


def bans_configuration(config: ExposureConfig) -> str:
    """Return bans.conf, which the configuration of the exposure's own fail2ban includes."""
    bans = config.bans
    lines = ("[DEFAULT]", f"maxretry = {bans.max_retry}", f"findtime = {bans.find_time}")
    return "\n".join((*lines, f"bantime = {bans.ban_time}")) + "\n"


def settings_files(config: ExposureConfig) -> tuple[PayloadFile, ...]:
    """Return the settings files: for the edge, fail2ban, the guard and the free space for uploads."""
    uploads = (PayloadFile("uploads.conf", uploads_configuration(config)),) if config.uploads else ()
    return (
        PayloadFile("edge.env", edge_environment(config)),
        PayloadFile("bans.conf", bans_configuration(config)),
        PayloadFile("guard.conf", f"guard {_switch(config.guard)}\n"),
        *uploads,
    )


class EdgeSettings(ServerScript, module="immich", name="EdgeSettings"):
    """Ports, features, limits and ban times on the server, applied by a reload.

    If the edge refuses the settings, the script restores the previous ones and the run fails.
    """

    def __init__(
        self, name: str, *, server: Server, config: ExposureConfig, opts: pulumi.ResourceOptions
    ) -> None:
        super().__init__(
            name,
            server,
            script="settings",
            create=server.line("install", *(() if config.ban_lists else ("no-lists",))),
            payload=settings_files(config),
            opts=opts,
        )
