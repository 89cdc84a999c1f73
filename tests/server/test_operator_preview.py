"""An owner's first preview: an ordinary user, a machine without the lab, a server that cannot be reached.

The engine is the real one. Where the official language host and command plugin cannot be had, ours stand in.
"""

import os
from collections.abc import Iterator

import pytest

import toolchain
from tests.bare_machine import PROJECT, BareMachine

pytestmark = pytest.mark.server

HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICd9Sn/CrLavrIHzvx3RuZLyh4tRBT7PQTx533eBaTsJ"


@pytest.fixture(scope="module")
def machine() -> Iterator[BareMachine]:
    """A fresh checkout with a stack of its own; the server in it is nobody's (TEST-NET-1, RFC 5737)."""
    bare = BareMachine(venv=False)
    (bare.tools / "python3").symlink_to((PROJECT / ".venv" / "bin" / "python3").resolve())
    folders = {str(found.path.parent) for found in toolchain.pulumi_programs()}
    bare.environment |= {
        "PATH": os.pathsep.join([str(bare.tools), *sorted(folders)]),
        "PULUMI_BACKEND_URL": f"file://{bare.home}",
        "PULUMI_CONFIG_PASSPHRASE": "the stack's own",
        "PULUMI_HOME": str(bare.home / "pulumi"),
        "PULUMI_SKIP_UPDATE_CHECK": "true",
        "NO_COLOR": "1",
    }
    bare.environment |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    bare.stack(
        "home",
        f"  immich-exposure:hostKey: {HOST_KEY}\n"
        "  immich-exposure:devices: [{name: phone, platform: ios}]\n",
    )
    file = bare.project / "stacks" / "Pulumi.home.yaml"
    file.write_text(file.read_text().replace("192.168.1.20", "192.0.2.1"))
    yield bare
    bare.close()


def test_pulumi_install_and_preview(machine: BareMachine) -> None:
    # Without the plugin, which only its maker's server has; the CLI fetches it or finds ours.
    installed = machine.run("pulumi", "install", "--no-plugins", "--non-interactive")
    assert installed.returncode == 0, installed.stderr
    for command in (
        "pulumi login",
        "pulumi stack init home",
        "pulumi config set --secret keystorePassphrase 'correct horse battery staple'",
    ):
        done = machine.run("sh", "-c", command)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    shown = machine.run("pulumi", "preview", "--non-interactive")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "to create" in shown.stdout and "phone (ios)" in shown.stdout
    assert not (machine.project / "stacks" / "keystore").exists()
    assert "Traceback" not in shown.stdout + shown.stderr


def test_make_preview_does_the_same(machine: BareMachine) -> None:
    shown = machine.make("preview")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "to create" in shown.stdout
    assert not (machine.project / ".toolchain").exists()
