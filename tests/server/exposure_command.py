"""`immich-exposure` as root on the server would run it, on the folders of an edge."""

from __future__ import annotations

import os
import subprocess

from components.remote.remote_script import SERVER_FILES
from tests.server.edge import Edge

SCRIPT = "".join((SERVER_FILES / "scripts" / name).read_text() for name in ("lib.sh", "exposure.sh"))


def command(edge: Edge, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command; programs that it needs are in the edge's folder `programs`."""
    return subprocess.run(
        ["sh", "-s", "--", *arguments],
        input=SCRIPT,
        env={
            "PATH": f"{edge.folder / 'programs'}:{os.environ['PATH']}",
            "IMMICH_EXPOSURE_STATE": str(edge.state),
            "TZ": "UTC",
        },
        capture_output=True,
        text=True,
        check=False,
    )
