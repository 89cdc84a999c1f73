"""The arguments of the exposure for other people's programs: a stack file's settings, as types.

Its annotations are not put off (no `from __future__ import annotations`), because Pulumi's SDK reads them and
the texts below them: they are the schema that other languages get (`components.package.plugin`).
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
    """The name in its certificate; its own name if left out."""
    organization: NotRequired[str]
    """The organization in its certificate."""
    revoked: NotRequired[bool]
    """Whether its certificate is revoked."""


class Frame(TypedDict):
    """A picture frame or the like that gets a secret header."""

    name: str
    """Its name in the keystore and on the server."""
    revoked: NotRequired[bool]
    """Whether its secret is revoked."""


class Immich(TypedDict):
    """Where Immich listens on the server."""

    address: NotRequired[str]
    """Address of an Immich that is not managed."""
    port: NotRequired[int]
    """Its port; 2283 if left out."""
    managed: NotRequired[bool]
    """Whether it is `services.immich` of the server's configuration; true if left out."""


class AdoptedDevice(TypedDict):
    """A device that was certified by hand: its certificate, or the fingerprint and the end of that."""

    name: NotRequired[str]
    """Its name from now on; that in its certificate if left out."""
    certificate: NotRequired[str]
    """Its certificate: a path on this machine, or server:/path on the server."""
    fingerprint: NotRequired[str]
    """The SHA-256 fingerprint of its certificate, 64 hexadecimal digits."""
    until: NotRequired[str]
    """The day on which its certificate ends."""


class Adoption(TypedDict):
    """What is taken over of an exposure that was made by hand; server:/path is a file there."""

    caCertificate: NotRequired[str]
    """The authority's certificate."""
    caKey: NotRequired[str]
    """The authority's key."""
    devices: NotRequired[Sequence[AdoptedDevice]]
    """The devices that have a certificate of it."""


class Authority(TypedDict):
    """The certificate authority of the devices."""

    commonName: NotRequired[str]
    """The name in its certificate."""
    organization: NotRequired[str]
    """The organization in its certificate."""
    country: NotRequired[str]
    """The country in its certificate, two letters."""
    validityDays: NotRequired[int]
    """Days that it is valid."""
    renewBeforeDays: NotRequired[int]
    """Days before its end from which on a new one takes over; 0: a day more than the devices'."""


class Features(TypedDict):
    """What the page of a shared link may do besides showing its photos."""

    albums: NotRequired[bool]
    """Links to albums."""
    passwords: NotRequired[bool]
    """Links with a password."""
    video: NotRequired[bool]
    """Videos play."""
    originals: NotRequired[bool]
    """The original files are shown."""
    download: NotRequired[bool]
    """Downloads, also of many files as one."""
    map: NotRequired[bool]
    """The map of where photos were taken."""


class RateLimits(TypedDict):
    """What one visitor may do without a certificate."""

    requests: NotRequired[int]
    """Requests of any kind in a window."""
    windowSeconds: NotRequired[int]
    """That window."""
    passwordAttempts: NotRequired[int]
    """Passwords of shared links in a window."""
    passwordWindowSeconds: NotRequired[int]
    """That window."""
    linkPasswordsPerHour: NotRequired[int]
    """Wrong passwords that one link takes from everybody together in an hour."""
    bundles: NotRequired[int]
    """Downloads as zip files in a window."""
    bundleWindowSeconds: NotRequired[int]
    """That window."""


class UploadLimits(TypedDict):
    """What guests may upload through shared links, and how much stays free."""

    linkMegabytesPerHour: NotRequired[int]
    """Megabytes that one link takes in an hour."""
    linkFilesPerHour: NotRequired[int]
    """Files that one link takes in an hour."""
    megabytesPerHour: NotRequired[int]
    """Megabytes that all links together take in an hour."""
    filesPerHour: NotRequired[int]
    """Files that all links together take in an hour."""
    freeGigabytes: NotRequired[int]
    """Free gigabytes on the disk below which nothing is taken."""
    folder: NotRequired[str]
    """Where on the server Immich puts uploads; what its unit says if left out."""


class Bans(TypedDict):
    """When a visitor is banned, and for how long. Times are a number with s, m, h, d or w."""

    maxRetry: NotRequired[int]
    """Offences within findTime after which a visitor is banned."""
    findTime: NotRequired[str]
    """For how long an offence counts."""
    banTime: NotRequired[str]
    """How long a ban lasts."""
    ipv6Prefix: NotRequired[int]
    """How much of an IPv6 address is one visitor, 64 or 128."""


class BanLists(TypedDict):
    """Whom lists ban. Files are paths on the server."""

    countries: NotRequired[Sequence[str]]
    """Codes of countries (ISO 3166) whose visitors are turned away."""
    onlyCountries: NotRequired[Sequence[str]]
    """Instead: the countries whose visitors are not."""
    countryDatabase: NotRequired[str]
    """Database in MaxMind's form (.mmdb)."""
    countryDays: NotRequired[int]
    """Days that it may be old; 45 if left out."""
    networks: NotRequired[Sequence[str]]
    """Files with a network a line."""
    networkDays: NotRequired[int]
    """Days that they may be old; 0, as old as they like, if left out."""
    crowdsec: NotRequired[str]
    """Address of CrowdSec's local API."""


