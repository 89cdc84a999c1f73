"""Dataclasses as properties of a dynamic resource, and back.

A field is a property with its name in camelCase. What is None is left out, as the engine does with properties
that are not set, and a number comes back as a float.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import pulumi

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

_types_of = cache(get_type_hints)


def props_of(value: DataclassInstance) -> dict[str, pulumi.Input[Any]]:
    """Return a dataclass's fields as properties; they may be outputs, dataclasses, or a sequence of those."""
    values = {camel_case(each.name): _prop(getattr(value, each.name)) for each in fields(value)}
    return {name: prop for name, prop in values.items() if prop is not None}


def from_props(kind: type[T], props: Mapping[str, Any]) -> T:
    """Return the dataclass that ``props_of`` made these properties from; others among them are ignored.

    Raises ``KeyError`` for a property that is missing and may not be None.
    """
    types = _types_of(kind)
    names = [each.name for each in fields(kind)]
    return kind(**{name: _field(types[name], props, camel_case(name)) for name in names})


def camel_case(name: str) -> str:
    """Return a field's name as a property is called: `renew_before_days` becomes `renewBeforeDays`."""
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))


def _prop(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return props_of(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, tuple | list):
        return [_prop(each) for each in value]
    return value


def _field(declared: Any, props: Mapping[str, Any], name: str) -> Any:
    kinds = get_args(declared) if get_origin(declared) in (Union, UnionType) else (declared,)
    if NoneType in kinds and props.get(name) is None:
        return None
    kind = next(each for each in kinds if each is not NoneType)
    return _typed(kind, props[name])


def _typed(kind: Any, value: Any) -> Any:
    if get_origin(kind) is tuple:
        return tuple(_typed(get_args(kind)[0], each) for each in cast(Sequence[Any], value))
    if not isinstance(kind, type):
        return value
    if is_dataclass(kind):
        return from_props(kind, value)
    if issubclass(kind, datetime):
        return datetime.fromisoformat(value)
    return kind(value) if issubclass(kind, (Enum, int)) else value
