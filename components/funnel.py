"""Step 6: the door. It opens last, for a few minutes only, and closes first."""

from __future__ import annotations

import pulumi

from components.options import child_of
from components.remote_script import Server, guarded_script

LEASE_SECONDS = 600
"""How long the funnel may stay open unconfirmed. Public DNS of a new name needs minutes, not more."""


class Funnel(pulumi.ComponentResource):
    """A raw TCP funnel with PROXY protocol to the edge.

    Raw, because a funnel that ends TLS itself would leave no room for client certificates.
    """

    opening: pulumi.Output[str]
    """What the server said when the funnel opened: one line of JSON, another one at every opening."""

    def __init__(
        self,
        name: str,
        *,
        server: Server,
        funnel_port: int,
        proxy_port: int,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("immich-exposure:index:Funnel", name, {}, opts)
        self.door = guarded_script(
            f"{name}-door",
            server,
            script="funnel",
            create=server.line("open", funnel_port, proxy_port, LEASE_SECONDS),
            delete=server.line("close", funnel_port, proxy_port, "destroy"),
            opts=child_of(self, opts),
        )
        self.opening = pulumi.Output.unsecret(self.door.stdout)
        self.register_outputs({"opening": self.opening})
