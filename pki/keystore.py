"""The folder on the operator's machine that holds the authority and the devices' credentials.

    ca.crt ca.key                             the authority; the key is PKCS#8, encrypted with the passphrase
    devices/<name>.{crt,key,p12,password}     one device; key encrypted, bundle password sealed
    devices/<name>.mobileconfig               the bundle as a configuration profile, on iOS and macOS
    frames/<name>.secret                      the secret of a frame, sealed, and its fingerprint
    previous/<name>.*                         the device's files from before its renewal, while still valid
    revoked/<name>-<fingerprint>.*            revoked files; 16 digits of the fingerprint
    ca-next.crt ca-next.key                   the next authority, while both are trusted
    ca-<fingerprint>.*                        an authority that no device needs any more
    adopted.json                              what was taken over, see pki/adoption.py
    revoked.json                              what was revoked, see pki/revocations.py
    keystore.json                             the stack that it belongs to, and a check of the passphrase

Folders have mode 0700 and files 0600. Existing files that are valid and fit are adopted; anything else is
refused with a `KeystoreError` and left as it is. A CA key is never overwritten.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from pki.access import KeystoreAccess
from pki.adoption import (
    AdoptedDevice,
    Adoption,
    Claim,
    Source,
    read_certificate,
    refuse_twins,
    take_authority,
    take_device,
)
from pki.authority import Authority
from pki.authority_store import AuthorityStore
from pki.backup import pack, read_keystore, restore
from pki.certificate import Certified, parse_certificate
from pki.contents import ADOPTED, DEVICE_FOLDERS, FRAMES, REVOKED_LIST
from pki.device_bundle import DeviceBundle, read_device_bundle
from pki.device_files import DeviceFiles
from pki.device_name import device_name
from pki.device_store import DeviceCredential, DeviceStore
from pki.errors import KeystoreError
from pki.files import (
    explain,
    locked,
    look_into,
    make_folder,
    refuse_link,
    remove_empty_folder,
    remove_file,
    remove_locked_folder,
    sweep,
)
from pki.frame_store import FrameSecret, FrameStore
from pki.inspection import Finding, inspect
from pki.key import KDF_ROUNDS
from pki.marker import Marker
from pki.profile import AuthorityProfile, DeviceProfile
from pki.rekey import change_passphrase
from pki.rekey import finish as finish_change_of_passphrase
from pki.renewal import Renewal, is_needed
from pki.revocations import Revocation, note_revocations, revocations_in


@dataclass(frozen=True)
class ProbeCredential:
    """A device's certificate and key file, for a TLS client that connects as that device.

    The key is encrypted with the keystore's passphrase.
    """

    name: str
    certificate_path: Path
    key_path: Path


def _digests(certificate: Source | None, key: Source | None, claims: Sequence[Claim]) -> dict[str, str]:
    """The SHA-256 of every given file, by its place."""
    sources = (certificate, key, *(claim.certificate for claim in claims))
    return {source.place: source.digest for source in sources if source is not None}


def _returned(fingerprint: str) -> Finding:
    return Finding(
        f"The certificate with the fingerprint {fingerprint} was revoked, but its files were among the "
        "devices in use again. They are back in revoked/; the next `up` issues a new certificate.",
        damage=False,
    )


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Keystore:
    """Certificates and keys of one stack, on disk. Safe to use from several threads and processes.

    Args:
        folder: the keystore's folder; created on first use.
        passphrase: encrypts every key, at least 12 characters. Needed by everything that creates or opens a
            credential; not by `revoke_device`, `probe_credentials` and `purge`.
        stack: name of the stack that the keystore belongs to. A keystore of another stack is refused; without
            a name this is not checked.
        clock: tells the time, with a time zone.
        kdf_rounds: work factor of what is written; only tests lower it.
        lock_wait_seconds: how long to wait for another run that uses the same keystore.
    """

    def __init__(
        self,
        folder: Path,
        passphrase: str | None = None,
        *,
        stack: str | None = None,
        clock: Callable[[], datetime] = _utc_now,
        kdf_rounds: int = KDF_ROUNDS,
        lock_wait_seconds: float = 60.0,
    ) -> None:
        self.folder = folder
        self._lock_wait_seconds = lock_wait_seconds
        self._use(KeystoreAccess(folder, passphrase, stack, clock, kdf_rounds))

    def adopt_or_create_authority(
        self, profile: AuthorityProfile, renewal: Renewal | None = None
    ) -> Authority:
        """Return the authority that signs: the existing one, or a new one.

        An existing one is adopted if its key opens with the passphrase, matches its certificate, and has the
        profile's subject and key type. A different `validity_days` only matters for a new one.

        With `renewal`, an authority that is due gets a successor, which signs from then on; `trusted` lists
        both. When no valid certificate is from the old one any more, it is set aside.

        Raises:
            KeystoreError: wrong passphrase, damaged or missing file, other profile, expired, other stack's.
        """
        self._access.require_passphrase()
        with self._transaction():
            if not self._authority.certificate_path.exists():
                self._refuse_devices_without_authority()
                return self._authority.create(profile)
            authority = self._authority.adopt(profile, expired_will_do=renewal is not None)
            if Marker.read(self.folder) is None:
                self._access.write_marker()
            return authority if renewal is None else self._renewed(profile, authority, renewal)

    def _renewed(self, profile: AuthorityProfile, signing: Authority, renewal: Renewal) -> Authority:
        now = self._access.clock()
        if renewal.is_due(signing.certificate, now) and not self._authority.next.certificate.exists():
            signing = self._authority.create(profile, self._authority.next)
        old = self._authority.trusted()[0]
        if old != signing.certificate and not self._is_needed(old, renewal, now):
            self._authority.retire(old)
        return signing

    def _is_needed(self, authority: x509.Certificate, renewal: Renewal, now: datetime) -> bool:
        adoption = Adoption.read(self.folder)
        if adoption is not None and adoption.needs(authority, now):
            return True
        return is_needed(authority, self._devices.pairs(), renewal, now)

    def adoption(self) -> Adoption | None:
        """Return what was taken over; None if nothing was, or only part of it. Needs no passphrase.

        Raises:
            KeystoreError: a file is damaged, or the keystore is another stack's.
        """
        if not self._is_there():
            return None
        with self._transaction():
            adoption = Adoption.read(self.folder)
            complete = adoption is not None and self._authority.taken_over(adoption) is not None
            return adoption if complete else None

    def take_over(
        self,
        *,
        certificate: Source | None = None,
        key: Source | None = None,
        key_passphrase: str | None = None,
        devices: Sequence[Claim] = (),
    ) -> Adoption:
        """Make an authority that was created by hand the keystore's own, and record its devices.

        The first call needs certificate and key; afterwards the keystore has them, and a given certificate
        must be the same. The devices replace the previous ones; any that are missing are dropped.

        Raises:
            KeystoreError: another authority exists, one of the files is unusable (see `pki.adoption`), the
                passphrase is wrong, or the keystore is another stack's. Nothing was changed.
        """
        self._access.require_passphrase()
        with self._transaction():
            known = Adoption.read(self.folder)
            authority = None if known is None else self._authority.taken_over(known)
            if known is None or authority is None:
                return self._take_over_authority(certificate, key, key_passphrase, devices)
            if certificate is not None and not known.is_of(read_certificate(certificate)):
                raise self._authority.another_authority()
            adoption = replace(
                known,
                devices=self._take_devices(devices, known, authority),
                files={**known.files, **_digests(certificate, key, devices)},
            )
            adoption.write(self.folder)
            return adoption

    def _take_over_authority(
        self,
        certificate: Source | None,
        key: Source | None,
        key_passphrase: str | None,
        claims: Sequence[Claim],
    ) -> Adoption:
        if certificate is None or key is None:
            raise KeystoreError(
                "The authority's certificate and its key are both needed to take it over. Name both in "
                "`adopt` as files that exist."
            )
        self._refuse_devices_without_authority()
        authority = take_authority(certificate, key, key_passphrase, self._access.clock())
        devices = self._take_devices(claims, None, authority.certificate)
        adoption = Adoption(authority.fingerprint, devices, _digests(certificate, key, claims))
        self._authority.take_over(authority, adoption)
        return adoption

    def _take_devices(
        self, claims: Sequence[Claim], known: Adoption | None, authority: x509.Certificate
    ) -> tuple[AdoptedDevice, ...]:
        now = self._access.clock()
        devices = tuple(
            take_device(claim, known.device(claim.name) if known else None, authority, now)
            for claim in claims
        )
        refuse_twins(devices)
        for device in devices:
            if known is None or device not in known.devices:
                self._refuse_to_take(device, authority, is_known=known is not None)
        return devices

    def _refuse_to_take(self, device: AdoptedDevice, authority: x509.Certificate, *, is_known: bool) -> None:
        """Refuse a certificate that was revoked here, or whose authority is no longer trusted."""
        remedy = "Remove it from `adopt.devices` and name the device in `devices`: it then gets a new one."
        if self._devices.is_revoked(device.fingerprint):
            raise KeystoreError(f"The certificate of the device {device.name!r} was revoked. {remedy}")
        if is_known and authority not in self._authority.trusted():
            raise KeystoreError(
                f"The certificate of the device {device.name!r} is of an authority that has been replaced. "
                f"{remedy}"
            )

    def trusted(self) -> list[Certified]:
        """List the trusted authorities; the one that signs comes last. Needs no passphrase.

        Raises:
            KeystoreError: there is none, or one is damaged.
        """
        with self._transaction():
            return [Certified(certificate) for certificate in self._authority.trusted()]

    def adopt_or_issue_device(
        self, name: str, profile: DeviceProfile, renewal: Renewal | None = None
    ) -> DeviceCredential:
        """Return the device's existing credential, or issue one.

        With `renewal`, a credential that is due (or expired) is replaced by a new one with a new key; the
        previous certificate stays as `previous` until its grace period ends.

        An existing one is adopted if a trusted authority signed it, its key opens and matches, and it has the
        profile's subject and key type. If only the platform differs, the bundle is rewritten with the same
        password and certificate.

        Raises:
            KeystoreError: bad name, no authority yet, wrong passphrase, damaged or missing file, other
                profile, expired, not signed by this authority, name clash, other stack's.
        """
        name = device_name(name)
        self._access.require_passphrase()
        fresh = self._devices.prepare(name, profile, renewal)
        with self._transaction():
            return self._devices.adopt_or_issue(name, profile, renewal, fresh)

    def read_device(self, name: str) -> DeviceBundle:
        """Return what the device's owner gets. Changes nothing and takes no lock.

        Raises:
            KeystoreError: bad name, no such device, wrong passphrase, expired certificate, missing or damaged
                file.
        """
        return read_device_bundle(self._access, device_name(name))

    def revoke_device(self, name: str, fingerprint: str) -> None:
        """Move the device's files to `revoked/` if its certificate has this fingerprint.

        Anything else (already revoked, reissued since, no keystore) is left alone, so it can be repeated.

        Raises:
            KeystoreError: the certificate is damaged, or the keystore is another stack's.
        """
        name = device_name(name)
        if not self._is_there():
            return
        with self._transaction():
            self._devices.revoke(name, fingerprint)

    def adopt_or_make_frame(self, name: str) -> FrameSecret:
        """Return a frame's existing secret, or create one.

        Raises:
            KeystoreError: bad name, no authority yet, wrong passphrase, a damaged file, or another stack's.
        """
        name = device_name(name)
        self._access.require_passphrase()
        with self._transaction():
            self._authority.certificate()
            return self._frames.adopt_or_make(name)

    def revoke_frame(self, name: str, fingerprint: str) -> None:
        """Revoke the frame's secret for good if it has this fingerprint.

        Anything else is left alone, so it can be repeated. Needs no passphrase.

        Raises:
            KeystoreError: the file is damaged, or the keystore is another stack's.
        """
        name = device_name(name)
        if not self._is_there():
            return
        with self._transaction():
            self._frames.revoke(name, fingerprint)

    def revoke_all_but(self, names: Collection[str]) -> None:
        """Revoke every device and frame that is not named; a later one of the same name is a new one.

        Raises:
            KeystoreError: a certificate is damaged, or the keystore is another stack's.
        """
        kept = {device_name(name) for name in names}
        with self._transaction():
            for name in self._devices.names():
                if name not in kept:
                    self._devices.revoke_whatever(name)
            for name in self._frames.names():
                if name not in kept:
                    self._frames.revoke_whatever(name)

    def revocations(self) -> dict[str, Revocation]:
        """Return all revocations, by fingerprint. Needs no passphrase.

        Raises:
            KeystoreError: a file is damaged, or the keystore is another stack's.
        """
        if not self._is_there():
            return {}
        with self._transaction():
            return revocations_in(self.folder)

    def note_revocations(self, revocations: Collection[Revocation]) -> None:
        """Record what was revoked elsewhere; a device with such a certificate here gets a new one.

        Without a keystore nothing is recorded.

        Raises:
            KeystoreError: the file is damaged, cannot be written, or the keystore is another stack's.
        """
        if not revocations or not self._is_there():
            return
        with self._transaction():
            note_revocations(self.folder, revocations)

    def probe_credentials(self) -> list[ProbeCredential]:
        """List certificate and key file of every device that is valid now. Opens no key, changes nothing."""
        try:
            signing = parse_certificate(look_into(self._authority.signing.certificate) or b"")
            current = parse_certificate(look_into(self._authority.certificate_path) or b"")
            valid = self._devices.valid([signing, current])
        except ValueError:
            return []
        except OSError as error:
            raise explain(error, self.folder) from error
        return [ProbeCredential(files.stem, files.certificate, files.key) for files in valid]

    def all_devices_are_revoked(self) -> bool:
        """Tell whether there are devices and every one is revoked, so that nobody could get in.

        Raises:
            KeystoreError: a certificate is damaged.
        """
        return self._devices.all_are_revoked()

    def change_passphrase(self, passphrase: str) -> None:
        """Re-encrypt everything with a new passphrase; if killed, either the old or the new one opens all.

        Raises:
            KeystoreError: no keystore, wrong passphrase, a damaged file, or an unusable new passphrase.
        """
        self._access.require_passphrase()
        with self._existing():
            change_passphrase(self._access, passphrase)
        self._use(replace(self._access, passphrase=passphrase))

    def inspect(self) -> list[Finding]:
        """Open every file and list those that do not open or fit. An empty list means that all is well.

        Raises:
            KeystoreError: no keystore, or wrong passphrase.
        """
        with self._existing() as returned:
            return [*map(_returned, returned), *inspect(self._access)]

    def backup(self) -> bytes:
        """Return the whole keystore as one file, encrypted as it is. Needs no passphrase.

        Raises:
            KeystoreError: no keystore, or it cannot be read.
        """
        with self._existing():
            return pack(read_keystore(self.folder), self._access.clock())

    def restore(self, backup: bytes) -> None:
        """Restore the folder, which must be empty or missing, from a backup that this passphrase opens.

        Raises:
            KeystoreError: the folder is not empty, or the backup is damaged or does not open.
        """
        try:
            restore(self._access, backup, self._lock_wait_seconds)
        except OSError as error:
            raise explain(error, self.folder) from error

    def purge(self) -> None:
        """Remove everything that this package put into the folder, and the folder if it is then empty.

        Raises:
            KeystoreError: the keystore is another stack's, or cannot be written.
        """
        if not self._is_there():
            return
        with self._transaction():
            for folder in self._device_folders():
                for stem in sorted({path.stem for path in folder.iterdir()}):
                    DeviceFiles(folder, stem).discard()
            self._frames.discard()
            self._authority.remove()
            for name in (ADOPTED, REVOKED_LIST, Marker.FILE_NAME):
                remove_file(self.folder / name)
            for folder in self._folders():
                remove_empty_folder(folder)
            remove_locked_folder(self.folder)

    def _use(self, access: KeystoreAccess) -> None:
        self._access = access
        self._authority = AuthorityStore(access)
        self._devices = DeviceStore(access, self._authority)
        self._frames = FrameStore(access)

    def _is_there(self) -> bool:
        try:
            return self.folder.is_dir()
        except OSError as error:
            raise explain(error, self.folder) from error

    def _device_folders(self) -> list[Path]:
        return [folder for name in DEVICE_FOLDERS if (folder := self.folder / name).is_dir()]

    def _folders(self) -> list[Path]:
        frames = [self._frames.folder] if self._frames.folder.is_dir() else []
        return [*self._device_folders(), *frames]

    @contextmanager
    def _existing(self) -> Iterator[list[str]]:
        """Hold the lock of an existing keystore, after completing unfinished moves.

        Yields the fingerprints of revoked certificates that were still in use; they no longer are.
        """
        if not self._authority.has_key():
            raise KeystoreError(
                f"There is no keystore in {self.folder}: ca.key is missing. Check the path, or "
                "import a backup."
            )
        with self._transaction():
            yield self._devices.finish_moves()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Hold the lock, with folders created and leftovers swept; explain what the system refuses."""
        try:
            with locked(self.folder, self._lock_wait_seconds):
                for name in (*DEVICE_FOLDERS, FRAMES):
                    refuse_link(self.folder / name)
                self._access.refuse_other_stack()
                finish_change_of_passphrase(self.folder)
                make_folder(self._devices.current)
                make_folder(self._devices.revoked)
                for folder in (self.folder, *self._folders()):
                    sweep(folder)
                self._authority.finish_retirement()
                yield
        except OSError as error:
            raise explain(error, self.folder) from error

    def _refuse_devices_without_authority(self) -> None:
        names = self._devices.names()
        if names:
            raise KeystoreError(
                f"{self._authority.certificate_path} is missing, but there are certificates of devices "
                f"({', '.join(names)}). Restore ca.crt and ca.key from a backup, or move the folder "
                f"{self.folder} away to start over."
            )
