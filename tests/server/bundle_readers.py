"""Four programs that read PKCS#12 files with libraries of their own: OpenSSL, Java, NSS and GnuTLS.

Each gets the bundle password from a file or on its standard input. None is given it as an argument, and none
is left a terminal to ask on.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from toolchain import system

_PLAIN_KEY, _ENCRYPTED_KEY, _PUBLIC_KEY = (
    rf"(?s)(-----BEGIN {kind}-----.*?-----END {kind}-----)"
    for kind in ("PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "PUBLIC KEY")
)


class RefusedError(Exception):
    """The program did not open the bundle; the message is what it said."""


@dataclass(frozen=True)
class Identity:
    """What a reader found: a private key, its certificate with the chain behind it, and the friendly name.

    `public_key` (DER) belongs to the private key that the reader decrypted, not to the certificate.
    """

    public_key: bytes
    chain: list[x509.Certificate]
    friendly_name: str


Reader: TypeAlias = Callable[[Path, str, Path], Identity]
"""Reads a bundle with its password; the folder is for the reader's own files."""


def openssl(bundle: Path, password: str, folder: Path) -> Identity:
    """OpenSSL 3 with its default provider alone (no -legacy)."""
    shown = _run("openssl", "pkcs12", "-in", bundle, "-noenc", "-passin", "stdin", stdin=password)
    public = load_pem_private_key(_one(_PLAIN_KEY, shown).encode(), None).public_key()
    return Identity(_der(public), _certificates(shown), _one(r"friendlyName: (.*)", shown))


def java(bundle: Path, password: str, folder: Path) -> Identity:
    """Java's keytool, which copies the entry, key and all, into a store of its own."""
    password_file, copy = _password_file(folder, password), folder / "java.p12"
    source = ("-srckeystore", bundle, "-srcstoretype", "PKCS12", "-srcstorepass:file", password_file)
    target = ("-destkeystore", copy, "-deststoretype", "PKCS12", "-deststorepass:file", password_file)
    _run("keytool", "-importkeystore", "-noprompt", *source, *target)
    return openssl(copy, password, folder)


def nss(bundle: Path, password: str, folder: Path) -> Identity:
    """NSS as in Firefox and in Chrome on Linux: imported into a database and exported from it."""
    database = nss_database(folder)
    nss_import(database, bundle, password, folder)
    listed = _run("certutil", "-d", database, "-L")
    # trust flags u: a certificate with its key; none: the CA, which NSS names itself
    nicknames = [_one(rf"(?m)^(\S.*?) +{flags} *$", listed) for flags in ("u,u,u", ",,")]
    chain = [_run("certutil", "-d", database, "-L", "-a", "-n", nickname) for nickname in nicknames]
    copy = folder / "nss.p12"
    _run("pk12util", "-d", database, "-o", copy, "-n", nicknames[0], "-w", _password_file(folder, password))
    key = openssl(copy, password, folder).public_key
    return Identity(key, _certificates("".join(chain)), nicknames[0])


def gnutls(bundle: Path, password: str, folder: Path) -> Identity:
    """GnuTLS's certtool: the bags first, then the key, which it decrypts with the same password."""
    shown = _run("certtool", "--p12-info", "--inder", "--infile", bundle, stdin=password)
    encrypted = folder / "gnutls.key"
    encrypted.write_text(_one(_ENCRYPTED_KEY, shown))
    key = _run("certtool", "--pubkey-info", "--pkcs8", "--load-privkey", encrypted, stdin=password)
    public = load_pem_public_key(_one(_PUBLIC_KEY, key).encode())
    [name] = set(re.findall(r"Friendly name: (.*)", shown))
    return Identity(_der(public), _certificates(shown), name)


READERS: dict[str, Reader] = {"openssl": openssl, "java": java, "nss": nss, "gnutls": gnutls}


def nss_database(folder: Path) -> str:
    """Make an empty NSS database without a password of its own; the name that NSS programs take it by."""
    database = folder / "nssdb"
    database.mkdir(parents=True)
    name = f"sql:{database}"
    _run("certutil", "-N", "-d", name, "--empty-password")
    return name


def nss_import(database: str, bundle: Path, password: str, folder: Path) -> None:
    """Import a bundle into an NSS database, as a person does in a browser; `folder` is for the password."""
    _run("pk12util", "-d", database, "-i", bundle, "-w", _password_file(folder, password))


def nss_trust(database: str, root: Path) -> None:
    """Make an NSS database trust a root certificate (PEM) for servers."""
    _run("certutil", "-d", database, "-A", "-n", root.name, "-t", "C,,", "-a", "-i", root)


def _der(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _certificates(text: str) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(text.encode())


def _one(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    assert found is not None, f"{pattern} is not in:\n{text}"
    return found.group(1).strip()


def _password_file(folder: Path, password: str) -> Path:
    path = folder / "bundle-password"
    path.touch(mode=0o600)
    path.write_text(password + "\n")
    return path


def _run(program: str, *arguments: str | Path, stdin: str = "") -> str:
    """Run a program in a session of its own, so that it finds no terminal to ask for a password on."""
    done = subprocess.run(
        [str(system.find(program) or program), *map(str, arguments)],
        input=stdin + "\n",
        capture_output=True,
        text=True,
        timeout=120,
        start_new_session=True,
        check=False,
    )
    if done.returncode != 0:
        raise RefusedError(done.stdout + done.stderr)
    return done.stdout
