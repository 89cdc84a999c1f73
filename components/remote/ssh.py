"""Runs a script over the system's ``ssh``, for resources that run on the operator's machine.

``remote.Command`` passes on the SSH library's errors, and it retries a wrong host key. So everything a run
sends to the server goes through this module, except closing the funnel (`components.funnel`), and each error
is a sentence that says what is wrong and what to do.
"""

from __future__ import annotations

import math
import os
import re
import socket
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from components.engine.operator_error import ERROR, OperatorError
from components.engine.server_words import plain
from components.remote.conversation import ANSWER_LIMIT, ERRORS_LIMIT, Conversation, Said
from components.remote.remote_script import Server, with_password
from components.remote.shared_connection import SharedConnections

CONNECT_TIMEOUT_SECONDS = 10


class SshError(OperatorError):
    """The server could not be reached, or refused; the message is a full sentence with the remedy."""


class SudoPasswordError(SshError):
    """sudo does not accept the password; a retry in the same run would not be accepted either."""


def run_script(
    server: Server,
    command: str,
    text: str,
    *,
    timeout_seconds: float = 300,
    tell: Callable[[str], None] | None = None,
    reply: Callable[[], str] | None = None,
) -> str:
    """Run ``command`` (``server.line``) on the server with ``text`` as standard input and return its output.

    ``tell`` receives each line that the script writes to standard error, at once, and the last one again
    after minutes of silence. Output of ssh and sudo from before the script starts is not passed on; an error
    turns it into one sentence. ``reply`` is called once the script has printed a line, and its result is sent
    to the script; if it fails, nothing more is sent.

    Raises ``SshError`` for an unreachable server, a changed host key, a refused key, a user who may not use
    sudo, and for a script that fails (its own last sentence is the message); and what ``reply`` raises.
    """
    if tell is None:
        return _run(server, command, text.encode(), timeout_seconds, reply=reply)
    with _Silence(tell) as silence:
        return _run(
            server, command, (_BEGIN + text).encode(), timeout_seconds, tell=silence.hear, reply=reply
        )


SILENCE_SECONDS = 60.0
"""Seconds of silence after which a script's last line is repeated."""


class _Silence:
    """Repeats a script's last line after one, two, four... minutes without another.

    A build takes minutes, and on a narrow terminal the engine cuts off the column in which it counts them.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._heard = threading.Condition()
        self._last: str | None = None
        self._over = False
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> _Silence:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._heard:
            self._over = True
            self._heard.notify()
        self._thread.join()

    def hear(self, line: str) -> None:
        """Pass a line on; from now on, this is the one to repeat."""
        with self._heard:
            self._last = None if line.startswith(ERROR) else line
            self._tell(line)
            self._heard.notify()

    def _watch(self) -> None:
        with self._heard:
            while not self._over:
                self._repeat()

    def _repeat(self) -> None:
        """Wait for the next line or the end; meanwhile, repeat the last line at growing intervals."""
        minutes, wait = 1, 1
        while not self._heard.wait(timeout=wait * SILENCE_SECONDS):
            if self._last is not None:
                self._tell(f"{minutes} minute{'s' * (minutes > 1)} so far: {self._last}")
            minutes, wait = minutes * 2, minutes


_BEGUN = "immich-exposure: the script begins"
_BEGIN = f"echo '{_BEGUN}' >&2\n"


def _once_begun(tell: Callable[[str], None], begins: Callable[[], None]) -> Callable[[str], None]:
    """Return a function that calls ``begins`` at the script's first line and ``tell`` for each later one."""
    begun = False

    def heard(line: str) -> None:
        nonlocal begun
        if begun:
            tell(line)
        elif line == _BEGUN:
            begun = True
            begins()

    return heard


def tell(line: str) -> None:
    """Print a script's line at once; the engine shows a provider's standard error, and errors itself."""
    if not line.startswith(ERROR):
        print(line, file=sys.stderr, flush=True)


SEND_SECONDS = 1800
"""Limit for a file of tens of megabytes over a slow network."""


def send_file(server: Server, content: bytes, path: str, sha256: str) -> None:
    """Put a file with this hash at ``path`` on the server, atomically, with mode 0755 and owner root.

    Raises ``SshError`` as ``run_script`` does, and if the file did not arrive completely.
    """
    _run(server, server.receive_line(path, sha256), content, SEND_SECONDS)


