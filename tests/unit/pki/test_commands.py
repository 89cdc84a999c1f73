"""`python -m pki`: list, check, another passphrase, backups, and every way in which they are refused."""

from __future__ import annotations

import io
import os
import re
import shutil
import stat
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath

import pytest

from pki import AuthorityProfile, DeviceProfile, KeystoreError, Platform
from pki.backup import pack, unpack
from pki.commands import main
from tests.unit.pki.facts import NOW, PASSPHRASE, QUICK_ROUNDS, quick_keystore, snapshot
from tests.unit.pki.killing import deaths

NEW_PASSPHRASE = "quite another passphrase"


@dataclass
class Command:
    """Runs `python -m pki` on one keystore; passphrases come from files."""

    folder: Path
    files: Path
    capture: pytest.CaptureFixture[str]

    def __call__(
        self, *words: object, passphrase: str | None = PASSPHRASE, keystore: Path | None = None
    ) -> tuple[int, str]:
        """Return the exit status and all that was printed."""
        arguments = [str(keystore or self.folder), *map(str, words)]
        if passphrase is not None:
            arguments += ["--passphrase-file", str(self.file(passphrase))]
        status = main(arguments, kdf_rounds=QUICK_ROUNDS)
        shown = self.capture.readouterr()
        assert PASSPHRASE not in shown.out + shown.err
        assert NEW_PASSPHRASE not in shown.out + shown.err
        return status, shown.out + shown.err

    def file(self, passphrase: str) -> Path:
        """Return a file that holds a passphrase."""
        path = self.files / f"passphrase-{passphrase}"
        path.write_text(passphrase + "\n")
        return path

    def export(self) -> Path:
        """Make a backup."""
        target = self.files / "backup.tar"
        assert self("export", target, passphrase=None)[0] == 0
        return target


@pytest.fixture
def rich(made_once: Path, tmp_path: Path) -> Path:
    """A keystore with devices in use of two platforms, and a revoked one of the same name as one of them.

    It is on the real clock, as the commands are.
    """
    folder = tmp_path / "keystore"
    store = quick_keystore(folder, now=datetime.now(UTC))
    store.adopt_or_create_authority(AuthorityProfile())
    lost = store.adopt_or_issue_device("phone", DeviceProfile("phone"))
    store.revoke_device("phone", lost.fingerprint)
    store.adopt_or_issue_device("phone", DeviceProfile("phone", platform=Platform.IOS))
    store.adopt_or_issue_device("laptop", DeviceProfile("laptop", platform=Platform.LINUX))
    return folder


