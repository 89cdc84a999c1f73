"""An owner's first preview: an ordinary user, a machine without the lab, a server that cannot be reached.

The engine is the real one. Where the official language host and command plugin cannot be had, ours stand in.
"""

import os
import re
from collections.abc import Iterator

import pytest

import toolchain
from tests.bare_machine import BareMachine
from toolchain.paths import PROJECT

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def machine() -> Iterator[BareMachine]:
    """A fresh checkout, and a Pulumi CLI."""
    bare = BareMachine(venv=False)
    (bare.tools / "python3").symlink_to((PROJECT / ".venv" / "bin" / "python3").resolve())
    folders = {str(found.path.parent) for found in toolchain.pulumi_programs()}
    bare.environment |= {
        "PATH": os.pathsep.join([str(bare.tools), *sorted(folders)]),
        "PULUMI_HOME": str(bare.home / "pulumi"),
        "PULUMI_SKIP_UPDATE_CHECK": "true",
        "NO_COLOR": "1",
    }
    bare.environment |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    yield bare
    bare.close()


def test_what_an_owner_types_the_first_time(machine: BareMachine) -> None:
    # Without the plugin, which only its maker's server has: the CLI fetches it later, or finds ours.
    shown = machine.run(".ci/operator", "--no-plugins")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    # pulumi preview and make preview
    assert shown.stdout.count(" to create\n") == 2
    assert len(re.findall('phone-anna *: "ios"', shown.stdout)) >= 2
    assert "Traceback" not in shown.stdout + shown.stderr


def test_a_preview_leaves_no_key_and_builds_nothing(machine: BareMachine) -> None:
    assert not (machine.project / "stacks" / "keystore").exists()
    assert not (machine.project / ".toolchain").exists()
