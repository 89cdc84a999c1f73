"""Which clone's lab is on this machine: the namespaces' names are machine-wide, so there can be only one."""

import json
from dataclasses import dataclass
from pathlib import Path

from lab import cgroups, mounts, network, places, processes
from lab.errors import LabError
from lab.places import INTERNET_NAMESPACE, NETNS_FOLDER, OWNER_FILE, SERVER_NAMESPACE, Places
from lab.processes import Process


@dataclass(frozen=True)
class Owner:
    """Written before anything else is created, and deleted after everything else is gone."""

    where: Places
    # `ip netns add` mounts it permanently; we undo that if it was not there before
    netns_folder_was_mounted: bool


def read() -> Owner | None:
    """The recorded owner; None if there is no lab, or the record is incomplete."""
    try:
        record = json.loads(OWNER_FILE.read_text())
        elsewhere = Path(record["elsewhere"]) if record["elsewhere"] else None
        where = Places(Path(record["project"]), elsewhere)
        return Owner(where, bool(record["netns_folder_was_mounted"]))
    except (FileNotFoundError, ValueError, KeyError):
        return None


def claim(where: Places) -> None:
    """Record this clone as the owner.

    Keeps an older record of the same clone, which knows what the machine was like before.
    """
    owner = read()
    if owner and owner.where == where:
        return
    record = {
        "project": str(where.project),
        "elsewhere": str(where.elsewhere) if where.elsewhere else None,
        "netns_folder_was_mounted": mounts.is_mounted(NETNS_FOLDER),
    }
    temporary = OWNER_FILE.with_suffix(".new")
    temporary.write_text(json.dumps(record) + "\n")
    temporary.replace(OWNER_FILE)


def release() -> None:
    """Remove the record."""
    OWNER_FILE.unlink(missing_ok=True)


def something_is_there(where: Places) -> bool:
    """Whether a namespace or link of a lab exists, or a process of one, or a mount of this clone's."""
    names = (SERVER_NAMESPACE, INTERNET_NAMESPACE)
    return (
        network.exists(places.OPERATOR_LINK)
        or any((NETNS_FOLDER / name).exists() for name in names)
        or bool(mounts.under(where.disk))
        or bool(running(where))
    )


def running(where: Places) -> list[Process]:
    """Every process of this clone's lab, if the recorded lab is this clone's; may contain duplicates."""
    return [*processes.marked(where), *inhabitants()]


def inhabitants() -> list[Process]:
    """All processes in the namespaces, including those whose namespace was deleted by name."""
    return [
        *processes.in_namespace(SERVER_NAMESPACE),
        *processes.in_namespace(INTERNET_NAMESPACE),
        *cgroups.members(),
    ]


def foreign(where: Places) -> Places | None:
    """Another clone's lab that runs on this machine, even partly; None if there is none."""
    other = _other(where)
    return other if other and running(other) else None


def abandoned(where: Places) -> Places | None:
    """Another clone's dead lab: links, namespaces or mounts, but no process.

    A stopped machine or a killed session leaves that behind.
    """
    other = _other(where)
    return other if other and something_is_there(other) and not running(other) else None


def _other(where: Places) -> Places | None:
    owner = read()
    return None if owner is None or owner.where == where else owner.where


def require_ours(where: Places) -> None:
    """Raise LabError if the lab on this machine belongs to another clone."""
    if other := foreign(where):
        raise LabError(
            "The lab of another clone is up on this machine: take it down with `python -m lab down` in "
            f"{other.project}, or from here with `python -m lab down --force`."
        )
