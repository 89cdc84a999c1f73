"""What must hold before anything is changed, judged from facts gathered by a read-only script."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from components.config.home import Lan, ModuleWay
from components.config.stack_config import FUNNEL_PORTS
from components.surface.immich_releases import unknown_release
from components.surface.supported_versions import load, parse_version

LOWEST_NIXOS = (26, 5)
"""The first NixOS with Go 1.26, which builds the edge, and with a recent enough Tailscale."""

STANDARD_FOLDER = "/etc/nixos"
"""Where nixos-rebuild looks for configuration.nix, unless nixos-config in NIX_PATH names another place."""

LOCAL_TARGETS = ("localhost:", "127.0.0.1:")
"""Prefixes of a funnel's target on this machine itself."""

NEEDED_DISK_KIB = 1024 * 1024
"""One GiB in the Nix store: the edge's build and one more system generation."""


@dataclass(frozen=True)
class ExpectedUploads:
    """Immich's upload folder (None: as its unit says), the free space to keep, and the hourly budget."""

    folder: str | None
    free_gigabytes: int
    megabytes_per_hour: int


@dataclass(frozen=True)
class Configured:
    """The configured values that the facts are compared with.

    `module_digest` is the version that the owner's own repository must have; None if any is allowed. `adopt`:
    a manual setup is taken over, with its funnel.
    """

    config_dir: str
    module: ModuleWay
    flake_dir: str | None
    module_digest: str | None
    immich_address: str | None
    immich_port: int
    immich_managed: bool
    lan: str
    proxy_port: int
    funnel_port: int
    take_over: bool
    adopt: bool = False
    flake_host: str | None = None
    allow_upgrade: bool = False
    uploads: ExpectedUploads | None = None


@dataclass(frozen=True)
class Expected(Configured):
    """The same, plus what the operator's machine knows.

    `authorities` are the fingerprints of those in the keystore. `exposed`: this stack has been here before,
    so a funnel to the edge is its own, also on a server whose state folder is gone.
    """

    authorities: tuple[str, ...] = ()
    stack_id: str | None = None
    exposed: bool = False


def problems(facts: Mapping[str, Any], expected: Expected) -> list[str]:
    """Return every problem as a full sentence with its remedy; an empty list means that the run may go on."""
    if not facts.get("nixos"):
        # everything else would be noise: the other checks apply only to NixOS
        return ["The server is not NixOS; this package changes /etc/nixos and needs nixos-rebuild."]
    return [
        *_nixos_version(facts, expected),
        *_missing_commands(facts, expected),
        *_clocks(facts),
        *_theirs(facts),
        *_way_in(facts, expected),
        *_another_stack(facts, expected),
        *_tailscale_version(facts),
        *_tailnet(facts, expected),
        *_port(facts, expected),
        *(_past_the_edge(facts, expected) or _funnel_port(facts, expected)),
        *([] if _has_funnel(facts, expected) else _held_port(facts, expected)),
        *_immich_unit(facts, expected),
        *_immich(facts),
        *_public_address(facts, expected),
        *_disk(facts, expected),
        *_floor(_part(facts, "uploads"), expected.uploads),
    ]


def warnings(facts: Mapping[str, Any], expected: Expected) -> list[str]:
    """Return what is not as it should be but does not stop the run."""
    apart = _apart(facts)
    found = [clocks_differ(apart)] if abs(apart) >= CLOCKS_WARN_SECONDS else []
    found += _room(_part(facts, "uploads"), expected.uploads)
    if _has_funnel(facts, expected):
        found += _held_port(facts, expected)
    if _part(facts, "immich").get("ping"):
        return found
    address = expected.immich_address or "127.0.0.1 or ::1"
    keys = "immich.port" if expected.immich_managed else "immich.address and immich.port"
    return [
        *found,
        f"Immich does not answer on the server at {address}, port {expected.immich_port}. Everything is "
        f"prepared, but the funnel opens only when it answers: start Immich, or correct {keys}, and run "
        "pulumi up again.",
    ]


