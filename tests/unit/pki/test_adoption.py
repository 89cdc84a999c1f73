"""Taking over what was made by hand: an authority, its key, and the devices that it has certified."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from pki import (
    Adoption,
    AuthorityProfile,
    Claim,
    DeviceProfile,
    Keystore,
    KeystoreError,
    Renewal,
    Source,
)
from pki.certificate import fingerprint, is_signed_by, parse_certificate, pem, subject_name
from pki.key import PrivateKey, decrypt_key
from pki.listing import records
from pki.renewal_plan import plan_renewals
from tests.unit.pki.facts import NOW, PASSPHRASE, assert_is_ca, quick_keystore, snapshot
from tests.unit.pki.killing import deaths

KEY_PASSPHRASE = "the chapter's own passphrase"
RENEWAL = Renewal(renew_before_days=30, grace_days=14)
AUTHORITY_RENEWAL = Renewal(renew_before_days=31, grace_days=14)


@dataclass(frozen=True)
class ByHand:
    """An authority that somebody made by hand, and what it has certified."""

    certificate: x509.Certificate
    key: PrivateKey

    @property
    def certificate_file(self) -> Source:
        return Source("ca-cert.pem", pem(self.certificate))

    @property
    def key_file(self) -> Source:
        return Source("ca-key.pem", plain(self.key))

    def issue(
        self,
        name: str,
        *,
        days: int = 365,
        usage: x509.ObjectIdentifier | None = ExtendedKeyUsageOID.CLIENT_AUTH,
    ) -> Source:
        """Certify a device as the chapter's script does: an extended key usage and no other extension."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject_name(common_name=name, organization="MyOrg"))
            .issuer_name(self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - timedelta(days=400))
            .not_valid_after(NOW + timedelta(days=days))
        )
        if usage is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        return Source(f"{name}.crt", pem(builder.sign(self.key, hashes.SHA256())))


def plain(key: PrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def self_signed(
    key: PrivateKey | ed25519.Ed25519PrivateKey,
    *,
    days: int = 365,
    ca: bool = True,
    common_name: str = "Immich Client CA",
) -> x509.Certificate:
    """Make a certificate as `openssl req -x509` does: no key usage."""
    name = subject_name(common_name=common_name, organization="Personal", country="US")
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(days=400))
        .not_valid_after(NOW + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())
    )


def made_by_hand(days: int = 365, common_name: str = "Immich Client CA") -> ByHand:
    key = ec.generate_private_key(ec.SECP256R1())
    return ByHand(self_signed(key, days=days, common_name=common_name), key)


@pytest.fixture(scope="module")
def chapter() -> ByHand:
    return made_by_hand()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "keystore"


@pytest.fixture
def store(folder: Path) -> Keystore:
    return quick_keystore(folder)


def adopt(store: Keystore, chapter: ByHand, *devices: Claim) -> Adoption:
    return store.take_over(certificate=chapter.certificate_file, key=chapter.key_file, devices=devices)


def assert_refused(sentence: str, folder: Path, action: Callable[[], object]) -> None:
    """The action is refused in one sentence or two, no file is other than before, and no secret is told."""
    before = snapshot(folder) if folder.exists() else {}
    with pytest.raises(KeystoreError, match=sentence) as refusal:
        action()
    assert (snapshot(folder) if folder.exists() else {}) == before
    assert "\n" not in str(refusal.value)
    assert str(refusal.value).endswith(".")
    assert KEY_PASSPHRASE not in str(refusal.value)
    assert PASSPHRASE not in str(refusal.value)


# The keystore afterwards is like one that was made here


def test_authority_and_key_come_into_the_keystore_encrypted(
    folder: Path, store: Keystore, chapter: ByHand
) -> None:
    adoption = adopt(store, chapter)
    assert adoption.authority == fingerprint(chapter.certificate)
    assert (folder / "ca.crt").read_bytes() == pem(chapter.certificate)
    content = (folder / "ca.key").read_bytes()
    assert content.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert decrypt_key(content, PASSPHRASE) == chapter.key or (
        decrypt_key(content, PASSPHRASE).public_key() == chapter.key.public_key()
    )
    assert set(snapshot(folder)) == {"ca.crt", "ca.key", "keystore.json", "adopted.json"}
    assert b"PRIVATE" not in (folder / "adopted.json").read_bytes()
    assert store.inspect() == []


