"""Builder of a generation: writes the folder that a configuration evaluates to. Run by Nix, never by hand.

The environment names the manifest (``manifestPath``, see modules/system.nix), the folder to create (``out``)
and the switch script (``switch``).
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any


def main() -> None:
    """Write etc/, sw/bin/, bin/ and the switch's input. Raises FileExistsError if two units share a name."""
    given = dict(os.environ)
    manifest: dict[str, Any] = json.loads(Path(given["manifestPath"]).read_text())
    out = Path(given["out"])
    out.mkdir()
    for target, entry in manifest["etc"].items():
        _entry(out / "etc" / target, entry)
    _units(out / "etc/systemd/system", manifest["units"], [Path(p) for p in manifest["unitPackages"]])
    _programs(out / "sw/bin", [Path(p) for p in manifest["programs"]])
    (out / "bin").mkdir()
    shutil.copyfile(given["switch"], out / "bin/switch-to-configuration")
    (out / "bin/switch-to-configuration").chmod(0o555)
    (out / "pre-switch-checks").symlink_to(manifest["preSwitchChecks"])
    (out / "nixos-version").write_text(manifest["version"])
    (out / "people.json").write_text(json.dumps({"users": manifest["users"], "groups": manifest["groups"]}))


def _entry(place: Path, entry: dict[str, str]) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if "source" in entry:
        place.symlink_to(entry["source"])
    else:
        place.write_text(entry["text"])


def _units(folder: Path, units: dict[str, dict[str, Any]], packages: list[Path]) -> None:
    folder.mkdir(parents=True)
    folders = [package / "lib/systemd/system" for package in packages]
    shipped = {file.name: file for place in folders for file in sorted(place.glob("*.*"))}
    for name, file in shipped.items():
        (folder / name).symlink_to(file)
    for name, unit in units.items():
        if unit["unit"] is None:  # masked
            (folder / name).unlink(missing_ok=True)
            (folder / name).symlink_to("/dev/null")
            continue
        # A package's own unit stays; the configuration only overrides it, as on NixOS.
        place = folder / f"{name}.d" / "overrides.conf" if name in shipped else folder / name
        place.parent.mkdir(exist_ok=True)
        place.write_text(unit["unit"])
        for alias in unit["aliases"]:
            (folder / alias).symlink_to(name)
        for kind, targets in (("wants", unit["wantedBy"]), ("requires", unit["requiredBy"])):
            for target in targets:
                link = folder / f"{target}.{kind}" / name
                link.parent.mkdir(exist_ok=True)
                link.symlink_to(f"../{name}")


def _programs(folder: Path, packages: list[Path]) -> None:
    folder.mkdir(parents=True)
    for package in packages:
        for program in sorted((package / "bin").iterdir()):
            if not os.path.lexists(folder / program.name):
                (folder / program.name).symlink_to(program)


if __name__ == "__main__":
    main()
