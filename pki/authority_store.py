"""`ca.*`, `ca-next.*`: adopting, creating, replacing and refusing an authority on disk.

An authority close to its expiry is not overwritten. A second one, `ca-next`, is created next to it and signs
from then on, while both are trusted. When no device needs the old one any more, it is set aside as
`ca-<fingerprint>` and `ca-next` takes its place. Files are written and moved in such an order that the next
run finishes what a killed one began.
"""

from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from pki.access import KeystoreAccess
from pki.adoption import Adoption
from pki.authority import Authority, authority_subject, create_authority, may_sign
from pki.certificate import fingerprint, is_signed_by, pem, same_key
from pki.contents import AUTHORITY_STEMS, moved_stem
from pki.errors import KeystoreError
from pki.files import move_file, read_file, remove_file, write_file
from pki.key import PrivateKey, generate_key
from pki.profile import AuthorityProfile


@dataclass(frozen=True)
class AuthorityFiles:
    """Where one authority's two files are. It exists when its certificate does, which is written last."""

    folder: Path
    stem: str

    @property
    def certificate(self) -> Path:
        """The CA certificate, PEM."""
        return self.folder / f"{self.stem}.crt"

    @property
    def key(self) -> Path:
        """The CA key, PKCS#8 PEM encrypted with the passphrase."""
        return self.folder / f"{self.stem}.key"


