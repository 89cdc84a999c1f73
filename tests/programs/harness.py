"""A pretend server for the scripts in server/scripts: a folder as its root, and fakes that record every call.

A script runs exactly as over SSH: what it needs of ``lib.sh`` + ``payload()`` + the script, as one text on
the shell's standard input. All that it calls and that would touch a real machine is a fake which writes its
command line into one record; coreutils are real.
"""

import atexit
import json
import os
import re
import shutil
import subprocess
import tempfile
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from components.remote.remote_script import PayloadFile, script_text, with_library
from toolchain.paths import PROJECT

SCRIPTS = PROJECT / "server" / "scripts"
SHELLS: dict[str, list[str]] = {
    "dash": ["dash"],
    # With pipefail, as writeShellApplication runs the command on NixOS; what bears it runs without as well.
    "bash": ["bash", "-o", "pipefail"],
}
DOMAIN = "immich.lab-tailnet.ts.net"
NODE = f'{{"BackendState": "Running", "CertDomains": ["{DOMAIN}"]}}'
OPEN = f"""{{"TCP": {{"443": {{"TCPForward": "127.0.0.1:8443", "ProxyProtocol": 1}}}},
  "AllowFunnel": {{"{DOMAIN}:443": true}}}}"""

EDGE_NEEDS = ["settings/edge.env", "domain.env", "tls/server.crt", "tls/server.key", "device-ca.crt"]
"""What the edge does not start without, below the folder of the exposure."""

_LISTED = re.search(r'^SERVICES="([^"]*)"$', (SCRIPTS / "lib.sh").read_text(), re.MULTILINE)
assert _LISTED is not None
UNITS = _LISTED[1].replace(".service", "").split()
"""The units that run while there is an exposure, as the fake systemctl has them."""
RUNNING = "\n".join(UNITS)

