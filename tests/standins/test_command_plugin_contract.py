"""Where the official command plugin is hard, its stand-in is no softer: one table, run against both.

The official plugin is looked for on PATH; where there is none, the stand-in alone is asked.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import grpc  # type: ignore[import-untyped]
import pytest
from google.protobuf import struct_pb2  # type: ignore[import-untyped]
from pulumi.runtime.proto import provider_pb2, provider_pb2_grpc

from tests.standins.engine import EngineLog, SshServer
from toolchain.programs import official_command_plugin
from toolchain.standins.command_plugin import REMOTE_COMMAND
from toolchain.standins.properties import Properties, Secret, decode, encode

URN = f"urn:pulumi:lab::exposure::{REMOTE_COMMAND}::thing"
PATIENCE = 30
"""Seconds after which an answer is taken for one that never comes."""

Stub = provider_pb2_grpc.ResourceProviderStub


@dataclass(frozen=True)
class Row:
    """What is asked, and what the state's stdout then is; None: no state comes about."""

    what: str
    inputs: Properties
    stdout: object


ROWS = [
    Row("a secret on stdin leaves stdout plain", {"create": "cat", "stdin": Secret("key")}, "key"),
    Row("a secret text does not", {"create": Secret("echo key")}, Secret("key")),
    Row("a line of 60,000 bytes is logged", {"create": "printf %060000d 0"}, "0" * 60_000),
    Row("one of 70,000 is not", {"create": "printf %070000d 0"}, None),
    Row(
        "it is well where nothing is logged", {"create": "printf %070000d 0", "logging": "none"}, "0" * 70_000
    ),
    Row("output that is no UTF-8 is an error", {"create": "printf '\\377'", "logging": "none"}, None),
    Row("a failure is one", {"create": "exit 3"}, None),
    Row("one newline at the end is taken off", {"create": "echo; echo"}, "\n"),
]


@pytest.fixture(params=["stand-in", "official"])
def asked(request: pytest.FixtureRequest, plugin: Stub, engine: tuple[str, EngineLog]) -> Iterator[Stub]:
    if request.param == "stand-in":
        yield plugin
        return
    official = official_command_plugin()
    if official is None:
        pytest.skip("there is no official command plugin on PATH")
    process = subprocess.Popen([official.path, engine[0]], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        with grpc.insecure_channel(f"127.0.0.1:{int(process.stdout.readline())}") as channel:
            stub = Stub(channel)
            stub.Configure(provider_pb2.ConfigureRequest(acceptSecrets=True, args=struct_pb2.Struct()))
            yield stub
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.what)
def test_the_table(asked: Stub, row: Row, ssh_server: SshServer) -> None:
    given: Properties = {"connection": Secret(ssh_server.connection()), **row.inputs}
    checked = asked.Check(provider_pb2.CheckRequest(urn=URN, news=encode(given))).inputs
    request = provider_pb2.CreateRequest(urn=URN, properties=checked)
    if row.stdout is None:
        with pytest.raises(grpc.RpcError):
            asked.Create(request, timeout=PATIENCE)
        return
    assert decode(asked.Create(request, timeout=PATIENCE).properties)["stdout"] == row.stdout


@pytest.mark.parametrize("key_type", ["ssh-rsa", "ssh-ed25519"])
def test_the_pinned_type_alone_is_asked_for(asked: Stub, key_type: str) -> None:
    """ssh-rsa is never served; and a server that lacks the pinned type is not met by another of its keys."""
    server = SshServer(rsa=key_type == "ssh-rsa")
    pinned = {
        "ssh-rsa": server.host_key,
        "ssh-ed25519": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFvjHPjGZoLZL6jmyfVuQkHPN3nU3yvIJLWoLwPZEkZF",
    }[key_type]
    given: Properties = {"connection": Secret(server.connection(hostKey=pinned)), "create": "true"}
    checked = asked.Check(provider_pb2.CheckRequest(urn=URN, news=encode(given))).inputs
    try:
        with pytest.raises(grpc.RpcError, match="no common algorithm for host key"):
            asked.Create(provider_pb2.CreateRequest(urn=URN, properties=checked), timeout=PATIENCE)
    finally:
        server.close()
    assert server.commands == []


def test_a_lost_network_is_noticed(asked: Stub, ssh_server: SshServer) -> None:
    """The kernel asks after 15 seconds without a word, as for every connection of a program in Go."""
    given: Properties = {
        "connection": Secret(ssh_server.connection()),
        "create": "sleep 0.3; cat /proc/net/tcp",
        "logging": "none",
    }
    checked = asked.Check(provider_pb2.CheckRequest(urn=URN, news=encode(given))).inputs
    answer = asked.Create(provider_pb2.CreateRequest(urn=URN, properties=checked), timeout=PATIENCE)
    rows = [line.split() for line in str(decode(answer.properties)["stdout"]).splitlines()[1:]]
    (timer,) = [row[5] for row in rows if row[2].endswith(f":{ssh_server.port:04X}") and row[3] == "01"]
    kind, left = timer.split(":")
    assert kind == "02", "the timer of keepalive runs"
    assert 1000 < int(left, 16) <= 1500, "hundredths of a second"
