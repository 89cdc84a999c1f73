"""The operator of the lab: runs the real Pulumi CLI on this project against the lab's server.

Each operator has a folder of its own with a backend, a stack file and a keystore, so that tests share
nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import toolchain
from toolchain.paths import PROJECT

PASSPHRASE = "correct horse battery staple"
"""The keystore's passphrase in the tests; they search state, logs and command lines for it."""

SECRET = ("keystorePassphrase", "sudoPassword", "crowdsecKey")
STATE_PASSPHRASE = "the stack's own passphrase"
UP_TIMEOUT_SECONDS = 300

PROOF = {"immich-short-lease", "immich-check"}
"""Resources that change with all else: a change behind an open funnel is on a short lease until proven."""
LISTS = {"immich-withdrawal", "immich-devices", "immich-sheets"}
"""The resources that name all devices: those that stay, those that come in, and their install sheets."""


class PulumiFailedError(RuntimeError):
    """``pulumi`` ended with an error; the message is all it printed."""


@dataclass(frozen=True)
class Step:
    """One row of a preview: what would be done to which resource."""

    op: str
    urn: str

    @property
    def name(self) -> str:
        """The resource's logical name."""
        return self.urn.rsplit("::", 1)[1]


class Operator:
    """One person with one stack. ``info`` is what ``python -m lab info --json`` prints."""

    def __init__(
        self,
        folder: Path,
        info: Mapping[str, Any],
        *,
        stack: str = "lab-test",
        project: Path = PROJECT,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        """``more`` are settings of this operator's home; those of ``SECRET`` are stored encrypted."""
        self.folder = folder
        self.project = project
        self.stack = stack
        self.keystore = folder / "keystore"
        self._stack_file = folder / f"Pulumi.{stack}.yaml"
        self._events = folder / "events"
        self.settings: dict[str, Any] = {
            "host": info["ssh"]["host"],
            "hostKey": info["ssh"]["host_key"],
            "sshPort": info["ssh"]["port"],
            "sshUser": info["ssh"]["user"],
            "sshPrivateKeyFile": info["ssh"]["private_key_file"],
            "keystore": str(self.keystore),
            "check": {
                "connectTo": f"{info['window']['host']}:{info['window']['port']}",
                "rootsFile": info["roots_file"],
            },
            "policy": {"checked-from-outside": "disabled"},
            "devices": [{"name": "phone", "platform": "ios"}, {"name": "laptop", "platform": "linux"}],
        }
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "backend").mkdir(exist_ok=True)
        # A file where the folder of its logs would be: nobody here reads them, and to pack and encrypt them
        # in small pieces is a third of all that the CLI does.
        (folder / "home").mkdir(exist_ok=True)
        (folder / "home" / "logs").touch()
        passphrase_file = folder / "state-passphrase"
        passphrase_file.write_text(STATE_PASSPHRASE, encoding="utf-8")
        self.environment = {
            **os.environ,
            **toolchain.pulumi_environment(),
            # Killed while it writes, Pulumi leaves an empty file of metadata and then reads nothing.
            "PULUMI_BACKEND_URL": f"file://{folder / 'backend'}?metadata=skip",
            "PULUMI_CONFIG_PASSPHRASE_FILE": str(passphrase_file),
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "PULUMI_HOME": str(folder / "home"),
            "NO_COLOR": "1",
            "PULUMI_DEBUG_COMMANDS": "true",  # for --event-log
        }
        self.environment.pop("SSH_AUTH_SOCK", None)
        # What Python has compiled it keeps, as in every home; a run starts two Pythons with all of ours.
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)
        given = dict(more or {})
        self.secrets = {key: given.pop(key) for key in SECRET if key in given}
        self.secrets["keystorePassphrase"] = PASSPHRASE
        self.settings |= given
        self.patience_seconds = UP_TIMEOUT_SECONDS
        self.log: list[str] = []

    # -- the stack's file ---------------------------------------------------------------------------

    def set(self, **changes: Any) -> None:
        """Change settings of the stack; ``None`` takes a key out. Takes effect at the next command."""
        for key, value in changes.items():
            if value is None:
                self.settings.pop(key, None)
            else:
                self.settings[key] = value

    def set_secret(self, key: str, secret: str) -> None:
        """Set a key that is stored encrypted."""
        self.secrets[key] = secret
        self._write_secrets()

    def drop_secret(self, key: str) -> None:
        """Take such a key out; takes effect at the next command."""
        del self.secrets[key]

    def set_passphrase(self, passphrase: str) -> None:
        """Use another keystore passphrase from now on."""
        self.secrets["keystorePassphrase"] = passphrase
        self._write_secrets()

    def passphrase_file(self) -> Path:
        """Return a file with the keystore's passphrase, for a person who visits as a device."""
        path = self.folder / "keystore-passphrase"
        path.touch(mode=0o600)
        path.write_text(self.secrets["keystorePassphrase"], encoding="utf-8")
        return path

    def devices(self, *names: str) -> None:
        """Configure exactly these devices; those that are there already stay as they are."""
        known = {device["name"]: device for device in self.settings["devices"]}
        self.set(devices=[known.get(name, {"name": name, "platform": "linux"}) for name in names])

    def init(self) -> None:
        """Create the stack, and its keystore passphrase as an encrypted setting."""
        self._stack_file.write_text("config: {}\n", encoding="utf-8")
        self.pulumi("stack", "init", "--stack", self.stack)
        # init writes its own stack file whatever --config-file says; ours lies in this operator's folder
        (self.project / "stacks" / f"Pulumi.{self.stack}.yaml").unlink(missing_ok=True)
        self._write_secrets()

    def _write_secrets(self) -> None:
        for key, secret in self.secrets.items():
            self.pulumi("config", "set", "--secret", key, *self._config_file(), stdin=secret)

    def _write_settings(self) -> None:
        """Put the settings into the stack's file, beside the salt and the secrets that the CLI keeps."""
        content = yaml.safe_load(self._stack_file.read_text(encoding="utf-8"))
        names = [f"immich-exposure:{key}" for key in self.secrets]
        kept = {name: content["config"][name] for name in names if name in content["config"]}
        plain = {f"immich-exposure:{key}": value for key, value in self.settings.items()}
        content["config"] = kept | plain
        self._stack_file.write_text(yaml.safe_dump(content), encoding="utf-8")

    def _config_file(self) -> tuple[str, ...]:
        return ("--stack", self.stack, "--config-file", str(self._stack_file))

    # -- commands -----------------------------------------------------------------------------------

    def up(self, *extra: str) -> str:
        """Run ``pulumi up`` and return what it printed; raises ``PulumiFailedError``."""
        self._write_settings()
        events = f"--event-log={self._events}"
        return self.pulumi("up", "--yes", "--skip-preview", events, *self._config_file(), *extra).stdout

    def destroy(self) -> str:
        """Run ``pulumi destroy`` and return what it printed."""
        self._write_settings()
        return self.pulumi("destroy", "--yes", "--skip-preview", *self._config_file()).stdout

    def start(self, verb: str) -> subprocess.Popen[str]:
        """Start ``pulumi up`` or ``destroy`` in a process group of its own and return it at once."""
        self._write_settings()
        command = [str(toolchain.program("pulumi")), verb, "--yes", "--skip-preview", "--non-interactive"]
        return subprocess.Popen(
            [*command, *self._config_file()],
            cwd=self.project,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def fails(self) -> str:
        """Run ``pulumi up``, which must fail, and return what a person then reads."""
        self._write_settings()
        command = ("up", "--yes", "--skip-preview", "--skip-config-validation", *self._config_file())
        done = self.pulumi(*command, ok=range(256))
        if done.returncode == 0:
            raise AssertionError(f"pulumi up was expected to fail, but it printed:\n{done.stdout}")
        return done.stdout + done.stderr

    def preview(self, *extra: str) -> str:
        """Run ``pulumi preview`` and return what it printed."""
        self._write_settings()
        return self.pulumi("preview", *self._config_file(), *extra).stdout

    def refresh(self) -> str:
        """Run ``pulumi refresh`` and return what it printed."""
        self._write_settings()
        return self.pulumi("refresh", "--yes", "--skip-preview", *self._config_file()).stdout

    def planned(self) -> list[Step]:
        """Return what ``pulumi up`` would do, without what would stay the same."""
        steps = json.loads(self.preview("--json"))["steps"]
        return [Step(step["op"], step["urn"]) for step in steps if step["op"] != "same"]

    def touched(self) -> frozenset[str]:
        """Return the names of the resources that the last ``up`` made, changed or took away."""
        events = map(json.loads, self._events.read_text(encoding="utf-8").splitlines())
        ended = [each["resOutputsEvent"]["metadata"] for each in events if "resOutputsEvent" in each]
        return frozenset(Step(each["op"], each["urn"]).name for each in ended if _is_change(each))

    def changes(self) -> dict[str, int]:
        """Return the counts of the last run, for example ``{"same": 23}``."""
        history = json.loads(self.pulumi("stack", "history", "--json", "--stack", self.stack).stdout)
        counts: dict[str, int] = history[0]["resourceChanges"]
        return counts

    def outputs(self, *, show_secrets: bool = False) -> dict[str, Any]:
        """Return the stack's outputs."""
        flags = ("--show-secrets",) if show_secrets else ()
        result = self.pulumi("stack", "output", "--json", "--stack", self.stack, *flags)
        outputs: dict[str, Any] = json.loads(result.stdout)
        return outputs

    def export(self) -> str:
        """Return the exported state, secrets encrypted, as text."""
        return self.pulumi("stack", "export", "--stack", self.stack).stdout

    def pulumi(
        self, *arguments: str, stdin: str = "", ok: Container[int] = (0,)
    ) -> subprocess.CompletedProcess[str]:
        """Run the CLI in the project; all that it prints is kept in ``log`` for the search for secrets."""
        command = [str(toolchain.program("pulumi")), *arguments, "--non-interactive"]
        done = subprocess.run(
            command,
            cwd=self.project,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=self.patience_seconds,
            check=False,
        )
        self.log.append(done.stdout + done.stderr)
        if done.returncode not in ok:
            raise PulumiFailedError(f"pulumi {' '.join(arguments)}\n{done.stdout}\n{done.stderr}")
        return done


def _is_change(ended: Mapping[str, Any]) -> bool:
    """Whether a step changed a resource; providers and components are none that can change."""
    kept = ended.get("new") or ended["old"]
    provider = ended["type"].startswith("pulumi:providers:")
    return bool(ended["op"] != "same" and kept.get("custom") and not provider)