def room_for_uploads(uploads: Mapping[str, Any], expected: ExpectedUploads) -> list[str]:
    """Return what is wrong with the limits on this disk, whether or not it stops a run."""
    return _floor(uploads, expected) or _room(uploads, expected)


def _floor(uploads: Mapping[str, Any], expected: ExpectedUploads | None) -> list[str]:
    """Refuse a floor above the size of the whole disk: no upload would ever get through."""
    size = uploads.get("sizeKiB")
    if expected is None or not isinstance(size, int | float):
        return []
    gigabytes = size * 1024 / 1e9
    if gigabytes > expected.free_gigabytes:
        return []
    return [
        f"uploadLimits.freeGigabytes is {expected.free_gigabytes}, and the whole disk of "
        f"{uploads.get('folder')}, where Immich puts uploads, has {gigabytes:.0f} GB, so guests could never "
        "upload anything; set it lower."
    ]


def _room(uploads: Mapping[str, Any], expected: ExpectedUploads | None) -> list[str]:
    """Warn if guests cannot upload now, or can fill the disk down to the floor within an hour."""
    if expected is None:
        return []
    folder, free = uploads.get("folder"), uploads.get("freeKiB")
    if not isinstance(free, int | float):
        where = (
            f"{folder} is not a folder there"
            if folder
            else "Immich's unit does not say where it puts uploads"
        )
        return [
            f"The server does not know how much is free for uploads ({where}), and guests cannot upload "
            "until that is known; set uploadLimits.folder to the folder where Immich puts them."
        ]
    gigabytes, floor = free * 1024 / 1e9, expected.free_gigabytes
    if gigabytes < floor:
        return [
            f"Guests cannot upload now: {gigabytes:.0f} GB are free at {folder} and "
            f"uploadLimits.freeGigabytes is {floor}; make room, or set it lower."
        ]
    if gigabytes - floor < expected.megabytes_per_hour / 1000:
        return [
            f"{gigabytes:.0f} GB are free at {folder}, so guests can use up within an hour what "
            f"uploadLimits leaves them ({expected.megabytes_per_hour} MB an hour until {floor} GB "
            "are free); set uploadLimits.megabytesPerHour lower, or make room."
        ]
    return []


KEY_DAYS = 30
"""Days before the expiry of the node's key from which it is reported."""


def key_notes(ends: str | None, now: datetime) -> list[str]:
    """Say that the node's key expires soon; `ends` is ISO 8601, empty if the owner has disabled its expiry.

    Tailscale expires a node's key, and with it the funnel, 180 days after login unless that is disabled.
    """
    moment = _moment(ends)
    if moment is None or moment - now > timedelta(days=KEY_DAYS):
        return []
    verb = "ended" if moment <= now else "ends"
    return [
        f"The server's key in the tailnet {verb} on {moment:%Y-%m-%d}, and without it the funnel closes; "
        "disable its expiry at https://login.tailscale.com/admin/machines (in the menu of the machine), or "
        "run sudo tailscale up --force-reauth on the server."
    ]


def _moment(text: str | None) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return moment if moment.tzinfo else None


def node_key_end(facts: Mapping[str, Any]) -> str:
    """Return when the node's key expires, ISO 8601; empty if it does not, or if that is unknown."""
    ends = str(_part(facts, "tailscale").get("keyExpiry") or "")
    return ends if _moment(ends) else ""


CLOCKS_APART_SECONDS = 3600
"""How far the clocks may differ: certificates are backdated by this much (`pki.certificate.CLOCK_SKEW`)."""

CLOCKS_WARN_SECONDS = 300


def _clocks(facts: Mapping[str, Any]) -> list[str]:
    """Refuse a server whose clock differs so much from this machine's that new certificates are invalid."""
    apart = _apart(facts)
    if abs(apart) < CLOCKS_APART_SECONDS:
        return []
    return [clocks_differ(apart)]


def _apart(facts: Mapping[str, Any]) -> float:
    apart = facts.get("clockApart")
    return float(apart) if isinstance(apart, int | float) else 0.0


