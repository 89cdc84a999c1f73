"""Maintain a keystore: `python -m pki KEYSTORE list | check | passphrase | export FILE | import FILE`.

Exit status: 0 all is well, 1 something was found or refused (a message says what), 2 wrong arguments, 130
interrupted. A passphrase comes from a file, from standard input or from a prompt; never from the arguments
or the environment, where others could read it.
"""

import argparse
import getpass
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO, TypeAlias

from pki.backup import BACKUP_LIMIT, made_on
from pki.certificate import fingerprint
from pki.errors import KeystoreError
from pki.files import explain, write_file
from pki.key import KDF_ROUNDS
from pki.keystore import Keystore
from pki.listing import Record, frames, records
from pki.marker import Marker
from pki.passphrase import PASSPHRASE_LENGTH

Command: TypeAlias = Callable[[argparse.Namespace, int], int]
"""A command: takes the arguments and the work factor, returns the exit status."""

_Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def main(arguments: Sequence[str] | None = None, *, kdf_rounds: int = KDF_ROUNDS) -> int:
    """Run one command and return its exit status. `kdf_rounds` is for tests."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options, kdf_rounds)
    except KeystoreError as error:
        _say(f"pki: {error}", sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return status


def _say(line: str, to: TextIO | None = None) -> None:
    """Print a line; what a terminal would obey is escaped.

    Anybody who may write to the keystore has chosen the names of its files, and the stack in its marker.
    """
    shown = (letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)
    print("".join(shown), file=to or sys.stdout)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pki", description="Look after a keystore.", allow_abbrev=False
    )
    parser.add_argument("keystore", type=Path, metavar="KEYSTORE", help="its folder")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    _verb(verbs, "list", _list, "what is in it")

    check = _verb(verbs, "check", _check, "open every file, and say what does not open or fit")
    _takes_passphrase(check)

    change = _verb(verbs, "passphrase", _change_passphrase, "change the passphrase")
    _takes_passphrase(change)
    change.add_argument(
        "--new-passphrase-file", metavar="FILE", help="file with the new one; - is stdin [default: ask]"
    )

    export = _verb(verbs, "export", _export, "write a backup, encrypted as the keystore is")
    export.add_argument("file", type=Path, metavar="FILE", help="the backup; it must not exist yet")

    restore = _verb(verbs, "import", _import, "restore the keystore from a backup")
    restore.add_argument("file", type=Path, metavar="FILE", help="the backup")
    _takes_passphrase(restore)
    return parser


def _verb(verbs: _Verbs, name: str, run: Command, purpose: str) -> argparse.ArgumentParser:
    # with abbreviations, people would write --passphrase and type the passphrase after it
    verb = verbs.add_parser(name, help=purpose, description=f"{purpose}.".capitalize(), allow_abbrev=False)
    verb.set_defaults(run=run)
    return verb


def _takes_passphrase(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--passphrase-file",
        metavar="FILE",
        help="file with the keystore's passphrase; - is stdin [default: ask]",
    )


# The commands


def _list(options: argparse.Namespace, _rounds: int) -> int:
    folder: Path = options.keystore
    try:
        found = records(folder)
        marker = Marker.read(folder)
    except OSError as error:
        raise explain(error, folder) from error
    if not found:
        raise KeystoreError(f"There is no keystore in {folder}. Check the path, or import a backup.")
    if marker is not None and marker.stack is not None:
        _say(f"keystore of the stack {marker.stack}")
    secrets = [(name, "frame", "revoked", "-", fingerprint) for name, fingerprint in frames(folder)]
    heads = ("NAME", "STATE", "VALID UNTIL", "BUNDLE", "FINGERPRINT")
    for line in _table([heads, *map(_row, found), *secrets]):
        _say(line)
    return 0


def _row(record: Record) -> tuple[str, ...]:
    certificate = record.certificate
    if certificate is None:
        return (record.name, record.state, "unreadable", record.bundle, "-")
    day = f"{certificate.not_valid_after_utc:%Y-%m-%d}"
    expired = " expired" if certificate.not_valid_after_utc < datetime.now(UTC) else ""
    return (record.name, record.state, day + expired, record.bundle, fingerprint(certificate))


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _check(options: argparse.Namespace, rounds: int) -> int:
    findings = _keystore(options, rounds).inspect()
    for finding in findings:
        _say(finding.sentence)
    if not findings:
        _say(f"All {len(records(options.keystore))} certificates and what belongs to them open and fit.")
    return 1 if findings else 0


def _change_passphrase(options: argparse.Namespace, rounds: int) -> int:
    store = _keystore(options, rounds)
    store.change_passphrase(_passphrase(options.new_passphrase_file, "New passphrase: ", repeat=True))
    _say(
        "The keystore has the new passphrase. Set it in the stack too: pulumi config set --secret "
        "keystorePassphrase. Earlier backups still open with the old one."
    )
    return 0


def _export(options: argparse.Namespace, rounds: int) -> int:
    target: Path = options.file
    if target.exists() or target.is_symlink():
        raise KeystoreError(f"{target} already exists. Name a file that does not exist yet.")
    backup = Keystore(options.keystore, kdf_rounds=rounds).backup()
    try:
        write_file(target, backup)
    except OSError as error:
        raise KeystoreError(f"The backup {target} could not be written: {error.strerror}.") from error
    _say(f"{target} holds the keystore, encrypted with its passphrase. Nobody can use it without that.")
    return 0


def _import(options: argparse.Namespace, rounds: int) -> int:
    try:
        with options.file.open("rb") as file:
            backup = file.read(BACKUP_LIMIT + 1)
    except OSError as error:
        raise KeystoreError(f"The backup {options.file} could not be read: {error.strerror}.") from error
    if len(backup) > BACKUP_LIMIT:
        raise KeystoreError(f"{options.file} is far too large for the backup of a keystore. Check the path.")
    _keystore(options, rounds).restore(backup)
    made = made_on(backup)
    _say(f"{options.keystore} is restored from the backup of {made}; every file in it opens.")
    found = records(options.keystore)
    _print_names("Revoked in it", [each for each in found if each.state == "revoked"])
    in_use = [each for each in found if each.state in ("device", "previous")]
    _print_names("In use in it", in_use)
    if in_use:
        _say(
            f"Devices that were revoked after {made} are in use again. Remove their names from `devices`, "
            "or mark them `revoked: true`, before the next `pulumi up`."
        )
    return 0


def _print_names(title: str, found: Sequence[Record]) -> None:
    if found:
        names = (f"{each.name} ({fingerprint(each.certificate)[:16]})" for each in found if each.certificate)
        _say(f"{title}: {', '.join(names)}")


# Passphrases


def _keystore(options: argparse.Namespace, rounds: int) -> Keystore:
    passphrase = _passphrase(options.passphrase_file, "Passphrase of the keystore: ")
    if len(passphrase) < PASSPHRASE_LENGTH:
        raise KeystoreError(
            f"That is not the keystore's passphrase, which has at least {PASSPHRASE_LENGTH} characters. Give "
            "the one that the stack has as `keystorePassphrase`."
        )
    return Keystore(options.keystore, passphrase, kdf_rounds=rounds)


def _passphrase(source: str | None, question: str, *, repeat: bool = False) -> str:
    """The first line of a file or of standard input (`-`, or no terminal), or the answer to a prompt."""
    if source is not None and source != "-":
        return _first_line_of(Path(source))
    if source == "-" or not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    answer = getpass.getpass(question)
    if repeat and getpass.getpass("Once more: ") != answer:
        raise KeystoreError("The two answers differ. Nothing was changed.")
    return answer


def _first_line_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").partition("\n")[0].rstrip("\r")
    except (OSError, UnicodeDecodeError) as error:
        raise KeystoreError(f"The passphrase file {path} could not be read: {error}.") from error
