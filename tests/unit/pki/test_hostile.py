"""A keystore or a backup that somebody else has had in hand: it is refused, quickly and in a sentence."""

import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from pki import AuthorityProfile, Claim, DeviceProfile, Keystore, KeystoreError, Source
from pki import key as keys
from pki.backup import pack, read_keystore, unpack
from pki.commands import main
from pki.files import FILE_LIMIT
from pki.key import decrypt_key, encrypt_key
from pki.passphrase import is_weak
from pki.work_factor import EndlessError, refuse_endless

PASSPHRASE = "correct horse battery"
PHONE = DeviceProfile("phone")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A keystore with an authority and one device."""
    folder = tmp_path_factory.mktemp("made") / "keystore"
    store = open_keystore(folder)
    store.adopt_or_create_authority(AuthorityProfile())
    store.adopt_or_issue_device("phone", PHONE)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(made, tmp_path / "keystore"))


def open_keystore(folder: Path, passphrase: str = PASSPHRASE) -> Keystore:
    return Keystore(folder, passphrase, stack="home", kdf_rounds=2)


# Links, and what is no file


def issue(folder: Path) -> object:
    return open_keystore(folder).adopt_or_issue_device("phone", PHONE)


def test_a_folder_that_is_a_link_is_not_followed(folder: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o755)
    for name in ("devices", "previous", "revoked"):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).symlink_to(victim)
        with pytest.raises(KeystoreError, match=f"{name} is a link, and a keystore has none"):
            issue(folder)
        (folder / name).unlink()
    assert victim.stat().st_mode & 0o777 == 0o755 and not list(victim.iterdir())


@pytest.mark.parametrize(
    "name", ["ca.crt", "ca.key", "keystore.json", "revoked.json", "devices/phone.crt", "devices/phone.key"]
)
def test_a_file_that_is_a_link_is_not_followed(folder: Path, tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes((folder / name).read_bytes() if (folder / name).exists() else b"{}")
    victim.chmod(0o644)
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(victim)
    with pytest.raises(KeystoreError, match=f"{name} is a link"):
        open_keystore(folder).adopt_or_create_authority(AuthorityProfile())
        issue(folder)
    assert victim.stat().st_mode & 0o777 == 0o644


def test_a_pipe_is_not_waited_for(folder: Path) -> None:
    (folder / "devices/phone.key").unlink()
    os.mkfifo(folder / "devices/phone.key")
    with pytest.raises(KeystoreError, match="not a regular file"):
        issue(folder)


def test_a_file_that_is_far_too_large_is_not_read(folder: Path) -> None:
    os.truncate(folder / "devices/phone.crt", FILE_LIMIT * 1024)
    with pytest.raises(KeystoreError, match="4096 MiB, far more"):
        issue(folder)


def test_the_keystore_itself_may_be_a_link_of_its_owner(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    assert open_keystore(tmp_path / "link").inspect() == []


@pytest.mark.parametrize(
    "name", [b"\x1b]52;c;cm0gLXJmIH4K\x07.txt", "\u009b2J\u202egnp".encode(), b"\xff\xfe.key", b"a\nb"]
)
def test_what_somebody_else_has_named_is_shown_in_letters(
    folder: Path, tmp_path: Path, name: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(os.fsdecode(os.fsencode(folder / "devices") + b"/" + name)).touch()
    marker = json.loads((folder / "keystore.json").read_bytes())
    marker["stack"] = os.fsdecode(name)
    (folder / "keystore.json").write_text(json.dumps(marker))
    passphrase = tmp_path / "passphrase"
    passphrase.write_text(f"{PASSPHRASE}\n")
    assert main([str(folder), "check", "--passphrase-file", str(passphrase)]) == 1
    assert main([str(folder), "list"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert "does not belong to" in printed[0] and "keystore of the stack" in printed[1]
    assert all(line.isprintable() and line.isascii() for line in printed)


def test_a_name_longer_than_any_of_ours_is_refused_before_it_is_written(tmp_path: Path) -> None:
    backup = pack({PurePosixPath(f"devices/{'a' * 300}.key"): b"x"}, datetime.now(UTC))
    with pytest.raises(KeystoreError, match="is not a file of a keystore"):
        open_keystore(tmp_path / "new").restore(backup)


# Documents and archives


@pytest.mark.parametrize("name", ["keystore.json", "adopted.json", "revoked.json", "devices/phone.password"])
def test_a_document_that_is_nested_too_deep_is_damaged(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"[" * 200_000)
    with pytest.raises(KeystoreError, match=r"damaged"):
        open_keystore(folder).adopt_or_create_authority(AuthorityProfile())
        issue(folder)


def archive(*members: tuple[tarfile.TarInfo, bytes], shape: int = tarfile.PAX_FORMAT) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=shape) as tar:
        for member, content in members:
            tar.addfile(member, io.BytesIO(content))
    return target.getvalue()


def test_a_manifest_that_is_nested_too_deep_is_refused(tmp_path: Path) -> None:
    member = tarfile.TarInfo("manifest.json")
    member.size = 200_000
    with pytest.raises(KeystoreError, match="its manifest is damaged"):
        open_keystore(tmp_path / "new").restore(archive((member, b"[" * 200_000)))


def holes_of_gnu(size: int) -> bytes:
    """One member of tar's old sparse form (GNU): a head that stands for `size` bytes of nothing."""
    member = tarfile.TarInfo("devices/a.key")
    member.type = tarfile.GNUTYPE_SPARSE
    head = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    head[386:410] = b"%011o\0%011o\0" % (size, 0)
    head[410:482] = bytes(72)
    head[482:495] = b"\0%011o\0" % size
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head[:512])
    return bytes(head) + bytes(1024)


