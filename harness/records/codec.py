"""The form of the model's dataclasses in JSON, derived from their annotations.

An enum is its value, a tuple an array, a mapping an object, a dataclass an object with its fields
(where the annotation says `Any`, plain JSON values are meant, so a tuple there comes back a list).
Fields that are not known are ignored, fields that are not there take their defaults.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import types
import typing
from collections.abc import Mapping
from typing import Any


class ShapeError(Exception):
    """A JSON value is not what an annotation asks for.

    Attributes:
        field: Where in the document, as `arms[0].disk[2].name`.
        problem: What is wrong there.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(field, problem)
        self.field = field
        self.problem = problem


def encode(value: object, field: str) -> object:
    """Turn a value of the model into what JSON can hold.

    Args:
        value: Dataclass, mapping, tuple, enum or scalar.
        field: What it is called in errors.

    Raises:
        ShapeError: It, or something in it, has no JSON form.
    """
    if isinstance(value, enum.Enum):
        return value.value
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if value - value != 0:  # infinities and NaN: JSON has neither
            raise ShapeError(field, f"{value} has no JSON form")
        return value
    if dataclasses.is_dataclass(value):
        return {
            part.name: encode(getattr(value, part.name), f"{field}.{part.name}".lstrip("."))
            for part in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise ShapeError(field, "an object's keys must be strings")
        return {
            str(encode(key, field)): encode(entry, f"{field}.{key}") for key, entry in value.items()
        }
    if isinstance(value, tuple | list):
        return [encode(entry, f"{field}[{place}]") for place, entry in enumerate(value)]
    raise ShapeError(field, f"{type(value).__name__} has no JSON form")


_SCALARS: Mapping[type, tuple[type, ...]] = types.MappingProxyType(
    {str: (str,), bool: (bool,), int: (int,), float: (float, int), type(None): (type(None),)}
)
"""What JSON may hold where an annotation names a scalar; `bool` is an `int` only to Python."""


def decode(kind: Any, value: object, field: str) -> object:
    """Turn a JSON value into what the annotation `kind` asks for.

    Args:
        kind: Of the model: a dataclass, a scalar, `tuple[T, ...]`, `Mapping[str, T]`, a union.
        value: As json.loads gives it.
        field: What it is called in errors.

    Raises:
        ShapeError: It is something else.
    """
    if kind is Any:
        return value
    if kind in _SCALARS:
        fits = isinstance(value, _SCALARS[kind]) and (kind is bool or not isinstance(value, bool))
        if not fits:
            raise ShapeError(field, f"{_named(value)} where {_wanted(kind)} should be")
        return value
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return _decode_union(arguments, value, field)
    if origin is tuple:
        if not isinstance(value, list):
            raise ShapeError(field, f"{_named(value)} where an array should be")
        return tuple(
            decode(arguments[0], entry, f"{field}[{place}]") for place, entry in enumerate(value)
        )
    if origin is Mapping:
        return types.MappingProxyType(
            {
                decode(arguments[0], key, field): decode(arguments[1], entry, f"{field}.{key}")
                for key, entry in _object(value, field).items()
            }
        )
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _decode_dataclass(kind, value, field)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        try:
            return kind(value)
        except ValueError:
            raise ShapeError(
                field, f"{_named(value)} is none of {', '.join(str(e.value) for e in kind)}"
            ) from None
    raise TypeError(f"records cannot hold {kind}")  # a new annotation in the model, not bad data


def _decode_union(kinds: tuple[Any, ...], value: object, field: str) -> object:
    problem: ShapeError | None = None
    for kind in kinds:
        try:
            return decode(kind, value, field)
        except ShapeError as error:
            problem = problem or error  # the first member is the main one, None comes last
    assert problem is not None
    raise problem


def _decode_dataclass(kind: type, value: object, field: str) -> object:
    document = _object(value, field)
    arguments = {}
    for name, (annotation, required) in _fields(kind).items():
        inner = f"{field}.{name}".lstrip(".")
        if name in document:
            arguments[name] = decode(annotation, document[name], inner)
        elif required:
            raise ShapeError(inner, "is missing")
    return kind(**arguments)


@functools.cache
def _fields(kind: type) -> dict[str, tuple[Any, bool]]:
    """Name, annotation, and whether a record must have it, of each field of a dataclass."""
    hints = typing.get_type_hints(kind)
    return {
        part.name: (
            hints[part.name],
            part.default is dataclasses.MISSING and part.default_factory is dataclasses.MISSING,
        )
        for part in dataclasses.fields(kind)
    }


def _object(value: object, field: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ShapeError(field, f"{_named(value)} where an object should be")
    return value


def _named(value: object) -> str:
    """Say what a JSON value is, short enough for a sentence."""
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _wanted(kind: type) -> str:
    names = {str: "a string", bool: "true or false", int: "an integer", float: "a number"}
    return names.get(kind, "null")
