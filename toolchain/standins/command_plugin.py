"""Stand-in for `pulumi-resource-command` 1.2.1: commands here and over SSH, and copies over SSH.

Served: `command:local:Command`, `command:remote:Command`, `command:remote:CopyToRemote`. Its behaviour is
that of the official plugin, as measured and read in its source:

- `update` runs the update text, or create if there is none; `triggers` replace; there is no read, so
  refresh sees nothing;
- a failed create leaves nothing in the state, a failed update leaves the previous state;
- `stdout` and `stderr` lose one trailing newline, are unknown in the preview of a create or a change, and
  are secret if an input other than the connection and stdin is;
- a line of 64 KiB on a logged output, which hangs the official plugin for ever, is an error, and so is output
  that is not UTF-8 from a successful command;
- a failure shows the command, both streams and the status; a running command is never aborted.
"""

import json
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType

import grpc  # type: ignore[import-untyped]
from google.protobuf import empty_pb2  # type: ignore[import-untyped]

from components.engine import server_words
from toolchain.standins.endpoint import Endpoint, Outcome, SshError
from toolchain.standins.properties import (
    ARCHIVE_SIGNATURE,
    ASSET_SIGNATURE,
    SIGNATURE,
    UNKNOWN,
    Properties,
    Property,
    Secret,
    decode,
    encode,
    holds_secret,
    holds_unknown,
    reveal,
)
from toolchain.standins.protocol import (
    engine_pb2,
    engine_pb2_grpc,
    plugin_pb2,
    provider_pb2,
    provider_pb2_grpc,
)
from toolchain.standins.serving import engine_channel, serve

VERSION = "1.2.1"
LOCAL_COMMAND = "command:local:Command"
REMOTE_COMMAND = "command:remote:Command"
COPY_TO_REMOTE = "command:remote:CopyToRemote"

_COMMAND_INPUTS = frozenset(
    {"create", "update", "delete", "triggers", "stdin", "environment", "logging", "addPreviousOutputInEnv"}
)
INPUTS: Mapping[str, frozenset[str]] = {
    LOCAL_COMMAND: _COMMAND_INPUTS | {"dir", "interpreter", "assetPaths", "archivePaths"},
    REMOTE_COMMAND: _COMMAND_INPUTS | {"connection"},
    COPY_TO_REMOTE: frozenset({"connection", "source", "remotePath", "triggers"}),
}
_PROXY_INPUTS = frozenset(
    {
        "host",
        "port",
        "user",
        "password",
        "privateKey",
        "privateKeyPassword",
        "agentSocketPath",
        "hostKey",
        "dialErrorLimit",
        "perDialTimeout",
    }
)
_CONNECTION_DEFAULTS: Properties = {
    "user": "root",
    "port": 22.0,
    "dialErrorLimit": 10.0,
    "perDialTimeout": 15.0,
}
_LOGGING = ("stdout", "stderr", "stdoutAndStderr", "none")
_OUTPUTS = ("stdout", "stderr")
_LONGEST_LINE = 64 * 1024
"""Line length in bytes at which the official plugin hangs: its reader is Go's bufio.Scanner."""
_NO_UTF8 = "\ufffd"
"""The character to which invalid UTF-8 is decoded."""
_SHOWN = 8000
"""How many characters of a failed command's output are shown: its end, which says what went wrong."""
_DIFF_KINDS = provider_pb2.PropertyDiff


class CommandError(Exception):
    """A command that failed; the message is what the user reads."""


@dataclass
class LineLog:
    """Turns pieces of output into lines for the engine's log; `finish` flushes the last, incomplete one."""

    write: Callable[[str], None]
    _rest: bytearray = field(default_factory=bytearray)
    too_long: bool = False
    """Whether a line was longer than the official plugin's reader accepts."""

    def __call__(self, piece: bytes) -> None:
        """Take the next piece of output, and write the lines that are complete."""
        self._rest += piece
        *lines, rest = bytes(self._rest).split(b"\n")
        self._rest = bytearray(rest)
        self.too_long = self.too_long or max(map(len, (*lines, rest))) >= _LONGEST_LINE
        for line in lines:
            self.write(server_words.plain(line.decode(errors="replace")))

    def finish(self) -> None:
        """Write what is left."""
        if self._rest:
            self.write(server_words.plain(self._rest.decode(errors="replace")))
            self._rest.clear()


