"""The lab's two network namespaces, their links, routes and the fence on the management link."""

import subprocess

from lab import commands, places
from lab.places import INTERNET_NAMESPACE, NETNS_FOLDER, SERVER_NAMESPACE

# Without it the server could reach every service of the operator's machine that listens on 0.0.0.0. It is
# in the namespace, so it survives a reboot of the server.
FENCE = """
table inet immich_lab_fence {
  chain input {
    type filter hook input priority -10; policy accept;
    iifname "LINK" tcp dport SSH_PORT accept
    iifname "LINK" ct state established,related accept
    iifname "LINK" drop
  }
  chain output {
    type filter hook output priority -10; policy accept;
    oifname "LINK" ct state established,related accept
    oifname "LINK" drop
  }
}
"""

# net.ipv6.ip_nonlocal_bind lets a visitor use any address of the IPv6 range without adding it first.
INTERNET_SETTINGS = {"net/ipv6/ip_nonlocal_bind": "1", "net/ipv4/ip_forward": "0"}


def build(ssh_port: int) -> None:
    """Create both namespaces and everything between them; the operator reaches only this port.

    Raises LabError if the kernel refuses; clean up with ``remove``.
    """
    for namespace in (SERVER_NAMESPACE, INTERNET_NAMESPACE):
        commands.run(["ip", "netns", "add", namespace])
    other_end = f"{places.MANAGEMENT_LINK} netns {SERVER_NAMESPACE}"
    _ip(
        f"link add {places.OPERATOR_LINK} type veth peer name {other_end}",
        f"addr add {places.OPERATOR_ADDRESS}/30 dev {places.OPERATOR_LINK}",
        f"link set {places.OPERATOR_LINK} up",
    )
    _ip(
        "link set lo up",
        f"addr add {places.SERVER_ADDRESS}/30 dev {places.MANAGEMENT_LINK}",
        f"link set {places.MANAGEMENT_LINK} up",
        f"link add {places.WAN_LINK} type veth peer name {places.UPLINK} netns {INTERNET_NAMESPACE}",
        f"addr add {places.SERVER_WAN_ADDRESS}/24 dev {places.WAN_LINK}",
        f"link set {places.WAN_LINK} up",
        f"route add default via {places.INTERNET_ADDRESS}",
        namespace=SERVER_NAMESPACE,
    )
    _ip(
        "link set lo up",
        f"addr add {places.INTERNET_ADDRESS}/24 dev {places.UPLINK}",
        f"link set {places.UPLINK} up",
        f"route add local {places.VISITORS_V4} dev lo",
        f"-6 route add local {places.VISITORS_V6} dev lo",
        namespace=INTERNET_NAMESPACE,
    )
    for name, value in INTERNET_SETTINGS.items():
        commands.run([*inside(INTERNET_NAMESPACE), "tee", f"/proc/sys/{name}"], text=value)
    fence = FENCE.replace("LINK", places.MANAGEMENT_LINK).replace("SSH_PORT", str(ssh_port))
    commands.run([*inside(SERVER_NAMESPACE), "nft", "-f", "-"], text=fence)


def lead_to_public_resolvers(*, there: bool) -> None:
    """Make the lab's DNS also answer at the public resolvers' addresses, or stop that."""
    word = "replace" if there else "delete"
    lines = [f"route {word} local {address}/32 dev lo" for address in places.PUBLIC_RESOLVERS]
    _ip(*lines, namespace=INTERNET_NAMESPACE)


def remove() -> None:
    """Delete the links, then the namespaces.

    No process may be left inside, because processes are found by the namespace's name.
    """
    # The link first: a kernel worker removes a namespace's own links only some time after it.
    if exists(places.OPERATOR_LINK):
        commands.run(["ip", "link", "delete", places.OPERATOR_LINK])
    for namespace in (SERVER_NAMESPACE, INTERNET_NAMESPACE):
        if (NETNS_FOLDER / namespace).exists():
            commands.run(["ip", "netns", "delete", namespace])


def exists(link: str) -> bool:
    """Whether the operator's side has a link of this name."""
    found = subprocess.run(["ip", "link", "show", "dev", link], capture_output=True, check=False)
    return found.returncode == 0


def inside(namespace: str) -> list[str]:
    """Prefix of a command line that runs the rest in a namespace (same process, descriptors kept)."""
    return ["nsenter", f"--net={NETNS_FOLDER / namespace}"]


def _ip(*lines: str, namespace: str | None = None) -> None:
    where = ["-netns", namespace] if namespace else []
    for line in lines:
        commands.run(["ip", *where, *line.split()])