def test_an_authority_of_another_profile_is_adopted_as_it_is(store: Keystore) -> None:
    chapter = made_by_hand(common_name="Anna's own CA")
    adopt(store, chapter)
    authority = store.adopt_or_create_authority(AuthorityProfile(country="DE"), AUTHORITY_RENEWAL)
    assert authority.certificate == chapter.certificate
    assert [each.certificate for each in store.trusted()] == [chapter.certificate]


def test_it_certifies_new_devices(store: Keystore, chapter: ByHand) -> None:
    adopt(store, chapter)
    store.adopt_or_create_authority(AuthorityProfile())
    device = store.adopt_or_issue_device("tablet", DeviceProfile("tablet"))
    assert is_signed_by(device.certificate, chapter.certificate)
    assert device.not_after <= chapter.certificate.not_valid_after_utc


def test_taking_over_again_changes_nothing(folder: Path, store: Keystore, chapter: ByHand) -> None:
    claim = Claim("anna", chapter.issue("anna"))
    first = adopt(store, chapter, claim)
    before = snapshot(folder)
    assert adopt(quick_keystore(folder), chapter, claim) == first
    assert snapshot(folder) == before


def test_the_sources_are_needed_once(folder: Path, store: Keystore, chapter: ByHand) -> None:
    """The chapter's files may be removed from the server: the keystore has it all."""
    first = adopt(store, chapter, Claim("anna", chapter.issue("anna")))
    before = snapshot(folder)
    assert quick_keystore(folder).take_over(devices=[Claim("anna")]) == first
    assert quick_keystore(folder).adoption() == first
    assert snapshot(folder) == before


def test_a_backup_carries_what_was_taken_over(tmp_path: Path, store: Keystore, chapter: ByHand) -> None:
    adoption = adopt(store, chapter, Claim("anna", chapter.issue("anna")))
    other = quick_keystore(tmp_path / "restored")
    other.restore(store.backup())
    assert other.adoption() == adoption
    assert other.adopt_or_create_authority(AuthorityProfile(country="DE")).certificate == chapter.certificate


def test_another_passphrase_changes_nothing_of_it(store: Keystore, chapter: ByHand) -> None:
    adoption = adopt(store, chapter)
    store.change_passphrase("another horse, another battery")
    assert store.adoption() == adoption
    assert store.adopt_or_create_authority(AuthorityProfile(country="DE")).certificate == chapter.certificate


def test_purging_leaves_nothing(folder: Path, store: Keystore, chapter: ByHand) -> None:
    adopt(store, chapter, Claim("anna", chapter.issue("anna")))
    store.purge()
    assert not folder.exists()


def test_a_keystore_in_which_nothing_was_taken_over(folder: Path, store: Keystore) -> None:
    assert store.adoption() is None
    assert not folder.exists()
    store.adopt_or_create_authority(AuthorityProfile())
    assert store.adoption() is None


def test_the_digests_of_what_was_taken_over_are_kept(store: Keystore, chapter: ByHand) -> None:
    anna = chapter.issue("anna")
    adoption = adopt(store, chapter, Claim("anna", anna))
    sources = (chapter.certificate_file, chapter.key_file, anna)
    assert adoption.files == {source.place: source.digest for source in sources}
    assert store.take_over(devices=[Claim("anna")]).files == adoption.files


# Devices


def test_a_device_is_known_by_its_certificate(store: Keystore, chapter: ByHand) -> None:
    source = chapter.issue("anna", days=100)
    [device] = adopt(store, chapter, Claim("phone-anna", source)).devices
    certificate = parse_certificate(source.content)
    assert (device.name, device.fingerprint) == ("phone-anna", fingerprint(certificate))
    assert device.until == certificate.not_valid_after_utc
    assert device.certificate_pem is not None
    assert parse_certificate(device.certificate_pem.encode()) == certificate