class CommandProvider(provider_pb2_grpc.ResourceProviderServicer):
    """The resource provider service. `engine` is the engine's address (host:port), empty for no log."""

    def __init__(self, engine: str = "") -> None:
        self._engine = engine
        self._stub: engine_pb2_grpc.EngineStub | None = None
        self._cancelled = threading.Event()
        self._lock = threading.Lock()

    # Set-up of the connection with the engine.

    def Handshake(
        self, request: provider_pb2.ProviderHandshakeRequest, context: grpc.ServicerContext
    ) -> provider_pb2.ProviderHandshakeResponse:
        """Store the engine's address and ask it to mark secrets."""
        self._engine = request.engine_address or self._engine
        return provider_pb2.ProviderHandshakeResponse(accept_secrets=True)

    def GetPluginInfo(self, request: empty_pb2.Empty, context: grpc.ServicerContext) -> plugin_pb2.PluginInfo:
        """The version of the plugin that this replaces."""
        return plugin_pb2.PluginInfo(version=VERSION)

    def GetSchema(
        self, request: provider_pb2.GetSchemaRequest, context: grpc.ServicerContext
    ) -> provider_pb2.GetSchemaResponse:
        """The minimal valid schema; the Python SDK does not read it."""
        resources: dict[str, dict[str, object]] = {token: {} for token in INPUTS}
        return provider_pb2.GetSchemaResponse(
            schema=json.dumps({"name": "command", "version": VERSION, "resources": resources})
        )

    def CheckConfig(
        self, request: provider_pb2.CheckRequest, context: grpc.ServicerContext
    ) -> provider_pb2.CheckResponse:
        """There is nothing to configure."""
        return provider_pb2.CheckResponse(inputs=request.news)

    def DiffConfig(
        self, request: provider_pb2.DiffRequest, context: grpc.ServicerContext
    ) -> provider_pb2.DiffResponse:
        """There is nothing to configure."""
        return provider_pb2.DiffResponse(changes=provider_pb2.DiffResponse.DIFF_NONE)

    def Configure(
        self, request: provider_pb2.ConfigureRequest, context: grpc.ServicerContext
    ) -> provider_pb2.ConfigureResponse:
        """Report our capabilities."""
        return provider_pb2.ConfigureResponse(acceptSecrets=True, supportsPreview=True)

    def Cancel(self, request: empty_pb2.Empty, context: grpc.ServicerContext) -> empty_pb2.Empty:
        """Stop trying to connect.

        Commands that are already running are not aborted, as with the official plugin.
        """
        self._cancelled.set()
        return empty_pb2.Empty()

    # Life cycle of a resource.

    def Check(
        self, request: provider_pb2.CheckRequest, context: grpc.ServicerContext
    ) -> provider_pb2.CheckResponse:
        """Refuse malformed inputs, fill in defaults, make the connection secret."""
        token = resource_type(request.urn)
        inputs = decode(request.news)
        failures = [
            provider_pb2.CheckFailure(property=name, reason=reason)
            for name, reason in problems_of(token, inputs).items()
        ]
        return provider_pb2.CheckResponse(inputs=encode(with_defaults(token, inputs)), failures=failures)

    def Diff(
        self, request: provider_pb2.DiffRequest, context: grpc.ServicerContext
    ) -> provider_pb2.DiffResponse:
        """Every changed input is an update, except triggers, which replace (create first, then delete)."""
        token = resource_type(request.urn)
        old = {name: value for name, value in decode(request.olds).items() if name in INPUTS[token]}
        new = decode(request.news)
        ignored = set(request.ignoreChanges)
        changed = sorted(
            name for name in old.keys() | new.keys() if name not in ignored and old.get(name) != new.get(name)
        )
        return provider_pb2.DiffResponse(
            changes=provider_pb2.DiffResponse.DIFF_SOME if changed else provider_pb2.DiffResponse.DIFF_NONE,
            diffs=changed,
            replaces=[name for name in changed if name == "triggers"],
            hasDetailedDiff=True,
            detailedDiff={name: _DIFF_KINDS(kind=_diff_kind(name, old, new)) for name in changed},
        )

    def Create(
        self, request: provider_pb2.CreateRequest, context: grpc.ServicerContext
    ) -> provider_pb2.CreateResponse:
        """Run `create`, or copy."""
        token, inputs = resource_type(request.urn), decode(request.properties)
        if request.preview:
            return provider_pb2.CreateResponse(properties=encode(_previewed(token, inputs)))
        outputs = self._apply(token, request.urn, "create", inputs, {}, context)
        resource_id = request.urn.rsplit("::", 1)[1] + secrets.token_hex(4)
        return provider_pb2.CreateResponse(id=resource_id, properties=encode(outputs))

    def Update(
        self, request: provider_pb2.UpdateRequest, context: grpc.ServicerContext
    ) -> provider_pb2.UpdateResponse:
        """Run `update`, otherwise `create`; copy if the content or its path changed."""
        token, inputs = resource_type(request.urn), decode(request.news)
        if request.preview:
            return provider_pb2.UpdateResponse(properties=encode(_previewed(token, inputs)))
        old = decode(request.olds)
        verb = "update" if inputs.get("update") is not None else "create"
        return provider_pb2.UpdateResponse(
            properties=encode(self._apply(token, request.urn, verb, inputs, old, context))
        )

    def Delete(self, request: provider_pb2.DeleteRequest, context: grpc.ServicerContext) -> empty_pb2.Empty:
        """Run `delete` with the connection, text and stdin of the last state. Copied files stay."""
        token, state = resource_type(request.urn), decode(request.properties)
        if token != COPY_TO_REMOTE:
            self._apply(token, request.urn, "delete", state, state, context)
        return empty_pb2.Empty()

    def Read(
        self, request: provider_pb2.ReadRequest, context: grpc.ServicerContext
    ) -> provider_pb2.ReadResponse:
        """A command cannot be read back: the state is returned unchanged."""
        return provider_pb2.ReadResponse(id=request.id, properties=request.properties, inputs=request.inputs)

    # Work.

    def _apply(
        self,
        token: str,
        urn: str,
        verb: str,
        inputs: Properties,
        old: Properties,
        context: grpc.ServicerContext,
    ) -> Properties:
        """Do one step of a resource's life cycle and return its new state; a failure ends the call."""
        try:
            if token == COPY_TO_REMOTE:
                self._copy(urn, inputs, old)
                return dict(inputs)
            return self._command(token, urn, verb, inputs, old)
        except (CommandError, SshError) as error:
            context.abort(grpc.StatusCode.UNKNOWN, str(error))
            raise

    def _command(self, token: str, urn: str, verb: str, inputs: Properties, old: Properties) -> Properties:
        plain = {name: reveal(value) for name, value in inputs.items()}
        earlier = {name: str(reveal(old.get(name)) or "") for name in _OUTPUTS}
        outputs: dict[str, str] = dict(earlier)
        text = plain.get(verb)
        if text is not None:
            logs = {name: LineLog(self._logger(urn)) for name in _OUTPUTS}
            tell = {name: log if _logs(plain, name) else _ignore for name, log in logs.items()}
            if token == REMOTE_COMMAND:
                outcome = self._remote(urn, str(text), plain, earlier, tell)
            else:
                outcome = self._local(str(text), plain, earlier, tell)
            for log in logs.values():
                log.finish()
            if any(log.too_long for log in logs.values()):
                raise CommandError(
                    "the output has a line of 64 KiB or more, with which the official plugin hangs; set "
                    f"logging to none, or write shorter lines: running {_quote(str(text))}"
                )
            if outcome.status != 0:
                shown = server_words.plain(outcome.combined[-_SHOWN:], _SHOWN)
                raise CommandError(f"{_status(token, outcome.status)}: running {_quote(str(text))}:\n{shown}")
            if _NO_UTF8 in outcome.stdout + outcome.stderr:
                raise CommandError(
                    "grpc: error while marshaling: string field contains invalid UTF-8: running "
                    f"{_quote(str(text))}"
                )
            outputs = {"stdout": _trim(outcome.stdout), "stderr": _trim(outcome.stderr)}
        secret = any(holds_secret(value) for name, value in inputs.items() if name in _SECRET_SOURCES)
        kept = {name: value for name, value in inputs.items() if name not in _OUTPUTS}
        return {**kept, **{name: Secret(value) if secret else value for name, value in outputs.items()}}

    def _remote(
        self,
        urn: str,
        text: str,
        inputs: Properties,
        earlier: Mapping[str, str],
        tell: Mapping[str, Callable[[bytes], None]],
    ) -> Outcome:
        ssh = _ssh()
        dialer = ssh.Dialer(self._cancelled, self._logger(urn))
        with dialer.connect(endpoint_of(inputs["connection"])) as transport:
            outcome: Outcome = ssh.run(
                transport,
                text,
                stdin=str(inputs.get("stdin") or ""),
                environment=_strings(inputs.get("environment")),
                hints=_previous_outputs(inputs, earlier),
                on_stdout=tell["stdout"],
                on_stderr=tell["stderr"],
            )
        return outcome

    def _local(
        self,
        text: str,
        inputs: Properties,
        earlier: Mapping[str, str],
        tell: Mapping[str, Callable[[bytes], None]],
    ) -> Outcome:
        interpreter = inputs.get("interpreter")
        words = [str(word) for word in interpreter] if isinstance(interpreter, list) else []
        environment = {
            **os.environ,
            **_strings(inputs.get("environment")),
            **_previous_outputs(inputs, earlier),
        }
        directory = inputs.get("dir")
        try:
            child = subprocess.Popen(
                [*(words or ["/bin/sh", "-c"]), text],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                cwd=str(directory) if directory else None,
            )
        except OSError as error:
            raise CommandError(f"{error}: running {_quote(text)}") from error
        return _collect(child, str(inputs.get("stdin") or ""), tell)

    def _copy(self, urn: str, inputs: Properties, old: Properties) -> None:
        plain = {name: reveal(value) for name, value in inputs.items()}
        source, target = plain["source"], str(plain["remotePath"])
        before = {name: reveal(value) for name, value in old.items()}
        if _hash(before.get("source")) == _hash(source) and before.get("remotePath") == target:
            return
        ssh = _ssh()
        dialer = ssh.Dialer(self._cancelled, self._logger(urn))
        with dialer.connect(endpoint_of(plain["connection"])) as transport:
            ssh.copy(transport, source, target)

    def _logger(self, urn: str) -> Callable[[str], None]:
        """Writes status lines to the engine's log under the resource.

        A logging failure must not fail the command.
        """

        def write(line: str) -> None:
            if not self._engine:
                return
            with self._lock:
                if self._stub is None:
                    self._stub = engine_pb2_grpc.EngineStub(engine_channel(self._engine))
            try:
                self._stub.Log(
                    engine_pb2.LogRequest(
                        severity=engine_pb2.LogSeverity.INFO, message=line, urn=urn, ephemeral=True
                    )
                )
            except grpc.RpcError:
                return

        return write


