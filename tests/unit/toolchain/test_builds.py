"""Products are rebuilt when, and only when, their sources change."""

import os
from pathlib import Path

import pytest

from toolchain import builds, paths
from toolchain.builds import Product, parse_version
from toolchain.errors import ToolchainError

# A `go` that knows its version and builds by writing down how it was called.
FAKE_GO = """#!/bin/sh
case "$1" in
env) [ "$GOTOOLCHAIN" = auto ] && version=$FAKE_GO_FETCHED; echo "${version:-${FAKE_GO_VERSION:-go1.26.8}}" ;;
build)
    [ -z "${FAKE_GO_FAILS:-}" ] || { echo "no required module" >&2; exit 1; }
    while [ "$1" != -o ]; do shift; done
    echo "$GOTOOLCHAIN $CGO_ENABLED $3" >"$2"
    echo "$3" >>"$FAKE_GO_LOG"
    ;;
esac
"""


@pytest.fixture
def builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for `.toolchain`, and a fake `go`; the calls are in `calls`."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "go").write_text(FAKE_GO)
    (tools / "go").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_GO_LOG", str(tmp_path / "calls"))
    monkeypatch.setattr(paths, "HOME", tmp_path / "home")
    return tmp_path


@pytest.fixture
def product(builder: Path) -> Product:
    """A main package of our own."""
    module = builder / "module"
    module.mkdir()
    (module / "go.mod").write_text("module thing\n\ngo 1.26.0\n")
    (module / "go.sum").write_text("")
    (module / "main.go").write_text("package main\n")
    return Product("thing", module, ".", "1", 1, folder=builder / "home" / "bin")


def calls(builder: Path) -> int:
    log = builder / "calls"
    return len(log.read_text().splitlines()) if log.exists() else 0


def test_builds_once_and_without_a_c_compiler(product: Product, builder: Path) -> None:
    builds.ensure(product)
    builds.ensure(product)
    assert product.path.read_text() == "auto 0 .\n"
    assert calls(builder) == 1


@pytest.mark.parametrize("name", ["go.mod", "go.sum", "main.go", "sub/new.go"])
def test_a_changed_source_builds_again(product: Product, builder: Path, name: str) -> None:
    builds.ensure(product)
    changed = product.module / name
    changed.parent.mkdir(exist_ok=True)
    changed.write_text("module thing // changed\ngo 1.26.0\n")
    builds.ensure(product)
    assert calls(builder) == 2


def test_tests_of_a_program_are_no_source_of_it(product: Product, builder: Path) -> None:
    builds.ensure(product)
    (product.module / "main_test.go").write_text("package main\n")
    builds.ensure(product)
    assert calls(builder) == 1


def test_a_dependencys_program_ignores_our_own_files(product: Product) -> None:
    dependency = Product("tailscale", product.module, "tailscale.com/cmd/tailscale", "1", 1)
    before = builds.digest(dependency)
    (product.module / "main.go").write_text("package main // changed\n")
    assert builds.digest(dependency) == before


def test_flags_are_part_of_the_digest(product: Product) -> None:
    stamped = Product("thing", product.module, ".", "1", 1, linker_flags="-X a=b")
    assert builds.digest(stamped) != builds.digest(product)


def test_a_removed_program_is_built_again(product: Product, builder: Path) -> None:
    builds.ensure(product)
    product.path.unlink()
    builds.ensure(product)
    assert calls(builder) == 2


def test_a_failed_build_leaves_the_old_program(product: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    builds.ensure(product)
    (product.module / "main.go").write_text("package main // broken\n")
    monkeypatch.setenv("FAKE_GO_FAILS", "1")
    with pytest.raises(ToolchainError, match=r"Building thing failed(.|\n)*no required module"):
        builds.ensure(product)
    assert [entry.name for entry in product.folder.iterdir()] == ["thing"]
    assert product.stamp.read_text().strip() != builds.digest(product)


def test_no_go_says_what_to_install(product: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ToolchainError, match=r"there is no `go` on PATH. Install Go 1.26.0 or newer"):
        builds.ensure(product)


@pytest.mark.parametrize("version", ["go1.20.14", "go1.25.9"])
def test_an_old_go_that_brings_no_newer_one_says_so(
    product: Product, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setenv("FAKE_GO_VERSION", version)
    with pytest.raises(ToolchainError, match=rf"thing needs Go 1.26.0, but `go` on PATH is {version} and"):
        builds.ensure(product)


def test_an_old_go_brings_the_one_that_is_asked_for(
    product: Product, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_GO_VERSION", "go1.24.4")
    monkeypatch.setenv("FAKE_GO_FETCHED", "go1.26.0")
    builds.ensure(product)
    assert product.path.exists()
    assert "fetching Go 1.26.0 with the installed go1.24.4" in capsys.readouterr().err


def test_a_missing_go_mod_is_named(product: Product) -> None:
    (product.module / "go.sum").unlink()
    with pytest.raises(ToolchainError, match=r"go.sum is missing"):
        builds.ensure(product)


def test_every_product_has_its_module_in_this_repository() -> None:
    for entry in builds.PRODUCTS.values():
        assert builds.go_version_of(entry.module) >= (1, 26, 0)


@pytest.mark.parametrize(
    ("text", "version"),
    [("v3.259.0\n", (3, 259, 0)), ("go1.26", (1, 26, 0)), ("3.300.1-alpha.2", (3, 300, 1)), ("", (0, 0, 0))],
)
def test_versions(text: str, version: tuple[int, ...]) -> None:
    assert parse_version(text) == version