@pytest.mark.parametrize("form", ["DER", "with text around it", "behind its key"])
def test_a_certificate_in_another_form(form: str, store: Keystore, chapter: ByHand) -> None:
    source = chapter.issue("anna")
    forms = {
        "DER": parse_certificate(source.content).public_bytes(serialization.Encoding.DER),
        "with text around it": b"Certificate:\n    Data:\n" + source.content + b"\n",
        "behind its key": plain(ec.generate_private_key(ec.SECP256R1())) + source.content,
    }
    [device] = adopt(store, chapter, Claim("anna", replace(source, content=forms[form]))).devices
    assert device.fingerprint == fingerprint(parse_certificate(source.content))


def test_a_device_is_known_by_its_fingerprint_alone(store: Keystore, chapter: ByHand) -> None:
    until = NOW + timedelta(days=20)
    [device] = adopt(store, chapter, Claim("anna", fingerprint="AB" * 32, until=until)).devices
    assert (device.fingerprint, device.until, device.certificate_pem) == ("ab" * 32, until, None)
    assert [record.name for record in records(store.folder)] == ["ca"]


def test_adopted_devices_are_listed_and_are_none_of_the_keystores_own(
    store: Keystore, chapter: ByHand
) -> None:
    adopt(store, chapter, Claim("anna", chapter.issue("anna")))
    store.adopt_or_create_authority(AuthorityProfile())
    assert [(each.name, each.state, each.bundle) for each in records(store.folder)] == [
        ("ca", "authority", "-"),
        ("anna", "adopted", "-"),
    ]
    assert store.probe_credentials() == []
    store.revoke_all_but([])
    assert [each.name for each in (store.adoption() or Adoption("")).devices] == ["anna"]


def test_who_leaves_the_list_is_not_counted_on_any_more(store: Keystore, chapter: ByHand) -> None:
    anna, ben = Claim("anna", chapter.issue("anna")), Claim("ben", chapter.issue("ben"))
    adopt(store, chapter, anna, ben)
    assert [each.name for each in adopt(store, chapter, ben).devices] == ["ben"]


def test_what_has_ended_since_does_not_stop_a_run(folder: Path, store: Keystore, chapter: ByHand) -> None:
    anna = Claim("anna", chapter.issue("anna", days=10))
    by_fingerprint = Claim("ben", fingerprint="cd" * 32, until=NOW + timedelta(days=10))
    adopt(store, chapter, anna, by_fingerprint)
    later = quick_keystore(folder, now=NOW + timedelta(days=20))
    assert len(adopt(later, chapter, anna, by_fingerprint, Claim("eve", chapter.issue("eve"))).devices) == 3


# The authority is replaced in time, and trusted for as long as a device of its needs it


@pytest.mark.parametrize("by_fingerprint", [False, True])
def test_the_old_authority_is_trusted_until_its_last_device_is_gone(
    by_fingerprint: bool, folder: Path
) -> None:
    chapter = made_by_hand(days=100)
    claim = Claim("anna", chapter.issue("anna", days=90))
    if by_fingerprint:
        claim = Claim("anna", fingerprint="ab" * 32, until=NOW + timedelta(days=90))
    adopt(quick_keystore(folder), chapter, claim)

    due = NOW + timedelta(days=75)
    renewal_plan = plan_renewals(folder, [], authority=AUTHORITY_RENEWAL, devices=RENEWAL, now=due)
    assert renewal_plan.authority_due.startswith("due since")
    store = quick_keystore(folder, now=due)
    signing = store.adopt_or_create_authority(AuthorityProfile(), AUTHORITY_RENEWAL)
    assert_is_ca(signing.certificate)
    assert [each.certificate for each in store.trusted()] == [chapter.certificate, signing.certificate]
    renewal_plan = plan_renewals(folder, [], authority=AUTHORITY_RENEWAL, devices=RENEWAL, now=due)
    assert renewal_plan.authority_due == ""

    over = NOW + timedelta(days=91)
    renewal_plan = plan_renewals(folder, [], authority=AUTHORITY_RENEWAL, devices=RENEWAL, now=over)
    assert renewal_plan.authority_due.startswith("ends")
    store = quick_keystore(folder, now=over)
    store.adopt_or_create_authority(AuthorityProfile(), AUTHORITY_RENEWAL)
    assert [each.certificate for each in store.trusted()] == [signing.certificate]
    assert store.take_over(certificate=chapter.certificate_file, devices=[claim]).devices
    assert_refused(
        "has been replaced", folder, lambda: adopt(store, chapter, Claim("ben", chapter.issue("ben")))
    )