# Inputs whose secrecy extends to stdout and stderr. The connection is always secret and says nothing about
# the output; what a command prints because of a secret on stdin stays plain with the official plugin.
_SECRET_SOURCES = frozenset({"create", "update", "delete", "environment", "triggers"})


def resource_type(urn: str) -> str:
    """The type token in a URN: the last of the `$`-joined types in its third part."""
    return urn.split("::", 3)[2].rsplit("$", 1)[-1]


def problems_of(token: str, inputs: Properties) -> dict[str, str]:
    """Problems with the inputs, by property. Values are never shown, because they may be secret."""
    if token not in INPUTS:
        return {
            "type": f"The stand-in for the command plugin does not know {token}; use the official plugin."
        }
    found = {name: "is not a property of this resource" for name in inputs.keys() - INPUTS[token]}
    for name in ("assetPaths", "archivePaths"):
        if inputs.get(name) is not None:
            found[name] = "The stand-in for the command plugin returns no files; use the official plugin."
    for name in ("create", "update", "delete", "stdin", "remotePath", "dir"):
        value = reveal(inputs.get(name))
        if not isinstance(value, str | None) and not holds_unknown(value):
            found[name] = "must be a string"
    logging = reveal(inputs.get("logging"))
    if logging is not None and logging is not UNKNOWN and logging not in _LOGGING:
        found["logging"] = f"must be one of {', '.join(_LOGGING)}"
    if "connection" in INPUTS[token]:
        found.update(_connection_problems(reveal(inputs.get("connection"))))
    if token == COPY_TO_REMOTE:
        found.update(_source_problems(reveal(inputs.get("source"))))
    return found


