"""A script of ``server/scripts`` as a step of the exposure.

The state holds what a run is given, once: the arguments on its command line and the files sent along;
``pulumi preview --diff`` shows how they change. Of the script, which is reviewed in the repository, it holds
the digest, and a script with another digest is not run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, UpdateResult

from components.engine.operator_error import OperatorError, without_traceback
from components.engine.props import from_props, props_of
from components.engine.step import Step, StepProvider, differs
from components.remote.module_files import digest
from components.remote.remote_script import PayloadFile, Server, script_digest, script_text
from components.remote.ssh import run_script, tell

OUTPUT = "stdout"
FILES = "files"
"""The files sent along; the outputs in the state omit them and keep only their digest."""

PLAIN_MODE = "0644"


class _Provider(StepProvider):
    @without_traceback
    def create(self, props: dict[str, Any]) -> CreateResult:
        return CreateResult(props["script"], run(props, props.get("create")))

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        return DiffResult(changes=differs(_olds, _news, FILES, OUTPUT))

    @without_traceback
    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        return UpdateResult(run(_news, _news.get("update") or _news.get("create")))

    @without_traceback
    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        if line := _props.get("delete"):
            _run(_props, line, script_text(_props["script"]))


def run(props: dict[str, Any], line: str | None) -> dict[str, Any]:
    """Run the script with this command line, or nothing if it is None, and return the resource's outputs.

    Raises ``SshError``, also with the script's own last sentence, and ``OperatorError`` for a script that is
    not the one that was shown.
    """
    stdout = ""
    if line is not None:
        name = props["script"]
        if script_digest(name) != props["digest"]:
            raise OperatorError(
                f"server/scripts/{name}.sh has changed since it was shown; run this again and look at it."
            )
        stdout = _run(props, line, script_text(name, _payload(props)))
    kept = {key: value for key, value in props.items() if key != FILES}
    return {**kept, OUTPUT: stdout.removesuffix("\n")}


def _run(props: dict[str, Any], line: str, text: str) -> str:
    # No limit: a build on a small machine can take hours, and a lost network is noticed anyway.
    return run_script(from_props(Server, props), line, text, timeout_seconds=math.inf, tell=tell)


def _payload(props: dict[str, Any]) -> tuple[PayloadFile, ...]:
    modes = props.get("modes") or {}
    return tuple(
        PayloadFile(path, text, modes.get(path, PLAIN_MODE))
        for path, text in sorted((props.get(FILES) or {}).items())
    )


class ServerScript(Step, module="immich", name="ServerScript"):
    """``server/scripts/<script>.sh``, run over SSH as root with lines from ``Server.line``.

    ``update`` equals ``create`` unless given: the scripts are idempotent. No change is ever a replacement,
    which would run the new ``create`` and then the old ``delete``: the opposite of what an exposure needs.
    Anything else whose change must run the script again goes into ``note``. ``delete`` runs the script on
    disk at that time, and does nothing on another stack's server. Standard error carries the progress lines,
    standard output the result.
    """

    stdout: pulumi.Output[str]
    """What the script printed when it last ran, without the final line break."""

    def __init__(
        self,
        name: str,
        server: Server,
        *,
        script: str,
        create: pulumi.Input[str] | None = None,
        update: pulumi.Input[str] | None = None,
        delete: str | None = None,
        payload: pulumi.Input[tuple[PayloadFile, ...]] | None = None,
        note: str | None = None,
        opts: pulumi.ResourceOptions,
    ) -> None:
        props: dict[str, pulumi.Input[Any]] = {
            **props_of(server),
            **_lines(server, create=create, update=update),
            **_lines(server, delete=None if delete is None else server.way_back(delete)),
            **_files(payload),
            "script": script,
            # A delete runs the script on disk at that time.
            "digest": None if create is None else script_digest(script),
            "note": note,
            OUTPUT: None,
        }
        super().__init__(_Provider(), name, props, opts)


def _lines(server: Server, **lines: pulumi.Input[str] | None) -> dict[str, pulumi.Input[str]]:
    return {verb: server.with_stack_id(line) for verb, line in lines.items() if line is not None}


def _files(payload: pulumi.Input[tuple[PayloadFile, ...]] | None) -> dict[str, pulumi.Input[Any]]:
    """Return the files sent along as properties, secret if they are."""
    if payload is None:
        return {}
    files = pulumi.Output.from_input(payload)
    return {
        FILES: files.apply(lambda known: {file.path: file.text for file in known}),
        "modes": files.apply(_modes),
        "filesDigest": files.apply(digest),
    }


def _modes(files: Sequence[PayloadFile]) -> dict[str, str] | None:
    return {file.path: file.mode for file in files if file.mode != PLAIN_MODE} or None


def guarded_script(
    name: str,
    server: Server,
    *,
    script: str,
    create: pulumi.Input[str],
    update: pulumi.Input[str] | None = None,
    delete: str,
    payload: pulumi.Input[tuple[PayloadFile, ...]] | None = None,
    note: str | None = None,
    opts: pulumi.ResourceOptions,
) -> ServerScript:
    """Return a ``ServerScript`` without ``delete``, preceded by a guard resource that has only ``delete``.

    A step whose ``create`` fails or is killed is not in the state, so its ``delete`` would never run,
    whatever it left on the server. The guard resource is in the state before it, and needs no connection. It
    is deleted right after the step, so that ``delete`` runs once, and in the right order.
    """
    guard = guard_of(name, server, script=script, delete=delete, opts=opts)
    return ServerScript(
        name,
        server,
        script=script,
        create=create,
        update=update,
        payload=payload,
        note=note,
        opts=pulumi.ResourceOptions.merge(
            opts, pulumi.ResourceOptions(depends_on=[guard], deleted_with=guard)
        ),
    )


def guard_of(
    name: str, server: Server, *, script: str, delete: str, opts: pulumi.ResourceOptions
) -> ServerScript:
    """Return the guard resource that takes back what this name's step created, and does nothing before."""
    # A repair is no reason to change it.
    quiet = replace(server, repaired=None)
    return ServerScript(f"{name}-guard", quiet, script=script, delete=delete, opts=opts)
