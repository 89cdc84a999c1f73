"""Step 5: the edge, its filters and limits as NixOS configuration, and a rebuild that rolls itself back."""

from __future__ import annotations

from collections.abc import Sequence

import pulumi

from components.config.home import EdgeBuilder, ModuleWay
from components.config.stack_config import ExposureConfig
from components.edge_build import source_digest
from components.edge_upload import PLACE
from components.engine.options import child_of
from components.module_folder import ModuleFiles
from components.remote.module_files import Edge, digest, entry_and_module, module_digest
from components.remote.remote_script import PayloadFile, Server
from components.remote.server_script import guard_of, guarded_script


class NixosConfiguration(pulumi.ComponentResource):
    """The module in the server's running configuration: put there by us, through a flake, or by its owner.

    Destroying it removes what it added; Immich is then reachable at home as before.
    """

    def __init__(
        self,
        name: str,
        *,
        server: Server,
        config: ExposureConfig,
        edge: pulumi.Output[Edge] | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("immich-exposure:index:NixosConfiguration", name, {}, opts)
        self._name, self._server, self._config = name, server, config
        before: Sequence[pulumi.Resource] = []
        if config.module is ModuleWay.MANAGED:
            before = [self._files(edge, child_of(self, opts))]
        self._running(pulumi.ResourceOptions.merge(child_of(self, opts), _after(before)))
        self.register_outputs({"digest": configuration_digest(config)})

    def _files(self, edge: pulumi.Output[Edge] | None, opts: pulumi.ResourceOptions) -> pulumi.Resource:
        name, folder = f"{self._name}-files", self._config.config_dir
        remove = self._server.line("remove", folder)
        guard = guard_of(name, self._server, script="files", delete=remove, opts=opts)
        return ModuleFiles(
            name,
            server=self._server,
            config_dir=folder,
            files=pulumi.Output.from_input(edge).apply(self._all_files),
            opts=pulumi.ResourceOptions.merge(opts, _after([guard])),
        )

    def _all_files(self, edge: Edge | None) -> Sequence[PayloadFile]:
        return entry_and_module(self._config.immich, self._config.lan, edge)

    def _running(self, opts: pulumi.ResourceOptions) -> None:
        create, delete = module_lines(self._server, self._config)
        guarded_script(
            f"{self._name}-module",
            self._server,
            script="module",
            create=create,
            delete=delete,
            # The script's arguments do not say what is built, and a changed module is a reason to run again.
            note=f"The module's digest is {configuration_digest(self._config)}.",
            opts=opts,
        )


def _after(resources: Sequence[pulumi.Resource]) -> pulumi.ResourceOptions:
    return pulumi.ResourceOptions(depends_on=list(resources))


def module_lines(server: Server, config: ExposureConfig) -> tuple[str, str]:
    """Return the command lines that get the module running, and that take it back."""
    immich = (config.proxy_port, config.immich.asked_address, config.immich.port)
    upgrade = "yes" if config.allow_upgrade else "no"
    if config.flake is not None:
        where = (config.flake.directory, config.flake.host)
        return server.line("flake", *where, *immich, upgrade), server.line("leave")
    if config.module is ModuleWay.YOURS:
        return server.line("yours", *immich), server.line("leave")
    create = server.line("managed", config.config_dir, *immich, upgrade)
    return create, server.line("restore", config.config_dir)


def what_is_rebuilt(config: ExposureConfig) -> str:
    """Return, as text, which configuration is rebuilt and whether an upgrade may come with it."""
    return f"{config.module} {config.flake} {config.config_dir} {config.allow_upgrade}"


def configuration_digest(config: ExposureConfig) -> str:
    """Return a digest of everything that a rebuild depends on; known at preview.

    It is the module's own digest if the owner writes the rest, in their own repository.
    """
    if config.module is ModuleWay.YOURS:
        return module_digest()
    # The hash of a program built here is known only after the build; the hash of its sources is known before.
    operator = config.edge_build is EdgeBuilder.OPERATOR
    edge = Edge(PLACE, source_digest()) if operator else None
    return digest(entry_and_module(config.immich, config.lan, edge))
