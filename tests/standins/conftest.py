"""The SSH server, the engine's log and the command plugin behind real gRPC."""

from collections.abc import Iterator
from concurrent import futures

import grpc  # type: ignore[import-untyped]
import pytest
from pulumi.runtime.proto import engine_pb2_grpc, provider_pb2_grpc

from tests.standins.engine import EngineLog, SshServer
from toolchain.standins.command_plugin import CommandProvider


@pytest.fixture
def ssh_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[SshServer]:
    """A running SSH server; no agent of the developer's gets in the way."""
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    server = SshServer()
    yield server
    server.close()


@pytest.fixture
def engine() -> Iterator[tuple[str, EngineLog]]:
    """An engine that takes log lines: its address and what it got."""
    log = EngineLog()
    server = grpc.server(futures.ThreadPoolExecutor(4))
    engine_pb2_grpc.add_EngineServicer_to_server(log, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}", log
    server.stop(None).wait()


@pytest.fixture
def plugin(engine: tuple[str, EngineLog]) -> Iterator[provider_pb2_grpc.ResourceProviderStub]:
    """A client of the command plugin."""
    server = grpc.server(futures.ThreadPoolExecutor(8))
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(CommandProvider(engine[0]), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield provider_pb2_grpc.ResourceProviderStub(channel)
    server.stop(None).wait()
