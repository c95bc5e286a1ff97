"""Turns the model's dataclasses into JSON and back, by their annotations, with msgspec.

An enum is its value, a tuple an array, a mapping and a dataclass an object (where the annotation
says `Any`, plain JSON values are meant, so a tuple there comes back a list). Fields that are not
known are ignored, fields that are not there take their defaults. Only what an annotation asks for
is taken: no number for a string, no `true` for a number, no 1.0 for an integer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TypeVar

import msgspec

_T = TypeVar("_T")


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
    """Turn a dataclass, mapping, tuple, enum or scalar into what JSON can hold.

    Raises:
        ShapeError: It, or something in it, has no JSON form; `field` names it there.
    """
    plain = msgspec.to_builtins(value, builtin_types=(bytes,), enc_hook=_plain)
    _refuse_foreign(plain, field)
    return plain


def _plain(value: object) -> object:
    # What msgspec does not know is a read-only mapping, or none of ours: bytes are refused below.
    return dict(value) if isinstance(value, Mapping) else b""


def _refuse_foreign(value: object, field: str) -> None:
    if isinstance(value, dict):
        for key, entry in value.items():
            if not isinstance(key, str):
                raise ShapeError(field, "an object's keys must be strings")
            _refuse_foreign(entry, f"{field}.{key}" if field else key)
    elif isinstance(value, list | tuple):
        for place, entry in enumerate(value):
            _refuse_foreign(entry, f"{field}[{place}]")
    elif isinstance(value, bytes):
        raise ShapeError(field, "has no JSON form")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ShapeError(field, f"{value} has no JSON form")


def decode(kind: type[_T], value: object, field: str) -> _T:
    """Turn a value from json.loads into a dataclass, scalar, tuple, mapping or union of the model.

    Raises:
        ShapeError: It is something else; `field` names it there.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise _shape_error(str(error), field) from error


def parse(kind: type[_T], text: bytes) -> _T:
    """Turn JSON text into what the annotation `kind` asks for.

    Raises:
        ShapeError: It is something else.
        ValueError: It is no JSON.
    """
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, RecursionError):
        # json tells where the text ends to be JSON, and takes halves of surrogate pairs.
        return decode(kind, loads(text), "")


def loads(text: bytes) -> object:
    """Parse strict JSON.

    Raises:
        ValueError: It is none; with the place where that is known (`json.JSONDecodeError`).
    """
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError(str(error)) from error


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is not JSON")


def _shape_error(message: str, field: str) -> ShapeError:
    """Split "Expected `int`, got `str` - at `$.disk[0]`" into a field and a problem."""
    problem, _, place = message.partition(" - at ")
    where = place.replace("`", "").replace("$.", f"{field}." if field else "").replace("$", field)
    return ShapeError(where or field, problem[:1].lower() + problem[1:])
