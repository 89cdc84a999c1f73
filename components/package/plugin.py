"""The component's plugin: what `pulumi package add` starts, for programs in any language (docs/package.md).

The engine asks it for three things: the schema, which the SDK's analyzer reads from `ImmichExposure` and its
arguments; a whole exposure (Construct); and the life cycle of the exposure's own resources
(`components.engine.step`). Those are dynamic resources, which Pulumi's own plugin serves. That plugin would
run in the program's environment, which lacks this package; so this plugin starts it in its own environment
and forwards the calls.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import grpc  # type: ignore[import-untyped]
import pulumi
from google.protobuf import empty_pb2, struct_pb2  # type: ignore[import-untyped]
from pulumi.errors import InputPropertiesError
from pulumi.provider.experimental.component import ComponentProvider
from pulumi.provider.provider import ConstructResult
from pulumi.provider.server import ProviderServicer
from pulumi.runtime import rpc
from pulumi.runtime._grpc_settings import _GRPC_CHANNEL_OPTIONS
from pulumi.runtime.proto import provider_pb2_grpc

from components.config.stack_config import SECRETS, ConfigError
from components.engine import step
from components.package.component import ImmichExposure

NAME = "immich-exposure"
SECRET_OUTPUTS = ("bundlePasswords", "frameSecrets")

_SIGNATURE = rpc._special_sig_key


class Exposures(ComponentProvider):
    """Creates exposures, and marks secret arguments and outputs in the schema."""

    def __init__(self, version: str) -> None:
        super().__init__([ImmichExposure], NAME, version=version)
        self.schema = json.dumps(_with_secrets(json.loads(self.schema or "")))

    def construct(
        self,
        name: str,
        resource_type: str,
        inputs: Mapping[str, Any],
        options: pulumi.ResourceOptions | None = None,
    ) -> ConstructResult:
        """Create an exposure.

        The arguments are passed on as received: the component can only refuse unknown arguments that it sees.

        Raises:
            InputPropertiesError: with a sentence for each wrong argument.
        """
        self.validate_resource_type(NAME, resource_type)
        try:
            made = ImmichExposure(name, whole(inputs), options)
        except ConfigError as error:
            raise InputPropertiesError(f"{name}: {error}", []) from error
        return ConstructResult(made.urn, self.get_state(made, self._component_defs["ImmichExposure"]))


def _with_secrets(schema: dict[str, Any]) -> dict[str, Any]:
    (component,) = schema["resources"].values()
    for key in SECRETS:
        component["inputProperties"][key]["secret"] = True
    for key in SECRET_OUTPUTS:
        component["properties"][key]["secret"] = True
    return schema


def whole(value: Any) -> Any:
    """Return a value with its whole numbers as integers: in transit every number becomes a float."""
    if isinstance(value, Mapping):
        return {key: whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


class _Steps:
    """Pulumi's own plugin for dynamic resources, in this plugin's environment; started at the first call."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._stub: provider_pb2_grpc.ResourceProviderStub | None = None

    async def stub(self) -> provider_pb2_grpc.ResourceProviderStub:
        """Return the client for it."""
        async with self._lock:
            if self._stub is None:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable, "-u", "-m", "pulumi.dynamic", stdout=asyncio.subprocess.PIPE
                )
                assert self._process.stdout is not None
                port = int(await self._process.stdout.readline())
                channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=_GRPC_CHANNEL_OPTIONS)
                self._stub = provider_pb2_grpc.ResourceProviderStub(channel)
        return self._stub

    def end(self) -> None:
        """Stop it."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()


class Servicer(ProviderServicer):
    """Serves exposures, and forwards the life cycle of their resources."""

    def __init__(self, provider: Exposures, engine: str) -> None:
        super().__init__(provider, [], engine)
        self._steps = _Steps()

    async def Check(self, request: Any, context: Any) -> Any:
        """Forward the call."""
        answer = await self._hand_over("Check", request, context, "olds", "news")
        as_secret(answer.inputs, request.news)
        return answer

    async def Diff(self, request: Any, context: Any) -> Any:
        """Forward the call."""
        return await self._hand_over("Diff", request, context, "olds", "news", "old_inputs")

    async def Create(self, request: Any, context: Any) -> Any:
        """Forward the call."""
        answer = await self._hand_over("Create", request, context, "properties")
        as_secret(answer.properties, request.properties)
        return answer

    async def Update(self, request: Any, context: Any) -> Any:
        """Forward the call."""
        answer = await self._hand_over("Update", request, context, "olds", "news", "old_inputs")
        as_secret(answer.properties, request.news)
        return answer

    async def Read(self, request: Any, context: Any) -> Any:
        """Forward the call."""
        answer = await self._hand_over("Read", request, context, "properties", "inputs")
        as_secret(answer.properties, request.properties)
        as_secret(answer.inputs, request.inputs)
        return answer

    async def Delete(self, request: Any, context: Any) -> Any:
        """Forward the call."""
        return await self._hand_over("Delete", request, context, "properties", "old_inputs")

    async def Cancel(self, request: Any, context: Any) -> Any:
        """Do nothing: a running step finishes, as it does in a program."""
        return empty_pb2.Empty()

    async def _hand_over(self, method: str, request: Any, context: Any, *secret: str) -> Any:
        """Forward a call; `secret` names the fields that may hold secrets."""
        asked = type(request)()
        asked.CopyFrom(request)
        for field in secret:
            if asked.HasField(field):
                bare(getattr(asked, field))
        stub = await self._steps.stub()
        try:
            return await getattr(stub, method)(asked)
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details())

    def end(self) -> None:
        """Stop what was started."""
        self._steps.end()


def bare(properties: struct_pb2.Struct) -> None:
    """Remove the marks from secrets, in place: dynamic resources do not know them."""
    for value in properties.fields.values():
        _bare(value)


def _bare(value: struct_pb2.Value) -> None:
    if _is_secret(value):
        value.CopyFrom(struct_pb2.Value.FromString(value.struct_value.fields["value"].SerializeToString()))
        _bare(value)
    elif value.HasField("struct_value"):
        bare(value.struct_value)
    elif value.HasField("list_value"):
        for item in value.list_value.values:
            _bare(item)


def as_secret(properties: struct_pb2.Struct, given: struct_pb2.Struct) -> None:
    """Mark as secret, in place, what was given as one, as the engine does for providers without marks."""
    for key, value in properties.fields.items():
        before = given.fields.get(key)
        if before is None or not _holds_secret(before):
            continue
        if value.HasField("struct_value") and before.HasField("struct_value") and not _is_secret(before):
            as_secret(value.struct_value, before.struct_value)
            continue
        marked = struct_pb2.Value()
        marked.struct_value.fields[_SIGNATURE].string_value = rpc._special_secret_sig
        marked.struct_value.fields["value"].CopyFrom(value)
        value.CopyFrom(marked)


def _is_secret(value: struct_pb2.Value) -> bool:
    mark = value.struct_value.fields.get(_SIGNATURE)
    return mark is not None and mark.string_value == rpc._special_secret_sig


def _holds_secret(value: struct_pb2.Value) -> bool:
    if _is_secret(value):
        return True
    inside = [*value.struct_value.fields.values(), *value.list_value.values]
    return any(map(_holds_secret, inside))


async def _serve(engine: str) -> None:
    server = grpc.aio.server(options=_GRPC_CHANNEL_OPTIONS)
    servicer = Servicer(Exposures(version(NAME)), engine)
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    try:
        await server.wait_for_termination()
    finally:
        servicer.end()


def main() -> None:
    """Serve the engine, whose address is the first argument, until it ends the process."""
    parser = argparse.ArgumentParser(prog=NAME)
    parser.add_argument("engine")
    options, _ = parser.parse_known_args()
    step.serve_by(NAME)
    try:
        asyncio.run(_serve(options.engine))
    except KeyboardInterrupt:
        return
