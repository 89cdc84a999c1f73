"""An edge compiled on the operator's machine: the same bytes everywhere, and taken by its hash alone."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.nix import STAND_IN, ConfigFolder, Nix, NixError
from toolchain import edge, paths
from toolchain.errors import ToolchainError
from toolchain.paths import PROJECT

pytestmark = pytest.mark.server

SERVER = PROJECT / "server"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The edge for this machine's kind, and its hash."""
    output = tmp_path_factory.mktemp("edge") / "edge"
    return output, edge.build("amd64", output)


@pytest.fixture
def nix(tmp_path: Path) -> Nix:
    return Nix(tmp_path / "nix", paths.BIN)


def package_arguments(nix: Nix) -> dict[str, object]:
    """What server/nix/package.nix asks of buildGoModule, and the files of its source."""
    text = f"""
      let
        lib = import {STAND_IN}/lib;
        asked = import {SERVER}/nix/package.nix {{
          inherit lib;
          pkgs = {{ go.version = "1.26.8"; buildGoModule = arguments: arguments; }};
        }};
      in
      removeAttrs asked [ "src" ] // {{ files = builtins.attrNames (builtins.readDir asked.src); }}
    """
    command = ["nix-instantiate", "--eval", "--strict", "--json", "--read-write-mode", "--expr", text]
    return dict(json.loads(nix._call(command)))


def test_it_is_built_of_the_same_files_with_the_same_flags_as_by_nix(nix: Nix) -> None:
    """buildGoModule adds -buildid=, -trimpath, -mod=vendor (nixpkgs, build-support/go/module.nix)."""
    asked = package_arguments(nix)
    assert asked["files"] == edge.source_files()
    assert [*asked["ldflags"], "-buildid="] == edge.LINKER_FLAGS.split()  # type: ignore[misc]
    assert asked["env"] == {"CGO_ENABLED": 0}
    assert edge.build_environment("arm64")["CGO_ENABLED"] == "0"
    assert {"-trimpath", "-mod=vendor"} < set(edge.build_arguments())
    assert not {"tags", "subPackages", "patches", "postPatch", "preBuild", "proxyVendor"} & asked.keys()


def test_the_same_bytes_from_another_folder_another_module_cache_and_a_hostile_environment(
    built: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, wanted = built
    source = Path(shutil.copytree(edge.SOURCE, tmp_path / "elsewhere" / "caddy"))
    (source / "extra_test.go").write_text("package main\n")
    away_from_here(tmp_path, monkeypatch)
    monkeypatch.setenv("GOFLAGS", "-tags=nobadger -ldflags=-X=main.x=y")
    monkeypatch.setenv("GOAMD64", "v3")
    monkeypatch.setenv("GODEBUG", "netdns=go")
    assert edge.build("amd64", tmp_path / "edge", source) == wanted


@pytest.mark.nightly
@pytest.mark.parametrize("architecture", edge.ARCHITECTURES)
def test_the_same_bytes_when_everything_is_recompiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    wanted = edge.build(architecture, tmp_path / "here")
    away_from_here(tmp_path, monkeypatch)
    monkeypatch.setenv("GOCACHE", str(tmp_path / "cache"))
    assert edge.build(architecture, tmp_path / "there") == wanted
    machine = struct.unpack_from("<H", (tmp_path / "there").read_bytes(), 18)[0]
    assert machine == {"amd64": 62, "arm64": 183}[architecture]  # e_machine of elf(5)


def away_from_here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another module cache and temporary folder; modules come out of this one's, not the network."""
    cache = subprocess.run(
        ["go", "env", "GOMODCACHE"], capture_output=True, text=True, check=True
    ).stdout.strip()
    monkeypatch.setenv("GOPROXY", f"file://{cache}/cache/download")
    monkeypatch.setenv("GOSUMDB", "off")
    monkeypatch.setenv("GOMODCACHE", str(folder / "modules"))
    monkeypatch.setenv("GOFLAGS", "-modcacherw")
    (folder / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(folder / "temporary"))


def test_nothing_of_the_machine_that_built_it_is_in_it(built: tuple[Path, str]) -> None:
    program, _ = built
    content = program.read_bytes()
    for trace in (str(PROJECT), str(Path.home() / "go"), f"{tempfile.gettempdir()}/edge-"):
        assert trace.encode() not in content, trace
    told = subprocess.run(["go", "version", "-m", program], capture_output=True, text=True, check=True).stdout
    assert edge.GO_RELEASE in told and "CGO_ENABLED=0" in told and "vcs" not in told


def test_it_is_the_edge(built: tuple[Path, str]) -> None:
    program, _ = built
    listed = subprocess.run([program, "list-modules"], capture_output=True, text=True, check=True).stdout
    assert "http.handlers.limits" in listed and "http.matchers.enrolled" in listed


def test_a_failed_build_leaves_what_was_there(tmp_path: Path) -> None:
    source = Path(shutil.copytree(edge.SOURCE, tmp_path / "caddy"))
    (source / "main.go").write_text("package main // no more\n")
    output = tmp_path / "edge"
    output.write_text("before")
    with pytest.raises(ToolchainError, match=r"`go build -mod=vendor` for the edge failed"):
        edge.build("amd64", output, source)
    assert output.read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["caddy", "edge"]


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ToolchainError, match="The edge is built for amd64 or arm64, not for riscv64"):
        edge.build("riscv64", tmp_path / "edge")


def test_without_go_the_way_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(
        ToolchainError, match=r"no `go` on PATH. Install Go .* or leave the build to the server"
    ):
        edge.build("amd64", tmp_path / "edge")


@pytest.fixture
def home(tmp_path: Path, built: tuple[Path, str]) -> Iterator[ConfigFolder]:
    """A configuration that takes the edge from a file beside the module."""
    program, digest = built
    folder = ConfigFolder.exposed(
        tmp_path / "nixos",
        f'package = import ./nix/prebuilt.nix {{ inherit lib pkgs; file = ./edge; sha256 = "{digest}"; }};',
    )
    default = folder.ours / "default.nix"
    default.write_text("{ lib, pkgs, ... }:\n" + default.read_text())
    shutil.copy(program, folder.ours / "edge")
    yield folder


def test_nix_takes_it_by_its_hash(nix: Nix, home: ConfigFolder, built: tuple[Path, str]) -> None:
    generation = nix.build(home.configuration)
    unit = (generation / "etc/systemd/system/immich-edge.service").read_text()
    started = next(line for line in unit.splitlines() if line.startswith("ExecStart="))
    program = Path(started.removeprefix("ExecStart=").split()[0])
    assert program.read_bytes() == built[0].read_bytes()
    assert os.access(program, os.X_OK)


def test_nix_refuses_another_file(nix: Nix, home: ConfigFolder) -> None:
    with (home.ours / "edge").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(NixError, match=r"is not the edge that the configuration names(.|\n)*make edge"):
        nix.build(home.configuration)


def test_nix_refuses_a_file_that_never_was_there(
    nix: Nix, home: ConfigFolder, built: tuple[Path, str]
) -> None:
    (home.ours / "edge").unlink()
    default = home.ours / "default.nix"
    default.write_text(default.read_text().replace(built[1], "ab" * 32))
    with pytest.raises(NixError, match="edge"):
        nix.build(home.configuration)


def test_a_file_that_is_lost_keeps_nobody_from_rebuilding(nix: Nix, home: ConfigFolder) -> None:
    """It lies in the exposure's folder, which a home that is wiped at each boot may not keep."""
    before = nix.build(home.configuration)
    (home.ours / "edge").unlink()
    assert nix.build(home.configuration) == before
