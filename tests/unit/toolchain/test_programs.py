"""Official programs are used wherever they are, and nothing of ours ever stands before them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from toolchain import __main__ as command_line
from toolchain import builds, installation, paths, programs
from toolchain.errors import ToolchainError


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with an empty `official` folder on PATH and everything of ours built."""
    home = tmp_path / "project" / ".toolchain"
    monkeypatch.setattr(paths, "HOME", home)
    monkeypatch.setattr(paths, "LANGUAGE_HOST", home / "standins" / "language")
    monkeypatch.setattr(paths, "COMMAND_PLUGIN", home / "standins" / "command")
    monkeypatch.setattr(paths, "ENVIRONMENT_FILE", home / "env")
    products = {
        name: builds.Product(
            name, tmp_path, ".", "1", 1, folder=home / ("pulumi/bin" if name == "pulumi" else "bin")
        )
        for name in builds.PRODUCTS
    }
    monkeypatch.setattr(builds, "PRODUCTS", products)
    monkeypatch.setattr(programs, "PRODUCTS", products)
    for product in products.values():
        put(product.path)
    put(home / "standins" / "language" / "pulumi-language-python")
    put(home / "standins" / "command" / "pulumi-resource-command")
    (tmp_path / "official").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'official'}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.setenv("PULUMI_HOME", str(tmp_path / "pulumi-home"))
    programs._pulumi_version.cache_clear()
    return tmp_path


def put(path: Path, says: str = "") -> Path:
    """A program at `path` that prints one line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {says}\n")
    path.chmod(0o755)
    return path


def kinds() -> list[str]:
    return [found.kind for found in programs.pulumi_programs()]


def first_on_path(name: str) -> Path:
    """Which program a shell with our PATH would start."""
    for folder in programs.pulumi_environment()["PATH"].split(os.pathsep):
        if (Path(folder) / name).exists():
            return Path(folder) / name
    raise AssertionError(f"{name} is not on PATH")


def test_with_nothing_official_all_is_ours(machine: Path) -> None:
    assert kinds() == ["built", "stand-in", "stand-in"]
    assert first_on_path("pulumi") == programs.program("pulumi")
    folders = programs.pulumi_path().split(os.pathsep)
    assert folders[-2:] == [str(paths.LANGUAGE_HOST), str(paths.COMMAND_PLUGIN)]


def test_an_official_cli_is_used(machine: Path) -> None:
    official = put(machine / "official" / "pulumi", "v3.260.0")
    assert programs.program("pulumi") == official
    assert first_on_path("pulumi") == official
    assert kinds() == ["official", "stand-in", "stand-in"]


def test_an_old_official_cli_is_not(machine: Path) -> None:
    put(machine / "official" / "pulumi", "v3.218.9")
    assert programs.program("pulumi") == builds.PRODUCTS["pulumi"].path
    assert first_on_path("pulumi") == builds.PRODUCTS["pulumi"].path


def test_a_cli_that_does_not_run_is_not(machine: Path) -> None:
    put(machine / "official" / "pulumi").write_text("#!/bin/sh\nexit 1\n")
    assert kinds()[0] == "built"


def test_an_official_language_host_is_not_shadowed(machine: Path) -> None:
    official = put(machine / "official" / "pulumi-language-python")
    assert kinds()[1] == "official"
    assert first_on_path("pulumi-language-python") == official
    assert str(paths.LANGUAGE_HOST) not in programs.pulumi_path().split(os.pathsep)


def test_the_language_host_beside_a_linked_cli_is_found(machine: Path) -> None:
    put(machine / "cellar" / "pulumi", "v3.260.0")
    put(machine / "cellar" / "pulumi-language-python")
    (machine / "official" / "pulumi").symlink_to(machine / "cellar" / "pulumi")
    assert kinds()[:2] == ["official", "official"]


def test_an_official_command_plugin_on_path_is_not_shadowed(machine: Path) -> None:
    official = put(machine / "official" / "pulumi-resource-command")
    assert first_on_path("pulumi-resource-command") == official
    assert str(paths.COMMAND_PLUGIN) not in programs.pulumi_path().split(os.pathsep)


@pytest.mark.parametrize(
    ("version", "kind"),
    [("1.2.1", "official"), ("1.10.0", "official"), ("1.1.3", "stand-in"), ("2.0.0", "stand-in")],
)
def test_an_official_command_plugin_in_the_plugin_folder(machine: Path, version: str, kind: str) -> None:
    """The engine looks on PATH first, so that our stand-in must not be on it at all."""
    put(machine / "pulumi-home" / "plugins" / f"resource-command-v{version}" / "pulumi-resource-command")
    assert kinds()[2] == kind
    assert (str(paths.COMMAND_PLUGIN) in programs.pulumi_path().split(os.pathsep)) == (kind == "stand-in")


def test_ours_on_path_do_not_count_as_official(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell that has read `.toolchain/env` gives the same answers, and the same PATH."""
    before = programs.pulumi_path()
    monkeypatch.setenv("PATH", before)
    assert kinds() == ["built", "stand-in", "stand-in"]
    assert programs.pulumi_path() == before


def test_stand_ins_in_use(machine: Path) -> None:
    put(machine / "official" / "pulumi-resource-command")
    assert [found.name for found in programs.stand_ins_in_use()] == ["pulumi-language-python"]