def _connection_problems(connection: Property) -> dict[str, str]:
    if connection is UNKNOWN:
        return {}
    if not isinstance(connection, dict) or connection.get("host") is None:
        return {"connection": "must be an object with a host"}
    unknown = connection.keys() - _PROXY_INPUTS - {"proxy"}
    return {"connection": f"has no property {', '.join(sorted(unknown))}"} if unknown else {}


def _source_problems(source: Property) -> dict[str, str]:
    if holds_unknown(source):
        return {}
    signature = source.get(SIGNATURE) if isinstance(source, dict) else None
    if isinstance(source, dict) and signature == ASSET_SIGNATURE and ("path" in source or "text" in source):
        return {}
    if isinstance(source, dict) and signature == ARCHIVE_SIGNATURE and "path" in source:
        return {}
    return {"source": "must be a FileAsset, a StringAsset or a FileArchive"}


def with_defaults(token: str, inputs: Properties) -> Properties:
    """The inputs with defaults filled in and the connection secret; null values count as absent."""
    filled: Properties = {name: value for name, value in inputs.items() if value is not None}
    if "addPreviousOutputInEnv" in INPUTS.get(token, ()):
        filled.setdefault("addPreviousOutputInEnv", True)
    if "connection" in filled:
        filled["connection"] = Secret(_with_connection_defaults(reveal(filled["connection"])))
    return filled


