"""The scripts of ``server/scripts`` as they are sent: their text, their command line, and the server.

A script's text is sent on standard input: only what the shell reads of it, and what it needs of the library.
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

from components.config.stack_config import ExposureConfig
from components.engine.options import is_for_a_plan
from components.remote import lean_text

SERVER_FILES = Path(__file__).resolve().parents[2] / "server"
"""The folder with everything, as plain files, that may be put on the server."""

HEREDOC_END = "IMMICH_EXPOSURE_END"


@dataclass(frozen=True)
class PayloadFile:
    """A text file sent with a script: its path, its mode in octal, and its text."""

    path: str
    text: str
    mode: str = "0644"


SCRIPT_BEGINS = "#immich-exposure"
"""The line between a password and the script, both on standard input. To sh it is a comment."""

# The password is sent twice. The first line checks whether sudo accepts it, and sudo finds no other line
# after it: with a wrong password it would otherwise read three lines, and three attempts may lock an account.
# The second line is for becoming root; sudo leaves it unread if it needs none. Everything before the mark is
# skipped. A sudo that asks for more has consumed the mark too: without this check an empty script would then
# count as a success.
_SUDO = "sudo -k -S -p ''"
_WITH_PASSWORD = (
    'IFS= read -r password; printf "%s\\n" "$password" | '
    f'{_SUDO} sh -c : || exit; unset password; exec {_SUDO} sh -c "$@"'
)
_PAST_THE_PASSWORD = (
    f'line=; until [ "$line" = "{SCRIPT_BEGINS}" ]; do IFS= read -r line || {{ '
    'echo "error: sudo read more than a password, so nothing was run; '
    'configure it to ask for the password alone." >&2; '
    "exit 1; }; done; "
)

_STACK, _LEAVING = "--stack=", "--leaving="

_RUN_SCRIPT = 'exec sh -s -- "$@"'

# Standard input becomes a file, completely or not at all, in a folder that carries our mark. The file's name
# ends with a dash and the hash. The previous file stays, because a roll-back needs it; older ones are
# removed.
_RECEIVE_FILE = (
    "set -eu; umask 077; new=$1.new; "
    '[ -f "${1%/*}/.immich-exposure" ] || { echo "error: ${1%/*} is missing, or not ours." >&2; exit 1; }; '
    '[ -z "$3" ] || grep -q "^$3 " "${1%/*}/owner" || '
    '{ echo "error: This server is exposed by another stack; destroy that first." >&2; exit 1; }; '
    'cat >"$new"; '
    'echo "$2  $new" | sha256sum --check --status || '
    '{ rm -f "$new"; echo "error: $1 did not arrive completely; run this again." >&2; exit 1; }; '
    'chmod 0755 "$new"; mv -f "$new" "$1"; '
    'ls -t "${1%-*}"-* | tail -n +3 | while IFS= read -r old; do rm -f "$old"; done'
)


def _words(verb: str, *arguments: str | int) -> str:
    return " ".join(shlex.quote(word) for word in (verb, *map(str, arguments)))


def root_line(verb: str, *arguments: str | int) -> str:
    """Return the command line that runs a script from standard input, for the user root."""
    return f"sh -s -- {_words(verb, *arguments)}"


def sudo_line(verb: str, *arguments: str | int) -> str:
    """Return the command line that runs a script from standard input as root.

    ``-n`` makes sudo fail at once instead of waiting for a password that nobody can type.
    """
    return f"sudo -n sh -s -- {_words(verb, *arguments)}"


def password_line(verb: str, *arguments: str | int) -> str:
    """Return the command line for a sudo that asks; its standard input comes from ``with_password``.

    ``-S`` reads from standard input, ``-k`` ignores cached credentials, so that a wrong password is always
    noticed.
    """
    return f"{_asking(_RUN_SCRIPT)} {_words(verb, *arguments)}"


def _asking(script: str) -> str:
    return f"sh -c {shlex.quote(_WITH_PASSWORD)} sh {shlex.quote(_PAST_THE_PASSWORD + script)} sh"


def with_password(password: str, text: str) -> str:
    """Return the standard input for ``password_line``."""
    return f"{password}\n{password}\n{SCRIPT_BEGINS}\n{text}"


def script_text(script: str, payload: tuple[PayloadFile, ...] = ()) -> str:
    """Return ``lib.sh``, the payload and ``<script>.sh`` as one text for ``sh -s``.

    It contains only what the shell reads: no comments, and of the library only what the script needs.

    Raises ``ValueError`` if a payload file cannot be sent byte for byte.
    """
    library, body = _lean(script)
    return "\n".join(part for part in (library, _payload_function(payload), body) if part)


def script_digest(script: str) -> str:
    """Return the SHA-256 of a script as it runs, with the library and without the payload."""
    return hashlib.sha256(script_text(script).encode()).hexdigest()


def with_library(body: str) -> str:
    """Return a short script without a file of its own, preceded by what it needs of ``lib.sh``."""
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
            f"The file {file.path} contains the line {HEREDOC_END}, which marks its end in transit."
        )
    return f"put {file.mode} {shlex.quote(file.path)} <<'{HEREDOC_END}'\n{file.text}{HEREDOC_END}\n"


STACK_ID = "@stack@"
"""A placeholder in a command line for a stack id that is not known yet."""


@dataclass(frozen=True)
class Server:
    """How the operator reaches the server: an address, a pinned host key, and a key file or an agent.

    Every step has these fields as properties, so they are in the state: the path of a key, never a key.
    ``private_key_file`` is the path as configured (relative ones start at the project), ``None`` means the
    SSH agent. ``host_key`` is in ``authorized_keys`` form, ``ssh-ed25519 AAAA...``. ``sudo_password`` is a
    secret output in the program and plain text in a provider; ``None`` means that sudo asks for none.
    ``stack_id``, likewise an output or text, says which stack runs a script; with ``None`` no script checks
    it. ``repaired`` says when drift was last repaired: every step carries it, so a new value runs them all.
    """

    host: str
    port: int
    user: str
    host_key: str
    private_key_file: str | None
    sudo_password: pulumi.Output[str] | str | None = field(default=None, repr=False)
    stack_id: pulumi.Output[str] | str | None = field(default=None, repr=False)
    repaired: pulumi.Output[str] | str | None = None

    def line(self, verb: str, *arguments: str | int) -> str:
        """Return the command line that runs a script from standard input as root; never contains a secret.

        It starts with the stack's id, by which ``lib.sh`` refuses to touch another stack's server.
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
        """Return the line marked as taking something back: on another stack's server it does nothing."""
        return line.replace(f" {_STACK}", f" {_LEAVING}", 1)

    def with_stack_id(self, line: pulumi.Input[str]) -> pulumi.Input[str]:
        """Return one of this server's lines with the id filled in, once that is known."""
        if not isinstance(self.stack_id, pulumi.Output):
            return line
        both = pulumi.Output.all(line=line, stack=self.stack_id)
        return both.apply(lambda known: str(known["line"]).replace(STACK_ID, known["stack"], 1))

    def receive_line(self, path: str, sha256: str) -> str:
        """Return the command line that receives a file with this hash on standard input, as root."""
        words = _words(path, sha256, self.stack_id if isinstance(self.stack_id, str) else "")
        if self.user == "root":
            return f"sh -c {shlex.quote(_RECEIVE_FILE)} sh {words}"
        if self.sudo_password is None:
            return f"sudo -n sh -c {shlex.quote(_RECEIVE_FILE)} sh {words}"
        return f"{_asking(_RECEIVE_FILE)} {words}"

    def connection(self) -> remote.ConnectionArgs:
        """Return the connection of a ``remote.Command``; it is built only here, always as one secret.

        The private key itself is read here because the command provider takes no path. Two failed dials are
        enough on a home network; with the default of ten, a wrong key shows only after minutes.
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
        """Whether the private key is not on this machine; only a preview can do without it."""
        return self.private_key_file is not None and not self._key_path().exists()

    def _key_path(self) -> Path:
        return Path(self.private_key_file or "").expanduser()

    def _private_key(self) -> pulumi.Input[str] | None:
        if self.private_key_file is None:
            return None
        if self.lacks_key and pulumi.runtime.is_dry_run():
            return UNKNOWN if is_for_a_plan() else None
        return pulumi.Output.secret(self._key_path().read_text(encoding="utf-8"))


def server_of(config: ExposureConfig) -> Server:
    """Return the server that a configuration names."""
    return Server(
        host=config.host,
        port=config.ssh_port,
        user=config.ssh_user,
        host_key=config.host_key,
        private_key_file=config.ssh_private_key_file,
        sudo_password=config.sudo_password,
    )
