"""The scripts of ``server/scripts`` as they travel: their text, their command line, and where to.

They are run with their text on standard input: what the shell reads of the script, and of the library what
it needs.
"""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pulumi
from pulumi.runtime.rpc import UNKNOWN
from pulumi_command import remote

from components.engine.options import is_for_a_plan
from components.remote import lean_text

SERVER_FILES = Path(__file__).resolve().parents[2] / "server"
"""The folder that holds, as plain files, all that may land on the server."""

HEREDOC_END = "IMMICH_EXPOSURE_END"


@dataclass(frozen=True)
class PayloadFile:
    """One text file carried by a script: where it goes, its mode in octal, and its text."""

    path: str
    text: str
    mode: str = "0644"


SCRIPT_BEGINS = "#immich-exposure"
"""The line between a password and the script, both on standard input. To sh it is a comment."""

# The password comes twice. By the first line sudo is asked whether it takes it, and finds no other behind it:
# of a wrong one it would else read three lines, and three tries may lock an account. By the second it becomes
# root, or leaves that line where it needs none. What is in front of the mark is skipped. A sudo that asks for
# more has read the mark as well: an empty script would then pass for one that succeeded.
_SUDO = "sudo -k -S -p ''"
_WITH_PASSWORD = (
    'IFS= read -r password; printf "%s\\n" "$password" | '
    f'{_SUDO} sh -c : || exit; unset password; exec {_SUDO} sh -c "$@"'
)
_PAST_THE_PASSWORD = (
    f'line=; until [ "$line" = "{SCRIPT_BEGINS}" ]; do IFS= read -r line || {{ '
    'echo "error: sudo read more than a password, so nothing was run; let it ask for that alone." >&2; '
    "exit 1; }; done; "
)

_STACK, _LEAVING = "--stack=", "--leaving="

_RUN_SCRIPT = 'exec sh -s -- "$@"'

# The bytes on standard input become a file, whole or not at all, in a folder that bears our mark. The name
# ends with a dash and the hash. The one of before stays, because a roll-back needs it; older ones go.
_RECEIVE_FILE = (
    "set -eu; umask 077; new=$1.new; "
    '[ -f "${1%/*}/.immich-exposure" ] || { echo "error: ${1%/*} is not there or not ours." >&2; exit 1; }; '
    '[ -z "$3" ] || grep -q "^$3 " "${1%/*}/owner" || '
    '{ echo "error: This server is exposed by another stack; destroy that first." >&2; exit 1; }; '
    'cat >"$new"; '
    'echo "$2  $new" | sha256sum --check --status || '
    '{ rm -f "$new"; echo "error: $1 did not arrive whole; run this again." >&2; exit 1; }; '
    'chmod 0755 "$new"; mv -f "$new" "$1"; '
    'ls -t "${1%-*}"-* | tail -n +3 | while IFS= read -r old; do rm -f "$old"; done'
)


def _words(verb: str, *arguments: str | int) -> str:
    return " ".join(shlex.quote(word) for word in (verb, *map(str, arguments)))


def root_line(verb: str, *arguments: str | int) -> str:
    """Return the command line that runs a script given on standard input, for a user who is root."""
    return f"sh -s -- {_words(verb, *arguments)}"


def sudo_line(verb: str, *arguments: str | int) -> str:
    """Return the command line that runs a script given on standard input as root.

    ``-n`` makes sudo fail at once instead of waiting for a password that nobody can type.
    """
    return f"sudo -n sh -s -- {_words(verb, *arguments)}"


def password_line(verb: str, *arguments: str | int) -> str:
    """Return the command line for a sudo that asks; what ``with_password`` returns goes to standard input.

    ``-S`` reads from there, ``-k`` asks afresh, so that a password that is wrong is noticed each time.
    """
    return f"{_asking(_RUN_SCRIPT)} {_words(verb, *arguments)}"


def _asking(script: str) -> str:
    return f"sh -c {shlex.quote(_WITH_PASSWORD)} sh {shlex.quote(_PAST_THE_PASSWORD + script)} sh"


def with_password(password: str, text: str) -> str:
    """Return the standard input for ``password_line``."""
    return f"{password}\n{password}\n{SCRIPT_BEGINS}\n{text}"


def script_text(script: str, payload: tuple[PayloadFile, ...] = ()) -> str:
    """Return ``lib.sh``, the payload and ``<script>.sh`` as one text for ``sh -s``.

    It is what the shell reads of them: no comments, and of the library what the script needs.

    Raises ``ValueError`` when a payload file cannot be carried without changing a byte of it.
    """
    library, body = _lean(script)
    return "\n".join(part for part in (library, _payload_function(payload), body) if part)


def script_digest(script: str) -> str:
    """Return the SHA-256 of a script as it runs, with the library and without what is sent along."""
    return hashlib.sha256(script_text(script).encode()).hexdigest()


