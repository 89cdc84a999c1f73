"""The folder on the server that holds what changes without a rebuild: devices, bans, certificates, lease."""

from __future__ import annotations

from collections.abc import Sequence

import pulumi

from components.options import child_of
from components.remote_script import Server, guarded_script


class ServerState(pulumi.ComponentResource):
    """``/var/lib/immich-exposure``: made before anything is put into it, removed last of all.

    When it is there already at its creation, the state of an earlier exposure was lost, and with it who is
    enrolled. Then every device goes that is not among ``devices``, or a lost phone would stay for ever.
    ``owner`` is noted down, so that the next who would expose this server learns who has done so.
    """

    def __init__(
        self,
        name: str,
        *,
        server: Server,
        owner: str,
        devices: Sequence[str],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("immich-exposure:index:ServerState", name, {}, opts)
        guarded_script(
            f"{name}-folder",
            server,
            script="state",
            create=server.line("begin", owner, *devices),
            update=server.line("prepare"),
            delete=server.line("remove"),
            # The list matters at creation alone; afterwards each device's enrolment is its own resource.
            opts=pulumi.ResourceOptions.merge(
                child_of(self, opts), pulumi.ResourceOptions(ignore_changes=["create"])
            ),
        )
        self.register_outputs({})
