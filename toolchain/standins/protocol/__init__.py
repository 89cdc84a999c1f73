"""The messages and services of Pulumi's plugin protocol: those of the SDK, without the SDK around them.

`pulumi.runtime.proto` is inside the SDK, and importing it runs all of `pulumi` first: two thirds of a
stand-in's start-up time, and the engine starts three per run. So this package uses the folder of those
modules as its own. They import each other only by relative names, and only the requested ones are read.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pulumi.runtime.proto import engine_pb2 as engine_pb2
    from pulumi.runtime.proto import engine_pb2_grpc as engine_pb2_grpc
    from pulumi.runtime.proto import language_pb2 as language_pb2
    from pulumi.runtime.proto import language_pb2_grpc as language_pb2_grpc
    from pulumi.runtime.proto import plugin_pb2 as plugin_pb2
    from pulumi.runtime.proto import provider_pb2 as provider_pb2
    from pulumi.runtime.proto import provider_pb2_grpc as provider_pb2_grpc
else:
    _sdk = find_spec("pulumi")  # found, but not run
    if _sdk is None or not _sdk.submodule_search_locations:
        raise ImportError("The Pulumi SDK is not installed: pip install -r requirements.txt")
    __path__ = [str(Path(folder, "runtime", "proto")) for folder in _sdk.submodule_search_locations]