@pytest.fixture
def command(rich: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command on the keystore `rich`."""
    files = tmp_path / "files"
    files.mkdir()
    return Command(rich, files, capsys)


def assert_all_opens(folder: Path, passphrase: str) -> None:
    """Every file opens with this passphrase, also what was revoked."""
    assert quick_keystore(folder, passphrase, now=datetime.now(UTC)).inspect() == []


# list


def test_list_tells_what_is_there_without_a_passphrase(command: Command) -> None:
    before = snapshot(command.folder)
    status, shown = command("list", passphrase=None)
    assert status == 0
    assert snapshot(command.folder) == before
    lines = [line.split() for line in shown.splitlines()]
    assert lines[0] == ["keystore", "of", "the", "stack", "home"]
    assert [(line[0], line[1]) for line in lines[2:]] == [
        ("ca", "authority"),
        ("laptop", "device"),
        ("phone", "device"),
        ("phone", "revoked"),
    ]
    day = f"{datetime.now(UTC) + timedelta(days=3650):%Y-%m-%d}"
    assert all(line[2] == day for line in lines[2:])
    assert [" ".join(line[3:-1]) for line in lines[2:]] == [
        "-",
        "aes256-sha256",
        "3des-sha1 + mobileconfig",
        "3des-sha1",
    ]
    store = quick_keystore(command.folder, now=datetime.now(UTC))
    assert lines[3][-1] == store.adopt_or_issue_device("laptop", DeviceProfile("laptop")).fingerprint


def test_list_marks_what_expired_or_cannot_be_read(command: Command) -> None:
    past = quick_keystore(command.folder, now=datetime.now(UTC) - timedelta(minutes=50))
    past.adopt_or_issue_device("guest", DeviceProfile("guest", validity_days=1))
    (command.folder / "devices/laptop.crt").write_text("damaged")
    (command.folder / "devices/laptop.p12").write_text("damaged")
    (command.folder / "devices/phone.p12").unlink()
    shown = command("list", passphrase=None)[1].splitlines()
    assert [line.split()[2] for line in shown if line.startswith("laptop")] == ["unreadable"]
    assert [line.split()[3] for line in shown if line.startswith("laptop")] == ["unknown"]
    assert not any("expired" in line for line in shown)


def test_list_says_what_expired(command: Command, made_once: Path) -> None:
    folder = command.folder.parent / "old"
    store = quick_keystore(folder, now=datetime(2020, 1, 1, tzinfo=UTC))
    store.adopt_or_create_authority(AuthorityProfile(validity_days=30))
    assert "2020-01-31 expired" in command("list", passphrase=None, keystore=folder)[1]


@pytest.mark.parametrize("verb", [["list"], ["check"], ["passphrase"], ["export", "b.tar"]])
def test_where_no_keystore_is_none_is_made(verb: list[str], command: Command, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    passphrase = PASSPHRASE if verb[0] in ("check", "passphrase") else None
    if verb[0] == "passphrase":
        verb = [*verb, "--new-passphrase-file", str(command.file(NEW_PASSPHRASE))]
    status, shown = command(*verb, keystore=nowhere, passphrase=passphrase)
    assert status == 1
    assert f"There is no keystore in {nowhere}" in shown
    assert not nowhere.exists()


# check


def test_check_finds_nothing_in_a_whole_keystore_and_changes_nothing(command: Command) -> None:
    before = snapshot(command.folder)
    status, shown = command("check")
    assert (status, shown) == (0, "All 4 certificates and what belongs to them open and fit.\n")
    assert snapshot(command.folder) == before


Damage = Callable[[Path], object]


def overwrite(name: str, content: bytes = b"damaged") -> Damage:
    return lambda folder: next(folder.glob(name)).write_bytes(content)


def lose(name: str) -> Damage:
    return lambda folder: next(folder.glob(name)).unlink()


def swap(source: str, target: str) -> Damage:
    return lambda folder: shutil.copy(next(folder.glob(source)), next(folder.glob(target)))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lose("keystore.json"), "keystore.json is missing. The next `up` writes it again."),
        (overwrite("keystore.json"), "keystore.json is damaged"),
        (lose("ca.crt"), "ca.crt is missing. Restore it"),
        (overwrite("ca.crt"), "ca.crt is damaged: it does not hold a certificate"),
        (overwrite("ca.key"), "ca.key is damaged: the passphrase is right"),
        (swap("devices/phone.key", "ca.key"), "ca.key is not the key of"),
        (swap("devices/phone.crt", "ca.crt"), "ca.crt is not the certificate of an authority"),
        (lose("devices/phone.crt"), "phone.crt is missing, but other files of 'phone' exist"),
        (overwrite("devices/phone.crt"), "phone.crt is damaged"),
        (lose("devices/phone.key"), "phone.key is missing. Restore it"),
        (overwrite("devices/phone.key"), "phone.key is damaged"),
        (swap("devices/laptop.key", "devices/phone.key"), "phone.key is not the key of"),
        (lose("devices/phone.password"), "phone.password is missing. The next `up`"),
        (swap("devices/laptop.password", "devices/phone.password"), "phone.password is damaged"),
        (lose("devices/phone.p12"), "phone.p12 is missing. The next `up`"),
        (overwrite("devices/phone.p12"), "phone.p12 does not open with its password. Delete it"),
        (swap("devices/laptop.p12", "devices/phone.p12"), "phone.p12 does not open with its password"),
        (overwrite("devices/phone.mobileconfig"), "phone.mobileconfig does not hold the bundle next to it"),
        (overwrite("revoked/phone-*.key"), r"revoked/phone-[0-9a-f]{16}.key is damaged"),
        (overwrite("revoked/phone-*.p12"), r"revoked/phone-[0-9a-f]{16}.p12 does not open"),
        (
            lambda folder: (folder / "devices/notes.txt").write_text("mine"),
            "notes.txt does not belong to the keystore",
        ),
    ],
)
def test_check_names_what_is_wrong(damage: Damage, sentence: str, command: Command) -> None:
    damage(command.folder)
    before = snapshot(command.folder)
    status, shown = command("check")
    assert status == 1
    assert any(re.search(sentence, line) for line in shown.splitlines()), shown
    assert all(line.endswith(".") for line in shown.splitlines())
    assert snapshot(command.folder) == before


def test_check_tells_a_bundle_of_another_certificate(command: Command) -> None:
    old = next(command.folder.glob("revoked/phone-*.p12"))
    for suffix in ("p12", "password"):
        shutil.copy(old.with_suffix(f".{suffix}"), command.folder / f"devices/phone.{suffix}")
    assert "phone.p12 is not the bundle of" in command("check")[1]


def test_check_tells_a_device_of_another_authority(command: Command, tmp_path: Path) -> None:
    other = quick_keystore(tmp_path / "other", now=datetime.now(UTC))
    other.adopt_or_create_authority(AuthorityProfile())
    other.adopt_or_issue_device("phone", DeviceProfile("phone", platform=Platform.IOS))
    for path in (tmp_path / "other/devices").iterdir():
        shutil.copy(path, command.folder / "devices")
    status, shown = command("check")
    assert status == 1
    [line] = shown.splitlines()
    assert "phone.crt was not signed by the authority of this keystore" in line


def test_check_tells_expiry_from_damage(folder: Path) -> None:
    store = quick_keystore(folder)
    store.adopt_or_issue_device("guest", DeviceProfile("guest", validity_days=7))
    [guest] = quick_keystore(folder, now=NOW + timedelta(days=8)).inspect()
    assert "guest.crt expired on 2026-12-01" in guest.sentence
    late = quick_keystore(folder, now=NOW + timedelta(days=4000)).inspect()
    assert [finding.damage for finding in late] == [False] * 3
    assert "ca.crt expired on" in late[0].sentence


def test_check_with_another_passphrase_says_only_that(command: Command) -> None:
    status, shown = command("check", passphrase="some other passphrase")
    assert status == 1
    assert shown.count("\n") == 1
    assert "does not open with this passphrase" in shown


# passphrase


def change(command: Command, new: str = NEW_PASSPHRASE, old: str = PASSPHRASE) -> tuple[int, str]:
    return command("passphrase", "--new-passphrase-file", command.file(new), passphrase=old)


def test_another_passphrase_opens_all_and_the_old_one_nothing(command: Command) -> None:
    before = snapshot(command.folder)
    status, shown = change(command)
    assert status == 0
    assert "pulumi config set --secret keystorePassphrase" in shown
    assert_all_opens(command.folder, NEW_PASSPHRASE)
    with pytest.raises(KeystoreError, match="does not open with this passphrase"):
        quick_keystore(command.folder, now=datetime.now(UTC)).inspect()
    after = snapshot(command.folder)
    assert after.keys() == before.keys()
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {name for name in after if name.endswith((".key", ".password", "keystore.json"))}
    for path in [command.folder, *command.folder.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_the_same_object_goes_on_with_the_new_passphrase(folder: Path) -> None:
    store = quick_keystore(folder)
    first = store.adopt_or_issue_device("phone", DeviceProfile("phone"))
    store.change_passphrase(NEW_PASSPHRASE)
    assert store.adopt_or_issue_device("phone", DeviceProfile("phone")) == first
    assert store.adopt_or_issue_device("new", DeviceProfile("new")).name == "new"
    assert quick_keystore(folder, NEW_PASSPHRASE).inspect() == []


@pytest.mark.parametrize(
    ("new", "old", "sentence"),
    [
        ("short", PASSPHRASE, "at least 12 characters"),
        (PASSPHRASE, PASSPHRASE, "The new passphrase is the old one"),
        (NEW_PASSPHRASE, "some other passphrase", "does not open with this passphrase"),
        (NEW_PASSPHRASE, "short", "That is not the keystore's passphrase"),
    ],
)
def test_a_passphrase_that_will_not_do_changes_nothing(
    new: str, old: str, sentence: str, command: Command
) -> None:
    before = snapshot(command.folder)
    status, shown = change(command, new, old)
    assert status == 1
    assert sentence in shown
    assert snapshot(command.folder) == before


@pytest.mark.parametrize("name", ["ca.key", "devices/laptop.key", "revoked/phone-*.password"])
def test_a_damaged_file_stops_the_change_before_it_began(name: str, command: Command) -> None:
    overwrite(name)(command.folder)
    before = snapshot(command.folder)
    status, shown = change(command)
    assert status == 1
    assert "is damaged" in shown
    assert snapshot(command.folder) == before


def test_a_death_at_any_point_leaves_the_old_passphrase_or_the_new(rich: Path, tmp_path: Path) -> None:
    seen = []
    for folder, _ in deaths(rich, tmp_path / "deaths", lambda store: store.change_passphrase(NEW_PASSPHRASE)):
        opens: list[bool] = []
        for passphrase in (PASSPHRASE, NEW_PASSPHRASE):
            again = Path(shutil.copytree(folder, folder.parent / f"again-{len(opens)}"))
            try:
                assert_all_opens(again, passphrase)
            except KeystoreError:
                opens.append(False)
            else:
                opens.append(True)
                assert snapshot(again).keys() == snapshot(rich).keys()
                assert {path.name for path in again.iterdir() if path.is_dir()} == {"devices", "revoked"}
        assert sum(opens) == 1, "the old passphrase or the new one, never both, never none"
        seen.append(opens[1])
    assert seen == sorted(seen), "once it is the new one, it stays the new one"
    assert (seen[0], seen[-1]) == (False, True)


def test_a_death_while_a_death_is_made_good(rich: Path, tmp_path: Path) -> None:
    halfway = next(
        folder
        for folder, _ in deaths(
            rich, tmp_path / "deaths", lambda store: store.change_passphrase(NEW_PASSPHRASE)
        )
        if (folder / "rekey/devices").exists() and not (folder / "rekey/keystore.json").exists()
    )
    for folder, _ in deaths(
        halfway, tmp_path / "again", lambda store: store.revoke_device("phone", "0" * 64)
    ):
        assert_all_opens(folder, NEW_PASSPHRASE)


# export and import


def test_a_backup_brings_everything_back(command: Command, tmp_path: Path) -> None:
    backup = command.export()
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    restored = tmp_path / "deep" / "restored"
    status, shown = command("import", backup, keystore=restored)
    assert status == 0, shown
    assert snapshot(restored) == snapshot(command.folder)
    assert_all_opens(restored, PASSPHRASE)
    assert [path.name for path in restored.parent.iterdir()] == ["restored"]
    for path in restored.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_an_import_names_what_is_in_use_again_and_what_is_revoked(command: Command, tmp_path: Path) -> None:
    status, shown = command("import", command.export(), keystore=tmp_path / "restored")
    assert status == 0
    in_use = [
        line.split()[-1][:16]
        for line in command("list", passphrase=None)[1].splitlines()
        if " device " in line
    ]
    [named] = [line for line in shown.splitlines() if line.startswith("In use in it: laptop (")]
    assert len(in_use) == 2 and all(each in named for each in in_use)
    assert "Revoked in it: phone (" in shown
    assert f"Devices that were revoked after {datetime.now(UTC):%Y-%m-%d} are in use again" in shown


def test_a_backup_that_is_far_too_large_is_not_read(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup = command.export()
    monkeypatch.setattr("pki.commands.BACKUP_LIMIT", 1000)
    assert "far too large" in command("import", backup)[1]


def test_a_backup_holds_nothing_readable_and_nothing_foreign(command: Command) -> None:
    (command.folder / "devices/notes.txt").write_text("mine")
    secret = command.files / "secret"
    secret.write_text("not the keystore's")
    secret.chmod(0o644)
    (command.folder / "devices/link.key").symlink_to(secret)
    content = command.export().read_bytes()
    assert b"not the keystore's" not in content
    assert stat.S_IMODE(secret.stat().st_mode) == 0o644
    assert PASSPHRASE.encode() not in content
    assert b"BEGIN PRIVATE KEY" not in content
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        names = archive.getnames()
    assert names[0] == "manifest.json"
    assert "devices/notes.txt" not in names
    assert "devices/link.key" not in names
    assert {"ca.key", "devices/phone.mobileconfig", "keystore.json"} <= set(names)


def test_an_export_never_overwrites(command: Command) -> None:
    backup = command.export()
    before = backup.read_bytes()
    status, shown = command("export", backup, passphrase=None)
    assert status == 1
    assert "already exists" in shown
    assert backup.read_bytes() == before
    status, shown = command("export", command.files / "no/such/folder/b.tar", passphrase=None)
    assert status == 1
    assert "could not be written" in shown


def test_an_import_never_overwrites(command: Command, tmp_path: Path) -> None:
    backup = command.export()
    before = snapshot(command.folder)
    status, shown = command("import", backup)
    assert status == 1
    assert "a backup never overwrites a keystore" in shown
    assert snapshot(command.folder) == before
    (tmp_path / "file").write_text("a file")
    assert command("import", backup, keystore=tmp_path / "file")[0] == 1
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert command("import", backup, keystore=tmp_path / "link")[0] == 1
    assert not (tmp_path / "nowhere").exists()
    (tmp_path / "empty").mkdir()
    assert command("import", backup, keystore=tmp_path / "empty")[0] == 0
    assert not list(tmp_path.glob(".*.import"))


@pytest.mark.parametrize(
    ("passphrase", "sentence"),
    [("some other passphrase", "does not open with this passphrase"), ("short", "at least 12 characters")],
)
def test_an_import_needs_the_right_passphrase(
    passphrase: str, sentence: str, command: Command, tmp_path: Path
) -> None:
    target = tmp_path / "restored"
    status, shown = command("import", command.export(), keystore=target, passphrase=passphrase)
    assert status == 1
    assert sentence in shown
    assert ".import" not in shown
    assert not target.exists()
    assert not list(tmp_path.glob(".*"))


def archive_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """A tar with these members."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return target.getvalue()


def link(name: str) -> tarfile.TarInfo:
    """A symbolic link to where no keystore's file is."""
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return member


GOOD = {PurePosixPath("ca.key"): b"key", PurePosixPath("ca.crt"): b"certificate"}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "it has no manifest|it is damaged"),
        (b"no tar at all", "it is damaged, or it is not a backup"),
        (pack(GOOD, NOW)[:700], "it is damaged"),
        (pack(GOOD, NOW).replace(b"certificate", b"CERTIFICATE"), "ca.crt is not as it was"),
        (pack({PurePosixPath("../escape.key"): b"x"}, NOW), "'../escape.key' is not a file of a keystore"),
        (pack({PurePosixPath("/etc/cron.d/x.key"): b"x"}, NOW), "is not a file of a keystore"),
        (pack({PurePosixPath("devices/../../x.key"): b"x"}, NOW), "is not a file of a keystore"),
        (pack({PurePosixPath("devices/deep/x.key"): b"x"}, NOW), "is not a file of a keystore"),
        (pack({PurePosixPath("other/x.key"): b"x"}, NOW), "is not a file of a keystore"),
        (pack({PurePosixPath("devices/.bashrc"): b"x"}, NOW), "is not a file of a keystore"),
        (pack({PurePosixPath("devices/run.sh"): b"x"}, NOW), "is not a file of a keystore"),
        (pack({PurePosixPath("devices/a\nb.key"): b"x"}, NOW), "is not a file of a keystore"),
        (archive_of((tarfile.TarInfo("ca.key"), b"key")), "it has no manifest"),
        (archive_of((tarfile.TarInfo("manifest.json"), b"{}")), "its manifest is damaged"),
        (archive_of((tarfile.TarInfo("manifest.json"), b"[]")), "its manifest is damaged"),
        (
            archive_of((tarfile.TarInfo("manifest.json"), b'{"format": "other", "files": {}}')),
            "of another version",
        ),
        (archive_of((link("ca.key"), b"")), "'ca.key' in it is not a regular file"),
        (
            archive_of((tarfile.TarInfo("ca.key"), b"1"), (tarfile.TarInfo("ca.key"), b"2")),
            "'ca.key' is in it twice",
        ),
        (archive_of((tarfile.TarInfo("ca.key"), bytes(4 * 1024 * 1024 + 1))), "is too large"),
    ],
)
def test_a_backup_that_is_none_is_refused(
    content: bytes, sentence: str, command: Command, tmp_path: Path
) -> None:
    with pytest.raises(KeystoreError, match=sentence):
        unpack(content)
    backup = command.files / "foreign.tar"
    backup.write_bytes(content)
    before = sorted(path for path in tmp_path.rglob("*"))
    status, shown = command("import", backup, keystore=tmp_path / "restored", passphrase=PASSPHRASE)
    assert status == 1
    assert "The backup cannot be used" in shown
    after = sorted(path for path in tmp_path.rglob("*") if path != command.file(PASSPHRASE))
    assert after == [path for path in before if path != command.file(PASSPHRASE)]


