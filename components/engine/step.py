"""The base of our resources: Pulumi's dynamic resources, whatever serves them.

In a Python program the engine starts Pulumi's own plugin for them, in the program's environment. Programs in
other languages have no such environment: there the component's plugin (`components.package.plugin`) serves
them, so they carry its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pulumi
from pulumi import dynamic
from pulumi.output import Unknown

_package: str | None = None


def serve_by(package: str) -> None:
    """Let `package` serve the resources that this process creates from now on."""
    global _package
    _package = package


def type_token(dynamic_type: str) -> str:
    """Return the type under which a dynamic resource of ours is registered with the engine."""
    return f"{_package}:step:{dynamic_type.rpartition(':')[2]}" if _package else dynamic_type


def warn_each(sentences: Iterable[str] | None) -> None:
    """Warn of each sentence of an output; there is none before its step has run."""
    for sentence in sentences or ():
        pulumi.warn(sentence)


def known(props: Mapping[str, Any]) -> dict[str, Any]:
    """Return the properties whose values a preview knows."""
    return {key: value for key, value in props.items() if not isinstance(value, Unknown)}


def differs(olds: Mapping[str, Any], news: Mapping[str, Any], *ignored: str) -> bool:
    """Tell whether a property differs; one that is not set is missing on either side."""
    return any(olds.get(key) != news.get(key) for key in {*olds, *news}.difference(ignored))


class StepProvider(dynamic.ResourceProvider):
    """The base of our steps' providers."""

    serialize_as_secret_always = False  # it captures nothing


class _Named(pulumi.CustomResource):
    """Sits between a dynamic resource and its base class: the only place that sees its type."""

    def __init__(self, t: str, name: str, props: Any = None, opts: Any = None) -> None:
        super().__init__(type_token(t), name, props, opts)


class Step(dynamic.Resource, _Named):
    """A dynamic resource: `class Thing(Step, module="immich", name="Thing")`."""
