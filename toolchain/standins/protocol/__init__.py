"""The messages and services of Pulumi's plugin protocol: those of the SDK, without the SDK around them.

`pulumi.runtime.proto` lies inside the SDK, and whoever imports it runs all of `pulumi` first: two thirds of
what a stand-in takes to start, and the engine starts three at each run. So this package has the folder of
those modules as its own. They import one another by relative names alone, and only what is asked for is read.
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
    _sdk = find_spec("pulumi")  # found, and not run
    if _sdk is None or not _sdk.submodule_search_locations:
        raise ImportError("The Pulumi SDK is not installed: pip install -r requirements.txt")
    __path__ = [str(Path(folder, "runtime", "proto")) for folder in _sdk.submodule_search_locations]