def test_a_device_that_comes_near_its_end_is_spoken_of(folder: Path, chapter: ByHand) -> None:
    near, far = chapter.issue("anna", days=59), chapter.issue("ben", days=80)
    adopt(quick_keystore(folder), chapter, Claim("anna", near), Claim("ben", far))
    [notice] = plan_renewals(folder, [], authority=RENEWAL, devices=RENEWAL, now=NOW).notices
    assert "device anna, which was taken over, ends on 2027-01-22" in notice


# Every form in which a key may lie about

KEYS = {
    "RSA-2048": ["pkey", "-in", "rsa.key"],
    "RSA-2048, PKCS#1": ["rsa", "-in", "rsa.key", "-traditional"],
    "RSA-2048, PKCS#1, encrypted": ["rsa", "-in", "rsa.key", "-traditional", "-aes256", "-passout", "stdin"],
    "RSA-2048, PKCS#8, encrypted": ["pkey", "-in", "rsa.key", "-aes256", "-passout", "stdin"],
    "EC, with its parameters": ["ecparam", "-name", "prime256v1", "-genkey"],
    "EC P-384": ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
    "EC, encrypted": [
        *("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"),
        *("-aes-256-cbc", "-pass", "stdin"),
    ],
}
"""Of an RSA key that was made once, the forms."""


def openssl(*arguments: str | Path, secret: str = "", folder: Path | None = None) -> None:
    """Run openssl; a passphrase goes by standard input."""
    command = ["openssl", *map(str, arguments)]
    subprocess.run(command, cwd=folder, input=secret, text=True, check=True, capture_output=True)


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the RSA key whose forms are tried."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    folder = tmp_path_factory.mktemp("forms")
    openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", folder / "rsa.key")
    return folder


