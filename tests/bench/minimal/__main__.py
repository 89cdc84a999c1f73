"""The least that a Pulumi program with as many commands on a server can be; ``main_job.py`` measures it.

One of the commands runs at every ``up``, as an exposure asks its server every time what has changed there.
It reads the same stack file as an exposure, of which it needs the server, and ``steps``.
"""

from __future__ import annotations

import time
from pathlib import Path

import pulumi
from pulumi_command import remote

config = pulumi.Config()
connection = remote.ConnectionArgs(
    host=config.require("host"),
    port=config.require_int("sshPort"),
    user=config.require("sshUser"),
    host_key=config.require("hostKey"),
    private_key=pulumi.Output.secret(Path(config.require("sshPrivateKeyFile")).read_text(encoding="utf-8")),
)
remote.Command("every-time", connection=connection, create=f": {time.time()}")
for number in range(1, config.require_int("steps")):
    remote.Command(f"step-{number}", connection=connection, create=":")
