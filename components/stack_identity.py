"""Who this stack is: an id that no other stack has and nobody can guess."""

from __future__ import annotations

import secrets
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, ResourceProvider

from components.engine.step import Step


class _Provider(ResourceProvider):
    serialize_as_secret_always = False  # it captures nothing

    def create(self, _props: dict[str, Any]) -> CreateResult:
        return CreateResult(secrets.token_hex(16), {})

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        return DiffResult(changes=False)


class StackIdentity(Step, module="immich", name="StackIdentity"):
    """Made once and kept in Pulumi's state; its id is what the server knows its stack by.

    The name of a stack is no such thing: two people may both have called theirs ``home``.
    """

    def __init__(self, name: str, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(_Provider(), name, {}, opts)


def stack_name() -> str:
    """Return the whole name of the running stack, for words; not every engine tells the organization."""
    names = (pulumi.get_organization(), pulumi.get_project(), pulumi.get_stack())
    return "/".join(name for name in names if name)