def holes_of_pax(size: int) -> bytes:
    member = tarfile.TarInfo("devices/a.key")
    member.pax_headers = {
        "GNU.sparse.major": "0",
        "GNU.sparse.minor": "1",
        "GNU.sparse.name": "devices/a.key",
        "GNU.sparse.size": str(size),
        "GNU.sparse.map": f"{size},0",
    }
    return archive((member, b""))


@pytest.mark.parametrize("make", [holes_of_gnu, holes_of_pax])
def test_a_backup_of_holes_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[int], bytes]
) -> None:
    def read(*_: object) -> bytes:
        raise AssertionError("it was read")

    monkeypatch.setattr(tarfile.ExFileObject, "read", read)
    with pytest.raises(KeystoreError, match="is not a regular file"):
        open_keystore(tmp_path / "new").restore(make(FILE_LIMIT))


# Work factors


def key_of(rounds: int, monkeypatch: pytest.MonkeyPatch) -> bytes:
    with monkeypatch.context() as patch:
        patch.setattr(keys, "derive", lambda *_: bytes(32))
        return encrypt_key(ec.generate_private_key(ec.SECP256R1()), PASSPHRASE, rounds)


@pytest.mark.parametrize("rounds", [10_000_001, 2**31 - 1, 2**31, 2**63 - 1])
def test_a_key_that_counts_for_ever_is_not_opened(
    folder: Path, monkeypatch: pytest.MonkeyPatch, rounds: int
) -> None:
    pem = key_of(rounds, monkeypatch)
    with pytest.raises(EndlessError, match="rounds"):
        decrypt_key(pem, PASSPHRASE)
    (folder / "ca.key").write_bytes(pem)
    assert any("ca.key is damaged" in each.sentence for each in open_keystore(folder).inspect())


