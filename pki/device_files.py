"""The files of one device, and the orders in which they are written and removed.

The certificate is the commit point: a device exists when, and only when, its certificate is there. Key and
password are written before it. Bundle and configuration profile come after it, because they can always be
recreated from the rest. Every order below is chosen so that a run killed between two steps leaves a state
that the next run completes or discards without asking.
"""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from pki.certificate import pem
from pki.files import move_file, read_file, remove_file, write_file


@dataclass(frozen=True)
class DeviceFiles:
    """Where one device's files are: `<folder>/<stem>.{key,password,p12,crt,mobileconfig,html}`."""

    folder: Path
    stem: str

    @property
    def certificate(self) -> Path:
        """The certificate, PEM."""
        return self.folder / f"{self.stem}.crt"

    @property
    def key(self) -> Path:
        """The key, PKCS#8 PEM encrypted with the keystore's passphrase."""
        return self.folder / f"{self.stem}.key"

    @property
    def bundle(self) -> Path:
        """The PKCS#12 bundle, encrypted with the bundle password."""
        return self.folder / f"{self.stem}.p12"

    @property
    def password(self) -> Path:
        """The bundle password, sealed with the keystore's passphrase."""
        return self.folder / f"{self.stem}.password"

    @property
    def mobileconfig(self) -> Path:
        """The Apple configuration profile that holds the bundle; on iOS and macOS only."""
        return self.folder / f"{self.stem}.mobileconfig"

    @property
    def sheet(self) -> Path:
        """The install sheet, a page for the device's owner (`handover.sheet`)."""
        return self.folder / f"{self.stem}.html"

    def write_new(self, *, key: bytes, password: bytes, bundle: bytes, certificate: bytes) -> None:
        """Write a newly issued device, over what a killed run may have left of another.

        Raises:
            OSError: the disk accepted only part of it; nothing of it is left.
        """
        self.discard()
        try:
            write_file(self.key, key)
            write_file(self.password, password)
            write_file(self.certificate, certificate)
            write_file(self.bundle, bundle)
        except OSError:
            with suppress(OSError):
                self.discard()
            raise

    def write_bundle(self, *, password: bytes | None, bundle: bytes) -> None:
        """Replace the bundle, and its password if that is new.

        The old bundle, and the profile that contains it, are removed before a new password is written, so no
        bundle is ever next to a password that does not open it.
        """
        if password is not None:
            remove_file(self.mobileconfig)
            remove_file(self.bundle)
            write_file(self.password, password)
        write_file(self.bundle, bundle)

    def write_mobileconfig(self, content: bytes | None) -> None:
        """Write the profile, or remove it (None). It is derived from the bundle, so it comes last."""
        if content is None:
            remove_file(self.mobileconfig)
        elif read_file(self.mobileconfig) != content:
            write_file(self.mobileconfig, content)

    def discard(self) -> None:
        """Remove the files. The certificate goes first: without it the others mean nothing."""
        for path in (self.certificate, self.sheet, self.mobileconfig, self.bundle, self.password, self.key):
            remove_file(path)

    def move_to(self, target: "DeviceFiles", certificate: x509.Certificate) -> None:
        """Move all files except the install sheet, which is no longer needed and is removed.

        A copy of the certificate at the target marks the move as begun. The certificate itself is removed
        last, so that an unfinished move can be detected.
        """
        write_file(target.certificate, pem(certificate))
        remove_file(self.sheet)
        move_file(self.mobileconfig, target.mobileconfig)
        move_file(self.bundle, target.bundle)
        move_file(self.password, target.password)
        move_file(self.key, target.key)
        remove_file(self.certificate)