def test_a_file_that_the_manifest_does_not_list_is_refused(command: Command) -> None:
    content = command.export().read_bytes()
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        members = [(each, (archive.extractfile(each) or io.BytesIO()).read()) for each in archive]
    with pytest.raises(KeystoreError, match="not the ones that its manifest lists"):
        unpack(archive_of(*members, (tarfile.TarInfo("devices/more.key"), b"x")))
    with pytest.raises(KeystoreError, match="not the ones that its manifest lists"):
        unpack(archive_of(*members[:-1]))


def test_a_backup_of_a_damaged_keystore_is_refused_with_the_reason(command: Command, tmp_path: Path) -> None:
    overwrite("devices/phone.key")(command.folder)
    status, shown = command("import", command.export(), keystore=tmp_path / "restored")
    assert status == 1
    assert f"1 of its files are not usable ({tmp_path}/restored/devices/phone.key is damaged" in shown
    assert not (tmp_path / "restored").exists()


def test_a_death_at_any_point_of_an_import_leaves_all_or_nothing(rich: Path, tmp_path: Path) -> None:
    backup = quick_keystore(rich).backup()
    for folder, store in deaths(None, tmp_path / "deaths", lambda store: store.restore(backup)):
        if folder.exists():
            assert_all_opens(folder, PASSPHRASE)
            continue
        store.restore(backup)
        assert_all_opens(folder, PASSPHRASE)
        assert snapshot(folder) == snapshot(rich)
        assert [path.name for path in folder.parent.iterdir()] == ["keystore"]


