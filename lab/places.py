"""Names, addresses and paths of the lab. Nothing here touches the machine.

Three places, joined by two veth pairs, none with internet access:

    operator (the machine itself) -- 10.213.0.0/30 -- server -- 10.213.1.0/24 -- internet

The internet's address towards the server is deliberately from RFC 1918: Tailscale's client insists on HTTPS
for any other control server. The public addresses are the documentation ranges (RFC 5737, RFC 3849), so
nothing real is shadowed.
"""

import os
from dataclasses import dataclass
from pathlib import Path

SERVER_NAMESPACE = "immich-lab-server"
INTERNET_NAMESPACE = "immich-lab-internet"

OPERATOR_LINK = "immich-lab"  # in the host's namespace; at most 15 characters (IFNAMSIZ)
MANAGEMENT_LINK = "mgmt0"  # its other end, in the server
WAN_LINK = "wan0"  # server end of the link to the internet
UPLINK = "lan0"  # internet end of it

OPERATOR_ADDRESS = "10.213.0.1"
SERVER_ADDRESS = "10.213.0.2"
SERVER_WAN_ADDRESS = "10.213.1.2"
INTERNET_ADDRESS = "10.213.1.1"

INGRESS_V4 = "203.0.113.1"
INGRESS_V6 = "2001:db8::1"
INGRESS_PORT = 443
VISITORS_V4 = "203.0.113.0/24"
VISITORS_V6 = "2001:db8::/32"
PUBLIC_RESOLVERS = ("1.1.1.1", "9.9.9.9", "8.8.8.8")  # nobody answers there unless a test wants it
DEFAULT_VISITOR = "203.0.113.7"

WINDOW_HOST = "127.0.0.1"
WINDOW_PORT = 24443

MACHINE = "immich"
DOMAIN = "immich.lab-tailnet.ts.net"

OWNER_FILE = Path("/run/immich-lab.json")
NETNS_FOLDER = Path("/run/netns")

STATE_VARIABLE = "IMMICH_LAB_STATE"  # names a state folder other than the clone's own .lab


@dataclass(frozen=True)
class Places:
    """Where one clone of the project keeps its lab. Every path is absolute.

    ``elsewhere`` is a state folder other than ``.lab``: several labs of one clone need several.
    """

    project: Path
    elsewhere: Path | None = None

    @classmethod
    def of_this_clone(cls) -> "Places":
        """The places of the clone that this file belongs to, with the state folder from the environment."""
        project = Path(__file__).resolve().parents[1]
        named = project / os.environ.get(STATE_VARIABLE, ".lab")
        return cls(project, None if named == project / ".lab" else named)

    @property
    def sources(self) -> Path:
        """The lab's tracked files."""
        return self.project / "lab"

    @property
    def state(self) -> Path:
        """Everything that the lab creates; git-ignored."""
        return self.elsewhere or self.project / ".lab"

    @property
    def disk(self) -> Path:
        """Mount point of the tmpfs that holds the overlay's layers: unmounting it discards the server."""
        return self.state / "server"

    @property
    def upper(self) -> Path:
        """The overlay's writable layer."""
        return self.disk / "upper"

    @property
    def root(self) -> Path:
        """The server's root file system as the host sees it."""
        return self.disk / "root"

    @property
    def internet(self) -> Path:
        """State folder of lab-internet."""
        return self.state / "internet"

    @property
    def logs(self) -> Path:
        """Logs of the supervisor, the server's console and lab-internet."""
        return self.state / "log"

    @property
    def operator_key(self) -> Path:
        """The operator's SSH key (ed25519, OpenSSH format, 0600)."""
        return self.state / "operator_key"

    @property
    def house(self) -> Path:
        """The file with the name of the house that the lab was booted as."""
        return self.state / "house"

    @property
    def phones(self) -> Path:
        """The contents of the phones of a house that was exposed by hand: NAME.crt and NAME.key."""
        return self.state / "phones"

    @property
    def known_hosts(self) -> Path:
        """An OpenSSH known_hosts file that pins the server."""
        return self.state / "known_hosts"

    @property
    def roots(self) -> Path:
        """PEM of the roots of the lab's ACME server, which visitors trust."""
        return self.state / "roots.pem"

    @property
    def stub_requests(self) -> Path:
        """JSON lines, one per request that reached the Immich stub."""
        return self.root / "var/lib/immich-stub/requests.jsonl"
