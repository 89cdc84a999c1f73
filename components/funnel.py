"""Step 6: the funnel. It opens last, at first for only a few minutes, and closes first."""

from __future__ import annotations

import pulumi
from pulumi_command import remote

from components.engine.options import child_of, is_for_a_plan
from components.remote.remote_script import Server, with_library, with_password

LEASE_SECONDS = 600
"""How long the funnel may stay open unconfirmed. Public DNS for a new name takes minutes, not more."""

CLOSE = 'need_root\nshift\nclose_exposure "$@"\n'
"""What a destroy runs first; equivalent to `funnel.sh close`."""


class Funnel(pulumi.ComponentResource):
    """A raw TCP funnel with PROXY protocol to the edge.

    It is raw because a funnel that terminates TLS itself would rule out client certificates.

    It has a single child and yet a type of its own, by which previews name it and policies find it
    (`policy.pack`); the child is another provider's.
    """

    close: pulumi.Resource
    """Closes the funnel, and does nothing before that.

    `components.exposure_check` opens the funnel and at once proves what it exposes. Nothing that depends on
    the open funnel needs to be deleted before it.
    """

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
        self.close = closing(f"{name}-close", server, close, child_of(self, opts))
        self.register_outputs({})


def closing(name: str, server: Server, close: str, opts: pulumi.ResourceOptions) -> remote.Command:
    """Return the resource that closes the funnel using only the state, which includes the script's text.

    Everything else is taken back by the scripts on disk at that time. The funnel closes first, and needs
    nothing of this program or its files.
    """
    if server.lacks_key and not is_for_a_plan():
        # Without the key, a preview would show it as changed.
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
