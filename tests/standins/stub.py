"""The stub of Immich as a module: on the server it is a single file."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

from lab.places import Places


def load_stub() -> Any:
    """Return a new copy of the module."""
    spec = importlib.util.spec_from_file_location(
        "stub_immich", Places.of_this_clone().sources / "stub/stub_immich.py"
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