def _with_connection_defaults(connection: Property) -> Property:
    if not isinstance(connection, dict):
        return connection
    given: Properties = {name: value for name, value in connection.items() if value is not None}
    if "proxy" in given:
        given["proxy"] = _with_connection_defaults(given["proxy"])
    return {**_CONNECTION_DEFAULTS, **given}


def _ssh() -> ModuleType:
    """`toolchain.standins.ssh`, imported at the first connection: an `up` without a change makes none."""
    return import_module("toolchain.standins.ssh")


def endpoint_of(connection: Property) -> Endpoint:
    """The connection of a resource's inputs, without secret marks, as an SSH endpoint."""
    if not isinstance(connection, dict):
        raise CommandError("The resource has no connection.")
    values = {**_CONNECTION_DEFAULTS, **connection}

    def text(name: str) -> str | None:
        return str(values[name]) if values.get(name) else None

    def number(name: str) -> float:
        value = values[name]
        return float(value) if isinstance(value, int | float) else float(str(value))

    return Endpoint(
        host=str(values["host"]),
        port=int(number("port")),
        user=str(values["user"]),
        password=text("password"),
        private_key=text("privateKey"),
        private_key_password=text("privateKeyPassword"),
        agent_socket=text("agentSocketPath"),
        host_key=text("hostKey"),
        dial_error_limit=int(number("dialErrorLimit")),
        dial_timeout=number("perDialTimeout"),
        proxy=endpoint_of(values["proxy"]) if values.get("proxy") else None,
    )


