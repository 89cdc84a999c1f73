"""The folder on the server that holds what changes without a rebuild: devices, bans, certificates, lease."""

from __future__ import annotations

import pulumi

from components.options import child_of
from components.remote_script import Server, remote_script, sudo_line


class ServerState(pulumi.ComponentResource):
    """``/var/lib/immich-exposure``: made before anything is put into it, removed last of all."""

    def __init__(self, name: str, *, server: Server, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("immich-exposure:index:ServerState", name, {}, opts)
        remote_script(
            f"{name}-folder",
            server,
            script="state",
            create=sudo_line("prepare"),
            delete=sudo_line("remove"),
            opts=child_of(self, opts),
        )
        self.register_outputs({})
