"""The folder on the server that holds what changes without a rebuild: devices, bans, certificates, lease."""

from __future__ import annotations

from collections.abc import Sequence

import pulumi

from components.engine.options import child_of
from components.remote.remote_script import Server
from components.remote.server_script import guarded_script


class ServerState(pulumi.ComponentResource):
    """``/var/lib/immich-exposure``: made before anything is put into it, removed last of all.

    When it is there already at its creation, the state of an earlier exposure was lost, or another's is taken
    over. Then every device goes that is not among ``devices``.
    ``owner``, the whole name of the stack, is noted down with its id: from then on no other stack changes
    anything on this server, unless it says ``take_over``.
    """

    def __init__(
        self,
        name: str,
        *,
        server: Server,
        owner: str,
        take_over: bool,
        devices: Sequence[str],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("immich-exposure:index:ServerState", name, {}, opts)
        guarded_script(
            f"{name}-folder",
            server,
            script="state",
            create=server.line("begin", owner, "yes" if take_over else "no", *devices),
            update=server.line("prepare", owner),
            delete=server.line("remove"),
            # The list matters at creation alone; afterwards it is the devices' own.
            opts=pulumi.ResourceOptions.merge(
                child_of(self, opts), pulumi.ResourceOptions(ignore_changes=["create"])
            ),
        )
        self.register_outputs({})