@pytest.mark.parametrize("kind", KEYS)
def test_what_openssl_makes_is_taken_over(kind: str, forms: Path, tmp_path: Path) -> None:
    """With the chapter's own commands: an authority without a key usage, devices without identifiers."""
    ca, ca_key, request, anna = (tmp_path / name for name in ("ca.pem", "ca-key.pem", "a.csr", "anna.crt"))
    openssl(*KEYS[kind], "-out", ca_key, secret=KEY_PASSPHRASE, folder=forms)
    openssl(
        *("req", "-new", "-x509", "-days", "365", "-key", ca_key, "-out", ca, "-passin", "stdin"),
        *("-subj", "/CN=Immich Client CA/O=Personal/C=US"),
        secret=KEY_PASSPHRASE,
    )
    openssl(
        *("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
        *("-keyout", tmp_path / "anna.key", "-out", request, "-subj", "/CN=anna/O=MyOrg"),
    )
    (tmp_path / "ext.cnf").write_text("extendedKeyUsage = clientAuth\n")
    openssl(
        *("x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-out", anna),
        *("-days", "365", "-sha256", "-extfile", tmp_path / "ext.cnf", "-passin", "stdin"),
        secret=KEY_PASSPHRASE,
    )
    folder = tmp_path / "keystore"
    store = quick_keystore(folder, now=datetime.now(UTC) + timedelta(seconds=1))
    encrypted = b"ENCRYPTED" in ca_key.read_bytes()
    assert encrypted is ("encrypted" in kind)

    def take(passphrase: str | None) -> Adoption:
        return store.take_over(
            certificate=Source("ca.pem", ca.read_bytes()),
            key=Source("ca-key.pem", ca_key.read_bytes()),
            key_passphrase=passphrase,
            devices=[Claim("anna", Source("anna.crt", anna.read_bytes()))],
        )

    if encrypted:
        assert_refused("is encrypted. Set its passphrase", folder, lambda: take(None))
        assert_refused("does not open with adoptCaPassphrase", folder, lambda: take("another one"))
    [device] = take(KEY_PASSPHRASE).devices
    shown = subprocess.run(
        ["openssl", "x509", "-in", str(anna), "-noout", "-fingerprint", "-sha256"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert device.fingerprint == shown.rpartition("=")[2].strip().replace(":", "").lower()
    authority = store.adopt_or_create_authority(AuthorityProfile(), AUTHORITY_RENEWAL)
    assert authority.certificate_pem == ca.read_text()
    tablet = store.adopt_or_issue_device("tablet", DeviceProfile("tablet"))
    assert is_signed_by(tablet.certificate, authority.certificate)
    (tmp_path / "tablet.crt").write_text(tablet.certificate_pem)
    openssl("verify", "-purpose", "sslclient", "-CAfile", ca, tmp_path / "tablet.crt")


@pytest.mark.usefixtures("forms")
@pytest.mark.parametrize("digest", ["sha256", "sha1"])
def test_a_certificate_of_version_1(digest: str, tmp_path: Path, chapter: ByHand) -> None:
    """Made without an extension file; with SHA-1 no server in Go takes it."""
    ca, ca_key, request, anna = (tmp_path / name for name in ("ca.pem", "ca-key.pem", "a.csr", "anna.crt"))
    ca.write_bytes(chapter.certificate_file.content)
    ca_key.write_bytes(chapter.key_file.content)
    openssl(
        *("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
        *("-keyout", tmp_path / "anna.key", "-out", request, "-subj", "/CN=anna/O=MyOrg"),
    )
    openssl(
        *("x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-out", anna),
        *("-days", "365", f"-{digest}"),
    )
    folder = tmp_path / "keystore"
    store, claim = quick_keystore(folder), Claim("anna", Source("anna.crt", anna.read_bytes()))
    if digest == "sha1":
        assert_refused("is signed with SHA1", folder, lambda: adopt(store, chapter, claim))
    else:
        assert len(adopt(store, chapter, claim).devices) == 1


def test_a_key_of_4096_bits(store: Keystore) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=4096)
    chapter = ByHand(self_signed(key), key)
    adopt(store, chapter, Claim("anna", chapter.issue("anna")))
    assert store.adopt_or_create_authority(AuthorityProfile()).certificate == chapter.certificate


# What is refused, with nothing changed


def test_the_key_of_another_certificate(folder: Path, store: Keystore, chapter: ByHand) -> None:
    other = made_by_hand()
    assert_refused(
        "ca-key.pem is not the key of ca-cert.pem",
        folder,
        lambda: store.take_over(certificate=chapter.certificate_file, key=other.key_file),
    )
    assert not (folder / "ca.key").exists()


def test_an_authority_that_has_expired(folder: Path, store: Keystore) -> None:
    old = made_by_hand(days=-1)
    assert_refused("ca-cert.pem expired on 2026-11-23", folder, lambda: adopt(store, old))


def test_an_authority_of_tomorrow(folder: Path, chapter: ByHand) -> None:
    early = quick_keystore(folder, now=NOW - timedelta(days=500))
    assert_refused("Set this machine's clock right", folder, lambda: adopt(early, chapter))


def test_a_certificate_that_is_no_authoritys(folder: Path, store: Keystore) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = ByHand(self_signed(key, ca=False), key)
    assert_refused("is not the certificate of an authority", folder, lambda: adopt(store, leaf))


def test_a_devices_certificate_in_the_authoritys_place(
    folder: Path, store: Keystore, chapter: ByHand
) -> None:
    anna = chapter.issue("anna")
    assert_refused(
        "anna.crt is not the certificate of an authority, but of 'CN=anna, O=MyOrg'",
        folder,
        lambda: store.take_over(certificate=anna, key=chapter.key_file),
    )


def test_a_servers_certificate_without_a_subject_in_the_authoritys_place(
    folder: Path, store: Keystore, chapter: ByHand
) -> None:
    """Let's Encrypt names the server in the extension alone."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(chapter.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=10))
        .sign(chapter.key, hashes.SHA256())
    )
    server = ByHand(certificate, key)
    assert_refused(
        "is not the certificate of an authority. Name the one", folder, lambda: adopt(store, server)
    )


def test_an_authority_that_did_not_sign_itself(folder: Path, store: Keystore, chapter: ByHand) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    below = (
        x509.CertificateBuilder()
        .subject_name(subject_name(common_name="below", organization="Personal"))
        .issuer_name(chapter.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=10))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(chapter.key, hashes.SHA256())
    )
    assert_refused("did not sign itself", folder, lambda: adopt(store, ByHand(below, key)))


def test_a_key_that_may_not_sign(folder: Path, store: Keystore) -> None:
    """A key usage that is there must allow it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = subject_name(common_name="CA", organization="Personal")
    usage = {
        **dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment"), False),
        **dict.fromkeys(("key_agreement", "encipher_only", "decipher_only"), False),
    }
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=10))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=True, key_cert_sign=False, crl_sign=False, **usage), critical=True
        )
        .sign(key, hashes.SHA256())
    )
    assert_refused(
        "not the certificate of an authority", folder, lambda: adopt(store, ByHand(certificate, key))
    )