class Notify(TypedDict):
    """Where the server tells what happens."""

    kind: str
    """ntfy, gotify, webhook or command."""
    address: NotRequired[str]
    """Where notices go; not with command."""
    command: NotRequired[str]
    """A program on the server that takes them; only with command."""


class OutsideCheck(TypedDict):
    """How the check from outside reaches the server, for tests."""

    connectTo: NotRequired[str]
    """HOST:PORT instead of public DNS."""
    rootsFile: NotRequired[str]
    """File of trusted roots (PEM) instead of the system's."""


class ImmichExposureArgs(TypedDict):
    """What an exposure is: the settings of a stack file, which `Pulumi.yaml` describes one by one.

    They are plain values, because a preview says in words what they do; secrets are secret outputs.
    """

    host: str
    """Address or host name of the NixOS server."""
    hostKey: str
    """The server's public SSH host key, `ssh-ed25519 AAAA...`."""
    keystorePassphrase: pulumi.Input[str]
    """Secret: encrypts the keys in the keystore."""
    keystore: NotRequired[str]
    """Folder for keys and certificates on this machine; `keystore/<stack>/<name>` if left out."""
    devices: NotRequired[Sequence[Device]]
    """The devices that get a client certificate."""
    frames: NotRequired[Sequence[Frame]]
    """Picture frames and the like that get a secret header."""
    sshUser: NotRequired[str]
    """User on the server, who may use sudo; or root."""
    sshPort: NotRequired[int]
    """Port of the server's SSH."""
    sshPrivateKeyFile: NotRequired[str]
    """Private SSH key; the SSH agent's if left out."""
    sudoPassword: NotRequired[pulumi.Input[str]]
    """Secret: what sudo asks for."""
    configDir: NotRequired[str]
    """Folder of configuration.nix on the server."""
    module: NotRequired[str]
    """managed or yours."""
    flake: NotRequired[str]
    """DIR#HOST of a flake on the server."""
    immich: NotRequired[Immich]
    """Where Immich listens: address, port, managed."""
    lan: NotRequired[str]
    """close or keep: what becomes of Immich at home while the funnel is open."""
    edgeBuild: NotRequired[str]
    """server or operator: whose machine compiles the edge."""
    allowUpgrade: NotRequired[bool]
    """Whether a rebuild may bring in what else waits in the server's configuration."""
    takeOver: NotRequired[bool]
    """Whether this stack may take the place of another one."""
    proxyPort: NotRequired[int]
    """Port on the server's loopback."""
    funnelPort: NotRequired[int]
    """Public port: 443, 8443 or 10000."""
    adopt: NotRequired[Adoption]
    """What is taken over of an exposure that was made by hand."""
    adoptCaPassphrase: NotRequired[pulumi.Input[str]]
    """Secret: opens the key that is taken over."""
    ca: NotRequired[Authority]
    """The certificate authority of the devices."""
    clientValidityDays: NotRequired[int]
    """Days that a device's certificate is valid."""
    keyType: NotRequired[str]
    """ecdsa-p256 or rsa-4096."""
    purgeKeystore: NotRequired[bool]
    """Whether `pulumi destroy` deletes the keys."""
    uploads: NotRequired[bool]
    """Whether visitors may upload through links that allow it."""
    uploadMegabytes: NotRequired[int]
    """The most that one upload may hold."""
    uploadLimits: NotRequired[UploadLimits]
    """What guests may upload in an hour, and how much stays free."""
    features: NotRequired[Features]
    """What the page of a shared link may do."""
    rejectWith: NotRequired[str]
    """What a request that is not allowed gets: forbidden (a 403) or drop (no answer)."""
    rateLimits: NotRequired[RateLimits]
    """What one visitor may do without a certificate."""
    bans: NotRequired[Bans]
    """When a visitor is banned, and for how long."""
    banLists: NotRequired[BanLists]
    """Whom lists ban: countries, networks, what CrowdSec has decided."""
    crowdsecKey: NotRequired[pulumi.Input[str]]
    """Secret: the key that CrowdSec knows."""
    leaseHours: NotRequired[int]
    """Hours after which the server closes the funnel by itself."""
    exposeUntil: NotRequired[str]
    """Moment at which the server closes the funnel by itself."""
    renewBeforeDays: NotRequired[int]
    """Days before its end from which on a certificate is renewed."""
    graceDays: NotRequired[int]
    """Days for which the old certificate of a renewed device counts."""
    guard: NotRequired[bool]
    """Whether the server looks at the exposure from outside."""
    notify: NotRequired[Notify]
    """Where the server tells what happens."""
    notifyToken: NotRequired[pulumi.Input[str]]
    """Secret: what that place asks for."""
    who: NotRequired[bool]
    """Whether the server counts who opened what."""
    whoDays: NotRequired[int]
    """Days after which a link that nobody uses is forgotten."""
    immichApiKey: NotRequired[pulumi.Input[str]]
    """Secret: a key of Immich's API that may read shared links."""
    policy: NotRequired[Mapping[str, str]]
    """How much each rule counts."""
    check: NotRequired[OutsideCheck]
    """How the check from outside reaches the server, for tests."""
