"""`devices/`, `previous/`, `revoked/`: adopting, issuing, renewing, revoking and refusing credentials.

To renew a device, its files are moved to `previous/`, and a new certificate is issued. A run killed in
between leaves no certificate in `devices/`; the next run issues it. When the grace period of the files in
`previous/` ends, they are moved to `revoked/`.
"""

from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cryptography import x509

from pki.access import KeystoreAccess
from pki.authority_store import AuthorityStore
from pki.bundle import BUNDLE_ROUNDS, Platform, format_for, format_of, make_bundle, new_password, open_bundle
from pki.certificate import Certified, fingerprint, is_signed_by, parse_certificate, pem
from pki.client_certificate import device_subject, issue_certificate
from pki.contents import CURRENT, PREVIOUS, REVOKED, moved_stem
from pki.device_files import DeviceFiles
from pki.errors import KeystoreError
from pki.files import look_into, make_folder, read_file, write_file
from pki.key import PrivateKey, generate_key
from pki.marker import Marker
from pki.mobileconfig import make_mobileconfig, takes_profile
from pki.profile import DeviceProfile
from pki.renewal import Pair, Renewal
from pki.revocations import note_revoked, revocations_in, revoked_in


@dataclass(frozen=True)
class PreviousCertificate(Certified):
    """A device's certificate from before its renewal, and when it stops being valid."""

    until: datetime


@dataclass(frozen=True)
class DeviceCredential(Certified):
    """What one device needs to get in. `bundle_password` is a secret."""

    name: str
    platform: Platform
    certificate_path: Path
    key_path: Path
    bundle_path: Path
    bundle_password: str = field(repr=False)
    mobileconfig_path: Path | None
    """The Apple configuration profile; None on platforms that have none."""
    previous: PreviousCertificate | None
    """The previous certificate, while it is still valid."""


@dataclass(frozen=True)
class _Opened:
    """A device's key, certificate and issuer, as they go into a bundle."""

    files: DeviceFiles
    key: PrivateKey
    certificate: x509.Certificate
    authority: x509.Certificate


@dataclass(frozen=True)
class Fresh:
    """The slow part of a new device, created before the keystore is locked: key and bundle password."""

    key: PrivateKey = field(repr=False)
    encrypted_key: bytes
    password: str = field(repr=False)
    sealed_password: bytes


