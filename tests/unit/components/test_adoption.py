"""What the program takes over of an exposure made by hand: config, files, and what the server is told."""

from __future__ import annotations

import asyncio
import base64
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pulumi
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from components import adoption, certificate_authority
from components.adoption import AdoptedCertificate, note_files, read_places, with_predecessor
from components.config.adopt import (
    AdoptConfig,
    AdoptedDeviceConfig,
    check_names,
    check_opener,
    read_adopt,
    read_opener,
)
from components.config.reader import Problems, Section
from components.engine.operator_error import OperatorError
from components.remote.chapter_bans import BAN_LIST, ban_name, bans_in
from components.remote.remote_script import Server, script_text
from pki import KeystoreError
from pki.certificate import fingerprint, parse_certificate, pem
from tests.unit.components.test_exposure import run_program
from tests.unit.components.test_keystore_refusals import authority_props, digest

PASSPHRASE = "correct horse battery staple"
KEY_PASSPHRASE = "the chapter's own passphrase"
NOW = datetime.now(UTC)
CA, CA_KEY, ANNA = (
    "server:/var/lib/certs/ca-cert.pem",
    "server:/mnt/secrets/ca-key.pem",
    "server:/root/anna.crt",
)


# What was made by hand


def make(
    subject: str, issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None = None, days: int = 365
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Make a certificate: an authority that signs itself, or a device of an issuer's."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name if issuer is None else issuer[0].subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(days=400))
        .not_valid_after(NOW + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    return builder.sign(key if issuer is None else issuer[1], hashes.SHA256()), key


def key_pem(key: ec.EllipticCurvePrivateKey, passphrase: str | None = None) -> bytes:
    encryption = (
        serialization.NoEncryption()
        if passphrase is None
        else serialization.BestAvailableEncryption(passphrase.encode())
    )
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


class Chapter:
    """A server on which the chapter was done by hand; it answers in place of SSH."""

    def __init__(self) -> None:
        self.authority = make("Immich Client CA")
        self.files: dict[str, bytes] = {
            CA: pem(self.authority[0]),
            CA_KEY: key_pem(self.authority[1]),
            ANNA: pem(make("anna", self.authority)[0]),
            f"server:{BAN_LIST}": b"remote_ip 203.0.113.9\n",
        }
        self.asked: list[str] = []

    def answer(self, server: Server, command: str, text: str) -> str:
        assert text == script_text("adopt")
        assert command.startswith("sudo -n sh -s -- read ")
        paths = command.removeprefix("sudo -n sh -s -- read ").split(" ")
        self.asked = [f"server:{path}" for path in paths]
        lines = [
            base64.b64encode(self.files[place]).decode() if place in self.files else "-"
            for place in self.asked
        ]
        return "".join(f"{line}\n" for line in lines)


@pytest.fixture
def chapter(monkeypatch: pytest.MonkeyPatch) -> Chapter:
    chapter = Chapter()
    monkeypatch.setattr(adoption, "run_script", chapter.answer)
    return chapter


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "keystore"


def props(folder: Path, **changes: Any) -> dict[str, Any]:
    """Return the inputs as the engine hands them to the provider: numbers are floats, None is nowhere."""
    return {
        "host": "192.168.1.20",
        "port": 22.0,
        "user": "admin",
        "hostKey": "ssh-ed25519 AAAA",
        "keystore": str(folder),
        "stack": "home",
        "passphrase": PASSPHRASE,
        "caCertificate": CA,
        "caKey": CA_KEY,
        "devices": [{"name": "phone-anna", "certificate": ANNA}],
        **changes,
    }


def create(folder: Path, **changes: Any) -> dict[str, Any]:
    outputs = adoption._Provider().create(props(folder, **changes)).outs
    assert outputs is not None
    return outputs


def assert_refused(folder: Path, sentence: str, **changes: Any) -> None:
    """The engine is told one sentence, nothing of the keystore changes, and no secret stands in it."""
    before = digest(folder) if folder.exists() else {}
    try:
        create(folder, **changes)
    except (KeystoreError, OperatorError):
        told = traceback.format_exc()
        assert told.count("\n") == 1, told
        assert sentence in told
        assert told.endswith(".\n")
        assert KEY_PASSPHRASE not in told and PASSPHRASE not in told and "PRIVATE" not in told
    else:
        raise AssertionError("it should have been refused")
    after = digest(folder) if folder.exists() else {}
    assert {name: content for name, content in after.items() if name != ".lock"} == {
        name: content for name, content in before.items() if name != ".lock"
    }


# The provider


def test_all_of_it_is_taken_over(folder: Path, chapter: Chapter) -> None:
    outputs = create(folder)
    anna = parse_certificate(chapter.files[ANNA])
    assert outputs["authority"] == fingerprint(chapter.authority[0])
    assert outputs["adopted"] == {
        "phone-anna": {
            "fingerprint": fingerprint(anna),
            "notAfter": anna.not_valid_after_utc.isoformat(),
        }
    }
    assert set(outputs["files"]) == {CA, CA_KEY, ANNA, f"server:{BAN_LIST}"}
    assert outputs["bans"] == ["203.0.113.9"]


def test_no_key_leaves_the_keystore(folder: Path, chapter: Chapter) -> None:
    outputs = create(folder)
    assert "PRIVATE KEY" not in str(outputs)
    assert all(
        b"-----BEGIN PRIVATE KEY" not in path.read_bytes() for path in folder.rglob("*") if path.is_file()
    )


def test_the_authoritys_own_step_finds_it_there(folder: Path, chapter: Chapter) -> None:
    """Although its profile is not the config's: nothing is replaced."""
    create(folder)
    created = certificate_authority._Provider().create(authority_props(folder, country="DE", devices=[]))
    assert created.outs is not None
    assert created.outs["certificatePem"] == chapter.files[CA].decode()
    assert created.outs["trusted"] == [fingerprint(chapter.authority[0])]


def test_the_key_is_read_once(folder: Path, chapter: Chapter) -> None:
    create(folder)
    assert chapter.asked == [CA, CA_KEY, ANNA, f"server:{BAN_LIST}"]
    create(folder)
    assert chapter.asked == [CA, ANNA, f"server:{BAN_LIST}"]


def test_the_leftovers_may_be_gone(folder: Path, chapter: Chapter) -> None:
    """After a state that was lost, or a destroy: the keystore has it all."""
    first = create(folder)
    before = digest(folder)
    chapter.files.clear()
    again = create(folder)
    assert (again["authority"], again["adopted"]) == (first["authority"], first["adopted"])
    assert again["bans"] == []
    assert digest(folder) == before


def test_files_here_and_there(folder: Path, chapter: Chapter, tmp_path: Path) -> None:
    anna = tmp_path / "anna.crt"
    anna.write_bytes(chapter.files.pop(ANNA))
    outputs = create(folder, devices=[{"name": "anna", "certificate": str(anna)}])
    assert outputs["files"].keys() == {CA, CA_KEY, str(anna), f"server:{BAN_LIST}"}


def test_an_encrypted_key(folder: Path, chapter: Chapter) -> None:
    chapter.files[CA_KEY] = key_pem(chapter.authority[1], KEY_PASSPHRASE)
    assert_refused(folder, "is encrypted. Set its passphrase")
    assert_refused(folder, "does not open with adoptCaPassphrase", caKeyPassphrase="another one")
    assert create(folder, caKeyPassphrase=KEY_PASSPHRASE)["authority"] == fingerprint(chapter.authority[0])


def test_a_device_by_its_fingerprint(folder: Path, chapter: Chapter) -> None:
    until = (NOW + timedelta(days=5)).isoformat()
    outputs = create(folder, devices=[{"name": "anna", "fingerprint": "ab" * 32, "until": until}])
    assert outputs["adopted"] == {"anna": {"fingerprint": "ab" * 32, "notAfter": until}}


@pytest.mark.parametrize("place", [CA, CA_KEY, ANNA])
def test_a_file_that_is_not_there(place: str, folder: Path, chapter: Chapter) -> None:
    del chapter.files[place]
    assert_refused(folder, f"There is no file {place.removeprefix('server:')} on the server")


def test_a_file_that_is_not_here(folder: Path, chapter: Chapter, tmp_path: Path) -> None:
    assert_refused(folder, "ca.pem on this machine", caCertificate=str(tmp_path / "ca.pem"))
    assert_refused(folder, "cannot be read", caCertificate=str(tmp_path))


def test_what_does_not_fit_is_refused_before_anything_is_kept(folder: Path, chapter: Chapter) -> None:
    other = make("Immich Client CA")
    for place, content, sentence in (
        (CA_KEY, key_pem(other[1]), "is not the key of"),
        (CA, pem(make("Immich Client CA", days=-1)[0]), "expired on"),
        (CA, chapter.files[ANNA], "is not the certificate of an authority"),
        (ANNA, pem(make("anna", other)[0]), "was not issued by"),
    ):
        kept, chapter.files[place] = chapter.files[place], content
        assert_refused(folder, sentence)
        chapter.files[place] = kept
    twice = [{"name": name, "certificate": ANNA} for name in ("anna", "ben")]
    assert_refused(folder, "share one certificate", devices=twice)
    assert not (folder / "ca.key").exists()


def test_a_keystore_with_another_authority(folder: Path, chapter: Chapter) -> None:
    certificate_authority._Provider().create(authority_props(folder, devices=[]))
    assert_refused(folder, "already holds another authority")


def test_a_server_that_prints_text_at_login(
    folder: Path, chapter: Chapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chatty(server: Server, command: str, text: str) -> str:
        return "Welcome!\n" + chapter.answer(server, command, text)

    monkeypatch.setattr(adoption, "run_script", chatty)
    assert_refused(folder, "prints text at login")


def test_an_answer_that_is_cut_off(folder: Path, chapter: Chapter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adoption, "run_script", lambda *_: "AAA\n" * 4)
    assert_refused(folder, "did not arrive completely")


def test_nothing_is_asked_of_the_server_for_files_that_lie_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> str:
        raise AssertionError("nothing is to be asked")

    monkeypatch.setattr(adoption, "run_script", refuse)
    (tmp_path / "ca.pem").write_bytes(b"x")
    server = Server("192.168.1.20", 22, "admin", "ssh-ed25519 AAAA", None)
    found = read_places(server, [str(tmp_path / "ca.pem"), str(tmp_path / "none")])
    assert [source and source.content for source in found.values()] == [b"x", None]


def test_a_file_that_is_far_too_large(tmp_path: Path) -> None:
    (tmp_path / "film").write_bytes(b"x" * 300_000)
    server = Server("192.168.1.20", 22, "admin", "ssh-ed25519 AAAA", None)
    with pytest.raises(OperatorError, match="far too large"):
        read_places(server, [str(tmp_path / "film")])


def changes(olds: Mapping[str, Any], **news: Any) -> bool | None:
    return adoption._Provider().diff("adoption", dict(olds), {**olds, **news}).changes


def test_a_change_is_what_is_taken_over_and_nothing_else(folder: Path, chapter: Chapter) -> None:
    olds = create(folder)
    assert changes(olds) is False
    assert changes(olds, host="192.168.1.21", passphrase="another one, long enough") is False
    assert changes(olds, devices=[]) is True
    assert changes(olds, caCertificate="ca.pem") is True


def test_a_ban_that_was_lifted_stays_lifted(folder: Path, chapter: Chapter) -> None:
    olds = create(folder)
    chapter.files[f"server:{BAN_LIST}"] += b"remote_ip 198.51.100.7\n"
    outputs = adoption._Provider().update("adoption", olds, props(folder, devices=[])).outs
    assert outputs is not None
    assert outputs["bans"] == ["203.0.113.9"]
    assert outputs["adopted"] == {}


# What the server is told


def test_the_note_names_what_lay_on_the_server() -> None:
    files = {CA: "aa" * 32, "ca-key.pem": "bb" * 32}
    [note, bans] = note_files(files, ["203.0.113.9", "2001:db8::_64"], "/etc/nixos")
    assert (note.path, bans.path) == ("adopted", "bans")
    assert note.text == (f"configuration /etc/nixos\n{'bb' * 32} -\n{'aa' * 32} /var/lib/certs/ca-cert.pem\n")
    assert bans.text == "203.0.113.9\n2001:db8::_64\n"
    assert note_files({}, [], None)[0].text == "configuration -\n"


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("203.0.113.9/32", "203.0.113.9"),
        ("2001:db8::9/128", "2001:db8::9"),
        ("203.0.113.0/24", None),
        ("2001:db8::/32", None),
        ("0.0.0.0/0", None),
        ("remote_ip", None),
        ("", None),
    ],
)
def test_a_range_is_banned_if_it_is_one_address(word: str, name: str | None) -> None:
    """Addresses and /64s are in the table that all who name such files share (tests/ban_names.py)."""
    assert ban_name(word) == name


def test_the_chapters_list_of_bans() -> None:
    text = (
        "remote_ip 203.0.113.9\n\nremote_ip 203.0.113.9\n# remote_ip 198.51.100.1\n"
        "remote_ip 198.51.100.7 2001:db8::9 # a night in May\nrubbish { }\nremote_ip <ip>\n"
    )
    assert bans_in(text) == ("198.51.100.7", "2001:db8::9", "203.0.113.9")


# The config


def read(project: Path, adopt: Any) -> tuple[AdoptConfig | None, list[str]]:
    problems = Problems()
    top = Section({} if adopt is None else {"adopt": adopt}, problems)
    config = read_adopt(top, project)
    top.refuse_unknown()
    return config, problems.lines


def test_nothing_is_taken_over_unless_it_is_asked_for(tmp_path: Path) -> None:
    assert read(tmp_path, None) == (None, [])
    assert read(tmp_path, {}) == (None, [])


def test_every_way_to_name_a_device(tmp_path: Path) -> None:
    (tmp_path / "anna.crt").write_bytes(pem(make("phone-anna", make("CA"))[0]))
    adopt = {
        "caCertificate": CA,
        "caKey": "ca-key.pem",
        "devices": [
            {"certificate": "anna.crt"},
            {"name": "ben", "certificate": "server:/root/ben.crt"},
            {"name": "eve", "fingerprint": ":".join(["AB"] * 32), "until": "2030-06-30"},
        ],
    }
    config, problems = read(tmp_path, adopt)
    assert problems == []
    assert config is not None
    assert (config.ca_certificate, config.ca_key) == (CA, "ca-key.pem")
    assert config.devices == (
        AdoptedDeviceConfig("phone-anna", "anna.crt", None, None),
        AdoptedDeviceConfig("ben", "server:/root/ben.crt", None, None),
        AdoptedDeviceConfig("eve", None, "ab" * 32, datetime(2030, 6, 30, tzinfo=UTC)),
    )


BOTH = {"caCertificate": CA, "caKey": CA_KEY}
EVE = {"name": "eve", "fingerprint": "ab" * 32, "until": "2030-06-30"}


@pytest.mark.parametrize(
    ("adopt", "words"),
    [
        ({"devices": []}, ["adopt.caCertificate is not set", "adopt.caKey is not set"]),
        ("ca.pem", ["must be a group"] + ["is not set"] * 2),
        ({**BOTH, "key": "x"}, ["adopt.key is not a known key"]),
        ({**BOTH, "caKey": "server:ca-key.pem"}, ["absolute path on the server"]),
        ({**BOTH, "caKey": "-----BEGIN PRIVATE KEY-----\nAAAA"}, ["must be the path of a file"]),
        ({**BOTH, "devices": [{"certificate": "server:/root/ben.crt"}]}, ["devices[0].name is not set"]),
        ({**BOTH, "devices": [{"name": "a/b", "certificate": "ben.crt"}]}, ["devices[0].name = 'a/b'"]),
        ({**BOTH, "devices": [{"certificate": "none.crt"}]}, ["cannot be read"]),
        ({**BOTH, "devices": [{"certificate": "notes.txt"}]}, ["holds no certificate"]),
        (
            {**BOTH, "devices": [{"certificate": "spaces.crt"}]},
            ['common name "Anna\'s phone" must be 1 to 63'],
        ),
        ({**BOTH, "devices": [{"name": "eve"}]}, ["fingerprint is not set", "until is not set"]),
        ({**BOTH, "devices": [{**EVE, "fingerprint": "ab"}]}, ["openssl x509"]),
        ({**BOTH, "devices": [{**EVE, "until": "June"}]}, ["must be the date"]),
        ({**BOTH, "devices": [{**EVE, "certificate": "eve.crt"}]}, ["leave those two out"]),
        ({**BOTH, "devices": [{**EVE, "platform": "ios"}]}, ["platform is not a known key"]),
        (
            {**BOTH, "devices": [EVE, {**EVE, "fingerprint": "cd" * 32, "name": "Eve"}]},
            ["another device here"],
        ),
        ({**BOTH, "devices": [EVE, {**EVE, "name": "ben"}]}, ["is also that of 'eve'"]),
    ],
)
def test_mistakes_are_told(adopt: Any, words: list[str], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "spaces.crt").write_bytes(pem(make("Anna's phone")[0]))
    _, problems = read(tmp_path, adopt)
    assert len(problems) == len(words), problems
    for problem, word in zip(problems, words, strict=True):
        assert word in problem
    assert "AAAA" not in str(problems)


@pytest.mark.parametrize(
    ("passphrase", "adopt", "secret_keys", "words"),
    [
        (KEY_PASSPHRASE, BOTH, (), "must be stored encrypted"),
        (KEY_PASSPHRASE, {}, ("adoptCaPassphrase",), "adopt is not set"),
        (12345, BOTH, ("adoptCaPassphrase",), "must be text"),
    ],
)
def test_a_passphrase_that_will_not_do(
    passphrase: object, adopt: Any, secret_keys: tuple[str, ...], words: str
) -> None:
    problems = Problems(hidden=["adoptCaPassphrase"])
    check_opener(Section({"adopt": adopt, "adoptCaPassphrase": passphrase}, problems), secret_keys)
    [problem] = problems.lines
    assert words in problem
    assert KEY_PASSPHRASE not in problem


def test_the_passphrase_is_secret(loop: asyncio.AbstractEventLoop) -> None:
    problems = Problems()
    top = Section({"adopt": BOTH, "adoptCaPassphrase": KEY_PASSPHRASE}, problems)
    check_opener(top, ["adoptCaPassphrase"])
    assert problems.lines == []
    opener = read_opener(top)
    assert opener is not None
    assert loop.run_until_complete(opener.is_secret()) is True
    assert read_opener(Section({}, problems)) is None


@pytest.mark.parametrize(("devices", "count"), [(["phone", "laptop"], 0), (["Phone"], 1), ([], 0)])
def test_one_device_may_have_a_certificate_of_ours_as_well(devices: list[str], count: int) -> None:
    problems = Problems()
    adopt = AdoptConfig(CA, CA_KEY, (AdoptedDeviceConfig("phone", ANNA, None, None),))
    check_names(Section({}, problems), adopt, devices)
    assert len(problems.lines) == count
    assert all("only in case" in line for line in problems.lines)


# The program


def test_the_program_takes_over_and_lets_in(tmp_path: Path) -> None:
    """One device is taken over as it is; one has a certificate of ours as well, and both of its count."""
    until = "2027-01-01T00:00:00+00:00"
    adopt = {
        **BOTH,
        "devices": [{"name": name, "certificate": f"server:/root/{name}.crt"} for name in ("phone", "ben")],
    }
    recorded = run_program(tmp_path, adopt=adopt, adoptCaPassphrase=KEY_PASSPHRASE)
    commands = recorded.commands()
    chapter = commands["immich-chapter"]
    assert chapter["create"] == "sudo -n sh -s -- begin 443 8443"
    assert chapter["update"] == "sudo -n sh -s -- note"
    assert "delete" not in chapter
    assert chapter["files"] == {
        "adopted": f"configuration /etc/nixos\n{'ef' * 32} /var/lib/certs/ca-cert.pem\n",
        "bans": "203.0.113.9\n",
    }
    assert (
        commands["immich-state-folder"]["create"]
        == "sudo -n sh -s -- begin immich-exposure/unit no phone laptop ben"
    )
    let_in = recorded.resources["immich-devices"][1]["devices"]
    assert let_in["ben"] == {"fingerprint": "ef" * 32, "until": until, "before": "", "beforeUntil": ""}
    assert let_in["phone"]["fingerprint"] == "ab" * 32 and let_in["phone"]["before"] == "cd" * 32
    assert set(recorded.resources["immich-withdrawal"][1]["mayComeIn"]) == {"phone", "laptop", "ben"}
    assert set(recorded.resources["immich-sheets"][1]["sheets"]) == {"phone", "laptop"}
    assert recorded.resources["immich-preflight"][1]["adopt"] is True
    assert KEY_PASSPHRASE not in str(recorded.commands())


def test_without_adopt_there_is_none_of_it(tmp_path: Path) -> None:
    recorded = run_program(tmp_path)
    assert not [name for name in recorded.resources if "adoption" in name or "chapter" in name]


async def _text(output: pulumi.Output[str]) -> str:
    return str(await output.future())


@pytest.mark.parametrize(("renewed", "counts"), [("", "old 2027"), ("before", "before 2028")])
def test_both_certificates_of_a_device_count(
    renewed: str, counts: str, loop: asyncio.AbstractEventLoop
) -> None:
    def certificate(*values: str) -> AdoptedCertificate:
        return AdoptedCertificate(*(pulumi.Output.from_input(value) for value in values))

    both = with_predecessor(
        certificate("new", "2036", renewed, "2028" if renewed else ""), certificate("old", "2027", "", "")
    )
    outputs = (both.fingerprint, both.not_after, both.previous_fingerprint, both.previous_until)
    assert " ".join(loop.run_until_complete(_text(each)) for each in outputs) == f"new 2036 {counts}"
