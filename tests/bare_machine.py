"""A machine of an owner, for tests: POSIX tools, make and Python on PATH, an ordinary user, a checkout.

The checkout lacks the lab and the tests, which are nothing that an owner needs.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from toolchain.paths import PROJECT

# What the lab and developers use, and a Mac, NixOS or Fedora need not have.
MISSING = (
    "apt-get",
    "fail2ban-client",
    "fail2ban-server",
    "go",
    "ip",
    "nft",
    "nix",
    "nix-build",
    "nix-instantiate",
    "sudo",
    "systemctl",
    "systemd-nspawn",
    "systemd-run",
)
_PRESENT = (
    *("awk", "cat", "chmod", "command", "cp", "dirname", "echo", "env", "false", "grep", "id", "ls", "make"),
    *(
        "mkdir",
        "mktemp",
        "mv",
        "printf",
        "rm",
        "sed",
        "sh",
        "ssh",
        "ssh-add",
        "ssh-keygen",
        "test",
        "touch",
        "true",
        "uname",
    ),
)
_NOT_COPIED = (
    ".git",
    ".venv",
    ".toolchain",
    ".lab*",
    ".*_cache",
    "__pycache__",
    "keystore",
    "Pulumi.*.yaml",
    "lab",
    "tests",
)
_NOBODY = 65534

# The interpreter may lie in root's home, which nobody else may enter: reading it is all that is lent.
_AS_NOBODY = (
    *("setpriv", "--reuid", str(_NOBODY), "--regid", str(_NOBODY), "--clear-groups", "--no-new-privs"),
    *("--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"),
)


def as_ordinary_user() -> Sequence[str]:
    """Return what stands in front of a command so that it does not run as root."""
    if os.geteuid() != 0:
        return ()
    setpriv = shutil.which("setpriv")
    assert setpriv is not None, "setpriv is missing: it is part of util-linux."
    return (setpriv, *_AS_NOBODY[1:])


class BareMachine:
    """One such machine in a folder of its own; with `venv`, the checkout has the Python packages already.

    pytest's folders will not do: nobody but root may enter them.
    """

    def __init__(self, *, venv: bool = True) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="operator-")
        folder = Path(self._folder.name)
        folder.chmod(0o755)
        self.home = folder / "home"
        self.tools = folder / "tools"
        self.project = folder / "checkout"
        self.home.mkdir()
        self.tools.mkdir()
        for name in _PRESENT:
            self._link(name)
        shutil.copytree(PROJECT, self.project, symlinks=True, ignore=shutil.ignore_patterns(*_NOT_COPIED))
        shutil.copy2(PROJECT / "stacks" / "Pulumi.lab.yaml", self.project / "stacks")
        if venv:
            (self.tools / "python3").symlink_to(PROJECT / ".venv" / "bin" / "python3")
            self._borrow_packages()
        self.environment = {
            "HOME": str(self.home),
            "PATH": str(self.tools),
            "LANG": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self._give_away(folder)

    def close(self) -> None:
        """Remove the machine."""
        self._folder.cleanup()

    def program(self, name: str, script: str) -> None:
        """Install a program of the test's own."""
        path = self.tools / name
        path.unlink(missing_ok=True)
        path.write_text(script)
        path.chmod(0o755)

    def stack(self, name: str, settings: str = "") -> Path:
        """Write a stack's file with these lines below `config:`."""
        file = self.project / "stacks" / f"Pulumi.{name}.yaml"
        file.write_text(f"config:\n  immich-exposure:host: 192.168.1.20\n{settings}")
        self._give_away(file)
        return file

    def make(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run make in the checkout."""
        return self.run("make", *arguments, *(f"{name}={value}" for name, value in variables.items()))

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the checkout as an ordinary user."""
        return subprocess.run(
            [*as_ordinary_user(), *command],
            cwd=self.project,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def _link(self, name: str) -> None:
        found = shutil.which(name)
        if found is not None:
            (self.tools / name).symlink_to(found)

    def _borrow_packages(self) -> None:
        """As `make .venv/ready` leaves it, without asking a package index."""
        (self.project / ".venv").mkdir()
        for entry in (PROJECT / ".venv").iterdir():
            if entry.name not in ("ready", "developer"):
                (self.project / ".venv" / entry.name).symlink_to(entry)
        (self.project / ".venv" / "ready").touch()

    def _give_away(self, folder: Path) -> None:
        if os.geteuid() != 0:
            return
        for path in (folder, *folder.rglob("*")):
            os.chown(path, _NOBODY, _NOBODY, follow_symlinks=False)