@pytest.mark.parametrize("content", [b"", b"hello", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_what_is_no_certificate(content: bytes, folder: Path, store: Keystore, chapter: ByHand) -> None:
    wrong = Source("notes.txt", content)
    assert_refused(
        "notes.txt holds no certificate",
        folder,
        lambda: store.take_over(certificate=wrong, key=chapter.key_file),
    )
    assert_refused(
        "notes.txt holds no certificate", folder, lambda: adopt(store, chapter, Claim("anna", wrong))
    )


@pytest.mark.parametrize("content", [b"", b"hello", b"-----BEGIN PRIVATE KEY-----\nAAAA\n"])
def test_what_is_no_key(content: bytes, folder: Path, store: Keystore, chapter: ByHand) -> None:
    wrong = Source("notes.txt", content)
    assert_refused(
        "notes.txt holds no private key",
        folder,
        lambda: store.take_over(certificate=chapter.certificate_file, key=wrong),
    )


def test_a_kind_of_key_that_certifies_no_device(folder: Path, store: Keystore) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    certificate = Source("ca-cert.pem", pem(self_signed(key)))
    assert_refused(
        "ca-key.pem is a key of the kind Ed25519",
        folder,
        lambda: store.take_over(certificate=certificate, key=Source("ca-key.pem", plain(key))),
    )


def test_a_device_of_another_authority(folder: Path, store: Keystore, chapter: ByHand) -> None:
    """Also of one with the very same name, made a second time."""
    foreign = made_by_hand().issue("anna")
    assert_refused(
        "anna.crt, the certificate of the device 'anna', was not issued by 'CN=Immich Client CA",
        folder,
        lambda: adopt(store, chapter, Claim("anna", foreign)),
    )
    assert not (folder / "ca.crt").exists()


def test_a_device_whose_certificate_has_ended(folder: Path, store: Keystore, chapter: ByHand) -> None:
    ended = chapter.issue("anna", days=-1)
    assert_refused("ended on 2026-11-23", folder, lambda: adopt(store, chapter, Claim("anna", ended)))
    claim = Claim("anna", fingerprint="ab" * 32, until=NOW - timedelta(days=1))
    assert_refused("ended on 2026-11-23", folder, lambda: adopt(store, chapter, claim))


def test_a_servers_certificate(folder: Path, store: Keystore, chapter: ByHand) -> None:
    server = chapter.issue("anna", usage=ExtendedKeyUsageOID.SERVER_AUTH)
    assert_refused("is for servers", folder, lambda: adopt(store, chapter, Claim("anna", server)))
    assert adopt(store, chapter, Claim("anna", chapter.issue("anna", usage=None))).devices


def test_two_devices_with_one_certificate(folder: Path, store: Keystore, chapter: ByHand) -> None:
    anna = chapter.issue("anna")
    twin = Claim(
        "ben", fingerprint=fingerprint(parse_certificate(anna.content)).upper(), until=NOW + timedelta(9)
    )
    assert_refused(
        "'anna' and 'ben' in `adopt.devices` share one certificate",
        folder,
        lambda: adopt(store, chapter, Claim("anna", anna), twin),
    )


def test_a_keystore_with_another_authority(folder: Path, store: Keystore, chapter: ByHand) -> None:
    store.adopt_or_create_authority(AuthorityProfile())
    assert_refused("already holds another authority", folder, lambda: adopt(store, chapter))


def test_a_keystore_that_took_over_another_one(folder: Path, store: Keystore, chapter: ByHand) -> None:
    adopt(store, made_by_hand())
    assert_refused("already holds another authority", folder, lambda: adopt(store, chapter))


def test_a_keystore_that_has_begun_another_one(folder: Path, store: Keystore, chapter: ByHand) -> None:
    """A run that made an authority died before it wrote the certificate."""
    store.adopt_or_create_authority(AuthorityProfile())
    (folder / "ca.crt").unlink()
    assert_refused("already holds another authority", folder, lambda: adopt(store, chapter))


def test_nothing_to_take_over(folder: Path, store: Keystore, chapter: ByHand) -> None:
    assert_refused("are both needed", folder, lambda: store.take_over(certificate=chapter.certificate_file))
    assert_refused("are both needed", folder, lambda: store.take_over(key=chapter.key_file))


def test_a_device_that_nobody_knows(folder: Path, store: Keystore, chapter: ByHand) -> None:
    assert_refused("There is no certificate", folder, lambda: adopt(store, chapter, Claim("anna")))


def test_a_certificate_that_was_revoked_here(folder: Path, store: Keystore, chapter: ByHand) -> None:
    adopt(store, chapter)
    store.adopt_or_create_authority(AuthorityProfile())
    lost = store.adopt_or_issue_device("lost", DeviceProfile("lost"))
    store.revoke_device("lost", lost.fingerprint)
    claim = Claim("found", Source("lost.crt", lost.certificate_pem.encode()))
    assert_refused("was revoked", folder, lambda: adopt(store, chapter, claim))


def test_another_passphrase_of_the_keystore(folder: Path, chapter: ByHand) -> None:
    adopt(quick_keystore(folder), chapter)
    (folder / "ca.crt").unlink()
    other = quick_keystore(folder, "another horse, another battery")
    assert_refused("does not open with this passphrase", folder, lambda: adopt(other, chapter))
    assert_refused("at least 12 characters", folder, lambda: adopt(quick_keystore(folder, "short"), chapter))


def test_the_keystore_of_another_stack(folder: Path, chapter: ByHand) -> None:
    adopt(quick_keystore(folder), chapter)
    other = quick_keystore(folder, stack="cabin")
    assert_refused("belongs to the stack 'home'", folder, lambda: adopt(other, chapter))


@pytest.mark.parametrize("content", ["{", '{"format": 2}', '{"format": 1, "authority": "ab", "devices": []}'])
def test_a_damaged_note(content: str, folder: Path, store: Keystore, chapter: ByHand) -> None:
    adopt(store, chapter)
    (folder / "adopted.json").write_text(content)
    assert_refused("adopted.json is damaged", folder, lambda: adopt(store, chapter))
    assert ["adopted.json is damaged" in finding.sentence for finding in store.inspect()] == [True]
    assert plan_renewals(folder, [], authority=RENEWAL, devices=RENEWAL, now=NOW).authority_due == ""


# Runs that are killed


def test_a_run_that_is_killed_is_completed_by_the_next(tmp_path: Path, chapter: ByHand) -> None:
    claim = Claim("anna", chapter.issue("anna"))
    for folder, store in deaths(None, tmp_path, lambda store: adopt(store, chapter, claim)):
        adoption = adopt(store, chapter, claim)
        assert adoption.authority == fingerprint(chapter.certificate)
        authority = store.adopt_or_create_authority(AuthorityProfile(country="DE"))
        assert authority.certificate == chapter.certificate
        assert json.loads((folder / "adopted.json").read_text())["devices"].keys() == {"anna"}
        assert store.inspect() == []