def clocks_differ(apart: float) -> str:
    """Say how far the server's clock is ahead of or behind this machine's; `apart` is in seconds."""
    minutes, direction = round(abs(apart) / 60), "ahead of" if apart > 0 else "behind"
    return (
        f"The clocks differ: the server's is {minutes} minutes {direction} this machine's, and certificates "
        "depend on the clock; correct both (timedatectl shows the server's)."
    )


def notes(facts: Mapping[str, Any]) -> list[str]:
    """Return what the owner should know at every preview and cannot fix on the server."""
    return unknown_release(_part(facts, "immich").get("version"))


def _part(facts: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a group of facts; empty if the server could not determine it."""
    part = facts.get(name)
    return part if isinstance(part, Mapping) else {}


def _builds_nothing(expected: Expected) -> bool:
    """Tell whether another machine builds the system."""
    return expected.module is ModuleWay.YOURS and expected.flake_dir is None


def _nixos_version(facts: Mapping[str, Any], expected: Expected) -> list[str]:
    """Refuse a release known to be too old; an unreadable version is left to the build."""
    if _builds_nothing(expected) and _part(facts, "module"):
        return []  # the edge is already there, however it was built
    text = str(facts.get("nixosVersion") or "")
    year, _, month = text.partition(".")
    if not (year.isdigit() and month.isdigit()) or (int(year), int(month)) >= LOWEST_NIXOS:
        return []
    lowest = f"{LOWEST_NIXOS[0]}.{LOWEST_NIXOS[1]:02}"
    return [
        f"NixOS {text} lacks Go 1.26, which the edge is built with; upgrade the server to {lowest} or newer."
    ]


BUILDERS = {"nix-env", "nix-instantiate", "nixos-rebuild"}
"""Commands needed only on a server that builds its own system (see system.disableInstallerTools)."""


def _missing_commands(facts: Mapping[str, Any], expected: Expected) -> list[str]:
    missing = sorted(set(facts.get("commands", ())) - (BUILDERS if _builds_nothing(expected) else set()))
    if not missing:
        return []
    return [f"The server lacks the commands {', '.join(missing)}; add them to environment.systemPackages."]


def _theirs(facts: Mapping[str, Any]) -> list[str]:
    return [
        f"{path} on the server was not made by this project (it lacks the mark), and nothing of "
        "yours is ever overwritten; rename it or move it away."
        for path in facts.get("theirs") or ()
    ] + [
        f"The {name} on the server was not made by this project, and the module needs one of that name; give "
        "yours another name."
        for name in facts.get("theirNames") or ()
    ]


def _way_in(facts: Mapping[str, Any], expected: Expected) -> list[str]:
    """Refuse a server whose configuration cannot get the module in the chosen way."""
    if expected.flake_dir is not None:
        return _flake(facts, expected, expected.flake_dir)
    if expected.module is ModuleWay.YOURS:
        return _module_of_yours(facts, expected)
    return _configuration(facts, expected)


def _flake(facts: Mapping[str, Any], expected: Expected, directory: str) -> list[str]:
    host = expected.flake_host
    if not _part(facts, "flake").get("exists"):
        return [
            f"There is no {directory}/flake.nix on the server; correct flake (DIR#HOST), or leave it out "
            "when the system is not built from a flake there."
        ]
    evaluated = _part(facts, "evaluated")
    name = f"{directory}#{host}"
    if evaluated.get("error"):
        return [_flake_error(name, str(evaluated["error"]))]
    hosts = evaluated.get("hosts")
    if hosts is not None and host not in hosts:
        return [
            f"The flake in {directory} has no host {host} among its nixosConfigurations (it has "
            f"{', '.join(hosts) or 'none'}); correct flake (DIR#HOST)."
        ]
    if evaluated.get("exposure") == "absent":
        return [
            f"The system {name} lacks the module: {HOW_TO_HAVE_THE_MODULE}. Set "
            "`services.immich-exposure.enable = true;` there, and run pulumi up again; in a git checkout, "
            "Nix sees only the files that git tracks."
        ]
    if evaluated.get("exposure") == "off":
        return [
            f"The system {name} has the module but does not enable it; set "
            "`services.immich-exposure.enable = true;` there, and run pulumi up again."
        ]
    if evaluated.get("exposure") != "on":
        return []
    return _another_module(f"The system {name}", _part(evaluated, "module"), expected)


def _flake_error(name: str, error: str) -> str:
    """Return the sentence for a flake that does not evaluate, including a checkout that another user owns."""
    if not_owned := re.search(r"'([^']+)' is not owned by current user", error):
        folder = not_owned[1]
        return (
            f"Nix does not read the checkout in {folder} as root, because another user owns it; run "
            f"`git config --global --add safe.directory {folder}` as root on the server."
        )
    untracked = ""
    if re.search(r"-source/.*(No such file|does not exist)", error):
        untracked = " (in a git checkout, Nix sees only the files that git tracks: `git add` them)"
    return f"{name} does not evaluate ({error}); correct what Nix reports{untracked}."


def _configuration(facts: Mapping[str, Any], expected: Expected) -> list[str]:
    configuration = _part(facts, "configuration")
    path = configuration.get("path") or f"{expected.config_dir}/configuration.nix"
    if configuration.get("isFolder"):
        return [
            f"{path} is a folder, and no import can be added to it; rename it, to host for example, and "
            "write a configuration.nix of one line in its place: { imports = [ ./host ]; }."
        ]
    if not configuration.get("exists"):
        return [
            f"There is no {expected.config_dir}/configuration.nix on the server; set configDir to the folder "
            "that holds it, flake to the flake that the system is built from, or module: yours when "
            "another machine builds it."
        ]
    if str(path).startswith("/nix/store/"):
        return [
            f"{path} is generated by Nix, so nothing can be put beside it; import the module where it is "
            "generated and set module: yours (see docs/homes.md)."
        ]
    if flake := configuration.get("flakeBeside"):
        return [
            f"There is {flake}/flake.nix, and nixos-rebuild uses that flake instead of {path}; set flake to "
            f"its folder and host (`flake: {flake}#HOST`), or module: yours when another machine builds it."
        ]
    if configuration.get("otherSystem"):
        return [
            f"The server is built from {configuration['otherSystem']}, which nixos-rebuild uses instead of "
            f"{path}; import the module there and set module: yours (see docs/homes.md)."
        ]
    if configuration.get("otherConfiguration") and expected.config_dir == STANDARD_FOLDER:
        other = str(configuration["otherConfiguration"])
        folder, _, name = other.rpartition("/")
        remedy = f"set configDir: {folder}" if name == "configuration.nix" else "set module: yours"
        return [
            f"nixos-rebuild uses {other} as the configuration instead of {path} (nixos-config in NIX_PATH "
            f"says so); {remedy}."
        ]
    if configuration.get("exported"):
        folder = f"{str(path).rpartition('/')[0]}/immich-exposure"
        return [
            f"{folder} was exported by `make module` and is yours; set module: yours, or give the folder "
            "another name and remove it from the imports."
        ]
    if configuration.get("ourImport") == "active":
        return []
    evaluated = _part(facts, "evaluated")
    return [
        *_no_import_list(configuration, path),
        *_obstacle(configuration, path),
        *(_evaluated(evaluated, path) or _another_system(facts, expected)),
        *_expose_besides(configuration, path),
    ]


def _no_import_list(configuration: Mapping[str, Any], path: object) -> list[str]:
    if configuration.get("lanImport") == "active" or configuration.get("importList"):
        return []
    return [
        f"{path} has no list of imports that a line can be added to. Write `imports = [ ];` at its top "
        "level, or begin the existing imports with a list, `imports = [ ] ++ ...`; or give the file "
        "another name, such as host.nix, and write a configuration.nix of one line: "
        "{ imports = [ ./host.nix ]; }."
    ]


def _obstacle(configuration: Mapping[str, Any], path: object) -> list[str]:
    """Refuse a configuration.nix that cannot be replaced, or whose hard link a replacement would break."""
    reasons = {
        "read-only": f"The folder of {path} cannot be written to; make it writable (is it mounted "
        "read-only?)",
        "mounted": f"{path} is a mount point of its own; persist its whole folder instead",
        "linked": f"{path} also has another name (a hard link), which would no longer be the same file; "
        "make one of them a symbolic link to the other",
    }
    obstacle = configuration.get("obstacle")
    return [f"{reasons[obstacle]}, or set module: yours."] if obstacle in reasons else []


def _evaluated(evaluated: Mapping[str, Any], path: object) -> list[str]:
    """Refuse early what Nix would refuse late: the same module twice, or no system at all."""
    if evaluated.get("error"):
        return [
            f"{path} does not evaluate even before any change ({evaluated['error']}); correct what Nix "
            "reports."
        ]
    if evaluated.get("exposure") in ("off", "on"):
        return [
            f"{path} already imports the module, other than by ./immich-exposure, and it cannot be imported "
            "twice; set module: yours, or remove that import."
        ]
    return []


def _another_system(facts: Mapping[str, Any], expected: Expected) -> list[str]:
    """Refuse a configuration that is not the running one: all other changes would be deployed, unnoticed.

    Once the running system has the module, the two cannot be compared here; the rebuild itself does it.
    """
    running, evaluated = _part(facts, "running"), _part(facts, "evaluated")
    toplevels = running.get("toplevel"), evaluated.get("toplevel")
    if expected.allow_upgrade or _part(facts, "module") or None in toplevels or toplevels[0] == toplevels[1]:
        return []
    newer = [
        f"{name} {evaluated[key]} instead of {running[key]}"
        for name, key in (("NixOS", "nixos"), ("Immich", "immich"))
        if running.get(key) and evaluated.get(key) and running[key] != evaluated[key]
    ]
    brought = " and ".join(newer) or (
        "a configuration other than the running one (where the system is built from another place, by a "
        f'flake or a deploy tool, set module: yours or flake: "DIR#HOST"{_elsewhere(facts)})'
    )
    return [
        f"The rebuild would also bring {brought}; bring the server up to date yourself "
        '("sudo nixos-rebuild switch") or set allowUpgrade: true.'
    ]


def _elsewhere(facts: Mapping[str, Any]) -> str:
    folder = _part(facts, "configuration").get("flakeAbove")
    return f'; there is a flake in {folder}: perhaps flake: "{folder}#HOST"' if folder else ""


def _expose_besides(configuration: Mapping[str, Any], path: object) -> list[str]:
    """Refuse to replace an owner's ./expose-immich.nix that configures more than the manual setup does."""
    if configuration.get("exposeImport") != "active" or "exposeBesides" not in configuration:
        return []
    file = f"{str(path).rpartition('/')[0]}/expose-immich.nix"
    besides = configuration["exposeBesides"]
    if besides is None:
        return [
            f"What {file} sets cannot be determined, and the module would replace it; remove it from the "
            f"imports of {path}, or set module: yours."
        ]
    if besides:
        return [
            f"{file}, which the module replaces, also sets {besides}; move that to a file of its own that "
            f"{path} imports."
        ]
    return []


HOW_TO_HAVE_THE_MODULE = (
    "in a flake, add this project as the input immich-exposure and immich-exposure.nixosModules.default "
    "to the modules of the system; elsewhere, run `make module DIR=...` with a folder of your repository "
    "and import that folder"
)


def _module_of_yours(facts: Mapping[str, Any], expected: Expected) -> list[str]:
    """Refuse a running system that lacks the module, or has another version of it or other options."""
    module = _part(facts, "module")
    if not module:
        return [
            f"The running system lacks the module: {HOW_TO_HAVE_THE_MODULE}. Set "
            "`services.immich-exposure.enable = true;`, deploy, and run pulumi up again."
        ]
    return _another_module("The running system", module, expected)


def _another_module(system: str, module: Mapping[str, Any], expected: Expected) -> list[str]:
    """Refuse a system that has another version of the module than this project, or other options."""
    if expected.module_digest is not None and module.get("digest") != expected.module_digest:
        seen, here = str(module.get("digest", "unknown"))[:12], expected.module_digest[:12]
        return [
            f"{system} has a different version of the module ({seen}) from this project ({here}); update the "
            "flake's input (nix flake update immich-exposure) or run `make module DIR=...` again, deploy, "
            "and run pulumi up again."
        ]
    return [
        f"The module on the server has {option} = {seen}, and this stack says {configured}; make them "
        f"equal: set services.immich-exposure.{option} in your configuration and deploy, or {key} of this "
        "stack."
        for option, key, seen, configured in _options(module, expected)
        if seen != configured
    ]


def _options(module: Mapping[str, Any], expected: Expected) -> list[tuple[str, str, str, str]]:
    """Return option, key, the server's value and this stack's, for the options that both set."""
    address, _, port = str(module.get("immich", "")).rpartition(":")
    managed = str(module.get("managed")).lower(), str(expected.immich_managed).lower()
    options = [
        ("lan", "lan", str(module.get("lan")), str(expected.lan)),
        ("immich.managed", "immich.managed", *managed),
        ("immich.port", "immich.port", port, str(expected.immich_port)),
    ]
    if expected.immich_address is not None:
        options.append(("immich.address", "immich.address", address.strip("[]"), expected.immich_address))
    return options


def _another_stack(facts: Mapping[str, Any], expected: Expected) -> list[str]:
    """Refuse a server of another stack, or one whose devices would all be silently shut out."""
    owner = _part(facts, "owner")
    trusted = set(facts.get("authorities") or ())
    stranger = bool(trusted) and not trusted & set(expected.authorities)
    another = bool(owner) and owner.get("id") != expected.stack_id
    if expected.take_over or not (stranger or another):
        return []
    if owner and not another:
        return [
            "This stack has exposed the server with a certificate authority that is not in this keystore, "
            "so every device would lose access. Is its drive not mounted? Set `keystore` to its folder, or "
            "import a backup (docs/keys.md). If it is lost for good, run pulumi destroy and then "
            "pulumi up: every device then needs a new bundle."
        ]
    keystore = ""
    if stranger:
        keystore = (
            ", with a certificate authority that is not in this keystore: its devices would be shut out "
            "unless you bring that keystore here"
        )
    return [
        f"The server is already exposed by the stack {owner.get('name') or 'unknown'}{keystore}. Run pulumi "
        "destroy there first, or set takeOver: true to replace it with this stack (also if it is this same "
        "stack, and Pulumi's state was lost)."
    ]


def outdated(program: str, text: str) -> list[str]:
    """Say that a running version is too old or broken, or unknown to this project."""
    if program == "tailscale":
        return _tailscale_version({"tailscaleVersion": text})
    if program == "immich":
        return _immich_version(text) or unknown_release(text)
    version, supported = parse_version(text), load().get(program)
    if version is None or supported is None or supported.accepts(version):
        return []
    return [
        f"The edge runs {program.title()} {text}, which has known vulnerabilities; update this project and "
        f"run pulumi up, which rebuilds the edge with {supported.lowest_text()} or newer."
    ]


def _tailscale_version(facts: Mapping[str, Any]) -> list[str]:
    text = facts.get("tailscaleVersion")
    if not text:
        return ["Tailscale is not installed on the server; set services.tailscale.enable = true and log in."]
    version = parse_version(str(text))
    if version is None:
        return [f"The server's Tailscale version {text!r} cannot be read; install a released version."]
    supported = load()["tailscale"]
    if version in supported.refused:
        return [f"Tailscale {text} {supported.refused[version]}."]
    if not supported.accepts(version):
        return [
            f"Tailscale {text} is too old; set services.tailscale.package to version "
            f"{supported.lowest_text()} or newer."
        ]
    return []


def _tailnet(facts: Mapping[str, Any], expected: Expected) -> list[str]:
    node = facts.get("tailscale")
    if not isinstance(node, Mapping):
        if not facts.get("tailscaleVersion"):
            return []
        return ["Tailscale does not answer on the server; start it with systemctl start tailscaled."]
    if (state := node.get("state")) != "Running":
        return [f"Tailscale is not connected (its state is {state}); run sudo tailscale up on the server."]
    found = []
    if not (node.get("https") and node.get("domain")):
        found.append(
            "HTTPS certificates are not enabled in the tailnet; enable MagicDNS and HTTPS on the DNS page of "
            "the Tailscale admin console."
        )
    if not node.get("funnel"):
        found.append(
            "This node may not use Funnel; add the node attribute 'funnel' for it to the tailnet policy "
            "file (nodeAttrs), see https://tailscale.com/s/no-funnel."
        )
    elif not node.get("funnelPort"):
        found.append(
            f"Funnel may not use port {expected.funnel_port} on this node; set funnelPort to one of the "
            "ports that the tailnet allows (443, 8443 or 10000)."
        )
    return found


def _port(facts: Mapping[str, Any], expected: Expected) -> list[str]:
    owner = str(facts.get("proxyPortOwner") or "")
    if not owner or _goes_with_the_swap(owner, facts, expected):
        return []
    return [f"Port {expected.proxy_port} is taken on the server ({owner}); set proxyPort to a free port."]


def _goes_with_the_swap(owner: str, facts: Mapping[str, Any], expected: Expected) -> bool:
    """Tell whether the port's owner is the Caddy of the owner's own ./expose-immich.nix, which we replace."""
    configuration = _part(facts, "configuration")
    swapped = configuration.get("exposeImport") == "active" and configuration.get("ourImport") != "active"
    return expected.module is ModuleWay.MANAGED and swapped and '"caddy"' in owner


def _funnel_port(facts: Mapping[str, Any], expected: Expected) -> list[str]:
    """Refuse a funnel port on which the node serves something that cannot be ours.

    A PROXY forward may be our own from before a change of ``proxyPort``; opening the funnel checks more
    closely. On a server that was never exposed with this project, somebody opened it by hand.
    """
    config = facts.get("funnel")
    if not isinstance(config, Mapping):
        return []
    port = str(expected.funnel_port)
    entry: Mapping[str, Any] | None = (config.get("TCP") or {}).get(port)
    web = any(name.endswith(f":{port}") for name in config.get("Web") or {})
    if not web:
        if entry is None or (expected.adopt and str(entry.get("TCPForward")).startswith(LOCAL_TARGETS)):
            return []
        if entry.get("ProxyProtocol") == 1:
            return [] if expected.exposed or facts.get("owner") else [_opened_by_hand(port)]
    return [
        f"The node already serves something else on port {port} (see tailscale serve status); remove that "
        "entry with tailscale serve, or set funnelPort to another of 443, 8443 and 10000."
    ]


def _has_funnel(facts: Mapping[str, Any], expected: Expected) -> bool:
    """Tell whether the node already has a funnel on that port, ours or one opened by hand."""
    return str(expected.funnel_port) in (_part(facts, "funnel").get("TCP") or {})


def _held_port(facts: Mapping[str, Any], expected: Expected) -> list[str]:
    """Name a web server of the owner's on the funnel's port, before there is a funnel.

    Tailscale itself listens there, on the node's own addresses: clients on the tailnet reach the funnel
    instead, and a program that starts later cannot bind the port on every address (tailscale#7227, #12651).
    """
    held = _part(facts, "heldPorts")
    name = held.get(str(expected.funnel_port))
    if not name:
        return []
    free = " or ".join(port for port in map(str, FUNNEL_PORTS) if port not in held)
    other = f"set funnelPort: {free}, or " if free else ""
    return [
        f"{name} on the server has port {expected.funnel_port} at the node's own address as well, which "
        "Tailscale takes for the funnel: its sites would be unreachable over the tailnet, and after a "
        f"restart it might not get the port at all; {other}let it listen on addresses of the home network "
        "alone (`bind` in Caddy, `listen` in nginx)."
    ]


def _past_the_edge(facts: Mapping[str, Any], expected: Expected) -> list[str]:
    """Refuse a funnel that leads to Immich itself or, before the edge exists, to the edge's port.

    The exception is what `adopt` takes over, the manual setup's funnel: raw TCP on our port, or to the
    edge's.
    """
    found = []
    for entry in facts.get("pastTheEdge") or ():
        kind, port, target = entry.split()
        on_our_port = port == str(expected.funnel_port)
        if expected.adopt and kind == "tcp" and (on_our_port or target == "edge"):
            continue
        if target == "immich":
            found.append(
                f"Immich itself is public on port {port} of this node, by a funnel that bypasses the edge, "
                f"so strangers can reach its login; {_way_to_end(kind, port)}."
            )
        elif not (on_our_port or expected.exposed or facts.get("owner")):
            found.append(
                f"A funnel on port {port} of this node leads to port {expected.proxy_port}, which the edge "
                f"is about to use, and would be open before it is proven; {_way_to_end(kind, port)}, or set "
                "proxyPort."
            )
    return found


def _way_to_end(kind: str, port: str) -> str:
    """Say how a funnel is removed; Tailscale cannot switch off the one of a command that is running."""
    if kind == "terminal":
        return "end the `tailscale funnel` that runs in a terminal on the server"
    return f"remove it with `sudo tailscale funnel --{'tcp' if kind == 'tcp' else 'https'}={port} off`"


def _opened_by_hand(port: str) -> str:
    return (
        f"A funnel that was opened by hand uses port {port} of this node; to take it over, with its "
        "authority and its devices, set adopt (see docs/adopt.md), or else remove it with "
        f"`sudo tailscale funnel --tcp={port} off`."
    )


def _immich_unit(facts: Mapping[str, Any], expected: Expected) -> list[str]:
    """Refuse a server without NixOS's Immich; otherwise Nix would, after much has been changed on it."""
    if not expected.immich_managed:
        return []
    port = _part(facts, "evaluated").get("immichPort")
    if port not in (None, expected.immich_port):
        return [
            f"services.immich of this server's configuration has port {port}, and this stack says "
            f"{expected.immich_port}; set immich: {{port: {port}}}."
        ]
    if _part(facts, "immich").get("unit") is not False:
        return []
    return [
        "Immich is not services.immich of this server's configuration; for one in a container set "
        f"immich: {{address: 127.0.0.1, port: {expected.immich_port}, managed: false}}."
    ]


def _immich(facts: Mapping[str, Any]) -> list[str]:
    immich = _part(facts, "immich")
    if not immich.get("ping"):
        return []  # a warning: it may be started manually, after its drive is unlocked
    if immich.get("initialized") is not True:
        return [
            "Immich has no administrator yet, so the first visitor could make themselves one; open Immich on "
            "the LAN and create the administrator account first."
        ]
    return _immich_version(immich.get("version"))


def _public_address(facts: Mapping[str, Any], expected: Expected) -> list[str]:
    """Refuse an Immich that would stay open where the internet reaches it without the edge."""
    if expected.immich_managed and expected.lan != Lan.KEEP:
        return []
    listens_at = _part(facts, "immich").get("listensAt") or ()
    public = [address for address in listens_at if ipaddress.ip_address(address).is_global]
    if not public:
        return []
    close = "set lan: close, or let" if expected.immich_managed else "let"
    return [
        f"Immich itself listens at {', '.join(public)}, port {expected.immich_port}, where strangers would "
        f"reach it without the edge; {close} Immich listen on 127.0.0.1 or an address of the home network "
        "alone."
    ]


def _immich_version(text: object) -> list[str]:
    """Refuse a version known to be unsafe for visitors; an unreadable one is left to the owner."""
    version, supported = parse_version(str(text or "")), load()["immich"]
    if version is None or supported.accepts(version):
        return []
    known = ", ".join(reason.id for reason in supported.advisories)
    return [
        f"Immich {text} has known faults in what visitors see ({known}); upgrade it to version "
        f"{supported.lowest_text()} or newer (services.immich.package, or the container's image)."
    ]


def _disk(facts: Mapping[str, Any], expected: Expected) -> list[str]:
    if _builds_nothing(expected):
        return []
    free = _part(facts, "diskFreeKiB")
    return [
        f"Only {int(kib) // 1024} MiB are free on {path}; at least {NEEDED_DISK_KIB // 1024} MiB are needed: "
        "run sudo nix-collect-garbage --delete-older-than 30d on the server."
        for path, kib in sorted(free.items())
        if kib is not None and int(kib) < NEEDED_DISK_KIB
    ]
