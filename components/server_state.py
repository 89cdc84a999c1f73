"""The folder on the server for what changes without a rebuild: devices, bans, certificates, lease."""

from __future__ import annotations

from collections.abc import Sequence

import pulumi

from components.engine.options import child_of
from components.remote.remote_script import Server
from components.remote.server_script import guarded_script


class ServerState(pulumi.ComponentResource):
    """``/var/lib/immich-exposure``: created before anything is put into it, removed last.

    If it already exists at creation, either the state of an earlier exposure was lost or another stack's
    exposure is taken over. Then every device that is not among ``devices`` is removed. ``owner``, the full
    name of the stack, is recorded with its id: from then on no other stack changes anything on this server,
    except with ``take_over``.
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
            # The list matters only at creation; afterwards ``DeviceList`` maintains it.
            opts=pulumi.ResourceOptions.merge(
                child_of(self, opts), pulumi.ResourceOptions(ignore_changes=["create"])
            ),
        )
        self.register_outputs({})
