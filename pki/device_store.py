"""`devices/` and `revoked/`: adopting, issuing, revoking and refusing credentials on disk."""

from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509

from pki.authority import Authority
from pki.authority_store import AuthorityStore
from pki.bundle import BUNDLE_ROUNDS, Platform, format_for, format_of, make_bundle, new_password, open_bundle
from pki.certificate import Certified, fingerprint, is_signed_by, parse_certificate, pem
from pki.client_certificate import device_subject, issue_certificate
from pki.device_files import DeviceFiles
from pki.errors import KeystoreError
from pki.files import read_file
from pki.key import PrivateKey, generate_key
from pki.marker import Marker
from pki.mobileconfig import make_mobileconfig, takes_profile
from pki.profile import DeviceProfile
from pki.vault import Vault


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


@dataclass(frozen=True)
class _Opened:
    """A device's key, certificate and issuer, as they go into a bundle."""

    files: DeviceFiles
    key: PrivateKey
    certificate: x509.Certificate
    authority: x509.Certificate


class DeviceStore:
    """The devices' files. The caller holds the keystore's lock and has normalised the names."""

    def __init__(self, vault: Vault, authorities: AuthorityStore) -> None:
        self._vault = vault
        self._authorities = authorities

    @property
    def current(self) -> Path:
        """Folder of the devices in use."""
        return self._vault.folder / "devices"

    @property
    def revoked(self) -> Path:
        """Folder of what was revoked."""
        return self._vault.folder / "revoked"

    def names(self) -> list[str]:
        """Names of all devices in use, sorted."""
        return sorted(path.stem for path in self.current.glob("*.crt"))

    def adopt_or_issue(self, name: str, profile: DeviceProfile) -> DeviceCredential:
        """Return the device's credential; issue it when there is none."""
        self._refuse_clash(name)
        authority = self._authorities.certificate()
        files = DeviceFiles(self.current, name)
        self._finish_revocation(files)
        certificate = self._certificate(files)
        if certificate is None:
            return self._issue(files, profile, self._authorities.open())
        self._refuse_unfit(files, profile, certificate, authority)
        return self._adopt(files, profile, certificate, authority)

    def revoke(self, name: str, revoked_fingerprint: str) -> None:
        """Move the device's files away when its certificate has this fingerprint."""
        certificate = self._certificate(DeviceFiles(self.current, name))
        if certificate is not None and fingerprint(certificate) == revoked_fingerprint.lower():
            self.revoke_whatever(name)

    def revoke_whatever(self, name: str) -> None:
        """Move the device's files away, whichever certificate it has."""
        files = DeviceFiles(self.current, name)
        self._finish_revocation(files)
        certificate = self._certificate(files)
        if certificate is not None:
            files.move_to(self._revoked_files(name, certificate), certificate)

    def valid(self, authority: x509.Certificate) -> list[DeviceFiles]:
        """List the devices with a key and a certificate of this authority that is valid now."""
        files = [DeviceFiles(self.current, name) for name in self.names()]
        return [each for each in files if self._is_valid(each, authority)]

    # Looking at what is there

    def _is_valid(self, files: DeviceFiles, authority: x509.Certificate) -> bool:
        try:
            certificate = parse_certificate(files.certificate.read_bytes())
        except (ValueError, FileNotFoundError):
            return False
        in_time = certificate.not_valid_before_utc <= self._vault.clock() <= certificate.not_valid_after_utc
        is_revoked = self._revoked_files(files.stem, certificate).certificate.exists()
        return in_time and not is_revoked and files.key.exists() and is_signed_by(certificate, authority)

    def _certificate(self, files: DeviceFiles) -> x509.Certificate | None:
        content = read_file(files.certificate)
        return None if content is None else self._vault.read_certificate(files.certificate, content)

    def _revoked_files(self, name: str, certificate: x509.Certificate) -> DeviceFiles:
        return DeviceFiles(self.revoked, f"{name}-{fingerprint(certificate)[:16]}")

    def _finish_revocation(self, files: DeviceFiles) -> None:
        """Complete a revocation that a killed run began: the copy in `revoked/` says that it was meant."""
        certificate = self._certificate(files)
        if certificate is None:
            return
        target = self._revoked_files(files.stem, certificate)
        if target.certificate.exists():
            files.move_to(target, certificate)

    def _refuse_clash(self, name: str) -> None:
        clash = next((each for each in self.names() if each != name and each.lower() == name.lower()), None)
        if clash is not None:
            raise KeystoreError(
                f"The device name {name!r} differs only in upper and lower case from {clash!r}, which is in "
                f"the keystore {self._vault.folder}. Choose another name, or write it as {clash!r}."
            )

    def _refuse_unfit(
        self,
        files: DeviceFiles,
        profile: DeviceProfile,
        certificate: x509.Certificate,
        authority: x509.Certificate,
    ) -> None:
        path, remedy = files.certificate, self._issue_anew(files)
        if not is_signed_by(certificate, authority):
            raise KeystoreError(
                f"{path} was not signed by {self._authorities.certificate_path}, or it is damaged. Restore "
                f"both from the same backup, or {remedy}."
            )
        self._vault.refuse_out_of_date(path, certificate, remedy)
        self._vault.refuse_other_profile(
            path, certificate, subject=device_subject(profile), key_type=profile.key_type, remedy=remedy
        )

    def _issue_anew(self, files: DeviceFiles) -> str:
        paths = f"{files.folder / files.stem}.{{crt,key,p12,password}}"
        return (
            f"move the files {paths} to another folder to have a new certificate issued (the device "
            "then needs the new bundle)"
        )

    # Issuing

    def _issue(self, files: DeviceFiles, profile: DeviceProfile, authority: Authority) -> DeviceCredential:
        key, password = generate_key(profile.key_type), new_password()
        certificate = issue_certificate(authority, profile, key, self._vault.clock())
        opened = _Opened(files, key, certificate, authority.certificate)
        bundle = self._bundle(opened, profile, password)
        files.write_new(
            key=self._vault.encrypt(key),
            password=self._vault.seal_password(password, files.stem),
            bundle=bundle,
            certificate=pem(certificate),
        )
        self._write_mobileconfig(opened, profile, bundle)
        return _credential(opened, profile, password)

    # Adopting

    def _adopt(
        self,
        files: DeviceFiles,
        profile: DeviceProfile,
        certificate: x509.Certificate,
        authority: x509.Certificate,
    ) -> DeviceCredential:
        content = read_file(files.key)
        if content is None:
            raise KeystoreError(
                f"{files.key} is missing, but its certificate is there. Restore it from a backup, or "
                f"{self._issue_anew(files)}."
            )
        key = self._vault.open_key(files.key, content)
        self._vault.refuse_other_key(files.key, key, files.certificate, certificate)
        opened = _Opened(files, key, certificate, authority)
        return _credential(opened, profile, self._fitting_bundle(opened, profile))

    def _fitting_bundle(self, opened: _Opened, profile: DeviceProfile) -> str:
        """See to it that the bundle is there and suits the platform; return its password."""
        files = opened.files
        sealed, bundle = read_file(files.password), read_file(files.bundle)
        password = new_password() if sealed is None else self._open_password(files, sealed)
        if sealed is None:
            bundle = self._bundle(opened, profile, password)
            files.write_bundle(password=self._vault.seal_password(password, files.stem), bundle=bundle)
        elif bundle is None or not self._suits(opened, profile, bundle, password):
            bundle = self._bundle(opened, profile, password)
            files.write_bundle(password=None, bundle=bundle)
        self._write_mobileconfig(opened, profile, bundle)
        return password

    def _suits(self, opened: _Opened, profile: DeviceProfile, bundle: bytes, password: str) -> bool:
        if self._bundled_certificate(opened.files, bundle, password) != opened.certificate:
            raise KeystoreError(
                f"{opened.files.bundle} is not the bundle of {opened.files.certificate}. Delete the bundle; "
                "the next run writes it anew."
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
                "writes it anew, with the same password."
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
            rounds=min(BUNDLE_ROUNDS, self._vault.kdf_rounds),
        )

    def _write_mobileconfig(self, opened: _Opened, profile: DeviceProfile, bundle: bytes) -> None:
        """Put the configuration profile beside the bundle, or take it from a platform without such."""
        content = None
        if takes_profile(profile.platform):
            marker = Marker.read(self._vault.folder)
            content = make_mobileconfig(
                name=opened.files.stem,
                owner=(marker and marker.stack) or "keystore",
                fingerprint=fingerprint(opened.certificate),
                bundle=bundle,
            )
        opened.files.write_mobileconfig(content)

    def _open_password(self, files: DeviceFiles, sealed: bytes) -> str:
        return self._vault.open_password(files.password, sealed, files.stem)


def _credential(opened: _Opened, profile: DeviceProfile, password: str) -> DeviceCredential:
    return DeviceCredential(
        certificate=opened.certificate,
        name=opened.files.stem,
        platform=profile.platform,
        certificate_path=opened.files.certificate,
        key_path=opened.files.key,
        bundle_path=opened.files.bundle,
        bundle_password=password,
        mobileconfig_path=opened.files.mobileconfig if takes_profile(profile.platform) else None,
    )
