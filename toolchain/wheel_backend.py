"""Builds the Python package `immich_exposure` (PEP 517) reproducibly, with nothing but Python.

In this tree the packages are at the top level. Other people's programs may use the same names, and dynamic
providers are found again by their module's name. So in the wheel all of them are below `immich_exposure`,
and their imports are adapted.
"""

import base64
import hashlib
import io
import re
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NAME = "immich_exposure"
PACKAGES = ("components", "handover", "pki", "policy", "toolchain")
DATA = ("Pulumi.yaml", "LICENSE")
LONG_AGO = (1980, 1, 1, 0, 0, 0)
"""The timestamp of every file in the ZIP."""

_IMPORT = re.compile(rf"^(\s*)(from|import) ({'|'.join(PACKAGES)})\b", re.MULTILINE)

INIT = f'''"""Exposes a home Immich through Tailscale Funnel with client certificates: a Pulumi component."""

from {NAME}.components.package.component import ImmichExposure
from {NAME}.components.package.args import Device, ImmichExposureArgs

__all__ = ["Device", "ImmichExposure", "ImmichExposureArgs"]
'''


def moved(source: str) -> str:
    """Return a module's text with our packages imported from below `NAME`."""
    return _IMPORT.sub(rf"\1\2 {NAME}.\3", source)


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path


def package_files() -> Iterator[tuple[str, bytes]]:
    """Yield the package's files: path in the wheel and content."""
    yield f"{NAME}/__init__.py", INIT.encode()
    yield f"{NAME}/py.typed", b""
    for folder in (*PACKAGES, "server"):
        for path in _files(ROOT / folder):
            content = path.read_bytes()
            ours = folder in PACKAGES and path.suffix == ".py"
            yield (
                f"{NAME}/{path.relative_to(ROOT).as_posix()}",
                moved(content.decode()).encode() if ours else content,
            )
    for name in DATA:
        yield f"{NAME}/{name}", (ROOT / name).read_bytes()


def _project() -> dict[str, str | list[str]]:
    project: dict[str, str | list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project


def _metadata() -> str:
    project = _project()
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {project['name']}",
        f"Version: {project['version']}",
        f"Summary: {project['description']}",
        "License: MIT",
        f"Requires-Python: {project['requires-python']}",
        *(f"Requires-Dist: {each}" for each in project["dependencies"]),
    ]
    return "\n".join(lines) + "\n"


def build_wheel(
    wheel_directory: str, config_settings: object = None, metadata_directory: str | None = None
) -> str:
    """Write the wheel and return its name (PEP 517)."""
    version = _project()["version"]
    info = f"{NAME}-{version}.dist-info"
    files = [
        *package_files(),
        (f"{info}/METADATA", _metadata().encode()),
        (
            f"{info}/WHEEL",
            b"Wheel-Version: 1.0\nGenerator: immich-exposure\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        ),
    ]
    record = "".join(f"{name},sha256={_record_digest(content)},{len(content)}\n" for name, content in files)
    files.append((f"{info}/RECORD", f"{record}{info}/RECORD,,\n".encode()))
    wheel = f"{NAME}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(Path(wheel_directory) / wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files:
            entry = zipfile.ZipInfo(name, LONG_AGO)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return wheel


def _record_digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")


def build_sdist(sdist_directory: str, config_settings: object = None) -> str:
    """Write the source distribution and return its name (PEP 517)."""
    stem = f"{NAME}-{_project()['version']}"
    inside = [path for name in (*PACKAGES, "server") for path in _files(ROOT / name)]
    names = [ROOT / name for name in ("pyproject.toml", "README.md", *DATA)]
    with tarfile.open(Path(sdist_directory) / f"{stem}.tar.gz", "w:gz") as archive:
        for path in (*names, *inside):
            archive.addfile(*_entry(f"{stem}/{path.relative_to(ROOT).as_posix()}", path.read_bytes()))
        archive.addfile(*_entry(f"{stem}/PKG-INFO", _metadata().encode()))
    return f"{stem}.tar.gz"


def _entry(name: str, content: bytes) -> tuple[tarfile.TarInfo, io.BytesIO]:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o644
    return entry, io.BytesIO(content)
