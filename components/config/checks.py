"""Checks of single configuration values: each takes a text and returns what is wrong with it, or None."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import os
import re
from datetime import datetime
from pathlib import Path, PurePosixPath

from pki import KeystoreError, device_name
from pki.device_name import NAME_RULE

HOST_KEY_TYPES = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
)

RSA = "ssh-rsa"
"""Refused: a client that pins it cannot agree on a signature with today's servers (SHA-2 only, RFC 8332)."""


def host_problem(host: str) -> str | None:
    """Check an IP address or host name (RFC 1123, and underscores); no scheme, user or port."""
    if "://" in host:
        return "must be an address alone, without a scheme"
    if "@" in host:
        return "must be an address alone; the user goes into sshUser"
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        if re.fullmatch(r"[^:]+:\d+", host):
            return "must be an address alone; the port goes into sshPort"
        label = r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)"
        if len(host) > 253 or not re.fullmatch(rf"{label}(\.{label})*\.?", host):
            return "is neither an IP address nor a host name"
        return None
    return zone_problem(address)


def zone_problem(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str | None:
    """Check an IPv6 address's zone, for which Python accepts any text."""
    zone = address.scope_id if isinstance(address, ipaddress.IPv6Address) else None
    if zone is None or re.fullmatch(r"[A-Za-z0-9_.-]+", zone):
        return None
    return "has a zone (after %) that is not the name of a network interface"


def user_problem(user: str) -> str | None:
    """Check a user name: what useradd accepts, plus dots and capitals, at most 32 characters."""
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9._-]{0,31}", user):
        return None
    return "is not a user name"


def host_key_problem(text: str) -> str | None:
    """Check an SSH host key: one of `HOST_KEY_TYPES` and its base64 form, as `authorized_keys` has it."""
    words = text.split()
    if RSA in words[:2]:
        return (
            "is an RSA key, with which no connection succeeds; take the server's Ed25519 key, as "
            "`cat /etc/ssh/ssh_host_ed25519_key.pub` prints it there"
        )
    if words[-1:] and words[-1].endswith("..."):
        return (
            "is the example's placeholder; replace it with the server's complete key, as "
            "`cat /etc/ssh/ssh_host_ed25519_key.pub` prints it there"
        )
    if len(words) >= 3 and words[0] not in HOST_KEY_TYPES and words[1] in HOST_KEY_TYPES:
        return "is a line of known_hosts; leave out its first word"
    if words[:1] and words[0].startswith("SHA256:"):
        return "is a fingerprint; the whole public key is needed"
    if len(words) < 2 or words[0] not in HOST_KEY_TYPES:
        return f"must be a kind of key ({', '.join(HOST_KEY_TYPES)}), a space and the key in base64"
    try:
        blob = base64.b64decode(words[1], validate=True)
    except (binascii.Error, ValueError):
        return "is incomplete: the part after the kind of key is not base64"
    if not _is_key_blob(blob, words[0]):
        return f"is incomplete: the base64 part does not hold a key of the kind {words[0]}"
    return None


def _is_key_blob(blob: bytes, kind: str) -> bool:
    """Check the strings of an SSH public key (RFC 4253 6.6): the first names the kind, none is truncated."""
    parts: list[bytes] = []
    while blob:
        length = int.from_bytes(blob[:4], "big")
        if len(blob) < 4 + length:
            return False
        parts.append(blob[4 : 4 + length])
        blob = blob[4 + length :]
    if kind == "ssh-ed25519" and [len(part) for part in parts[1:]] != [32]:
        return False
    return len(parts) >= 2 and parts[0] == kind.encode()


def private_key_problem(text: str, project_dir: Path | None, *, preview: bool) -> str | None:
    """Check the path of a private key. A preview connects to nothing, so the file may be missing."""
    if "PRIVATE KEY" in text:
        return "must be the path of the key file, not the key itself"
    if project_dir is None:
        return None
    path = local_path(text, project_dir)
    try:
        content, found = path.read_bytes(), path.stat()
    except OSError as error:
        if preview and isinstance(error, FileNotFoundError):
            return None
        return f"cannot be read ({error.strerror}); leave the key out to use the SSH agent"
    if b"PRIVATE KEY-----" not in content:
        half = (
            "is the public half; name the file without .pub"
            if path.suffix == ".pub"
            else "is not a private key"
        )
        return f"{half}; leave the key out to use the SSH agent"
    if _is_encrypted(content):
        return (
            "has a passphrase, which nobody can type during a run; add it to the SSH agent with "
            f"`ssh-add {text}` and leave sshPrivateKeyFile out, or name a key without a passphrase"
        )
    if found.st_uid == os.getuid() and found.st_mode & 0o077:
        return (
            f"may be read by others (its mode is {found.st_mode & 0o777:04o}), so ssh does not use it; run "
            f"`chmod 600 {text}`, and copy it to ~/.ssh first if it is on a Windows drive"
        )
    return _shape_problem(content, text)


def _shape_problem(content: bytes, text: str) -> str | None:
    """Explain what ssh calls "error in libcrypto": a key in OpenSSH's format must be complete to the byte."""
    if b"-----END" not in content:
        return "is cut short: its last line is missing; copy it again from where it was created"
    if b"-----BEGIN OPENSSH" not in content:
        return None if re.search(rb"^-----BEGIN", content, re.MULTILINE) else _BLURRED
    if b"\r" in content:
        new = f"{text}.new"
        mend = f"`tr -d '\\r' < {text} > {new} && chmod 600 {new} && mv {new} {text}`"
        return f"has Windows line endings, which ssh does not accept; fix it with {mend}"
    if not content.startswith(_OPENSSH_HEAD):
        return _BLURRED
    if not content.endswith(b"\n"):
        return f"does not end with a newline, so ssh does not accept it; fix it with `echo >> {text}`"
    return None