# Bodies of the fakes, sh. $FAKES is their folder; they keep what they remember there.
BODIES = {
    "id": "echo 0",
    "chown": "",
    "getent": """
        case $1 in
          group) grep -qx -- "$2" "$FAKES/groups" ;;
          passwd) grep -- "^$2:" "$FAKES/passwd" ;;
          ahosts) cat "$FAKES/hosts" ;;
        esac""",
    # What `immich-exposure module` prints, where the running system has the module.
    "immich-exposure": '[ ! -e "$FAKES/module" ] || cat "$FAKES/module"',
    "ip": 'cat "$FAKES/addresses"',
    # The clock stands still but for sleeping, which takes half a minute of it: long waits take no time.
    "sleep": """
        clock=$(cat "$FAKES/clock"); echo $((clock + 30)) >"$FAKES/clock"
        read -r up idle <"$IMMICH_EXPOSURE_ROOT/proc/uptime"
        echo "$((${up%.*} + 30)).00 $idle" >"$IMMICH_EXPOSURE_ROOT/proc/uptime" """,
    "date": 'case $1 in +%s) cat "$FAKES/clock" ;; *) TZ=UTC exec /bin/date "$@" ;; esac',
    # Units listed in `active` run, units listed in `failed` have failed, units listed in `units` exist.
    "systemctl": """
        case $1 in
          is-active)
            [ "$2" != --quiet ] || exec grep -qxF -- "${3%.service}" "$FAKES/active"
            shift
            for unit; do
              if grep -qxF -- "${unit%.service}" "$FAKES/active"; then echo active; else echo inactive; fi
            done
            ;;
          --failed) cat "$FAKES/failed" ;;
          reload | reload-or-restart) [ ! -e "$FAKES/$1-fails" ] ;;
          cat) grep -qx -- "$2" "$FAKES/units" ;;
          list-units) cat "$FAKES/sockets" ;;
          list-unit-files) cat "$FAKES/unit-files" ;;
          show)
            case $2 in
              *MainPID) cat "$FAKES/edge-pid" ;;
              *ExecStart) [ ! -x "$FAKES/edge" ] || echo "{ path=$FAKES/edge ; argv[]=edge run }" ;;
            esac
            ;;
          is-enabled) ! grep -qxF -- "$2" "$FAKES/masked" 2>/dev/null || echo masked ;;
          is-failed) grep -q -- "^$3 " "$FAKES/failed" ;;
        esac""",
    # Runs the command at once when told to wait for it, with its output where the unit would have it.
    "systemd-run": """
        wait=no output=/dev/null
        while [ $# -gt 0 ]; do
          case $1 in
            --wait) wait=yes ;;
            --property=StandardOutput=append:*) output=${1#*append:} ;;
            --*) ;;
            *) break ;;
          esac
          shift
        done
        [ $wait = no ] || "$@" >>"$output" 2>&1""",
    # Two files are all that it knows, and all that it can be told is to forget the one.
    "tailscale": """
        case "$1 $2" in
          "status --json") cat "$FAKES/status.json" ;;
          "funnel status") cat "$FAKES/serve.json" ;;
          "funnel reset") echo "{}" >"$FAKES/serve.json" ;;
          *) echo "{}" ;;
        esac""",
    # What a configuration evaluates to stands in two files, by whether our import is in it; none is an error.
    "nix-instantiate": """
        case $* in
          *--find-file*) cat "$FAKES/$2" 2>/dev/null ;;
          *toplevel=*)
            while [ "$1" != configuration ]; do shift; done
            words=unchanged
            ! grep -q -e '/immich-exposure[] ]' -e '/module.before' "$2" || words=changed
            cp "$2" "$FAKES/looked-at-$words"
            [ -n "$(cat "$FAKES/$words")" ] || { echo "error: undefined variable" >&2; exit 1; }
            printf '"%s"' "$(cat "$FAKES/$words")"
            ;;
          # What a file says besides the chapter: nothing. Whether another one imports our folder: none.
          *chapters*) printf '""' ;;
          *declarations*) printf false ;;
        esac""",
    "nixos-rebuild": """
        echo "build output"
        [ ! -e "$FAKES/build-fails" ] || { echo "error: undefined variable"; exit 1; }
        ln -s "$(cat "$FAKES/built")" result""",
    "nix-env": """
        case $3 in
          --set) link=system-42-link target=$4; ln -sfn "$target" "${2%/*}/$link" ;;
          --switch-generation) link=system-$4-link ;;
        esac
        ln -sfn "$link" "$2" """,
    "curl": """
        for url; do :; done
        proxied=no output=
        while [ $# -gt 1 ]; do
          case $1 in --haproxy-protocol) proxied=yes ;; --output) output=$2 ;; esac
          shift
        done
        path=/${url#*://*/}
        answer=$(grep -F -- "$proxied $path " "$FAKES/answers" | head -n 1) || answer="- - 000"
        status=$(echo "$answer" | cut -d " " -f 3) body=$(echo "$answer" | cut -d " " -f 4-)
        if [ -n "$output" ]; then
          printf "%s" "$body" >"$output"
          printf "%s" "$status"
        else
          printf "%s" "$body"
        fi
        [ "$status" != 000 ]""",
    "ss": 'cat "$FAKES/listeners"',
}


@dataclass(frozen=True)
class Outcome:
    """How a script ended: exit status, its result and what it told."""

    status: int
    stdout: str
    stderr: str

    @property
    def error(self) -> str:
        """The error sentence, without its prefix; empty when there was none."""
        return "\n".join(
            line.removeprefix("error: ") for line in self.stderr.splitlines() if line.startswith("error: ")
        )


