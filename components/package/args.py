"""The arguments of the exposure for other people's programs: a stack file's settings, as types.

Without `from __future__ import annotations`, because the SDK evaluates the annotations and reads the texts
below them: they are the schema that other languages get (`components.package.plugin`).
"""

from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict

import pulumi


class Device(TypedDict):
    """A device that gets a client certificate."""

    name: str
    """Its name in the keystore and on the server."""
    platform: str
    """ios, android, macos, windows or linux."""
    commonName: NotRequired[str]
    """The name in its certificate; by default its own name."""
    organization: NotRequired[str]
    """The organization in its certificate; `MyOrg` by default."""
    revoked: NotRequired[bool]
    """Whether its certificate is revoked."""


class Frame(TypedDict):
    """A picture frame or a similar client, which sends a secret in a header."""

    name: str
    """Its name in the keystore and on the server."""
    revoked: NotRequired[bool]
    """Whether its secret is revoked."""


class Immich(TypedDict):
    """Where Immich listens on the server."""

    address: NotRequired[str]
    """Address of an Immich that is not managed."""
    port: NotRequired[int]
    """Its port; 2283 by default."""
    managed: NotRequired[bool]
    """Whether it is `services.immich` of the server's configuration; true by default."""


class AdoptedDevice(TypedDict):
    """A device that got its certificate by hand: the certificate, or its fingerprint and expiry date."""

    name: NotRequired[str]
    """Its name from now on; by default the name in its certificate."""
    certificate: NotRequired[str]
    """Its certificate: a path on this machine, or server:/path on the server."""
    fingerprint: NotRequired[str]
    """The SHA-256 fingerprint of its certificate, 64 hexadecimal digits."""
    until: NotRequired[str]
    """The day on which its certificate expires, YYYY-MM-DD."""


class Adoption(TypedDict):
    """What to take over from an exposure that was made by hand; server:/path is a file on the server."""

    caCertificate: NotRequired[str]
    """The authority's certificate."""
    caKey: NotRequired[str]
    """The authority's key."""
    devices: NotRequired[Sequence[AdoptedDevice]]
    """The devices with a certificate from it."""


class Authority(TypedDict):
    """The devices' certificate authority."""

    commonName: NotRequired[str]
    """The name in its certificate."""
    organization: NotRequired[str]
    """The organization in its certificate."""
    country: NotRequired[str]
    """The country in its certificate, two letters."""
    validityDays: NotRequired[int]
    """For how many days it is valid."""
    renewBeforeDays: NotRequired[int]
    """How many days before it expires a new one takes over; 0 means one day more than for the devices."""


class Features(TypedDict):
    """What a shared link's page may do besides showing its photos."""

    albums: NotRequired[bool]
    """Links to albums."""
    passwords: NotRequired[bool]
    """Links with a password."""
    video: NotRequired[bool]
    """Playing videos."""
    originals: NotRequired[bool]
    """Showing the original files."""
    download: NotRequired[bool]
    """Downloads, including those of several files as one zip file."""
    map: NotRequired[bool]
    """The map that shows where photos were taken."""


class RateLimits(TypedDict):
    """What one visitor may do without a certificate."""

    requests: NotRequired[int]
    """Requests of any kind in one window."""
    windowSeconds: NotRequired[int]
    """The length of that window."""
    passwordAttempts: NotRequired[int]
    """Attempts at passwords of shared links in one window."""
    passwordWindowSeconds: NotRequired[int]
    """The length of that window."""
    linkPasswordsPerHour: NotRequired[int]
    """Wrong passwords that one link accepts in an hour from everybody together."""
    bundles: NotRequired[int]
    """Downloads as zip files in one window."""
    bundleWindowSeconds: NotRequired[int]
    """The length of that window."""


class UploadLimits(TypedDict):
    """What guests may upload through shared links, and how much disk space stays free."""

    linkMegabytesPerHour: NotRequired[int]
    """Megabytes in any hour through one link."""
    linkFilesPerHour: NotRequired[int]
    """Files in any hour through one link."""
    megabytesPerHour: NotRequired[int]
    """Megabytes in any hour through all links together."""
    filesPerHour: NotRequired[int]
    """Files in any hour through all links together."""
    freeGigabytes: NotRequired[int]
    """With fewer gigabytes free on the disk, no upload is accepted."""
    folder: NotRequired[str]
    """Where Immich stores uploads on the server; by default as its unit says."""


class Bans(TypedDict):
    """When a visitor is banned, and for how long. A time is a number with s, m, h, d or w."""

    maxRetry: NotRequired[int]
    """Offences within findTime after which a visitor is banned."""
    findTime: NotRequired[str]
    """How long an offence counts."""
    banTime: NotRequired[str]
    """How long a ban lasts."""
    ipv6Prefix: NotRequired[int]
    """How much of an IPv6 address is one visitor, 64 or 128."""


class BanLists(TypedDict):
    """Whom ban lists turn away. Files are paths on the server."""

    countries: NotRequired[Sequence[str]]
    """Country codes (ISO 3166) of the visitors to turn away."""
    onlyCountries: NotRequired[Sequence[str]]
    """Instead of `countries`: the only countries whose visitors are not turned away."""
    countryDatabase: NotRequired[str]
    """A country database in MaxMind's format (.mmdb)."""
    countryDays: NotRequired[int]
    """How many days old it may be; 45 by default."""
    networks: NotRequired[Sequence[str]]
    """Files with one network per line."""
    networkDays: NotRequired[int]
    """How many days old they may be; 0, the default, means any age."""
    crowdsec: NotRequired[str]
    """The address of CrowdSec's local API."""