def _collect(
    child: "subprocess.Popen[bytes]", stdin: str, tell: Mapping[str, Callable[[bytes], None]]
) -> Outcome:
    """Feed a local child process and collect its output as it arrives."""
    assert child.stdin and child.stdout and child.stderr
    kept = {"stdout": bytearray(), "stderr": bytearray()}
    combined = bytearray()
    lock = threading.Lock()

    def drain(name: str, stream: int) -> None:
        while piece := os.read(stream, 65536):
            with lock:
                kept[name].extend(piece)
                combined.extend(piece)
                tell[name](piece)

    readers = [
        threading.Thread(target=drain, args=("stdout", child.stdout.fileno())),
        threading.Thread(target=drain, args=("stderr", child.stderr.fileno())),
    ]
    for reader in readers:
        reader.start()
    try:
        child.stdin.write(stdin.encode())
        child.stdin.close()
    except BrokenPipeError:
        pass
    for reader in readers:
        reader.join()
    status = child.wait()
    child.stdout.close()
    child.stderr.close()
    return Outcome(
        status, *(content.decode(errors="replace") for content in (kept["stdout"], kept["stderr"], combined))
    )


def _previewed(token: str, inputs: Properties) -> Properties:
    """A preview's state: what the command will print is not known yet."""
    return dict(inputs) if token == COPY_TO_REMOTE else {**inputs, **dict.fromkeys(_OUTPUTS, UNKNOWN)}


def _diff_kind(name: str, old: Properties, new: Properties) -> "provider_pb2.PropertyDiff.Kind.ValueType":
    replaces = name == "triggers"
    if name not in old:
        return _DIFF_KINDS.ADD_REPLACE if replaces else _DIFF_KINDS.ADD
    if name not in new:
        return _DIFF_KINDS.DELETE_REPLACE if replaces else _DIFF_KINDS.DELETE
    return _DIFF_KINDS.UPDATE_REPLACE if replaces else _DIFF_KINDS.UPDATE


def _logs(inputs: Properties, stream: str) -> bool:
    return inputs.get("logging", "stdoutAndStderr") in (stream, "stdoutAndStderr")


def _previous_outputs(inputs: Properties, earlier: Mapping[str, str]) -> dict[str, str]:
    if inputs.get("addPreviousOutputInEnv") is False:
        return {}
    return {f"PULUMI_COMMAND_{name.upper()}": value for name, value in earlier.items() if value}


def _strings(value: Property) -> dict[str, str]:
    return {key: str(item) for key, item in value.items()} if isinstance(value, dict) else {}


def _hash(source: Property) -> Property:
    return source.get("hash") if isinstance(source, dict) else None


def _trim(text: str) -> str:
    return text.removesuffix("\n")


def _ignore(piece: bytes) -> None:
    """Discards output that must not be logged."""


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _status(token: str, status: int) -> str:
    if token == REMOTE_COMMAND:
        if status < 0:
            return "wait: remote command exited without exit status or exit signal"
        return f"Process exited with status {status}"
    return f"signal: {-status}" if status < 0 else f"exit status {status}"


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the `pulumi-resource-command` wrapper; the last argument is the engine's address."""
    given = [part for part in (sys.argv[1:] if arguments is None else arguments) if not part.startswith("-")]
    provider = CommandProvider(given[-1] if given else "")
    serve(
        lambda server: provider_pb2_grpc.add_ResourceProviderServicer_to_server(provider, server), workers=64
    )