def test_an_import_takes_nothing_over_from_a_killed_one(command: Command, tmp_path: Path) -> None:
    left = tmp_path / ".restored.import"
    (left / "devices").mkdir(parents=True)
    (left / "devices/other.key").write_bytes(b"of another backup")
    restored = tmp_path / "restored"
    assert command("import", command.export(), keystore=restored)[0] == 0
    assert snapshot(restored) == snapshot(command.folder)


# Where passphrases come from


def test_passphrases_come_from_standard_input(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{PASSPHRASE}\n{NEW_PASSPHRASE}\n"))
    assert main([str(command.folder), "passphrase"], kdf_rounds=QUICK_ROUNDS) == 0
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{NEW_PASSPHRASE}\r\n"))
    assert main([str(command.folder), "check", "--passphrase-file", "-"], kdf_rounds=QUICK_ROUNDS) == 0
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert main([str(command.folder), "check"], kdf_rounds=QUICK_ROUNDS) == 1
    assert "at least 12 characters" in capsys.readouterr().err


class Terminal(io.StringIO):
    """A standard input that is a terminal."""

    def isatty(self) -> bool:
        return True


def test_passphrases_are_asked_for_in_a_terminal(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal())
    answers = iter(
        [PASSPHRASE, NEW_PASSPHRASE, "a typing mistake", PASSPHRASE, NEW_PASSPHRASE, NEW_PASSPHRASE]
    )
    monkeypatch.setattr("pki.commands.getpass.getpass", lambda _question: next(answers))
    before = snapshot(command.folder)
    assert main([str(command.folder), "passphrase"], kdf_rounds=QUICK_ROUNDS) == 1
    assert "The two answers differ" in capsys.readouterr().err
    assert snapshot(command.folder) == before
    assert main([str(command.folder), "passphrase"], kdf_rounds=QUICK_ROUNDS) == 0
    assert_all_opens(command.folder, NEW_PASSPHRASE)
    assert next(answers, None) is None


def test_a_question_can_be_left(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(_question: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("pki.commands.getpass.getpass", leave)
    assert main([str(command.folder), "check"]) == 130


def test_a_missing_passphrase_file_or_backup_is_named(command: Command) -> None:
    status, shown = command("check", "--passphrase-file", "/no/such/file", passphrase=None)
    assert (status, "The passphrase file /no/such/file could not be read" in shown) == (1, True)
    status, shown = command("import", "/no/such/backup")
    assert (status, "The backup /no/such/backup could not be read" in shown) == (1, True)


@pytest.mark.parametrize("words", [["check", "--passphrase", "x"], ["check", "secret"], ["nonsense"], []])
def test_nothing_takes_a_passphrase_as_an_argument(words: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path), *words])
    assert ended.value.code == 2


def test_a_read_only_keystore_can_be_listed(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    really_open = os.open

    def refuse(path: str, flags: int, *rest: int, **more: int) -> int:
        assert flags & os.O_ACCMODE == os.O_RDONLY, "list wrote something"
        return really_open(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", refuse)
    assert main([str(command.folder), "list"]) == 0
