"""The programs that the lab needs besides the system's own."""

from pathlib import Path

from lab.errors import LabError
from lab.places import Places

# On the server these stand at /opt/lab, whatever the operator's own PATH has.
NEEDED = ("tailscale", "tailscaled", "caddy", "lab-internet")


def programs_folder(places: Places) -> Path:
    """The folder with the toolchain's builds, bound into the server."""
    return places.project / ".toolchain/bin"


def program(name: str, places: Places | None = None) -> Path:
    """One of the toolchain's builds. Raises LabError when it was not built yet."""
    path = programs_folder(places or Places.of_this_clone()) / name
    if not path.exists():
        raise LabError(f"{name} is not built yet; run `python -m toolchain setup` first.")
    return path
