"""Guests who upload through a link, from the config to a full disk."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from lab import Lab, Reply
from tests.lab.operator import Operator
from tests.lab.outside import REFUSED, seen
from tests.lab.snapshot import output

pytestmark = pytest.mark.lab

LINK = "/api/assets?key=labupload"
FOLDER = "/var/lib/immich/upload"
BOUNDARY = "----WebKitFormBoundaryOfTheLab01"


@pytest.fixture(scope="module")
def operator(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """An operator whose guests may upload a megabyte in an hour."""
    operator = Operator(tmp_path_factory.mktemp("uploads"), lab.info(), stack="uploads")
    limits = {"linkMegabytesPerHour": 1, "megabytesPerHour": 2, "freeGigabytes": 1}
    operator.set(uploads=True, uploadMegabytes=1, uploadLimits=limits)
    operator.devices("phone")
    operator.init()
    operator.up()
    yield operator
    operator.destroy()
    assert seen(lab, LINK) == REFUSED
    for folder in ("/var/lib/immich-exposure", "/run/immich-exposure-room"):
        assert lab.console(f"ls {folder}").returncode != 0


def upload(lab: Lab, photo: bytes, name: str = "a.jpg") -> Reply:
    """Upload a photo as a guest."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="assetData"; filename="{name}"\r\n'
    body = f"{head}Content-Type: image/jpeg\r\n\r\n".encode() + photo + f"\r\n--{BOUNDARY}--\r\n".encode()
    form = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    return lab.visit(LINK, method="POST", headers=form, data=body)


def test_guests_upload_until_the_budget_and_the_floor(lab: Lab, operator: Operator) -> None:
    told = operator.outputs()["public"]["anyone with a shared link can"]
    assert told["uploads of a link"].startswith("upload up to 1 MB and 1000 files an hour through each")
    output(lab, "sudo systemctl start immich-exposure-room.service")  # as each minute
    assert json.loads(upload(lab, b"photo").body)["status"] == "created"
    again = upload(lab, b"photo")
    assert (again.status, json.loads(again.body)["status"]) == (201, "created"), "the owner has it already"
    assert upload(lab, b"MZ", "a.exe").status == 415
    flood = [upload(lab, bytes([number]) * 200_000).status for number in range(50)]
    assert flood == [201] * 4 + [429] * 46

    status = " ".join(lab.console("immich-exposure status").stdout.split())
    assert "0 MB in 6 files within an hour" in status and "GB are free, of which 1 must stay free" in status
    uploads = json.loads(lab.console("immich-exposure status --json").stdout)["uploads"]
    assert 800_000 <= uploads["bytes"] <= 1_000_000
    assert (uploads["files"], uploads["room"]) == (6, "enough")

    # The uploads get a disk of their own, and it is smaller than what must stay free.
    output(lab, f"sudo mkdir -p {FOLDER} && sudo mount -t tmpfs -o size=900M tmpfs {FOLDER}")
    try:
        output(lab, "sudo systemctl start immich-exposure-room.service")
        time.sleep(3)  # the edge looks at the number every two seconds
        full = upload(lab, b"photo")
        assert (full.status, json.loads(full.body)["statusCode"]) == (507, 507)
        assert "REFUSED now: less than 1 GB are free" in lab.console("immich-exposure status").stdout
    finally:
        output(lab, f"sudo umount {FOLDER}")

    before = operator.settings["uploadLimits"]
    operator.set(uploadLimits={**before, "freeGigabytes": 900_000})
    assert "the whole disk of /var/lib/immich, where Immich puts uploads, has" in operator.fails()
    operator.set(uploadLimits=before)
