"""The rooms of `components/`, and that each knows only those below it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from toolchain.paths import PROJECT

COMPONENTS = PROJECT / "components"

ROOMS = (
    "engine",
    "surface",
    "config",
    "remote",
    "devices",
    "preflight",
    "steps",
    "describe",
    "exposure",
    "package",
)
"""From the ground up. `steps` are the modules of `components/` itself, but for the exposure above them."""


def room_of(module: str) -> str:
    """Return the room of a module, named as `components.config.home`."""
    parts = module.split(".")
    if parts[1:] == ["exposure"]:
        return "exposure"
    return parts[1] if (COMPONENTS / parts[1]).is_dir() else "steps"


def imports_of(path: Path) -> Iterator[str]:
    """Yield the modules of `components` that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            deeper = (COMPONENTS.parent / node.module.replace(".", "/")).is_dir()
            names = [f"{node.module}.{each.name}" for each in node.names] if deeper else [node.module]
        else:
            continue
        yield from (name for name in names if name.startswith("components."))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PROJECT).with_suffix("").parts)


FILES = sorted(path for path in COMPONENTS.rglob("*.py") if path.name != "__init__.py")


def test_each_room_is_known() -> None:
    folders = {path.parent.name for path in FILES} - {"components"}
    assert folders | {"steps", "exposure"} == set(ROOMS)


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_no_room_knows_one_above_it(path: Path) -> None:
    own = ROOMS.index(room_of(module_of(path)))
    above = [name for name in imports_of(path) if ROOMS.index(room_of(name)) > own]
    assert above == []


RESOURCES = {"Step", "ServerScript", "ComponentResource"}
"""The classes that a step's resource is made from."""


@pytest.mark.parametrize("path", sorted(COMPONENTS.glob("[!_]*.py")), ids=module_of)
def test_each_module_beside_the_rooms_is_a_step(path: Path) -> None:
    """What is no resource has a room."""
    classes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]
    bases = {getattr(base, "attr", getattr(base, "id", "")) for each in classes for base in each.bases}
    assert bases & RESOURCES
