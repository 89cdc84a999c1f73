"""A text for the eyes of a reviewer: ``pulumi preview --diff`` shows how it changes, and nothing is done."""

from __future__ import annotations

from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, ResourceProvider, UpdateResult

from components.step import Step


class _Provider(ResourceProvider):
    serialize_as_secret_always = False  # it captures nothing

    # Among the inputs it stands in the state already, and no output says it once more.
    def create(self, _props: dict[str, Any]) -> CreateResult:
        return CreateResult("shown", {})

    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        return UpdateResult({})


class ShownText(Step, module="immich", name="ShownText"):
    """What runs as root on the server, where the command that carries it is secret because of a password."""

    def __init__(self, name: str, text: pulumi.Input[str], opts: pulumi.ResourceOptions) -> None:
        super().__init__(_Provider(), name, {"text": text}, opts)