class AuthorityStore:
    """The authorities' files. The caller holds the keystore's lock."""

    def __init__(self, access: KeystoreAccess) -> None:
        self._access = access
        self.current, self.next = (AuthorityFiles(access.folder, stem) for stem in AUTHORITY_STEMS)

    @property
    def certificate_path(self) -> Path:
        """The CA certificate, PEM. It is written after the key: the authority exists when this does."""
        return self.current.certificate

    @property
    def key_path(self) -> Path:
        """The CA key, PKCS#8 PEM encrypted with the passphrase."""
        return self.current.key

    @property
    def signing(self) -> AuthorityFiles:
        """The authority that signs: the next one as soon as it exists."""
        return self.next if self.next.certificate.exists() else self.current

    def has_key(self) -> bool:
        """Tell whether there is an authority; a run killed during a change may leave only the next key."""
        return self.current.key.exists() or self.next.key.exists()

    def adopt(self, profile: AuthorityProfile, *, expired_will_do: bool = False) -> Authority:
        """Return the authority that signs, if all existing ones fit the profile.

        Raises:
            KeystoreError: also if the one that signs has expired, unless `expired_will_do`.
        """
        for files in dict.fromkeys((self.current, self.signing)):
            authority = self.open_pair(files)
            self._refuse_other_profile(files, authority, profile)
        if not expired_will_do:
            self._refuse_out_of_date(files, authority.certificate)
        return authority

    def create(self, profile: AuthorityProfile, files: AuthorityFiles | None = None) -> Authority:
        """Create an authority, or complete one that a killed run began: its key is never overwritten."""
        files = files or self.current
        content = read_file(files.key)
        if content is None:
            if files == self.current:
                self._access.write_marker()
            key = generate_key(profile.key_type)
            write_file(files.key, self._access.encrypt(key))
        else:
            key = self._access.open_key(files.key, content)
        authority = create_authority(profile, key, self._access.clock())
        self._refuse_other_profile(files, authority, profile)
        write_file(files.certificate, pem(authority.certificate))
        return authority

    def take_over(self, authority: Authority, adoption: Adoption) -> None:
        """Make an authority that somebody created by hand the keystore's own.

        The certificate is written last, as always. What a killed run left of the same authority is completed.

        Raises:
            KeystoreError: there is another authority, or its key.
        """
        if self.current.certificate.exists() or self.next.key.exists():
            raise self.another_authority()
        content = read_file(self.current.key)
        if content is None:
            self._access.write_marker()
            write_file(self.current.key, self._access.encrypt(authority.key))
        elif not same_key(authority.certificate, self._access.open_key(self.current.key, content)):
            raise self.another_authority()
        adoption.write(self._access.folder)
        write_file(self.current.certificate, pem(authority.certificate))

    def taken_over(self, adoption: Adoption) -> x509.Certificate | None:
        """Return the certificate of the authority that was taken over, even if it is set aside by now."""
        for files in self.all():
            content = read_file(files.certificate)
            if content is None:
                continue
            certificate = self._access.read_certificate(files.certificate, content)
            if adoption.is_of(certificate):
                return certificate
        return None

    def open(self) -> Authority:
        """Return certificate and key of the authority that signs, opened with the passphrase.

        Raises:
            KeystoreError: missing, damaged, expired, wrong passphrase, or the two do not match.
        """
        files = self.signing
        authority = self.open_pair(files)
        self._refuse_out_of_date(files, authority.certificate)
        return authority

    def certificate(self) -> x509.Certificate:
        """Return the certificate of the authority that signs, if it can be trusted.

        Raises:
            KeystoreError: missing, damaged, expired, or not a self-signed CA.
        """
        files = self.signing
        certificate = self._certificate(files)
        self._refuse_out_of_date(files, certificate)
        return certificate

    def trusted(self) -> list[x509.Certificate]:
        """Return the certificates of all trusted authorities; the one that signs comes last.

        Raises:
            KeystoreError: one is missing, damaged, or not a self-signed CA.
        """
        return [self._certificate(files) for files in dict.fromkeys((self.current, self.signing))]

    def all(self) -> list[AuthorityFiles]:
        """List the authorities with any file left, including those set aside; the current one comes last."""
        others = {path.stem for kind in ("crt", "key") for path in self._access.folder.glob(f"ca-*.{kind}")}
        return [*(AuthorityFiles(self._access.folder, stem) for stem in sorted(others)), self.current]

    def finish_retirement(self) -> None:
        """Complete the change of authority that a killed run began."""
        content = read_file(self.current.certificate)
        if not self.next.certificate.exists():
            return
        if content is None and not (self.current.key.exists() and self.next.key.exists()):
            self._promote()
        elif content is not None:
            certificate = self._access.read_certificate(self.current.certificate, content)
            if self._retired(certificate).certificate.exists():
                self.retire(certificate)

    def retire(self, certificate: x509.Certificate) -> None:
        """Set the current authority aside and put the next one in its place.

        The copy of the certificate marks the move as begun. The certificate is removed after the key, so that
        an unfinished move can be detected.
        """
        target = self._retired(certificate)
        write_file(target.certificate, pem(certificate))
        move_file(self.current.key, target.key)
        remove_file(self.current.certificate)
        self._promote()

    def remove(self) -> None:
        """Remove all files; each certificate first, so that none remains without its key."""
        for files in self.all():
            remove_file(files.certificate)
            remove_file(files.key)

    def _promote(self) -> None:
        move_file(self.next.key, self.current.key)
        move_file(self.next.certificate, self.current.certificate)

    def _retired(self, certificate: x509.Certificate) -> AuthorityFiles:
        return AuthorityFiles(self._access.folder, moved_stem(self.current.stem, fingerprint(certificate)))

    @property
    def _start_over(self) -> str:
        return (
            f"move the folder {self._access.folder} away to start with a new authority (every device then "
            "needs a new certificate)"
        )

    def open_pair(self, files: AuthorityFiles) -> Authority:
        """Return one authority, opened with the passphrase, whatever the date.

        Raises:
            KeystoreError: missing, damaged, wrong passphrase, or the two do not match.
        """
        certificate = self._certificate(files)
        key = self._open_key(files)
        self._access.refuse_other_key(files.key, key, files.certificate, certificate)
        return Authority(certificate, key)

    def another_authority(self) -> KeystoreError:
        """The refusal of a second authority next to the existing one."""
        return KeystoreError(
            f"The keystore {self._access.folder} already holds another authority, which is never "
            "overwritten. Set `keystore` to a new folder to take over the one that `adopt` names, or remove "
            "`adopt` from the config."
        )

    def _certificate(self, files: AuthorityFiles) -> x509.Certificate:
        path = files.certificate
        content = read_file(path)
        if content is None:
            raise KeystoreError(
                f"The keystore has no authority: {path} is missing. Restore it from a backup, or create the "
                "authority first."
            )
        certificate = self._access.read_certificate(path, content)
        if not may_sign(certificate) or not is_signed_by(certificate, certificate):
            raise KeystoreError(
                f"{path} is not the certificate of an authority that signed itself, or it is damaged. "
                "Restore it from a backup."
            )
        return certificate

    def _open_key(self, files: AuthorityFiles) -> PrivateKey:
        content = read_file(files.key)
        if content is None:
            raise KeystoreError(
                f"{files.key} is missing, but its certificate is there. Restore the key from a backup, "
                f"or {self._start_over}."
            )
        return self._access.open_key(files.key, content)

    def _refuse_out_of_date(self, files: AuthorityFiles, certificate: x509.Certificate) -> None:
        self._access.refuse_out_of_date(files.certificate, certificate, self._start_over)

    def _refuse_other_profile(
        self, files: AuthorityFiles, authority: Authority, profile: AuthorityProfile
    ) -> None:
        """Refuse a profile other than the config's, except of an authority that was taken over."""
        adoption = Adoption.read(self._access.folder)
        if adoption is not None and adoption.is_of(authority.certificate):
            return
        self._access.refuse_other_profile(
            files.certificate,
            authority.certificate,
            subject=authority_subject(profile),
            key_type=profile.key_type,
            remedy=self._start_over,
        )