def with_library(body: str) -> str:
    """Return a text of a line or two that has no file of its own, behind what it needs of ``lib.sh``."""
    return lean_text.reachable(_read("lib"), body) + body


@cache
def _lean(script: str) -> tuple[str, str]:
    body = lean_text.stripped(_read(script))
    return lean_text.reachable(_read("lib"), body), body


def _read(script: str) -> str:
    return (SERVER_FILES / "scripts" / f"{script}.sh").read_text(encoding="utf-8")


def _payload_function(payload: tuple[PayloadFile, ...]) -> str:
    if not payload:
        return ""
    return "payload() {\n" + "".join(_put(file) for file in payload) + "}\n"


def _put(file: PayloadFile) -> str:
    if file.text and not file.text.endswith("\n"):
        raise ValueError(f"The file {file.path} must end with a line break to be sent as a here-document.")
    if HEREDOC_END in file.text.splitlines():
        raise ValueError(
            f"The file {file.path} holds the line {HEREDOC_END}, which marks its end on the way."
        )
    return f"put {file.mode} {shlex.quote(file.path)} <<'{HEREDOC_END}'\n{file.text}{HEREDOC_END}\n"


STACK_ID = "@stack@"
"""Stands in a line for the id of the stack, where that is not known yet."""


@dataclass(frozen=True)
class Server:
    """How the operator reaches the server: an address, a pinned host key, and a key file or an agent.

    ``private_key_file`` is the path as configured (relative ones start at the project), ``None`` means the
    SSH agent. ``host_key`` is in ``authorized_keys`` form, ``ssh-ed25519 AAAA...``. ``sudo_password`` is a
    secret output in the program and its text in a provider; ``None`` means that sudo asks for none.
    ``stack_id`` is likewise an output or its text: who runs a script; with ``None`` no script asks.
    ``put_right`` says when drift was last put right: every step carries it, so another one runs them all.
    """

    host: str
    port: int
    user: str
    host_key: str
    private_key_file: str | None
    sudo_password: pulumi.Output[str] | str | None = field(default=None, repr=False)
    stack_id: pulumi.Output[str] | str | None = field(default=None, repr=False)
    put_right: pulumi.Output[str] | str | None = None

    def line(self, verb: str, *arguments: str | int) -> str:
        """Return the command line that runs a script given on standard input as root; never a secret.

        It begins with the id of the stack, by which ``lib.sh`` keeps another stack's server alone.
        """
        if self.stack_id is not None:
            known = self.stack_id if isinstance(self.stack_id, str) else STACK_ID
            verb, arguments = f"{_STACK}{known}", (verb, *arguments)
        if self.user == "root":
            return root_line(verb, *arguments)
        if self.sudo_password is None:
            return sudo_line(verb, *arguments)
        return password_line(verb, *arguments)

    def way_back(self, line: str) -> str:
        """Return a line for a way back, which has an end on another stack's server: it does nothing there."""
        return line.replace(f" {_STACK}", f" {_LEAVING}", 1)

    def with_stack_id(self, line: pulumi.Input[str]) -> pulumi.Input[str]:
        """Return a line of this server's with the id in it, once that is known."""
        if not isinstance(self.stack_id, pulumi.Output):
            return line
        both = pulumi.Output.all(line=line, stack=self.stack_id)
        return both.apply(lambda known: str(known["line"]).replace(STACK_ID, known["stack"], 1))

    def receive_line(self, path: str, sha256: str) -> str:
        """Return the command line that takes a file of this hash from standard input, as root."""
        words = _words(path, sha256, self.stack_id if isinstance(self.stack_id, str) else "")
        if self.user == "root":
            return f"sh -c {shlex.quote(_RECEIVE_FILE)} sh {words}"
        if self.sudo_password is None:
            return f"sudo -n sh -c {shlex.quote(_RECEIVE_FILE)} sh {words}"
        return f"{_asking(_RECEIVE_FILE)} {words}"

    def connection(self) -> remote.ConnectionArgs:
        """Return the connection of a ``remote.Command``; built in this one place, always as one secret.

        The private key itself is read here because the command provider takes no path. Two failed dials
        are enough on a home network; the default of ten hides a wrong key behind minutes of waiting.
        """
        return remote.ConnectionArgs(
            host=self.host,
            port=self.port,
            user=self.user,
            host_key=self.host_key,
            private_key=self._private_key(),
            dial_error_limit=2,
            per_dial_timeout=10,
        )

    @property
    def lacks_key(self) -> bool:
        """Whether the private key is not on this machine, which only a preview gets along with."""
        return self.private_key_file is not None and not self._key_path().exists()

    def _key_path(self) -> Path:
        return Path(self.private_key_file or "").expanduser()

    def _private_key(self) -> pulumi.Input[str] | None:
        if self.private_key_file is None:
            return None
        if self.lacks_key and pulumi.runtime.is_dry_run():
            return UNKNOWN if is_for_a_plan() else None
        return pulumi.Output.secret(self._key_path().read_text(encoding="utf-8"))
