"""The files of one device, and the orders in which they are written and removed.

The certificate is the commit point: a device exists when, and only when, its certificate is there. Key and
password are written before it. Bundle and configuration profile come after it, because they can always be
made again from the rest. Every order below is chosen so that a run killed between two steps leaves a state
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
        """Write a device that was just issued, over what a killed run may have left of another.

        Raises:
            OSError: the disk took only some of it, and nothing of it is left.
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
        """Replace the bundle, with its password when that is a new one.

        The old bundle, and the profile that holds it, go before a new password comes, so that no bundle ever
        lies beside a password that does not open it.
        """
        if password is not None:
            remove_file(self.mobileconfig)
            remove_file(self.bundle)
            write_file(self.password, password)
        write_file(self.bundle, bundle)

    def write_mobileconfig(self, content: bytes | None) -> None:
        """Make the profile hold this, or be gone (None). It follows from the bundle, so it comes last."""
        if content is None:
            remove_file(self.mobileconfig)
        elif read_file(self.mobileconfig) != content:
            write_file(self.mobileconfig, content)

    def discard(self) -> None:
        """Remove the files. The certificate goes first: without it the others mean nothing."""
        for path in (self.certificate, self.sheet, self.mobileconfig, self.bundle, self.password, self.key):
            remove_file(path)

    def move_to(self, target: "DeviceFiles", certificate: x509.Certificate) -> None:
        """Move all files but the install sheet, which nobody needs any more and is removed.

        A copy of the certificate at the target is the promise to finish the move. The certificate itself goes
        last, so that an unfinished move is still seen.
        """
        write_file(target.certificate, pem(certificate))
        remove_file(self.sheet)
        move_file(self.mobileconfig, target.mobileconfig)
        move_file(self.bundle, target.bundle)
        move_file(self.password, target.password)
        move_file(self.key, target.key)
        remove_file(self.certificate)