def _run(
    server: Server,
    command: str,
    content: bytes,
    timeout_seconds: float,
    *,
    tell: Callable[[str], None] | None = None,
    reply: Callable[[], str] | None = None,
) -> str:
    _refuse_dead_agent()
    _refuse_no_key(server)
    if isinstance(server.sudo_password, str) and server.user != "root":
        content = with_password(server.sudo_password, "").encode() + content
    with tempfile.TemporaryDirectory(prefix="immich-exposure-") as folder:
        way = SHARED.way(_same_connection(server), lambda place: _arguments(server, place))
        ssh, *rest = _arguments(server, Path(folder))
        argv = [ssh, *way.options, *rest, command]
        try:
            heard = None if tell is None else _once_begun(tell, way.let_in)
            heed, hear = _tell_login_page(server), way.listener(heard)
            answer = None if reply is None else lambda: reply().encode()
            said = Conversation(
                argv, content, timeout_seconds, heed=heed, tell=hear, lives=way.lives, reply=answer
            ).wait()
        except FileNotFoundError as error:
            raise SshError("The program ssh is not installed; install the OpenSSH client.") from error
        way.ended(well=said.status == 0)
    return _answer(server, said, timeout_seconds)


def _answer(server: Server, said: Said, timeout_seconds: float) -> str:
    """Return what a script has printed. Raises ``SshError`` unless it ended well."""
    if said.hung:
        raise SshError(
            f"The connection to {server.host} no longer answers on this machine (its process was "
            "stopped, or hangs), so it was ended; run the same command again."
        )
    if said.endless:
        raise SshError(
            f"The server {server.host} answered with more than {ANSWER_LIMIT >> 20} MiB, which no script of "
            "this project prints; check what its shell start-up files print, and who has logged in to it."
        )
    if said.status == 0:
        return said.stdout.decode(errors="replace")
    before, _, words = said.stderr.decode(errors="replace").rpartition(f"{_BEGUN}\n")
    if said.status in (None, 255):  # the connection's; otherwise what came before the script was a warning
        words = before + words
    if said.status is None:
        raise SshError(_explain_silence(server, words, timeout_seconds))
    refused = server.sudo_password is not None and _speaks_of_a_password(_last_line(words))
    raise (SudoPasswordError if refused else SshError)(explain(server, said.status, words))


SHARED = SharedConnections()
"""The shared connections of this process."""


def _same_connection(server: Server) -> object:
    return (server.host, server.port, server.user, server.host_key, server.private_key_file)


def _arguments(server: Server, folder: Path) -> list[str]:
    """Return the arguments from ``ssh_argv``, with a known_hosts file in this folder."""
    known_hosts = folder / "known_hosts"
    known_hosts.write_text(f"{known_hosts_name(server)} {server.host_key}\n", encoding="utf-8")
    return ssh_argv(server, known_hosts)


def known_hosts_name(server: Server) -> str:
    """Return the server's name as a known_hosts file spells it: with the port unless it is 22."""
    return server.host if server.port == 22 else f"[{server.host}]:{server.port}"


def ssh_argv(server: Server, known_hosts: Path) -> list[str]:
    """Return the argument list of ``ssh`` up to, not including, the remote command.

    ``-F none``: the command provider reads no ssh_config either, and both must reach the same host.
    """
    options = {
        "BatchMode": "yes",
        "ConnectTimeout": str(CONNECT_TIMEOUT_SECONDS),
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": str(known_hosts),
        "GlobalKnownHostsFile": os.devnull,
        "ServerAliveInterval": "15",
        # Shows what the server says before authentication: Tailscale's own SSH names an address there.
        "LogLevel": "INFO",
    }
    argv = ["ssh", "-F", "none", "-T", "-p", str(server.port), "-l", server.user]
    if server.private_key_file is not None:
        argv += ["-i", str(Path(server.private_key_file).expanduser()), "-o", "IdentitiesOnly=yes"]
    for key, value in options.items():
        argv += ["-o", f"{key}={value}"]
    return [*argv, "--", server.host]