class Machine:
    """A pretend server under ``folder``; its scripts run in the shell called ``shell`` (a key of SHELLS)."""

    _prepared: ClassVar[dict[tuple[str, ...], Path]] = {}

    def __init__(self, folder: Path, shell: str) -> None:
        self.shell = SHELLS[shell]
        self.root = folder / "root"
        self.fakes = folder / "fakes"
        self.temporary = folder / "tmp"
        self.config = self.root / "etc/nixos"
        self.state = self.root / "var/lib/immich-exposure"
        self._logs = self.root / "var/log/immich-edge"
        for place in (self.config, self.root / "var/lib", self.root / "run", self.fakes, self.temporary):
            place.mkdir(parents=True)
        for name, body in BODIES.items():
            self.fake(name, body)
        self.remember(clock="1000000", active="", failed="", answers="", listeners="", groups="", units="")
        self.remember(hosts="", addresses="", sockets="", passwd="")
        self.remember(**{"unit-files": ""})
        self.remember(**{"edge-pid": "0"})
        self.remember(**{"status.json": NODE, "serve.json": "{}"})
        self._age, self._boot = 5000, 1
        self.elapse(0)

    def elapse(self, seconds: int) -> None:
        """Let this boot grow older; the clock, which is another matter, stays as it is."""
        self._age += seconds
        self.write(self.root / "proc/uptime", f"{self._age}.25 1.00\n")
        self.write(self.root / "proc/1/stat", f"1 (a (b) c) S {' 0' * 18} 100 0\n")
        self.write(self.root / "proc/sys/kernel/random/boot_id", f"0000000{self._boot}-aaaa\n")

    def reboot(self, age: int = 20) -> None:
        """Begin another boot, ``age`` seconds ago; what lies in memory is gone."""
        for place in (self.root / "run").glob("immich-exposure*"):
            place.unlink()
        self._boot += 1
        self._age = age + 1  # the first process is one second younger than the machine
        self.elapse(0)

    def fake(self, name: str, body: str) -> None:
        """Put a recording stand-in for command ``name`` first on the PATH."""
        program = self.fakes / name
        body = textwrap.dedent(body).strip()
        record = (
            f"""{{ printf '%s' {name}; for word; do printf ' %s' "$word"; done; echo; }} >>"$FAKES/record" """
        )
        program.write_text(f"#!/bin/sh\n{record}\n{body}\n")
        program.chmod(0o755)

    def prepare(self) -> None:
        """Make the folder of the exposure, as the first script of a run does.

        On a machine on which nothing has run yet it is always the same one: made once, and copied then.
        """
        groups = (self.fakes / "groups").read_text()
        made = self._prepared.get((*self.shell, groups))
        untouched = not any(place.exists() for place in (self.state, self.fakes / "record", self._logs))
        if untouched and made is not None:
            shutil.copytree(made, self.root, symlinks=True, dirs_exist_ok=True)
            return
        assert self.run("state", "prepare").status == 0
        self.forget_commands()
        if untouched:
            kept = Path(tempfile.mkdtemp(prefix="immich-exposure-prepared-"))
            atexit.register(shutil.rmtree, kept, ignore_errors=True)
            for place in ("var/lib/immich-exposure", "var/log", "run/lock"):
                if (self.root / place).exists():
                    shutil.copytree(self.root / place, kept / place, symlinks=True)
            self._prepared[(*self.shell, groups)] = kept

    def edge_runs(self, *others: str) -> None:
        """Let the edge run, and other units, with all that it wants in the folder of the exposure."""
        self.remember(active="\n".join(("immich-edge", *others)))
        for name in EDGE_NEEDS:
            if not (self.state / name).exists():
                self.write(self.state / name, "")

    def begin(
        self,
        *devices: str,
        owner: str = "organization/immich/home",
        stack: str = "ours",
        take_over: str = "no",
    ) -> Outcome:
        """Begin an exposure as this stack."""
        return self.run("state", f"--stack={stack}", "begin", owner, take_over, *devices)

    def unfake(self, name: str) -> None:
        """Let the real command through."""
        (self.fakes / name).unlink()

    def remember(self, **files: str) -> None:
        """Set what the fakes look up, one file each."""
        for name, content in files.items():
            (self.fakes / name).write_text(content + "\n")

    def write(self, path: Path, content: str, mode: int = 0o644) -> None:
        """Put a file on the server."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        path.chmod(mode)

    def run(self, script: str, *arguments: str, payload: dict[str, str] | None = None) -> Outcome:
        """Run ``script`` as the operator does; ``payload`` maps relative paths to contents of mode 0644."""
        files = tuple(PayloadFile(path, text) for path, text in (payload or {}).items())
        nothing = "payload() { :; }\n" if payload == {} else ""
        return self.run_text(nothing + script_text(script, files), *arguments)

    @property
    def environment(self) -> dict[str, str]:
        """What a script finds in its environment here."""
        return {
            "PATH": f"{self.fakes}:{os.environ['PATH']}",
            "FAKES": str(self.fakes),
            "TMPDIR": str(self.temporary),
            "IMMICH_EXPOSURE_ROOT": str(self.root),
            "HOME": str(self.temporary),
        }

    def run_text(self, text: str, *arguments: str, seconds: float = 60) -> Outcome:
        """Run any text as a script, in this server's environment."""
        # A shell cannot trap what was ignored when it began, as SIGHUP is when the tests run under nohup.
        done = subprocess.run(
            ["env", "--default-signal", *self.shell, "-s", "--", *arguments],
            input=text,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        places = (self.root / "run", self.root / "dev/shm", self.temporary)
        left = [folder for place in places for folder in place.glob("immich-exposure.*")]
        assert left == [], "the script left its private folder behind"
        return Outcome(done.returncode, done.stdout, self._plain(done.stderr))

    def commands(self, *names: str) -> list[str]:
        """The recorded command lines in order, only of ``names`` if given, this machine's paths cut out."""
        record = self.fakes / "record"
        lines = self._plain(record.read_text()).splitlines() if record.exists() else []
        return [line for line in lines if not names or line.split(" ")[0] in names]

    def forget_commands(self) -> None:
        """Start the record anew."""
        (self.fakes / "record").unlink(missing_ok=True)

    def files(self, folder: Path) -> dict[str, str]:
        """Every file under ``folder``: relative path to "MODE content"."""
        return {
            str(path.relative_to(folder)): f"{path.stat().st_mode & 0o777:04o} {path.read_text()}"
            for path in sorted(folder.rglob("*"))
            if path.is_file() and self.root / "proc" not in path.parents
        }

    def _plain(self, text: str) -> str:
        text = re.sub(re.escape(str(self.root)) + r"/run/immich-exposure\.\w+", "WORK", text)
        text = re.sub(r"--setenv=PATH=\S+", "--setenv=PATH=...", text)
        text = re.sub(r"(immich-exposure-(?:rebuild|switch|rollback))-\d+", r"\1-PID", text)
        return text.replace(str(self.root), "")


def part(script: str, body: str) -> str:
    """Return a text that runs ``body`` with a script's functions, in place of what its verbs do."""
    functions, verbs, _ = script_text(script).partition("\nneed_root\n")
    assert verbs
    return f"{functions}\nneed_root\n{body}\n"


OPEN_FUNNEL = part("funnel", 'lock; make_state; open_funnel "$@"')
"""What `prove` does before it waits for the word, for FUNNEL_PORT, PROXY_PORT and the lease's SECONDS."""

CONFIRM_FUNNEL = part("funnel", 'lock; confirm_funnel "$@"')
"""What `prove` does with a funnel that is proven, for its term."""

FUNNEL_STATE = part(
    "funnel",
    """
read_funnel "$@"
read_lease
printf '{"state":"%s","shared":"%s","lease":"%s"}\\n' "$FUNNEL" "$FUNNEL_SHARED" "$LEASE_IS"
""",
)
"""What all that deals with the funnel reads, for FUNNEL_PORT and PROXY_PORT."""

RECORD = with_library('need_root\nlock\nrecord "$@"\n')
"""The end of `prove`, for FUNNEL_PORT, PROXY_PORT, the folder of the configuration, and a digest."""


def serve(machine: Machine, config: dict[str, Any]) -> None:
    """Give the fake ``tailscale`` this serve configuration."""
    (machine.fakes / "serve.json").write_text(json.dumps(config))


def serving(machine: Machine) -> dict[str, Any]:
    """Return the serve configuration of the fake ``tailscale``."""
    answer: dict[str, Any] = json.loads((machine.fakes / "serve.json").read_text())
    return answer


def later(machine: Machine, seconds: int) -> None:
    """Set the pretend server's clock forward."""
    clock = int((machine.fakes / "clock").read_text())
    machine.remember(clock=str(clock + seconds))


def result(outcome: Outcome) -> dict[str, object]:
    """The one JSON object on the one line of standard output; fails the test when the script failed."""
    assert outcome.status == 0, outcome.stderr
    assert outcome.stdout.count("\n") == 1, outcome.stdout
    answer = json.loads(outcome.stdout)
    assert isinstance(answer, dict)
    return answer


def available_shells() -> list[str]:
    """The shells of SHELLS that this machine has."""
    return [name for name, command in SHELLS.items() if shutil.which(command[0])]


def assert_sentence(outcome: Outcome, *fragments: str) -> None:
    """The script failed with exactly one error: a full sentence with a remedy, holding ``fragments``."""
    assert outcome.status != 0, "the script should have failed"
    assert outcome.stdout == ""
    assert outcome.error.count("\n") == 0 and outcome.error, outcome.stderr
    assert re.fullmatch(r"\S.*[.]", outcome.error), outcome.error
    assert re.search(r"[;,.(] *(?:\S|$)", outcome.error[:-1]), f"no remedy: {outcome.error}"
    for fragment in fragments:
        assert fragment in outcome.error
