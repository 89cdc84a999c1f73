"""The module's files: which they are, the digest that both sides compute, and how a repository gets them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from components.config.home import Immich, Lan
from components.remote.module_files import (
    EXPORTED_DEFAULT,
    FOLDER,
    MADE_BY,
    MARK,
    Edge,
    ExportError,
    default_nix,
    digest,
    entry_and_module,
    export,
    in_folder,
    main,
    module_digest,
    module_files,
)
from components.remote.remote_script import SERVER_FILES, PayloadFile

NATIVE = Immich(None, 2283, managed=True)
PODMAN = Immich("127.0.0.1", 3001, managed=False)


def test_exactly_these_files_make_the_module() -> None:
    """The same words as in server/nix/digest.nix, which computes the digest on the server."""
    suffixes = {"nix": (".nix",), "fail2ban/action.d": (".py",), "fail2ban/filter.d": (".conf",)}
    suffixes |= {"scripts": (".sh",), "caddy": (".go",)}
    wanted = {"Caddyfile", "surface.toml", "versions.json", "caddy/go.mod", "caddy/go.sum"}
    for folder, endings in suffixes.items():
        names = [path.name for path in (SERVER_FILES / folder).iterdir() if path.name.endswith(endings)]
        wanted |= {f"{folder}/{name}" for name in names if not name.endswith("_test.go")}
    assert {file.path for file in module_files()} == wanted


def test_the_module_is_whole() -> None:
    paths = {file.path for file in module_files()}
    assert {
        "nix/default.nix",
        "caddy/main.go",
        "scripts/lib.sh",
        "fail2ban/filter.d/immich-scan.conf",
    } <= paths
    for file in module_files():
        assert file.text == (SERVER_FILES / file.path).read_text(encoding="utf-8"), file.path


def test_the_digest_is_the_hash_of_sorted_lines_of_path_and_hash() -> None:
    files = (PayloadFile("nix/b.nix", "two\n"), PayloadFile("Caddyfile", "one\n"))
    one, two = hashlib.sha256(b"one\n").hexdigest(), hashlib.sha256(b"two\n").hexdigest()
    wanted = hashlib.sha256(f"Caddyfile {one}\nnix/b.nix {two}\n".encode()).hexdigest()
    assert digest(files) == digest(files[::-1]) == wanted
    assert module_digest() == digest(module_files())


@pytest.mark.parametrize("change", [PayloadFile("a", "other\n"), PayloadFile("c", "one\n")])
def test_the_digest_follows_texts_and_places(change: PayloadFile) -> None:
    assert digest((PayloadFile("a", "one\n"),)) != digest((change,))


def test_a_managed_module_is_switched_on_with_the_options_of_the_stack() -> None:
    text = default_nix(NATIVE, Lan.CLOSE)
    assert text.startswith(f"{MADE_BY}\n")
    assert "imports = [ ./nix ]" in text
    assert "then [ ./home.nix ]" in text, "what our import was swapped for must go on counting"
    assert "enable = true;" in text and 'lan = "close";' in text and "immich.managed = true;" in text
    assert "immich.address" not in text and "immich.port" not in text
    elsewhere = default_nix(PODMAN, Lan.KEEP)
    assert 'lan = "keep";' in elsewhere and "immich.managed = false;" in elsewhere
    assert 'immich.address = "127.0.0.1";' in elsewhere and "immich.port = 3001;" in elsewhere


def test_an_edge_that_was_built_elsewhere_is_named_by_its_hash() -> None:
    text = default_nix(NATIVE, Lan.CLOSE, Edge("/var/lib/immich-exposure/edge-ab12", "ab12"))
    assert "\n{ lib, pkgs, ... }:\n" in text
    assert "package = import ./nix/prebuilt.nix {" in text
    assert "file = /var/lib/immich-exposure/edge-ab12;" in text and 'sha256 = "ab12";' in text


def test_what_is_managed_stays_within_its_folder() -> None:
    paths = [file.path for file in in_folder(entry_and_module(NATIVE, Lan.CLOSE))]
    assert all(path.startswith(f"{FOLDER}/") for path in paths)
    assert paths[0] == f"{FOLDER}/default.nix"
    assert len(paths) == len(set(paths)) == len(module_files()) + 1


def test_the_export_is_the_module_with_its_mark(tmp_path: Path) -> None:
    folder = tmp_path / "repository" / "immich-exposure"
    export(folder)
    seen = {
        path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()
    }
    assert seen.pop("default.nix") == EXPORTED_DEFAULT
    assert seen.pop(MARK)
    assert seen == {file.path: file.text for file in module_files()}


def test_an_export_replaces_an_earlier_one_and_keeps_what_the_owner_put_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "module"
    export(folder)
    (tmp_path / "outside.nix").write_text("mine")
    for name in ("nix/gone.nix", "old/gone.sh", "nix/mine.nix", "edge"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{ }")
    with (folder / MARK).open("a") as mark:
        mark.write("nix/gone.nix\nold/gone.sh\n../outside.nix\n")
    export(folder)
    assert not (folder / "nix/gone.nix").exists() and not (folder / "old").exists()
    assert (folder / "nix/mine.nix").exists() and (folder / "edge").exists()
    assert (tmp_path / "outside.nix").exists()


def test_an_export_never_touches_somebody_elses_files(tmp_path: Path) -> None:
    (tmp_path / "flake.nix").write_text("mine")
    with pytest.raises(ExportError, match="holds files that are not the module's; name a folder of its own"):
        export(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["flake.nix"]
    with pytest.raises(ExportError, match="is a file"):
        export(tmp_path / "flake.nix")


def test_a_folder_that_cannot_be_made_is_told_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    assert main([str(tmp_path / "file" / "module")]) == 1
    told = capsys.readouterr().err
    assert "cannot be written (Not a directory); name another folder for the module." in told
    assert "Errno" not in told


def test_the_command_says_what_to_do_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "module")]) == 0
    assert "services.immich-exposure.enable = true" in capsys.readouterr().out
    (tmp_path / "file").write_text("x")
    assert main([str(tmp_path)]) == 1
    for arguments, status in (([], 2), (["--help"], 0)):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == status
