"""Ban lists: installs their sources on the server."""

from __future__ import annotations

import pulumi

from components.config.lists import BanLists
from components.engine.options import child_of
from components.preflight.list_sources import list_files
from components.remote.remote_script import PayloadFile, Server
from components.remote.server_script import guarded_script


class BanListsOnServer(pulumi.ComponentResource):
    """The ban lists' sources on the server; units of the module turn them into lists that the edge reads.

    A list with no entry in force stops the run; an outdated one is reported.
    """

    def __init__(
        self,
        name: str,
        *,
        server: Server,
        lists: BanLists,
        key: pulumi.Output[str] | None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("immich-exposure:index:BanLists", name, {}, opts)
        lines = lists.lines()
        payload: pulumi.Input[tuple[PayloadFile, ...]] = list_files(lines, None)
        if key is not None:
            payload = key.apply(lambda text: list_files(lines, text))
        guarded_script(
            f"{name}-sources",
            server,
            script="lists",
            create=server.line("install"),
            delete=server.line("remove"),
            payload=payload,
            opts=child_of(self, opts),
        )
        self.register_outputs({})