_OPENSSH_HEAD = b"-----BEGIN OPENSSH PRIVATE KEY-----\n"
_BLURRED = (
    "has something before or after -----BEGIN ...----- in its first line (a blank line, spaces, a byte order "
    "mark), or its lines were joined, so ssh does not accept it; copy it again from where it was created"
)

_OPENSSH_KEY = b"openssh-key-v1\0"
"""The start of a private key in OpenSSH's format; the name of its cipher follows (PROTOCOL.key)."""


def _is_encrypted(content: bytes) -> bool:
    """Tell whether a private key has a passphrase: in OpenSSH's format, in PKCS#8 or in the older PEM."""
    if b"ENCRYPTED" in content:
        return True
    _, _, body = content.partition(b"-----BEGIN OPENSSH PRIVATE KEY-----")
    try:
        blob = base64.b64decode(body.partition(b"-----END")[0])
    except (binascii.Error, ValueError):
        return False
    rest = blob.removeprefix(_OPENSSH_KEY)
    return rest != blob and rest[4 : 4 + int.from_bytes(rest[:4], "big")] != b"none"


def config_dir_problem(text: str) -> str | None:
    """Check an absolute path on the server that needs no quoting in a shell or in Nix."""
    path = PurePosixPath(text)
    if not path.is_absolute() or ".." in path.parts or path == PurePosixPath("/"):
        return "must be the absolute path of the folder of configuration.nix on the server"
    if not re.fullmatch(r"[A-Za-z0-9._/-]+", text):
        return "may hold letters, digits, dots, dashes, underscores and slashes only"
    return None


def flake_problem(text: str) -> str | None:
    """Check DIR#HOST: an absolute folder on the server, and the name of a system in its flake."""
    directory, hash_sign, host = text.partition("#")
    if not directory.startswith("/"):
        return (
            "must begin with the absolute path of the flake's folder on the server; for a flake that another "
            "machine builds, leave it out and set module: yours"
        )
    if not hash_sign or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", host):
        return "must end with # and the name of the system, as after nixosConfigurations. in flake.nix"
    if ".." in PurePosixPath(directory).parts or not re.fullmatch(r"/[A-Za-z0-9._/-]+", directory):
        return "may have only letters, digits, dots, dashes, underscores and slashes in the folder's path"
    return None


def immich_address_problem(text: str) -> str | None:
    """Check the IP address of an Immich that is not managed: a single one, reachable on the server."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return "must be an IP address, without a port; for localhost write 127.0.0.1 or ::1"
    if address.is_unspecified:
        return "means every address; name one at which the server itself reaches Immich"
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
        return "has a zone, which the edge cannot use; name another address"
    return None


def sudo_password_problem(text: str) -> str | None:
    """Check that the password fits on the one line that sudo reads."""
    if len(text) > 250 or not text.isprintable():
        return "must be one line of at most 250 printable characters"
    return None


def local_path(text: str, project_dir: Path) -> Path:
    """The path of a file on this machine: `~` is the home folder; relative paths start at the project."""
    return project_dir / Path(text).expanduser()


def device_name_problem(text: str) -> str | None:
    """Check a device's name by the keystore's rule."""
    try:
        name = device_name(text)
    except KeystoreError:
        return f"must be {NAME_RULE}"
    return None if name == text else f"has look-alike characters; write it as {name!r}"


def keystore_problem(text: str, project_dir: Path | None) -> str | None:
    """Check the path of the keystore."""
    if project_dir is None:
        return None
    path = local_path(text, project_dir)
    # These functions treat a failing drive as a missing one; the steps that need it report it.
    there = os.path.exists(path) and not os.path.isdir(path)
    return "is a file, but the keystore must be a folder" if there else None


def duration_problem(text: str) -> str | None:
    """Check a duration in the simple form of fail2ban's time format (jail.conf(5)): a number and one unit."""
    if re.fullmatch(r"[1-9][0-9]{0,4}[smhdw]", text):
        return None
    return "must be a number and a unit: s, m, h, d or w"


def seconds(duration: str) -> int:
    """Return a fail2ban duration in seconds; it must have no `duration_problem`."""
    return int(duration[:-1]) * {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}[duration[-1]]


def moment_problem(text: str) -> str | None:
    """Check a moment: ISO 8601 with a time zone."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return "must be a date and a time (ISO 8601)"
    return None if moment.tzinfo is not None else "has no time zone; end it with Z for UTC or with +01:00"


def address_problem(text: str) -> str | None:
    """Check HOST:PORT; an IPv6 address is in brackets."""
    host, colon, port = text.rpartition(":")
    if not colon or host_problem(host.removeprefix("[").removesuffix("]")) is not None:
        return "must be a host and a port, with a colon between them"
    return None if port.isdecimal() and 1 <= int(port) <= 65535 else "must end with a port from 1 to 65535"


def roots_problem(text: str, project_dir: Path | None) -> str | None:
    """Check the path of a file with trusted roots (PEM)."""
    if project_dir is None:
        return None
    try:
        content = local_path(text, project_dir).read_bytes()
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None if b"-----BEGIN CERTIFICATE-----" in content else "holds no certificate in PEM form"