def test_an_authority_of_somebody_else_that_counts_for_ever_is_not_opened(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = Source("ca-cert.pem", (made / "ca.crt").read_bytes())
    key = Source("ca-key.pem", key_of(2**31 - 1, monkeypatch))
    with pytest.raises(KeystoreError, match="ca-key.pem was not opened: it asks for more than"):
        open_keystore(tmp_path / "new").take_over(
            certificate=certificate, key=key, key_passphrase="x", devices=[Claim("a")]
        )


def data(octets: bytes) -> bytes:
    """A ContentInfo (RFC 5652) of type data: identifier, and the octets in an explicit tag."""
    explicit = bytes([0xA0, len(octets) + 2, 0x04, len(octets)]) + octets
    identifier = bytes.fromhex("06092a864886f70d010701")
    return bytes([0x30, len(identifier) + len(explicit)]) + identifier + explicit


# The parameters of scrypt, made by `openssl pkcs8 -topk8 -scrypt`: they say how much memory it takes.
SCRYPT = bytes.fromhex("3026301906092b06010401da47040b300c0408000000000000000002024000020108020101")


def test_what_could_hide_a_number_is_refused() -> None:
    refuse_endless(bytes.fromhex("30060201010401aa"))
    with pytest.raises(EndlessError):
        refuse_endless(SCRYPT)
    inside = bytes.fromhex("3006020400989681")  # 10,000,001
    with pytest.raises(EndlessError):
        refuse_endless(data(inside))
    for hidden in (
        data(b"\x30\x80" + inside + b"\0\0"),
        b"\x30\x80" + inside + b"\0\0",  # a length that is not said
        b"\x24\x0c\x04\x04" + inside[:4] + b"\x04\x04" + inside[4:],  # octets in pieces
        b"\x30\x82\xff\xff" + inside,  # cut short
        bytes.fromhex("30 1e" * 30) + inside,
    ):
        with pytest.raises(ValueError):
            refuse_endless(hidden)


@pytest.mark.parametrize("salt", ["300e00" + 13 * "ff", "300e02047fffffff" + 8 * "00", "3080" + 14 * "00"])
def test_a_salt_that_happens_to_look_like_der_hides_nothing(
    salt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    monkeypatch.setattr("os.urandom", lambda size: bytes.fromhex(salt)[:size])
    opened = decrypt_key(encrypt_key(key, PASSPHRASE, 10), PASSPHRASE)
    assert opened.private_numbers() == key.private_numbers()


def test_a_bundle_that_counts_for_ever_is_not_opened(folder: Path) -> None:
    bundle = folder / "devices/phone.p12"
    content = bundle.read_bytes()
    # The rounds of the MAC come last (RFC 7292, MacData); three lengths grow with them.
    assert content.endswith(bytes.fromhex("02020800"))
    mac = content.rindex(bytes.fromhex("3021300906052b0e03021a0500")) - 2  # a DigestInfo of SHA-1
    assert content[mac : mac + 2] == bytes([0x30, len(content) - mac - 2])
    longer = content[mac + 2 : -4] + bytes.fromhex("02047fffffff")
    outer = content[4:mac] + bytes([0x30, len(longer)]) + longer
    bundle.write_bytes(b"\x30\x82" + len(outer).to_bytes(2, "big") + outer)
    with pytest.raises(KeystoreError, match=r"phone\.p12 is damaged"):
        issue(folder)


# Passphrases


@pytest.mark.parametrize(
    "weak",
    [
        "aaaaaaaaaaaa",
        "123456789012",
        "password1234",
        "P@ssw0rd1234",
        "            ",
        "abcabcabcabc",
        "qwertyuiop12",
        "111222333444",
        "aabbccddeeff",
        "Hello12345678",
        "Sommer2024!!",
        "immichimmich",
        "ababababababc",
        "12.12.121212",
    ],
)
def test_a_passphrase_that_is_easily_guessed_makes_no_keystore(tmp_path: Path, weak: str) -> None:
    with pytest.raises(KeystoreError, match="easily guessed"):
        open_keystore(tmp_path / "new", weak).adopt_or_create_authority(AuthorityProfile())
    assert not (tmp_path / "new/ca.key").exists()


@pytest.mark.parametrize(
    "strong",
    [
        PASSPHRASE,
        "correct horse",
        "xkqzvbhwplmt",
        "k7mf2xqp9wdt",
        "mein hund heisst rex",
        "写真を守るための言葉たち",
    ],
)
def test_a_good_one_is_taken(strong: str) -> None:
    assert not is_weak(strong)


def test_a_weak_one_is_no_new_passphrase_and_still_opens_what_has_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeystoreError, match="easily guessed"):
        open_keystore(folder).change_passphrase("aaaaaaaaaaaa")
    with monkeypatch.context() as patch:
        patch.setattr("pki.access.is_weak", lambda _: False)
        open_keystore(folder).change_passphrase("aaaaaaaaaaaa")
    assert open_keystore(folder, "aaaaaaaaaaaa").inspect() == []


# What was revoked


def test_files_that_are_moved_back_stay_revoked(folder: Path) -> None:
    store = open_keystore(folder)
    lost = store.adopt_or_issue_device("phone", PHONE)
    store.revoke_device("phone", lost.fingerprint)
    for file in (folder / "revoked").iterdir():
        file.rename(folder / "devices" / f"phone{file.suffix}")
    assert open_keystore(folder).probe_credentials() == []
    copy = open_keystore(Path(shutil.copytree(folder, folder.parent / "checked")))
    [finding] = copy.inspect()
    assert lost.fingerprint in finding.sentence and "was revoked" in finding.sentence
    assert copy.inspect() == []
    assert open_keystore(folder).adopt_or_issue_device("phone", PHONE).fingerprint != lost.fingerprint


def test_a_backup_in_which_a_revoked_device_is_in_use_is_refused(folder: Path, tmp_path: Path) -> None:
    store = open_keystore(folder)
    fingerprint = store.adopt_or_issue_device("phone", PHONE).fingerprint
    noted = {"format": 1, "revoked": {fingerprint: {"name": "phone", "at": "2026-01-01T00:00:00+00:00"}}}
    honest = store.backup()
    assert b"revoked.json" not in honest
    (folder / "revoked.json").write_text(json.dumps(noted))
    backup = pack(read_keystore(folder), store._access.clock())
    assert len(unpack(backup)) == len(unpack(honest)) + 1
    with pytest.raises(KeystoreError, match="phone.crt was revoked, but is still in use"):
        open_keystore(tmp_path / "new").restore(backup)
