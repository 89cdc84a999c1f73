"""Names that Nix, the scripts and the Caddyfile each write out are the same in all of them."""

from __future__ import annotations

import re

from components.remote.remote_script import SERVER_FILES

LIBRARY = (SERVER_FILES / "scripts/lib.sh").read_text()
NAMES = (SERVER_FILES / "nix/names.nix").read_text()
CADDYFILE = (SERVER_FILES / "Caddyfile").read_text()


def found(pattern: str, text: str) -> str:
    """Return the one match's group."""
    [match] = re.findall(pattern, text, re.MULTILINE)
    return str(match)


def test_the_jails() -> None:
    jails = found(r'^JAILS="(.*)"$', LIBRARY).split()
    assert [word.strip('"') for word in found(r"^  jails = \[ (.*) \];$", NAMES).split()] == jails
    assert found(r"/bans ([a-z ]+) \{$", CADDYFILE).split() == [*jails, "manual"]
    filters = {path.stem.removeprefix("immich-") for path in (SERVER_FILES / "fail2ban/filter.d").iterdir()}
    assert filters == {*jails, "common"}


def test_the_folder_of_the_exposure() -> None:
    state = found(r'^  state = "(.*)";$', NAMES)
    assert f"$ROOT{state}}}" in LIBRARY
    assert set(re.findall(r"\{\$IMMICH_EXPOSURE_STATE:([^}]*)\}", CADDYFILE)) == {state}
