"""What must hold before anything is changed, judged from facts that a read-only script has gathered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.version_floors import load, parse_version

LOWEST_NIXOS = (26, 5)
"""The first NixOS with Go 1.26, which the edge is built with, and with a Tailscale that is new enough."""

NEEDED_DISK_KIB = 1024 * 1024
"""One GiB in the Nix store: a Caddy build and one more system generation."""


@dataclass(frozen=True)
class Wanted:
    """The configured values that the facts are held against."""

    config_dir: str
    immich_port: int
    proxy_port: int
    funnel_port: int


def problems(facts: Mapping[str, Any], wanted: Wanted) -> list[str]:
    """Return every problem as a full sentence with its remedy; an empty list means: go on."""
    if not facts.get("nixos"):
        # all else would be noise: nothing of the recipe exists outside NixOS
        return ["The server is not NixOS; this package changes /etc/nixos and needs nixos-rebuild."]
    return [
        *_nixos_version(facts),
        *_missing_commands(facts),
        *_configuration(facts, wanted),
        *_tailscale_version(facts),
        *_tailnet(facts, wanted),
        *_port(facts, wanted),
        *_funnel_port(facts, wanted),
        *_immich(facts, wanted),
        *_disk(facts),
    ]


def _nixos_version(facts: Mapping[str, Any]) -> list[str]:
    """Refuse a release known to be too old; a version that cannot be read is left to the build."""
    text = str(facts.get("nixosVersion") or "")
    year, _, month = text.partition(".")
    if not (year.isdigit() and month.isdigit()) or (int(year), int(month)) >= LOWEST_NIXOS:
        return []
    lowest = f"{LOWEST_NIXOS[0]}.{LOWEST_NIXOS[1]:02}"
    return [
        f"NixOS {text} lacks Go 1.26, which the edge is built with; upgrade the server to {lowest} or newer."
    ]


def _missing_commands(facts: Mapping[str, Any]) -> list[str]:
    missing = sorted(facts.get("commands", []))
    if not missing:
        return []
    return [f"The server lacks the commands {', '.join(missing)}; add them to environment.systemPackages."]


def _configuration(facts: Mapping[str, Any], wanted: Wanted) -> list[str]:
    configuration = facts.get("configuration", {})
    path = f"{wanted.config_dir}/configuration.nix"
    if not configuration.get("exists"):
        return [f"There is no {path} on the server; set configDir to the folder that holds it."]
    imports = (configuration.get("lanImport"), configuration.get("exposeImport"))
    if "active" not in imports:
        return [
            f"The imports of {path} name neither ./lan-immich.nix nor ./expose-immich.nix; "
            "add ./lan-immich.nix (the module that runs Immich on the LAN) to the imports list."
        ]
    return []


def _tailscale_version(facts: Mapping[str, Any]) -> list[str]:
    text = facts.get("tailscaleVersion")
    if not text:
        return ["Tailscale is not installed on the server; set services.tailscale.enable = true and log in."]
    version = parse_version(str(text))
    if version is None:
        return [f"The server's Tailscale version {text!r} cannot be read; install a released version."]
    floor = load()["tailscale"]
    if version in floor.refused:
        return [f"Tailscale {text} {floor.refused[version]}."]
    if not floor.accepts(version):
        return [
            f"Tailscale {text} is too old; set services.tailscale.package to version {floor.lowest_text()} "
            "or newer."
        ]
    return []


def _tailnet(facts: Mapping[str, Any], wanted: Wanted) -> list[str]:
    status = facts.get("tailscale")
    if not isinstance(status, Mapping):
        if not facts.get("tailscaleVersion"):
            return []
        return ["Tailscale does not answer on the server; start it with systemctl start tailscaled."]
    if status.get("BackendState") != "Running":
        state = status.get("BackendState", "unknown")
        return [f"Tailscale is not connected (its state is {state}); run sudo tailscale up on the server."]
    self_status = status.get("Self")
    capabilities = (self_status.get("CapMap") if isinstance(self_status, Mapping) else None) or {}
    found = []
    if "https" not in capabilities or not status.get("CertDomains"):
        found.append(
            "HTTPS certificates are not enabled in the tailnet; enable MagicDNS and HTTPS on the DNS page of "
            "the Tailscale admin console."
        )
    if "funnel" not in capabilities:
        found.append(
            "This node may not use Funnel; add the node attribute 'funnel' for it to the tailnet policy "
            "file (nodeAttrs), see https://tailscale.com/s/no-funnel."
        )
    elif not funnel_port_allowed(capabilities, wanted.funnel_port):
        found.append(
            f"Funnel may not use port {wanted.funnel_port} on this node; set funnelPort to one of the "
            "ports that the tailnet allows (443, 8443 or 10000)."
        )
    return found


def funnel_port_allowed(capabilities: Mapping[str, Any], port: int) -> bool:
    """Return whether the node's capability map allows a funnel on ``port``.

    The ports stand in the query of a capability's name, as single ports and ranges
    (``https://tailscale.com/cap/funnel-ports?ports=443,8443,10000-10010``).
    """
    for name in capabilities:
        if not name.startswith("https://tailscale.com/cap/funnel-ports?ports="):
            continue
        for part in name.partition("=")[2].split(","):
            first, _, last = part.partition("-")
            if first.isdigit() and int(first) <= port <= int(last if last.isdigit() else first):
                return True
    return False


def _port(facts: Mapping[str, Any], wanted: Wanted) -> list[str]:
    owner = facts.get("proxyPortOwner")
    if not owner:
        return []
    return [f"Port {wanted.proxy_port} is taken on the server ({owner}); set proxyPort to a free port."]


def _funnel_port(facts: Mapping[str, Any], wanted: Wanted) -> list[str]:
    """Refuse a funnel port on which the node serves something that cannot be ours.

    A PROXY forward may be our own from before a change of ``proxyPort``; opening looks closer.
    """
    config = facts.get("funnel")
    if not isinstance(config, Mapping):
        return []
    port = str(wanted.funnel_port)
    entry = (config.get("TCP") or {}).get(port)
    web = any(name.endswith(f":{port}") for name in config.get("Web") or {})
    if not web and (entry is None or entry.get("ProxyProtocol") == 1):
        return []
    return [
        f"The node already serves something else on port {port} (see tailscale serve status); remove that "
        "entry with tailscale serve, or set funnelPort to another of 443, 8443 and 10000."
    ]


def _immich(facts: Mapping[str, Any], wanted: Wanted) -> list[str]:
    immich = facts.get("immich", {})
    port = immich.get("port", wanted.immich_port)
    if port != wanted.immich_port:
        return [
            f"Immich is exposed with its port {port}, and `pulumi destroy` looks for it there on the LAN; "
            f"to make it {wanted.immich_port}, set immichPort back, run `pulumi destroy`, change the port in "
            "lan-immich.nix, and then set immichPort and run `pulumi up`."
        ]
    if not immich.get("ping"):
        return [f"Immich does not answer on port {port} of the server; start it or set immichPort."]
    if immich.get("initialized") is not True:
        return [
            "Immich has no administrator yet, so the first visitor could make themselves one; open Immich on "
            "the LAN and create the administrator account first."
        ]
    return _immich_version(immich.get("version"))


def _immich_version(text: object) -> list[str]:
    """Refuse a version known to be unsafe for visitors; one that cannot be read is the owner's to judge."""
    version, floor = parse_version(str(text or "")), load()["immich"]
    if version is None or floor.accepts(version):
        return []
    known = ", ".join(reason.id for reason in floor.because)
    return [
        f"Immich {text} has known faults in what visitors see ({known}); set services.immich.package to "
        f"version {floor.lowest_text()} or newer."
    ]


def _disk(facts: Mapping[str, Any]) -> list[str]:
    free = facts.get("diskFreeKiB", {})
    return [
        f"Only {int(kib) // 1024} MiB are free on {path}; at least {NEEDED_DISK_KIB // 1024} MiB are needed: "
        "run sudo nix-collect-garbage --delete-older-than 30d on the server."
        for path, kib in sorted(free.items())
        if path == "/nix" and int(kib) < NEEDED_DISK_KIB
    ]
