"""The home server: how its configuration gets the module, and where Immich is."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from enum import StrEnum

from components.config.checks import flake_problem, immich_address_problem
from components.config.reader import Section

IMMICH_PORT = 2283
"""The default port of NixOS's Immich."""

LOOPBACK = "127.0.0.1"


class ModuleWay(StrEnum):
    """Who writes the line that imports the module: `pulumi up`, or the owner in their own repository."""

    MANAGED = "managed"
    YOURS = "yours"


class Lan(StrEnum):
    """Whether Immich's own address at home is closed while the funnel is open."""

    CLOSE = "close"
    KEEP = "keep"


class EdgeBuilder(StrEnum):
    """Which machine compiles the edge."""

    SERVER = "server"
    OPERATOR = "operator"


@dataclass(frozen=True)
class Flake:
    """A flake on the server that the system is built from: its folder, and the system's name in it."""

    directory: str
    host: str

    def __str__(self) -> str:
        return f"{self.directory}#{self.host}"


@dataclass(frozen=True)
class Immich:
    """Where Immich listens on the server.

    `managed` means `services.immich` of the server's own configuration. Otherwise Immich runs in a container,
    for example, nothing of it is touched, and `address` is set. An `address` of None means the loopback
    address that answers.
    """

    address: str | None
    port: int
    managed: bool

    @property
    def asked_address(self) -> str:
        """The address as the scripts take it; `-` leaves the choice to them."""
        return self.address or "-"


def read_module(top: Section) -> ModuleWay:
    """Read `module`; setting `flake` decides it as well."""
    way = top.choice("module", choices=list(ModuleWay), default=ModuleWay.MANAGED)
    if top.value("flake") is None:
        return ModuleWay(way)
    if top.value("module") == ModuleWay.MANAGED:
        top.report(
            "module",
            "cannot be managed together with flake, because a flake's files are never written; leave one of "
            "the two out",
            "yours",
        )
    return ModuleWay.YOURS


def read_flake(top: Section) -> Flake | None:
    """Read `flake`; None if the system is not built from one, or if another machine builds it."""
    text = top.optional_text("flake", example='"/etc/nixos#homeserver"', check=flake_problem)
    if text is None:
        return None
    directory, _, host = text.partition("#")
    return Flake(directory.rstrip("/"), host)


def read_edge_build(top: Section, module: ModuleWay) -> EdgeBuilder:
    """Read `edgeBuild`; an edge built on this machine needs a configuration that `pulumi up` writes."""
    builder = EdgeBuilder(top.choice("edgeBuild", choices=list(EdgeBuilder), default=EdgeBuilder.SERVER))
    if builder is EdgeBuilder.OPERATOR and module is ModuleWay.YOURS:
        top.report(
            "edgeBuild",
            "cannot be operator while your own configuration imports the module; set the module's option "
            "package there, as `make edge` says",
            "server",
        )
    return builder


def read_immich(top: Section) -> Immich:
    """Read the group `immich`."""
    section = top.section("immich", example="{address: 127.0.0.1, port: 2283, managed: false}")
    address = section.optional_text("address", example=LOOPBACK, check=immich_address_problem)
    managed = section.boolean("managed", default=True)
    immich = Immich(
        address=None if managed else address or LOOPBACK,
        port=section.integer("port", default=IMMICH_PORT, least=1, most=65535),
        managed=managed,
    )
    if managed and address is not None and not section.problems.has(section.name("managed")):
        section.report(
            "address",
            "applies only to an Immich that services.immich does not manage; add managed: false, or leave "
            "the address out",
            f"{address}, managed: false",
        )
    section.refuse_unknown()
    return immich


def read_lan(top: Section) -> Lan:
    """Read `lan`."""
    return Lan(top.choice("lan", choices=list(Lan), default=Lan.CLOSE))


def check_public_address(top: Section, immich: Immich) -> None:
    """Refuse an Immich that the internet reaches without the edge, whether the funnel is open or closed.

    Only IPv4 is checked: every IPv6 address at home is a public one, behind a router that lets nobody in.
    Preflight checks on the server where Immich really listens.
    """
    if immich.address is not None and _is_public(immich.address):
        top.problems.add(
            "immich.address",
            immich.address,
            "is a public address, at which strangers would reach Immich without the edge; let Immich listen "
            "on 127.0.0.1 or an address of the home network",
            "`immich: {address: 127.0.0.1, managed: false}`",
        )


def _is_public(text: str) -> bool:
    address = ipaddress.ip_address(text)
    return address.version == 4 and address.is_global
