"""Houses: the homes that the lab can boot as. Each is a folder lab/houses/NAME.

``house.toml`` describes the home, ``root/`` holds files that are laid over the server's; files below
``home/USER`` there belong to that user. ``prepare.sh`` runs on the lab's host, with the server's root and a
folder for phones. Every key of house.toml is a field of ``House``.
"""

import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from lab.errors import LabError
from lab.places import Places

FOLDER = Path(__file__).resolve().parent / "houses"
DEFAULT_HOUSE = "chapter"


@dataclass(frozen=True)
class Theirs:
    """Something of the owner's that must keep working: a command for root, and its expected output."""

    what: str
    command: str
    prints: str
    exposed: str | None = None  # its output while Immich is exposed, if that differs


@dataclass(frozen=True)
class House:
    """One home. Commands are shell lines that root runs on the server."""

    name: str
    proves: str
    """One line for people: what kind of home this house stands for."""

    user: str = "admin"
    shell: str = "bash"
    """The login shell: bash, fish or zsh."""

    sudo: str = "free"
    """free, password (asks), or none (there is no sudo)."""

    password: str = ""
    ssh_user: str = ""
    ssh_port: int = 22
    programs: tuple[str, ...] = ()
    """Programs that other houses do not have."""

    links: dict[str, str] = field(default_factory=dict)
    flakes: dict[str, str] = field(default_factory=dict)
    """Folder of a flake -> the URL of its input nixpkgs; it gets a flake.lock."""

    module: str = ""
    """Where the owner keeps the exported module."""

    before: str = ""
    """Runs once, before the first generation is built."""

    rebuild: str = "nixos-rebuild switch"
    unlock: str = ""
    """What the owner does by hand after each boot."""

    after: str = ""
    """Runs once, when the first generation is active and the server is on its tailnet."""

    stack: dict[str, Any] = field(default_factory=dict)
    """This owner's stack settings."""

    units: tuple[str, ...] = ()
    """The owner's services, which must never be restarted."""

    immich_at_home: str = "http://10.213.1.2:2283"
    """Immich's address for the family; it is queried on the server itself."""

    wiped: bool = False
    """Whether a reboot wipes an exposure."""

    by_hand: bool = False
    """Whether its owner exposed it by hand and has phones; a separate test takes that over."""

    theirs: tuple[Theirs, ...] = ()

    @property
    def folder(self) -> Path:
        """The tracked files of this house."""
        return FOLDER / self.name

    @property
    def login(self) -> str:
        """The user of the operator's SSH connection."""
        return self.ssh_user or self.user


def houses() -> list[str]:
    """The names of all houses, the default first."""
    names = sorted(path.parent.name for path in FOLDER.glob("*/house.toml"))
    return sorted(names, key=lambda name: name != DEFAULT_HOUSE)


def house(name: str) -> House:
    """Read a house. Raises LabError for an unknown name or key."""
    file = FOLDER / name / "house.toml"
    if name not in houses():
        raise LabError(f"There is no house {name!r}; there are {', '.join(houses())}.")
    said = tomllib.loads(file.read_text(encoding="utf-8"))
    if unknown := set(said) - {entry.name for entry in fields(House)} | said.keys() & {"name"}:
        raise LabError(f"{file} has keys that are not known: {', '.join(sorted(unknown))}.")
    said["theirs"] = tuple(Theirs(**entry) for entry in said.get("theirs", []))
    for key in ("programs", "units"):
        said[key] = tuple(said.get(key, ()))
    return House(name=name, **said)


def current(where: Places) -> House:
    """The house of the running lab; the default one if none is running."""
    try:
        return house(where.house.read_text().strip())
    except FileNotFoundError:
        return house(DEFAULT_HOUSE)