def explain(server: Server, returncode: int, stderr: str) -> str:
    """Return one full sentence with the remedy for a failed call.

    255 is ssh's own failure. Sudo's words in the last line mean a user who may not become root, or a wrong
    password, if the status is sudo's own, 1. Everything else is the script's own errors, which may be
    followed by messages from undoing its work. Sudo also prints warnings and goes on, and a script that was
    killed then has said nothing: warnings never count.
    """
    stderr = plain(stderr, ERRORS_LIMIT)
    said = (plain(line.strip()) for line in stderr.splitlines() if line.strip())
    warning = _SUDOS_WARNING if returncode == 1 else _SUDOS_LINE
    lines = [line for line in said if not warning.match(line)]
    last = lines[-1] if lines else f"the command ended with status {returncode} and said nothing."
    if returncode == 255:
        return _explain_ssh(server, stderr, last)
    if returncode == 127 and "sudo" in last:
        return (
            f"There is no sudo on {server.host} ({last}); set security.sudo.enable = true there, or use "
            "sshUser root."
        )
    if _SUDOS_WORD.search(last):
        return _explain_sudo(server, last)
    errors = dict.fromkeys(line.removeprefix(ERROR) for line in lines if line.startswith(ERROR))
    return ERROR + " ".join(errors) if errors else last


_SUDOS_LINE = re.compile(r"sudo(-rs)?: ")
_SUDOS_WARNING = re.compile(
    r"sudo(-rs)?: (unable to (resolve host|send audit message|mkdir|open|write to|stat|update)\b|setrlimit\()"
    r"|sudo(-rs)?: \S+:\d+(:\d+)?: "
)
"""What sudo tells and then goes on: names, limits, auditing, its record of passwords, lines that it skips."""

_SUDOS_WORD = re.compile(
    r"^sudo(-rs)?:|is not in the sudoers file|may not run sudo|is not allowed to (execute|run sudo)"
)


def _explain_sudo(server: Server, last: str) -> str:
    if "must have a tty" in last:
        return (
            f"sudo on {server.host} wants a terminal (Defaults requiretty), and a run has none; set "
            f'security.sudo.extraConfig = "Defaults:{server.user} !requiretty"; there, or use sshUser root.'
        )
    if server.sudo_password is None and "is not allowed to" not in last:
        return (
            f"The user {server.user} cannot use sudo without a password on {server.host} ({last}); set "
            "sudoPassword with `pulumi config set --secret sudoPassword`, let wheel use sudo without one "
            "(security.sudo.wheelNeedsPassword = false), or use sshUser root."
        )
    if _speaks_of_a_password(last):
        return (
            f"sudo on {server.host} does not accept the sudoPassword for the user {server.user} ({last}); "
            "set the right one with `pulumi config set --secret sudoPassword`."
        )
    return (
        f"The user {server.user} may not use sudo on {server.host} ({last}); name a user of the group "
        "wheel in sshUser, or root."
    )


def _speaks_of_a_password(last: str) -> bool:
    # sudo-rs says "Maximum 3 incorrect authentication attempts".
    return _SUDOS_WORD.search(last) is not None and ("password" in last or "uthentication" in last)


