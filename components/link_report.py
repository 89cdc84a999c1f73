"""The API key with which the server asks Immich for its shared links, to report what they allow."""

from __future__ import annotations

import pulumi

from components.engine.options import child_of
from components.remote.remote_script import PayloadFile, Server
from components.remote.server_script import guarded_script


def api_key_file(key: str) -> PayloadFile:
    """Return the key as the file that is sent to the server and kept there."""
    return PayloadFile("api-key", f"{key}\n", mode="0600")


class LinkReport(pulumi.ComponentResource):
    """The API key as a file only root can read. A key that Immich refuses is reported and stops nothing."""

    def __init__(
        self,
        name: str,
        *,
        server: Server,
        api_key: pulumi.Output[str],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("immich-exposure:index:LinkReport", name, {}, opts)
        guarded_script(
            f"{name}-key",
            server,
            script="who",
            create=server.line("install"),
            delete=server.line("remove"),
            payload=api_key.apply(lambda key: (api_key_file(key),)),
            opts=child_of(self, opts),
        )
        self.register_outputs({})
