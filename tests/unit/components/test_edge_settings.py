"""What the server reads without a rebuild: names that the Caddyfile knows, values safe for systemd."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.config.stack_config import ExposureConfig, load
from components.edge_settings import PREFIX, bans_configuration, edge_environment, settings_files
from components.remote.remote_script import SERVER_FILES

# The module bakes these in or reads them from other files; the rest of what the Caddyfile names is for tests.
FROM_ELSEWHERE = {
    "ADMIN",
    "BODY_PATIENCE",
    "DOMAIN",
    "FRAME_REQUESTS",
    "IMMICH",
    "LOGS",
    "LOG_MEGABYTES",
    "LOOK_AGAIN",
    "PACE",
    "ROOM",
    "STATE",
    "STREAM_TIMEOUT",
}


def configured(**settings: Any) -> ExposureConfig:
    """Return a sound configuration with these settings."""
    raw = {
        "host": "192.168.1.20",
        "hostKey": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICd9Sn/CrLavrIHzvx3RuZLyh4tRBT7PQTx533eBaTsJ",
        "keystorePassphrase": "twelve or more characters",
        **settings,
    }
    return load(raw, stack="unit", project_dir=Path.cwd())


def values_of(config: ExposureConfig) -> dict[str, str]:
    """Return the settings by name, without the prefix."""
    pairs = [line.split("=", 1) for line in edge_environment(config).splitlines()]
    assert all(name.startswith(PREFIX) for name, _ in pairs)
    return {name.removeprefix(PREFIX): value for name, value in pairs}


def test_the_whole_of_it() -> None:
    config = configured(uploads=True, features={"map": False}, rejectWith="drop", proxyPort=9443)
    assert values_of(config) == {
        "PROXY_PORT": "9443",
        "REJECT_WITH": "drop",
        "UPLOADS": "on",
        "UPLOAD_SIZE": "2000MB",
        "UPLOADS_OF_LINK": "5000MB",
        "UPLOAD_FILES_OF_LINK": "1000",
        "UPLOADS_OF_ALL": "10000MB",
        "UPLOAD_FILES_OF_ALL": "2000",
        "UPLOADS_LEAVE": "20GB",
        "FEATURE_ALBUMS": "on",
        "FEATURE_DOWNLOAD": "on",
        "FEATURE_MAP": "off",
        "FEATURE_ORIGINALS": "on",
        "FEATURE_PASSWORDS": "on",
        "FEATURE_VIDEO": "on",
        "REQUESTS": "3000",
        "REQUESTS_WINDOW": "30s",
        "PASSWORD_ATTEMPTS": "10",
        "PASSWORD_WINDOW": "60s",
        "LINK_PASSWORDS": "60",
        "BUNDLES": "10",
        "BUNDLES_WINDOW": "60s",
        "OFFENCES": "10",
        "OFFENCES_WINDOW": "600s",
        "BAN_PREFIX": "64",
    }


def test_each_setting_is_one_that_the_caddyfile_asks_for() -> None:
    asked = set(re.findall(r"\{\$IMMICH_EXPOSURE_(\w+)", (SERVER_FILES / "Caddyfile").read_text()))
    given = set(values_of(configured(uploads=True, who=True)))
    assert given - {"WHO_DAYS"} == asked - FROM_ELSEWHERE, "the days are who.sh's to read"
    assert given - set(values_of(configured(uploads=True))) == {"WHO", "WHO_DAYS"}, "none where it is off"


def test_defaults_are_those_of_the_caddyfile() -> None:
    caddyfile = (SERVER_FILES / "Caddyfile").read_text()
    defaults = dict(re.findall(r"\{\$IMMICH_EXPOSURE_(\w+):([^}]+)\}", caddyfile))
    settings = values_of(configured(uploads=True)) | {"UPLOADS": "off"}
    assert {name: defaults[name] for name in settings} == settings


def test_a_value_that_systemd_would_read_otherwise_is_refused() -> None:
    for value in ('forbidden"', "a b", "$HOME", "x\ny", "\\", "#", ""):
        with pytest.raises(ValueError, match="IMMICH_EXPOSURE_REJECT_WITH may hold letters"):
            edge_environment(replace(configured(), reject_with=value))


def test_bans_are_a_section_that_fail2ban_reads() -> None:
    config = configured(bans={"maxRetry": 3, "findTime": "5m", "banTime": "2d"})
    assert bans_configuration(config) == "[DEFAULT]\nmaxretry = 3\nfindtime = 5m\nbantime = 2d\n"


def test_budgets_of_uploads_stand_only_where_there_are_uploads() -> None:
    off = configured()
    assert not {name for name in values_of(off) if name.startswith("UPLOAD")} - {"UPLOADS", "UPLOAD_SIZE"}
    limits = {"linkMegabytesPerHour": 3000, "filesPerHour": 5000, "freeGigabytes": 7, "folder": "/srv/photos"}
    on = configured(uploads=True, uploadLimits=limits)
    assert values_of(on)["UPLOADS_OF_LINK"] == "3000MB"
    assert values_of(on)["UPLOADS_LEAVE"] == "7GB"
    [conf] = [file for file in settings_files(on) if file.path == "uploads.conf"]
    assert conf.text == "floor 7\nfolder /srv/photos\n"
    [conf] = [file for file in settings_files(configured(uploads=True)) if file.path == "uploads.conf"]
    assert conf.text == "floor 20\n"


def test_a_setting_changes_no_file_but_these() -> None:
    assert [file.path for file in settings_files(configured())] == ["edge.env", "bans.conf", "guard.conf"]
    assert settings_files(configured())[2].text == "guard on\n"
    assert settings_files(configured(guard=False))[2].text == "guard off\n"
    assert settings_files(configured()) == settings_files(configured(devices=[], leaseHours=3, lan="keep"))
