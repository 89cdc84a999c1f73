"""The module's files next to configuration.nix. The state holds each file's text or hash once."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, UpdateResult

from components.engine.operator_error import OperatorError, without_traceback
from components.engine.props import from_props, props_of
from components.engine.step import Step, StepProvider, differs
from components.remote.module_files import digest, in_folder, module_files
from components.remote.remote_script import PayloadFile, Server, script_digest, script_text
from components.remote.ssh import run_script, tell

PROGRAM = re.compile(r"caddy/.*|scripts/.*\.sh|fail2ban/.*\.py")
"""The edge's sources and the server's scripts: nearly all of the text, and reviewed in the repository.

For each, the first digits of its hash are shown, enough to see which one changed; the digest of all files
covers the rest. What decides who gets in (Caddyfile, surface, Nix, fail2ban) is shown as text.
"""


class _Provider(StepProvider):
    @without_traceback
    def create(self, props: dict[str, Any]) -> CreateResult:
        return CreateResult("module-files", install(props))

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        # The old outputs lack the texts; the digest represents them.
        return DiffResult(changes=differs(_olds, _news, "files"))

    @without_traceback
    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        return UpdateResult(install(_news))


def install(props: dict[str, Any]) -> dict[str, Any]:
    """Copy the files to the server as they were shown, and return the outputs of the resource.

    Raises ``SshError``, also with the script's own last sentence, and ``OperatorError``.
    """
    server = from_props(Server, props)
    files = [PayloadFile(path, text) for path, text in as_shown(props["files"])]
    if digest(files) != props["digest"]:
        raise OperatorError(
            "The module's files are no longer those that were shown; run this again and look at them."
        )
    text = script_text("files", in_folder(files))
    run_script(server, server.line("install", props["configDir"]), text, tell=tell)
    return {key: value for key, value in props.items() if key != "files"}


def shown(files: Sequence[PayloadFile]) -> dict[str, str]:
    """Return what a preview shows for each file, by path: its text, or a program's hash."""
    return {file.path: _hash(file.text) if PROGRAM.fullmatch(file.path) else file.text for file in files}


def as_shown(files: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield path and text of the files that `shown` listed; for a program, the text on disk.

    Raises ``OperatorError`` if a program is no longer the one that was shown.
    """
    here = {file.path: file.text for file in module_files()}
    for path, text in files.items():
        if not PROGRAM.fullmatch(path):
            yield path, text
        elif _hash(here.get(path, "")) == text:
            yield path, here[path]
        else:
            raise OperatorError(
                f"server/{path} is no longer the one that was shown; run this again and look at it."
            )


def _hash(text: str) -> str:
    return f"sha256 {hashlib.sha256(text.encode()).hexdigest()[:16]}"


class ModuleFiles(Step, module="immich", name="ModuleFiles"):
    """The files in their folder. A guard resource, created before them, removes them again."""

    def __init__(
        self,
        name: str,
        *,
        server: Server,
        config_dir: str,
        files: pulumi.Output[Sequence[PayloadFile]],
        opts: pulumi.ResourceOptions,
    ) -> None:
        props: dict[str, pulumi.Input[Any]] = {
            **props_of(server),
            "configDir": config_dir,
            "files": files.apply(shown),
            "digest": files.apply(digest),
            "script": script_digest("files"),
        }
        super().__init__(_Provider(), name, props, opts)
