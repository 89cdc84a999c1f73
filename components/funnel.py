"""Step 6: the door. It opens last, for a few minutes only, and closes first."""

from __future__ import annotations

import pulumi
from pulumi_command import remote

from components.engine.options import child_of, is_for_a_plan
from components.remote.remote_script import Server, with_library, with_password

LEASE_SECONDS = 600
"""How long the funnel may stay open unconfirmed. Public DNS of a new name needs minutes, not more."""

CLOSE = 'need_root\nshift\nclose_door "$@"\n'
"""What a destroy runs first; `funnel.sh close` is the same."""


class Funnel(pulumi.ComponentResource):
    """A raw TCP funnel with PROXY protocol to the edge.

    Raw, because a funnel that ends TLS itself would leave no room for client certificates.
    """

    door: pulumi.Resource
    """What closes it, and does nothing before: `components.exposure_check` opens it and proves at once what
    stands behind. Nothing that stands on the open door need be deleted by anybody else before."""

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
        close = server.line("close", funnel_port, proxy_port, "destroy")
        self.door = door(f"{name}-door", server, close, child_of(self, opts))
        self.register_outputs({})


def door(name: str, server: Server, close: str, opts: pulumi.ResourceOptions) -> remote.Command:
    """Return what closes the door by what stands in the state alone, its text included.

    All else is taken back by the scripts that lie here by then. The door closes before them, and asks nothing
    of this program or its files.
    """
    if server.lacks_key and not is_for_a_plan():
        # Without the key it would show as changed in a preview.
        opts = pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(ignore_changes=["connection"]))
    return remote.Command(
        name,
        connection=server.connection(),
        delete=server.with_stack_id(server.way_back(close)),
        stdin=_standard_input(server, with_library(CLOSE)),
        logging=remote.Logging.STDERR,
        add_previous_output_in_env=False,
        opts=opts,
    )


def _standard_input(server: Server, text: str) -> pulumi.Input[str]:
    if server.sudo_password is None or server.user == "root":
        return text
    password = pulumi.Output.from_input(server.sudo_password)
    return pulumi.Output.secret(password.apply(lambda known: with_password(known, text)))