class Notify(TypedDict):
    """Where the server sends notices."""

    kind: str
    """ntfy, gotify, webhook or command."""
    address: NotRequired[str]
    """The address that receives notices; not with `kind: command`."""
    command: NotRequired[str]
    """A program on the server that receives them; only with `kind: command`."""


class OutsideCheck(TypedDict):
    """How the outside check reaches the server, for tests."""

    connectTo: NotRequired[str]
    """HOST:PORT instead of public DNS."""
    rootsFile: NotRequired[str]
    """A file of trusted roots (PEM) instead of the system's."""


class ImmichExposureArgs(TypedDict):
    """What an exposure is: the settings of a stack file, which `Pulumi.yaml` describes one by one.

    They are plain values, because a preview says in words what they do; secrets are secret outputs.
    """

    host: str
    """Address or host name of the NixOS server."""
    hostKey: str
    """The server's public SSH host key, `ssh-ed25519 AAAA...`."""
    keystorePassphrase: pulumi.Input[str]
    """Secret, at least 12 characters: encrypts the keys in the keystore."""
    keystore: NotRequired[str]
    """Folder on this machine for keys and certificates; by default `keystore/<stack>/<name>`."""
    devices: NotRequired[Sequence[Device]]
    """The devices that get a client certificate."""
    frames: NotRequired[Sequence[Frame]]
    """Picture frames and similar clients, which send a secret in a header."""
    sshUser: NotRequired[str]
    """A user on the server who may use sudo, or root; `admin` by default."""
    sshPort: NotRequired[int]
    """The server's SSH port; 22 by default."""
    sshPrivateKeyFile: NotRequired[str]
    """File with the private SSH key; by default the SSH agent is used."""
    sudoPassword: NotRequired[pulumi.Input[str]]
    """Secret: the user's password, if sudo asks for one."""
    configDir: NotRequired[str]
    """The folder on the server that contains configuration.nix; `/etc/nixos` by default."""
    module: NotRequired[str]
    """managed (the default) adds one import to configuration.nix; yours leaves the import to you."""
    flake: NotRequired[str]
    """DIR#HOST, for a server whose system is built from a flake in a folder on it."""
    immich: NotRequired[Immich]
    """Where Immich listens: address, port, managed."""
    lan: NotRequired[str]
    """close (the default) or keep: what happens to Immich's own address at home while the funnel is open."""
    edgeBuild: NotRequired[str]
    """server (the default) or operator: which machine compiles the edge."""
    allowUpgrade: NotRequired[bool]
    """Whether a rebuild may include other pending changes of the server's configuration."""
    takeOver: NotRequired[bool]
    """Whether this stack may take over a server that another stack has exposed."""
    proxyPort: NotRequired[int]
    """Port on the server's loopback to which the funnel forwards; 8443 by default."""
    funnelPort: NotRequired[int]
    """Public port of the funnel: 443 (the default), 8443 or 10000."""
    adopt: NotRequired[Adoption]
    """What to take over from an exposure that was made by hand."""
    adoptCaPassphrase: NotRequired[pulumi.Input[str]]
    """Secret: opens the key that is taken over, if it is encrypted."""
    ca: NotRequired[Authority]
    """The devices' certificate authority."""
    clientValidityDays: NotRequired[int]
    """For how many days a device's certificate is valid; 3650 by default."""
    keyType: NotRequired[str]
    """Key type of the authority and the devices: ecdsa-p256 (the default) or rsa-4096."""
    purgeKeystore: NotRequired[bool]
    """Whether `pulumi destroy` deletes the keys as well."""
    uploads: NotRequired[bool]
    """Whether visitors may upload through links that allow it."""
    uploadMegabytes: NotRequired[int]
    """Maximum size of one upload, in megabytes; 2000 by default."""
    uploadLimits: NotRequired[UploadLimits]
    """What guests may upload in any hour, and how much disk space stays free."""
    features: NotRequired[Features]
    """What a shared link's page may do."""
    rejectWith: NotRequired[str]
    """The answer to a request that is not allowed: forbidden (a 403, the default) or drop (no answer)."""
    rateLimits: NotRequired[RateLimits]
    """What one visitor may do without a certificate."""
    bans: NotRequired[Bans]
    """When a visitor is banned, and for how long."""
    banLists: NotRequired[BanLists]
    """Whom ban lists turn away: countries, networks, CrowdSec's decisions."""
    crowdsecKey: NotRequired[pulumi.Input[str]]
    """Secret: CrowdSec's key for this bouncer."""
    leaseHours: NotRequired[int]
    """The server closes the funnel on its own this many hours after it was opened; 0 means never."""
    exposeUntil: NotRequired[str]
    """The server closes the funnel on its own at this moment (ISO 8601 with a time zone)."""
    renewBeforeDays: NotRequired[int]
    """How many days before it expires a device's certificate is renewed; 30 by default."""
    graceDays: NotRequired[int]
    """How many days the old certificate of a renewed device stays valid; 14 by default."""
    guard: NotRequired[bool]
    """Whether the server checks the exposure from outside every five minutes; true by default."""
    notify: NotRequired[Notify]
    """Where the server sends notices."""
    notifyToken: NotRequired[pulumi.Input[str]]
    """Secret: the token that the channel of `notify` requires."""
    who: NotRequired[bool]
    """Whether the server counts who opened which link, and records when each device last connected."""
    whoDays: NotRequired[int]
    """Days after which an unused link is forgotten; 90 by default."""
    immichApiKey: NotRequired[pulumi.Input[str]]
    """Secret: an Immich API key with only the permission sharedLink.read."""
    policy: NotRequired[Mapping[str, str]]
    """The level of each rule of a careful owner: disabled, advisory or mandatory."""
    check: NotRequired[OutsideCheck]
    """How the outside check reaches the server, for tests."""
