"""What the authority's and the devices' files share: passphrase, clock, and refusals in plain words."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cryptography import x509

from pki.certificate import distinguished_name, parse_certificate, same_key
from pki.errors import KeystoreError
from pki.key import PlainKeyError, PrivateKey, decrypt_key, encrypt_key, key_type_of
from pki.marker import Marker
from pki.passphrase import PASSPHRASE_LENGTH, is_weak
from pki.sealed import BrokenSealError, DamagedSealError, seal, unseal


@dataclass(frozen=True)
class KeystoreAccess:
    """A keystore's folder, passphrase, stack, clock and work factor (see `Keystore`)."""

    folder: Path
    passphrase: str | None = field(repr=False)
    stack: str | None
    clock: Callable[[], datetime]
    kdf_rounds: int
    # Cache of what was opened, by passphrase and content: opening takes a tenth of a second each time.
    _keys: dict[tuple[str, bytes], PrivateKey] = field(default_factory=dict, repr=False, compare=False)
    _passwords: dict[tuple[str, bytes, str], str] = field(default_factory=dict, repr=False, compare=False)

    @property
    def secret(self) -> str:
        """The passphrase; `require_passphrase` reports a missing or unusable one."""
        self.require_passphrase()
        return self.passphrase or ""

    def require_passphrase(self) -> None:
        """Refuse a missing or short passphrase.

        Raises:
            KeystoreError: it has fewer than 12 characters.
        """
        if len(self.passphrase or "") < PASSPHRASE_LENGTH:
            raise KeystoreError(
                f"The keystore's passphrase must have at least {PASSPHRASE_LENGTH} characters. Set a longer "
                "one with `pulumi config set --secret keystorePassphrase`."
            )

    def require_strong_passphrase(self) -> None:
        """Refuse a passphrase that is too weak for a new keystore; existing keystores with it still open.

        Raises:
            KeystoreError: it is short or easily guessed.
        """
        self.require_passphrase()
        if is_weak(self.secret):
            raise KeystoreError(
                "The keystore's passphrase is easily guessed: a repetition, a row of keys, a common word or "
                "a year. Set another one with `pulumi config set --secret keystorePassphrase`, for example "
                "of four words that have nothing to do with each other."
            )

    def refuse_other_stack(self) -> None:
        """Refuse a keystore that another stack made."""
        marker = Marker.read(self.folder)
        if marker is not None and self.stack is not None and marker.stack not in (None, self.stack):
            raise KeystoreError(
                f"The keystore {self.folder} belongs to the stack {marker.stack!r}, not to {self.stack!r}. "
                "Set `keystore` to a folder of its own; if this stack is to take it over, change `stack` in "
                f"{self.folder / Marker.FILE_NAME}."
            )

    def write_marker(self) -> None:
        """Write `keystore.json` for this stack and passphrase.

        Raises:
            KeystoreError: the passphrase is easily guessed.
        """
        self.require_strong_passphrase()
        Marker.new(self.stack, self.secret, self.kdf_rounds).write(self.folder)

    def encrypt(self, key: PrivateKey) -> bytes:
        """Encrypt a key for its file."""
        return encrypt_key(key, self.secret, self.kdf_rounds)

    def open_key(self, path: Path, content: bytes) -> PrivateKey:
        """Decrypt the key that was read from `path`, or say why that is impossible."""
        known = self._keys.get((self.secret, content))
        if known is not None:
            return known
        try:
            key = decrypt_key(content, self.secret)
        except PlainKeyError as error:
            raise KeystoreError(
                f"{path} is not encrypted. Encrypt it with `openssl pkcs8 -topk8 -v2 aes256 -iter 600000` "
                "and the passphrase of this keystore, then run again."
            ) from error
        except ValueError as error:
            raise self._does_not_open(path) from error
        self._keys[self.secret, content] = key
        return key

    def seal_password(self, password: str, device: str) -> bytes:
        """Seal a device's bundle password for its file."""
        return seal(password, self.secret, context=device, rounds=self.kdf_rounds)

    def open_password(
        self,
        path: Path,
        content: bytes,
        device: str,
        made_again: str = "the next run writes the bundle again with another password",
    ) -> str:
        """Unseal the password that was read from `path`, or say why that is impossible and what helps."""
        known = self._passwords.get((self.secret, content, device))
        if known is not None:
            return known
        try:
            password = unseal(content, self.secret, context=device)
        except DamagedSealError as error:
            raise KeystoreError(
                f"{path} is damaged. Restore it from a backup, or delete it: {made_again}."
            ) from error
        except BrokenSealError as error:
            raise self._does_not_open(path) from error
        self._passwords[self.secret, content, device] = password
        return password

    def read_certificate(self, path: Path, content: bytes) -> x509.Certificate:
        """Parse the certificate that was read from `path`, or refuse it."""
        try:
            return parse_certificate(content)
        except ValueError as error:
            raise KeystoreError(
                f"{path} is damaged: it does not hold a certificate. Restore it from a backup."
            ) from error

    def refuse_out_of_date(self, path: Path, certificate: x509.Certificate, remedy: str) -> None:
        """Refuse a certificate that is not valid now."""
        now = self.clock()
        if now > certificate.not_valid_after_utc:
            day = f"{certificate.not_valid_after_utc:%Y-%m-%d}"
            raise KeystoreError(f"The certificate {path} expired on {day}. To go on, {remedy}.")
        if now < certificate.not_valid_before_utc:
            moment = f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
            raise KeystoreError(
                f"The certificate {path} is valid only from {moment}, and this machine's clock says "
                f"{now:%Y-%m-%d %H:%M}. Set the clock right."
            )

    def refuse_other_key(
        self, key_path: Path, key: PrivateKey, path: Path, certificate: x509.Certificate
    ) -> None:
        """Refuse a key that does not match its certificate."""
        if not same_key(certificate, key):
            raise KeystoreError(f"{key_path} is not the key of {path}. Restore both from the same backup.")

    def refuse_other_profile(
        self, path: Path, certificate: x509.Certificate, *, subject: x509.Name, key_type: str, remedy: str
    ) -> None:
        """Refuse a certificate whose subject or key type differs from the config's."""
        seen, wanted = distinguished_name(certificate.subject), distinguished_name(subject)
        if seen != wanted:
            raise KeystoreError(
                f"The certificate {path} is for '{seen}', but the config asks for '{wanted}'. Change the "
                f"config back, or {remedy}."
            )
        if (kind := key_type_of(certificate.public_key())) != key_type:
            raise KeystoreError(
                f"The certificate {path} has a key of type {kind}, but the config asks for {key_type}. "
                f"Change the config back, or {remedy}."
            )

    def _does_not_open(self, path: Path) -> KeystoreError:
        marker = Marker.read(self.folder)
        if marker is not None and marker.knows(self.secret):
            return KeystoreError(
                f"{path} is damaged: the passphrase is right, but the file does not open. Restore it from a "
                "backup."
            )
        return KeystoreError(
            f"{path} does not open with this passphrase. Set `keystorePassphrase` to the one that the "
            "keystore was made with; if it is the right one, the file is damaged: restore it from a backup."
        )
