"""`ca.crt` and `ca.key`: adopting, making and refusing an authority on disk."""

from pathlib import Path

from cryptography import x509

from pki.authority import Authority, authority_subject, create_authority, may_sign
from pki.certificate import is_signed_by, pem
from pki.errors import KeystoreError
from pki.files import read_file, remove_file, write_file
from pki.key import PrivateKey, generate_key
from pki.profile import AuthorityProfile
from pki.vault import Vault


class AuthorityStore:
    """The authority's two files. The caller holds the keystore's lock."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    @property
    def certificate_path(self) -> Path:
        """The CA certificate, PEM. It is written after the key: the authority exists when this does."""
        return self._vault.folder / "ca.crt"

    @property
    def key_path(self) -> Path:
        """The CA key, PKCS#8 PEM encrypted with the passphrase."""
        return self._vault.folder / "ca.key"

    def adopt(self, profile: AuthorityProfile) -> Authority:
        """Return the authority that is there when it fits the profile."""
        authority = self.open()
        self._refuse_other_profile(authority, profile)
        return authority

    def create(self, profile: AuthorityProfile) -> Authority:
        """Make an authority, or complete one that a killed run began: its key is used, never overwritten."""
        content = read_file(self.key_path)
        if content is None:
            self._vault.write_marker()
            key = generate_key(profile.key_type)
            write_file(self.key_path, self._vault.encrypt(key))
        else:
            key = self._vault.open_key(self.key_path, content)
        authority = create_authority(profile, key, self._vault.clock())
        self._refuse_other_profile(authority, profile)
        write_file(self.certificate_path, pem(authority.certificate))
        return authority

    def open(self) -> Authority:
        """Return certificate and key, opened with the passphrase.

        Raises:
            KeystoreError: missing, damaged, expired, wrong passphrase, or the two do not match.
        """
        certificate = self.certificate()
        key = self._open_key()
        self._vault.refuse_other_key(self.key_path, key, self.certificate_path, certificate)
        return Authority(certificate, key)

    def certificate(self) -> x509.Certificate:
        """Return the CA certificate when it can be trusted.

        Raises:
            KeystoreError: missing, damaged, expired, or not a self-signed CA.
        """
        path = self.certificate_path
        content = read_file(path)
        if content is None:
            raise KeystoreError(
                f"The keystore has no authority: {path} is missing. Restore it from a backup, or create the "
                "authority first."
            )
        certificate = self._vault.read_certificate(path, content)
        if not may_sign(certificate) or not is_signed_by(certificate, certificate):
            raise KeystoreError(
                f"{path} is not the certificate of an authority that signed itself, or it is damaged. "
                "Restore it from a backup."
            )
        self._vault.refuse_out_of_date(path, certificate, self._start_anew)
        return certificate

    def remove(self) -> None:
        """Remove both files; the certificate first, so that no certificate stands without its key."""
        remove_file(self.certificate_path)
        remove_file(self.key_path)

    @property
    def _start_anew(self) -> str:
        return (
            f"move the folder {self._vault.folder} away to start with a new authority (every device then "
            "needs a new certificate)"
        )

    def _open_key(self) -> PrivateKey:
        content = read_file(self.key_path)
        if content is None:
            raise KeystoreError(
                f"{self.key_path} is missing, but its certificate is there. Restore the key from a backup, "
                f"or {self._start_anew}."
            )
        return self._vault.open_key(self.key_path, content)

    def _refuse_other_profile(self, authority: Authority, profile: AuthorityProfile) -> None:
        self._vault.refuse_other_profile(
            self.certificate_path,
            authority.certificate,
            subject=authority_subject(profile),
            key_type=profile.key_type,
            remedy=self._start_anew,
        )