def _last_line(stderr: str) -> str:
    lines = [line for line in stderr.splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


_TIRED = "Too many authentication failures"
"""What a server says once more keys were tried than its MaxAuthTries; that can be one."""


def _explain_ssh(server: Server, stderr: str, last: str) -> str:
    if "Host key verification failed" in stderr or "HOST IDENTIFICATION HAS CHANGED" in stderr:
        return (
            f"The server {server.host} shows another host key than the configured hostKey; compare it on "
            "the server itself (cat /etc/ssh/ssh_host_ed25519_key.pub) and only then change hostKey."
        )
    if unusable := _unusable_key(server, stderr):
        return unusable
    if _TIRED in stderr and server.private_key_file is None:
        return (
            f"The server {server.host} hung up before the right key was tried: the SSH agent holds more "
            "keys than it lets anybody try. Name the key file in sshPrivateKeyFile, or remove keys from the "
            "agent with ssh-add -d."
        )
    if "Permission denied" in stderr and server.private_key_file is None:
        return (
            f"The server {server.host} refuses the keys of the SSH agent for the user {server.user}; add "
            "the right key to the agent with ssh-add (ssh-add -l lists its keys), add its public half to "
            "users.users.<name>.openssh.authorizedKeys.keys, or name a key file in sshPrivateKeyFile."
        )
    if "Permission denied" in stderr or _TIRED in stderr:
        # The agent's other keys are not to blame: with a key file, no other key is tried (ssh_argv).
        return (
            f"The server {server.host} refuses the SSH key for the user {server.user}; add the public key "
            "to users.users.<name>.openssh.authorizedKeys.keys or name the right sshPrivateKeyFile."
        )
    return (
        f"The server {server.host} cannot be reached by SSH on port {server.port} ({last}); "
        "check host, sshPort, and that the machine is on."
    )


def _unusable_key(server: Server, stderr: str) -> str | None:
    """Return ssh's own objection to the key file; the server was not even offered the key."""
    if server.private_key_file is None:
        return None
    if "bad permissions" in stderr or "UNPROTECTED PRIVATE KEY FILE" in stderr:
        return (
            f"ssh does not use {server.private_key_file}, because others on this machine may read it; run "
            f"chmod 600 {server.private_key_file} (if it is on a Windows drive, copy it to ~/.ssh first)."
        )
    found = re.search(r'^Load key ".*": (.+)$', stderr, re.MULTILINE)
    if found is None:
        return None
    return (
        f"ssh cannot read the private key {server.private_key_file} ({found[1].strip()}); copy it again "
        "from where it was created, with Unix line endings and a newline at its end."
    )


TAILSCALE_CHECK = "Tailscale SSH requires an additional check"
"""The greeting of Tailscale's own SSH if its policy says "check" (tailscale/ssh/tailssh)."""

LOGIN_SECONDS = 180
"""How long somebody has to log in on that page before the run gives up."""

# Addresses on other hosts are not shown: an attacker on the server could name any page to log in on.
_LOGIN_PAGE = re.compile(r"https://login\.tailscale\.com/a/[A-Za-z0-9]+(?=\s)")

# What follows a login: the confirmation, or any line of a script.
_LET_IN = re.compile(r"^(# Authentication checked|[^#\s])", re.MULTILINE)


def _tell_login_page(server: Server) -> Callable[[bytes], float | None]:
    """Return a function that shows the page at once: the engine prints a provider's standard error live."""
    waiting = False

    def heed(stderr: bytes) -> float | None:
        nonlocal waiting
        words = stderr.decode(errors="replace")
        page = _LOGIN_PAGE.search(words)
        if waiting:
            return math.inf if page is None or _LET_IN.search(words, page.end()) else None
        if TAILSCALE_CHECK not in words or page is None:
            return None
        print(
            f"Tailscale SSH on {server.host} waits until you have logged in at {page[0]}",
            file=sys.stderr,
            flush=True,
        )
        waiting = True
        return LOGIN_SECONDS

    return heed


def _explain_silence(server: Server, stderr: str, timeout_seconds: float) -> str:
    if TAILSCALE_CHECK not in stderr:
        return (
            f"The server {server.host} did not finish within {timeout_seconds} seconds; "
            "look at its load and its network, then run the same command again."
        )
    page = _LOGIN_PAGE.search(stderr)
    where = page[0] if page else f"the page that `ssh {server.user}@{server.host}` names"
    return (
        f"Tailscale SSH on {server.host} wants you to log in first; visit {where} and run the same command "
        'again. To stop being asked, let the tailnet policy say "accept" instead of "check" for this machine.'
    )


def _refuse_no_key(server: Server) -> None:
    """Refuse a run without key file and agent: ssh finds default keys, the command provider does not."""
    if server.private_key_file is None and not os.environ.get("SSH_AUTH_SOCK"):
        raise SshError(
            "There is no SSH key to log in to the server with: sshPrivateKeyFile is not set, and no SSH "
            "agent is running (SSH_AUTH_SOCK is not set). Name the key file in sshPrivateKeyFile, or start "
            "an agent and add the key to it with ssh-add."
        )


def _refuse_dead_agent() -> None:
    """Refuse an agent socket that nothing listens on: every command of the run would fail."""
    path = os.environ.get("SSH_AUTH_SOCK")
    if not path:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError as error:
            raise SshError(
                "SSH_AUTH_SOCK names an agent that does not answer; start the agent or unset the variable."
            ) from error
