"""The stack's identity: an id that is unique and unguessable; and the final check of a destroy."""

from __future__ import annotations

import secrets
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, UpdateResult

from components.engine.operator_error import OperatorError, without_traceback
from components.engine.props import from_props, props_of
from components.engine.step import Step, StepProvider, differs
from components.remote.remote_script import Server, script_text
from components.remote.ssh import SshError, run_script, tell

LOOK_SECONDS = 60


class StillExposedError(OperatorError):
    """The server belongs to this stack, and nothing in Pulumi's state would take the exposure back."""


class _Provider(StepProvider):
    def create(self, props: dict[str, Any]) -> CreateResult:
        return CreateResult(secrets.token_hex(16), props)

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        return DiffResult(changes=differs(_olds, _news))

    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        return UpdateResult(_news)

    @without_traceback
    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        """Refuse while the server belongs to this stack: a state without its resources takes nothing back."""
        server = from_props(Server, _props)
        try:
            owner = run_script(
                server, server.line("whose"), script_text("state"), timeout_seconds=LOOK_SECONDS
            )
        except SshError as error:
            # An up that never reached the server has left nothing, and nothing else could be done here
            # anyway.
            tell(
                f"It could not be checked whether anything of the exposure is left on {server.host}: {error}"
            )
            return
        if owner.strip() == _id:
            raise StillExposedError(
                f"Immich is still exposed on {server.host}, and Pulumi's state has lost what would remove "
                "it; run pulumi up, which restores that, and then pulumi destroy."
            )


class StackIdentity(Step, module="immich", name="StackIdentity"):
    """Created once and kept in Pulumi's state; the server knows its stack by this id.

    A stack's name would not do: two people may both have called theirs ``home``. The resource depends on
    nothing and has no parent, so that it stays in a state from which somebody deletes the exposure;
    everything depends on it, so it is deleted last.
    """

    def __init__(self, name: str, server: Server) -> None:
        super().__init__(_Provider(), name, props_of(server))


def stack_name() -> str:
    """Return the full name of the running stack, for messages; not every engine provides the organization."""
    names = (pulumi.get_organization(), pulumi.get_project(), pulumi.get_stack())
    return "/".join(name for name in names if name)
