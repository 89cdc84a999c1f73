"""What a preview says of the room for uploads."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pulumi
import pytest

from components.preflight import uploads_room
from components.preflight.rules import ExpectedUploads
from components.preflight.uploads_room import look_now
from components.remote.remote_script import Server
from components.remote.ssh import SshError

SERVER = Server("server.invalid", 22, "admin", "ssh-ed25519 AAAA", None, stack_id="ours")
UPLOADS = ExpectedUploads(None, free_gigabytes=20, megabytes_per_hour=10_000)


def disk(free: int, size: int) -> str:
    """Return what the server says of a disk, in gigabytes."""
    kib = 10**9 // 1024
    return json.dumps({"folder": "/photos", "freeKiB": free * kib, "sizeKiB": size * kib}) + "\n"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (disk(100, 200), None),
        (disk(10, 16), "uploadLimits.freeGigabytes is 20, and the whole disk of /photos, where Immich puts"),
        (disk(10, 200), "Guests cannot upload now: 10 GB are free at /photos"),
        (
            disk(25, 200),
            "so guests can use up within an hour what uploadLimits leaves them (10000 MB",
        ),
        ('{"folder":"/x","freeKiB":null,"sizeKiB":null}', "(/x is not a folder there)"),
        (SshError("It is off."), "This run could not check the room for uploads on the server: It is off."),
        ("Welcome!\n" + disk(100, 200), None),
        ("rubbish", None),
        ("[]", None),
    ],
)
def test_a_preview_tells_what_the_disk_says(
    loop: asyncio.AbstractEventLoop, answer: str | Exception, told: str | None
) -> None:
    async def looked() -> bool:
        return bool(await look_now(SERVER, UPLOADS).future())

    with (
        patch.object(uploads_room, "run_script", side_effect=[answer]) as run,
        patch.object(pulumi, "warn") as warn,
    ):
        assert loop.run_until_complete(looked()) is isinstance(answer, str)
    said = [call.args[0] for call in warn.call_args_list]
    assert len(said) == (told is not None) and all((told or "") in sentence for sentence in said)
    assert run.call_args.args[1] == "sudo -n sh -s -- uploads -", "whoever may log in may look"


def test_without_a_key_file_nobody_looks(loop: asyncio.AbstractEventLoop, tmp_path: Path) -> None:
    async def looked() -> bool:
        server = replace(SERVER, private_key_file=str(tmp_path / "none"))
        return bool(await look_now(server, replace(UPLOADS, folder="/srv/photos")).future())

    with patch.object(uploads_room, "run_script") as run:
        assert not loop.run_until_complete(looked())
    assert run.call_count == 0