class DeviceStore:
    """The devices' files. The caller holds the keystore's lock and has normalised the names."""

    def __init__(self, access: KeystoreAccess, authorities: AuthorityStore) -> None:
        self._access = access
        self._authorities = authorities

    @property
    def current(self) -> Path:
        """Folder of the devices in use."""
        return self._access.folder / CURRENT

    @property
    def previous(self) -> Path:
        """Folder of the previous files of renewed devices."""
        return self._access.folder / PREVIOUS

    @property
    def revoked(self) -> Path:
        """Folder of revoked files."""
        return self._access.folder / REVOKED

    def names(self) -> list[str]:
        """Names of all devices in use, sorted."""
        folders = (self.current, self.previous)
        return sorted({path.stem for folder in folders for path in folder.glob("*.crt")})

    def prepare(self, name: str, profile: DeviceProfile, renewal: Renewal | None) -> Fresh | None:
        """Do the slow part of `adopt_or_issue`. It needs no lock, so several threads can run it at once.

        This is only a guess at what `adopt_or_issue` will need; errors are left to that.
        """
        files = DeviceFiles(self.current, name)
        signing = self._authorities.signing
        with suppress(KeystoreError, OSError):
            certificate = self._certificate(files)
            if certificate is None or self._is_due(certificate, renewal):
                self._warm(signing.key)
                return self._fresh(files, profile)
            self._warm(files.key)
            if (sealed := read_file(files.password)) is not None:
                self._open_password(files, sealed)
        return None

    def adopt_or_issue(
        self, name: str, profile: DeviceProfile, renewal: Renewal | None = None, fresh: Fresh | None = None
    ) -> DeviceCredential:
        """Return the device's credential; issue one if there is none, or if it is due for renewal."""
        self._refuse_clash(name)
        trusted = self._authorities.trusted()
        files = DeviceFiles(self.current, name)
        self._finish_moves(name)
        certificate = self._certificate(files)
        if certificate is None:
            self._authorities.certificate()
            return self._issue(files, profile, renewal, fresh)
        issuer = self._refuse_unfit(files, profile, certificate, trusted)
        if self._is_due(certificate, renewal):
            self._authorities.certificate()
            self._set_aside(files, certificate)
            return self._issue(files, profile, renewal, fresh)
        self._access.refuse_out_of_date(files.certificate, certificate, self._reissue(files))
        return self._adopt(files, profile, renewal, certificate, issuer)

    def revoke(self, name: str, revoked_fingerprint: str) -> None:
        """Move the device's files away if its current or previous certificate has this fingerprint."""
        pair = self._pair(name)
        if revoked_fingerprint.lower() in [fingerprint(each) for each in pair if each is not None]:
            self.revoke_whatever(name)

    def revoke_whatever(self, name: str) -> None:
        """Move the device's files away, whichever certificates it has."""
        files = DeviceFiles(self.current, name)
        self._finish_moves(name)
        self._retire_previous(name)
        certificate = self._certificate(files)
        if certificate is not None:
            self._move_to_revoked(files, certificate)

    def is_revoked(self, revoked_fingerprint: str) -> bool:
        """Tell whether a certificate with this fingerprint was revoked."""
        if revoked_fingerprint in revocations_in(self._access.folder):
            return True
        found = self.revoked.glob(f"*-{revoked_fingerprint[:16]}.crt")
        return any(not path.name.startswith(".") for path in found)  # may be left by a killed run

    def finish_moves(self) -> list[str]:
        """Complete moves that killed runs began. Unreadable files stay; their readers report the error.

        Returns the fingerprints of revoked certificates that were still among the devices in use.
        """
        noted = revoked_in(self._access.folder)
        returned = []
        for name in self.names():
            with suppress(KeystoreError):
                returned += [
                    fingerprint(each)
                    for each in self._pair(name)
                    if each is not None and fingerprint(each) in noted and not self._is_promised(name, each)
                ]
                self._finish_moves(name)
        return returned

    def pairs(self) -> list[Pair]:
        """List the certificates of every device in use: the current and the previous one."""
        return [self._pair(name) for name in self.names()]

    def valid(self, authorities: list[x509.Certificate]) -> list[DeviceFiles]:
        """List the devices with a key and a certificate of these authorities that is valid now."""
        files = [DeviceFiles(self.current, name) for name in self.names()]
        return [each for each in files if self._is_valid(each, authorities)]

    def all_are_revoked(self) -> bool:
        """Tell whether there are devices and every one's certificate is revoked."""
        found = [self._certificate(DeviceFiles(self.current, name)) for name in self.names()]
        return bool(found) and all(each is not None and self.is_revoked(fingerprint(each)) for each in found)

    # Checking what exists

    def _is_valid(self, files: DeviceFiles, authorities: list[x509.Certificate]) -> bool:
        try:
            content = look_into(files.certificate)
            certificate = parse_certificate(content or b"")
        except (ValueError, KeystoreError):
            return False
        in_time = certificate.not_valid_before_utc <= self._access.clock() <= certificate.not_valid_after_utc
        is_revoked = self.is_revoked(fingerprint(certificate))
        is_ours = any(is_signed_by(certificate, authority) for authority in authorities)
        return in_time and not is_revoked and files.key.exists() and is_ours

    def _is_due(self, certificate: x509.Certificate, renewal: Renewal | None) -> bool:
        return renewal is not None and renewal.is_due(certificate, self._access.clock())

    def _certificate(self, files: DeviceFiles) -> x509.Certificate | None:
        content = read_file(files.certificate)
        return None if content is None else self._access.read_certificate(files.certificate, content)

    def _revoked_files(self, name: str, certificate: x509.Certificate) -> DeviceFiles:
        return DeviceFiles(self.revoked, moved_stem(name, fingerprint(certificate)))

    def _finish_revocation(self, files: DeviceFiles) -> None:
        """Complete a revocation that a killed run began, or revoke again what has been brought back since.

        The copy in `revoked/` and the noted revocations show that it was intended.
        """
        certificate = self._certificate(files)
        if certificate is None:
            return
        noted = fingerprint(certificate) in revoked_in(self._access.folder)
        if noted or self._is_promised(files.stem, certificate):
            self._move_to_revoked(files, certificate)

    def _is_promised(self, name: str, certificate: x509.Certificate) -> bool:
        return self._revoked_files(name, certificate).certificate.exists()

    def _move_to_revoked(self, files: DeviceFiles, certificate: x509.Certificate) -> None:
        """Move the files; the device is revoked once the certificate's copy exists, even if this run dies."""
        target = self._revoked_files(files.stem, certificate)
        write_file(target.certificate, pem(certificate))
        note_revoked(self._access.folder, files.stem, fingerprint(certificate), self._access.clock())
        files.move_to(target, certificate)

    def _pair(self, name: str) -> Pair:
        files = DeviceFiles(self.current, name)
        return self._certificate(files), self._certificate(self._previous_files(name))

    def _previous_files(self, name: str) -> DeviceFiles:
        return DeviceFiles(self.previous, name)

    def _finish_moves(self, name: str) -> None:
        self._finish_revocation(DeviceFiles(self.current, name))
        self._finish_setting_aside(DeviceFiles(self.current, name))
        self._finish_revocation(self._previous_files(name))

    def _finish_setting_aside(self, files: DeviceFiles) -> None:
        """Complete the first half of a renewal that a killed run began."""
        certificate = self._certificate(files)
        if certificate is not None and certificate == self._certificate(self._previous_files(files.stem)):
            files.move_to(self._previous_files(files.stem), certificate)

    def _set_aside(self, files: DeviceFiles, certificate: x509.Certificate) -> None:
        make_folder(self.previous)
        self._retire_previous(files.stem)
        files.move_to(self._previous_files(files.stem), certificate)

    def _retire_previous(self, name: str) -> None:
        """Move the device's previous files to the revoked ones."""
        files = self._previous_files(name)
        certificate = self._certificate(files)
        if certificate is not None:
            self._move_to_revoked(files, certificate)

    def _still_valid(
        self, name: str, certificate: x509.Certificate, renewal: Renewal | None
    ) -> PreviousCertificate | None:
        """Return the previous certificate, or move it away if its grace period is over."""
        previous = self._certificate(self._previous_files(name))
        if previous is None:
            return None
        until = renewal.grace_end(previous, certificate) if renewal else previous.not_valid_after_utc
        if until > self._access.clock():
            return PreviousCertificate(previous, until)
        self._retire_previous(name)
        return None

    def _refuse_clash(self, name: str) -> None:
        clash = next((each for each in self.names() if each != name and each.lower() == name.lower()), None)
        if clash is not None:
            raise KeystoreError(
                f"The device name {name!r} differs only in upper and lower case from {clash!r}, which is in "
                f"the keystore {self._access.folder}. Choose another name, or write it as {clash!r}."
            )

    def _refuse_unfit(
        self,
        files: DeviceFiles,
        profile: DeviceProfile,
        certificate: x509.Certificate,
        authorities: list[x509.Certificate],
    ) -> x509.Certificate:
        """Refuse a certificate that is not ours or not as configured; return the authority that signed it."""
        path, remedy = files.certificate, self._reissue(files)
        issuer = next((each for each in authorities if is_signed_by(certificate, each)), None)
        if issuer is None:
            raise KeystoreError(
                f"{path} was not signed by {self._authorities.certificate_path}, or it is damaged. Restore "
                f"both from the same backup, or {remedy}."
            )
        self._access.refuse_other_profile(
            path, certificate, subject=device_subject(profile), key_type=profile.key_type, remedy=remedy
        )
        return issuer

    def _reissue(self, files: DeviceFiles) -> str:
        paths = f"{files.folder / files.stem}.{{crt,key,p12,password}}"
        return (
            f"move the files {paths} to another folder to have a new certificate issued (the device "
            "then needs the new bundle)"
        )

    # Issuing

    def _warm(self, path: Path) -> None:
        if (content := read_file(path)) is not None:
            self._access.open_key(path, content)

    def _fresh(self, files: DeviceFiles, profile: DeviceProfile) -> Fresh:
        key, password = generate_key(profile.key_type), new_password()
        sealed = self._access.seal_password(password, files.stem)
        return Fresh(key, self._access.encrypt(key), password, sealed)

    def _issue(
        self, files: DeviceFiles, profile: DeviceProfile, renewal: Renewal | None, fresh: Fresh | None
    ) -> DeviceCredential:
        authority = self._authorities.open()
        fresh = fresh or self._fresh(files, profile)
        certificate = issue_certificate(authority, profile, fresh.key, self._access.clock())
        opened = _Opened(files, fresh.key, certificate, authority.certificate)
        bundle = self._bundle(opened, profile, fresh.password)
        files.write_new(
            key=fresh.encrypted_key,
            password=fresh.sealed_password,
            bundle=bundle,
            certificate=pem(certificate),
        )
        self._write_mobileconfig(opened, profile, bundle)
        return self._credential(opened, profile, renewal, fresh.password)

    # Adopting

    def _adopt(
        self,
        files: DeviceFiles,
        profile: DeviceProfile,
        renewal: Renewal | None,
        certificate: x509.Certificate,
        authority: x509.Certificate,
    ) -> DeviceCredential:
        content = read_file(files.key)
        if content is None:
            raise KeystoreError(
                f"{files.key} is missing, but its certificate is there. Restore it from a backup, or "
                f"{self._reissue(files)}."
            )
        key = self._access.open_key(files.key, content)
        self._access.refuse_other_key(files.key, key, files.certificate, certificate)
        opened = _Opened(files, key, certificate, authority)
        return self._credential(opened, profile, renewal, self._fitting_bundle(opened, profile))

    def _fitting_bundle(self, opened: _Opened, profile: DeviceProfile) -> str:
        """Make sure that the bundle exists and suits the platform; return its password."""
        files = opened.files
        sealed, bundle = read_file(files.password), read_file(files.bundle)
        password = new_password() if sealed is None else self._open_password(files, sealed)
        if sealed is None:
            bundle = self._bundle(opened, profile, password)
            files.write_bundle(password=self._access.seal_password(password, files.stem), bundle=bundle)
        elif bundle is None or not self._suits(opened, profile, bundle, password):
            bundle = self._bundle(opened, profile, password)
            files.write_bundle(password=None, bundle=bundle)
        self._write_mobileconfig(opened, profile, bundle)
        return password

    def _suits(self, opened: _Opened, profile: DeviceProfile, bundle: bytes, password: str) -> bool:
        if self._bundled_certificate(opened.files, bundle, password) != opened.certificate:
            raise KeystoreError(
                f"{opened.files.bundle} is not the bundle of {opened.files.certificate}. Delete the bundle; "
                "the next run writes it again."
            )
        chain = [each.certificate for each in open_bundle(bundle, password).additional_certs]
        return format_of(bundle) == format_for(profile.platform) and chain == [opened.authority]

    def _bundled_certificate(
        self, files: DeviceFiles, bundle: bytes, password: str
    ) -> x509.Certificate | None:
        try:
            content = open_bundle(bundle, password)
        except ValueError as error:
            raise KeystoreError(
                f"{files.bundle} is damaged: it does not open with its password. Delete it; the next run "
                "writes it again, with the same password."
            ) from error
        return None if content.cert is None else content.cert.certificate

    def _bundle(self, opened: _Opened, profile: DeviceProfile, password: str) -> bytes:
        return make_bundle(
            name=opened.files.stem,
            key=opened.key,
            certificate=opened.certificate,
            authority=opened.authority,
            password=password,
            bundle_format=format_for(profile.platform),
            rounds=min(BUNDLE_ROUNDS, self._access.kdf_rounds),
        )

    def _write_mobileconfig(self, opened: _Opened, profile: DeviceProfile, bundle: bytes) -> None:
        """Write the configuration profile next to the bundle, or remove it on a platform without profiles."""
        content = None
        if takes_profile(profile.platform):
            marker = Marker.read(self._access.folder)
            content = make_mobileconfig(
                name=opened.files.stem,
                owner=(marker and marker.stack) or "keystore",
                fingerprint=fingerprint(opened.certificate),
                bundle=bundle,
            )
        opened.files.write_mobileconfig(content)

    def _open_password(self, files: DeviceFiles, sealed: bytes) -> str:
        return self._access.open_password(files.password, sealed, files.stem)

    def _credential(
        self, opened: _Opened, profile: DeviceProfile, renewal: Renewal | None, password: str
    ) -> DeviceCredential:
        files = opened.files
        return DeviceCredential(
            certificate=opened.certificate,
            name=files.stem,
            platform=profile.platform,
            certificate_path=files.certificate,
            key_path=files.key,
            bundle_path=files.bundle,
            bundle_password=password,
            mobileconfig_path=files.mobileconfig if takes_profile(profile.platform) else None,
            previous=self._still_valid(files.stem, opened.certificate, renewal),
        )
