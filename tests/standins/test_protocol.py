"""The stand-ins take the protocol out of the SDK without running it; the next SDK may lie otherwise."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

from toolchain.paths import PROJECT

MODULES = (
    "engine_pb2",
    "engine_pb2_grpc",
    "language_pb2",
    "language_pb2_grpc",
    "plugin_pb2",
    "provider_pb2",
    "provider_pb2_grpc",
)


@pytest.mark.parametrize("stand_in", ["command_plugin", "language_python"])
def test_a_stand_in_starts_without_the_sdk(stand_in: str) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(PROJECT)!r}); import toolchain.standins.{stand_in}; "
        "print([name for name in sys.modules if name.split('.')[0] == 'pulumi'])"
    )
    started = subprocess.run(
        [sys.executable, "-I", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    assert started.stdout == "[]\n"


@pytest.mark.parametrize("name", MODULES)
def test_messages_and_services_are_the_sdks(name: str) -> None:
    ours = import_module(f"toolchain.standins.protocol.{name}")
    theirs = import_module(f"pulumi.runtime.proto.{name}")
    assert ours.__file__ == theirs.__file__
    if not name.endswith("_grpc"):
        messages = theirs.DESCRIPTOR.message_types_by_name
        assert messages and [getattr(ours, each) for each in messages] == [
            getattr(theirs, each) for each in messages
        ]