def test_only_path_is_changed(machine: Path) -> None:
    changed = programs.pulumi_environment()
    assert {name: value for name, value in changed.items() if os.environ.get(name) != value}.keys() == {
        "PATH"
    }


def test_what_is_not_built_says_what_to_do(machine: Path) -> None:
    builds.PRODUCTS["caddy"].path.unlink()
    with pytest.raises(ToolchainError, match="caddy has not been built yet. Run `make setup`"):
        programs.program("caddy")
    with pytest.raises(ToolchainError, match="There is no program nginx here"):
        programs.program("nginx")


def test_status_tells_each_program_and_fails_when_one_is_missing(
    machine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command_line.main(["status"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == [
        "pulumi",
        "pulumi-language-python",
        "pulumi-resource-command",
    ]
    builds.PRODUCTS["caddy"].path.unlink()
    assert command_line.main(["status"]) == 1
    assert "missing" in capsys.readouterr().out


def test_setup_refuses_an_unknown_name(machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["setup", "nginx"]) == 1
    assert "Unknown: nginx" in capsys.readouterr().err


def test_without_any_pulumi_the_environment_says_how_to_get_one(
    machine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What an owner reads on a machine that has neither the official CLI nor ours."""
    builds.PRODUCTS["pulumi"].path.unlink()
    assert command_line.main(["env"]) == 1
    assert "There is no Pulumi CLI 3.219.0 or newer on PATH. Install it" in capsys.readouterr().err


def test_setup_says_at_once_what_it_cannot_do_and_how_long_it_takes(
    machine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    caddy = builds.PRODUCTS["caddy"]
    (caddy.module / "go.mod").write_text("module thing\n\ngo 1.26.0\n")
    go = put(machine / "official" / "go", "go1.26.8")
    installation.announce([caddy])
    assert "to be built from source: caddy; about 1 minutes on two cores" in capsys.readouterr().err
    installation.announce([])
    assert capsys.readouterr().err == ""
    go.unlink()
    monkeypatch.setenv("PATH", str(machine / "official"))
    with pytest.raises(ToolchainError, match="there is no `go` on PATH. Install Go 1.26.0 or newer"):
        installation.announce([caddy])


def test_setup_removes_stand_ins_once_the_official_ones_are_there(machine: Path) -> None:
    put(machine / "official" / "pulumi-language-python")
    put(machine / "official" / "pulumi-resource-command")
    installation.install_language_host()
    installation.install_command_plugin()
    assert not paths.LANGUAGE_HOST.exists() and not paths.COMMAND_PLUGIN.exists()


def test_the_official_command_plugin_is_tried_before_the_stand_in(machine: Path) -> None:
    """A CLI that can fetch plugins leaves one in its folder, and then there is no stand-in."""
    (paths.COMMAND_PLUGIN / "pulumi-resource-command").unlink()
    paths.COMMAND_PLUGIN.rmdir()
    folder = machine / "pulumi-home" / "plugins" / "resource-command-v1.2.1"
    put(machine / "official" / "pulumi").write_text(
        f"""#!/bin/sh
case "$1" in
version) echo v3.260.0 ;;
plugin) mkdir -p {folder}; cp "$0" {folder}/pulumi-resource-command ;;
esac
"""
    )
    installation.install_command_plugin()
    assert kinds()[2] == "official"
    assert not paths.COMMAND_PLUGIN.exists()


def test_where_it_cannot_be_fetched_the_stand_in_is_installed_and_not_tried_again(machine: Path) -> None:
    (paths.COMMAND_PLUGIN / "pulumi-resource-command").unlink()
    paths.COMMAND_PLUGIN.rmdir()
    tries = machine / "tries"
    put(machine / "official" / "pulumi").write_text(
        f'#!/bin/sh\n[ "$1" = version ] && echo v3.260.0 && exit\necho "$*" >>{tries}\nexit 1\n'
    )
    installation.install_command_plugin()
    installation.install_command_plugin()
    assert tries.read_text() == "plugin install resource command 1.2.1\n"
    assert kinds()[2] == "stand-in"


def test_a_wrapper_runs_on_the_projects_python(machine: Path) -> None:
    text = installation.wrapper("toolchain.standins.command_plugin")
    assert text.startswith(f"#!/bin/sh\nexec {paths.VENV_PYTHON} -I -c ")


@pytest.mark.parametrize(
    "module",
    [
        "import time\nprint('imports', flush=True)\ntime.sleep(60)\n",
        f"import sys\nsys.path[:0] = {[str(paths.PROJECT), *sys.path]!r}\n"
        "from toolchain.standins.serving import serve\n"
        "def main():\n    serve(lambda server: None, workers=1)\n",
    ],
    ids=["at its imports", "serving"],
)
def test_a_wrapper_that_is_interrupted_prints_no_traceback(
    machine: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    monkeypatch.setattr(paths, "VENV_PYTHON", Path(sys.executable))
    monkeypatch.setattr(paths, "PROJECT", machine)
    (machine / "interrupted.py").write_text(module)
    script = put(machine / "official" / "interrupted")
    script.write_text(installation.wrapper("interrupted"))
    with subprocess.Popen([script], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert errors == b""


def test_the_environment_file_asks_each_time(machine: Path) -> None:
    installation.write_environment_file()
    assert "-m toolchain env" in (machine / "project" / ".toolchain" / "env").read_text()
