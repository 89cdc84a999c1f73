"""room.sh: what is free where Immich puts uploads, for the edge; settings.sh, which has it look."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.programs.harness import Machine, assert_sentence, available_shells

SETTINGS = {"edge.env": "IMMICH_EXPOSURE_A=b\n", "bans.conf": "[DEFAULT]\n"}
DF = """
echo Filesystem 1024-blocks Used Available Capacity Mounted on
for folder; do
  case $folder in -*) ;; *) echo /dev/x 9000000000 1 "$(cat FAKES/free)" 1% "$folder" ;; esac
done
"""
GIGABYTE = 1_000_000_000 // 1024


@pytest.fixture(params=available_shells())
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    """A pretend server on which guests may upload until 20 GB are free, once for each shell."""
    machine = Machine(tmp_path, request.param)
    machine.prepare()
    media = machine.root / "media"
    (media / "upload").mkdir(parents=True)
    machine.write(machine.state / "settings/uploads.conf", f"floor 20\nfolder {media}\n")
    machine.write(machine.state / "notices/channel", "kind webhook\n", 0o600)
    (machine.state / "notices/waiting").mkdir(mode=0o700)
    machine.fake("df", DF.replace("FAKES", str(machine.fakes)))
    return machine


def room(machine: Machine) -> Path:
    return machine.root / "run/immich-exposure-room/free"


def look(machine: Machine, gigabytes: float) -> list[str]:
    """Look with so much free, and return what the owner was told anew."""
    before = notices(machine)
    machine.remember(free=str(int(gigabytes * GIGABYTE)))
    assert machine.run("room", "look").status == 0
    return [text for path, text in notices(machine).items() if path not in before]


def notices(machine: Machine) -> dict[Path, str]:
    return {path: path.read_text() for path in (machine.state / "notices/waiting").iterdir()}


def test_the_edge_finds_how_much_is_free(machine: Machine) -> None:
    assert look(machine, 143) == []
    assert room(machine).read_text() == f"{143 * GIGABYTE}\n"
    assert room(machine).stat().st_mode & 0o777 == 0o644
    [asked] = machine.commands("df")
    assert asked == "df -Pk /media /media/upload"


def test_the_owner_is_told_once_when_the_floor_is_reached_and_when_no_longer(machine: Machine) -> None:
    [told] = look(machine, 19.9)
    assert "Guests can no longer upload: less than 20 GB are free" in told
    assert look(machine, 19) == look(machine, 20.5) == []
    [told] = look(machine, 22)
    assert "Guests can upload again" in told
    assert look(machine, 19) == look(machine, 30) == [], (
        "a disk that goes up and down is told every six hours"
    )
    for path in (machine.state / "notices").glob("room"):
        path.write_text("1 enough\n")
    assert len(look(machine, 1)) == 1


@pytest.mark.parametrize("lost", ["settings", "folder", "answer"])
def test_where_nobody_knows_how_much_is_free_there_is_no_file(machine: Machine, lost: str) -> None:
    look(machine, 100)
    if lost == "settings":
        (machine.state / "settings/uploads.conf").unlink()
    elif lost == "folder":
        machine.write(machine.state / "settings/uploads.conf", f"floor 20\nfolder {machine.root}/gone\n")
    else:
        machine.fake("df", "exit 1")
    assert look(machine, 100) == []
    assert not room(machine).exists()


def test_the_settings_have_the_room_looked_at(machine: Machine) -> None:
    files = {**SETTINGS, "uploads.conf": "floor 7\nfolder /srv/photos\n"}
    assert machine.run("settings", "install", payload=files).status == 0
    assert (machine.state / "settings/uploads.conf").read_text() == files["uploads.conf"]
    assert "systemctl start --no-block immich-exposure-room.service" in machine.commands("systemctl")
    assert machine.run("settings", "install", payload=SETTINGS).status == 0
    assert not (machine.state / "settings/uploads.conf").exists()


@pytest.mark.parametrize(
    "text", ["", "floor 0\n", "folder /x\n", "floor 5\nfolder x\n", "floor 5\nrm\n", "floor 5;\n"]
)
def test_settings_that_say_it_otherwise_are_refused(machine: Machine, text: str) -> None:
    outcome = machine.run("settings", "install", payload={**SETTINGS, "uploads.conf": text})
    assert_sentence(outcome, "uploads.conf holds something other than")


def test_an_exposure_that_goes_takes_it_along(machine: Machine) -> None:
    look(machine, 100)
    assert machine.run("state", "remove").status == 0
    assert not room(machine).parent.exists()


def test_a_preview_is_told_of_the_disk_alone(machine: Machine) -> None:
    folder = machine.root / "srv/photos"
    folder.mkdir(parents=True)
    machine.remember(free="4711")
    before = machine.files(machine.root)
    done = machine.run("preflight", "uploads", str(folder))
    said = json.loads(done.stdout)
    assert said == {"folder": str(folder), "freeKiB": 4711, "sizeKiB": 9000000000}
    assert machine.files(machine.root) == before
    gone = json.loads(machine.run("preflight", "uploads", f"{folder}/gone").stdout)
    assert gone == {"folder": f"{folder}/gone", "freeKiB": None, "sizeKiB": None}
    assert "correct uploadLimits.folder" in machine.run("preflight", "uploads", "photos").error
