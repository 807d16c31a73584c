"""JSON for typed messages: frozen dataclasses to bytes and back, checked against their annotations."""

import dataclasses
import json
import types
import typing
import zlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union

import numpy as np
from pydantic import BaseModel

from autotl.data.columns import Column
from autotl.errors import AutotlError

__all__ = ["ProtocolError", "decode", "encode"]


class ProtocolError(AutotlError):
    """Bytes that are not a message of this version's protocol."""


def encode(message: Any) -> bytes:
    """A message as ASCII JSON, `{"type": NAME, FIELD: …}`.

    File names that are not valid Unicode survive, since JSON escapes lone surrogates. Raises ValueError for NaN and
    infinity, and TypeError for a value that has no JSON form.
    """
    return json.dumps({"type": type(message).__name__, **_fields(message)}, allow_nan=False).encode("ascii")


def decode(content: bytes, known: Mapping[str, type]) -> Any:
    """The message in `content`.

    Args:
        known: message classes by name; no other class is ever constructed.

    Raises:
        ProtocolError: malformed JSON, an unknown message, or a field that is missing, unknown or of another type.
    """
    try:
        fields = json.loads(content)
        name = fields.pop("type")
        cls = known[name]
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise ProtocolError(f"Not a message of this protocol: {content[:80]!r}") from error
    return _construct(cls, fields, name)


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, BaseModel):
        return _plain(value.model_dump())
    if isinstance(value, Column):
        return value.plain()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _fields(value)
    raise TypeError(f"A {type(value).__name__} has no JSON form: {value!r}")


@cache
def _annotations(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls, localns={"np": np})  # some modules import NumPy for type checkers alone


def _construct(cls: type, values: Any, place: str) -> Any:
    annotations = _annotations(cls)
    if not isinstance(values, dict) or values.keys() - annotations.keys():
        raise ProtocolError(f"{place}: not the fields of {cls.__name__}: {values!r:.200}")
    try:
        return cls(**{name: _value(annotations[name], value, f"{place}.{name}") for name, value in values.items()})
    except TypeError as error:
        raise ProtocolError(f"{place}: {error}") from error


def _value(expected: Any, value: Any, place: str) -> Any:
    """`value` as the type that an annotation names."""
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if expected is Any:
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _value(next(a for a in arguments if a is not type(None)), value, place)
    if origin is Literal:
        if value in arguments:
            return value
    elif origin is tuple and isinstance(value, list):
        if arguments[1:] == (...,):
            # millions of strings pass through here: they need no call each
            return tuple(value) if arguments[0] is str else tuple(_value(arguments[0], v, place) for v in value)
        if len(arguments) == len(value):
            return tuple(_value(a, v, place) for a, v in zip(arguments, value, strict=True))
    elif origin is list and isinstance(value, list):
        return [_value(arguments[0], item, place) for item in value]
    elif origin is Sequence and isinstance(value, dict):
        return _column(value, place)
    elif origin is Sequence and value == []:
        return ()
    elif origin in (dict, Mapping) and isinstance(value, dict):
        return {key: _value(arguments[1], item, place) for key, item in value.items()}
    elif expected is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif expected in (str, bool, int):
        if type(value) is expected:
            return value
    elif expected is Path and isinstance(value, str):
        return Path(value)
    elif expected is np.ndarray and isinstance(value, list):
        return np.array(value, dtype=np.int64)
    elif isinstance(expected, type) and issubclass(expected, BaseModel):
        return _model(expected, value, place)
    elif dataclasses.is_dataclass(expected):
        return _construct(expected, value, place)  # type: ignore[arg-type]  # a class, not an instance
    raise ProtocolError(f"{place}: {value!r:.100} is not a {getattr(expected, '__name__', expected)}")


def _column(value: dict[str, Any], place: str) -> Column[Any]:
    try:
        return Column.from_plain(value)
    except (ValueError, KeyError, TypeError, zlib.error) as error:
        raise ProtocolError(f"{place}: {type(error).__name__}: {error}") from error


def _model(expected: type[BaseModel], value: Any, place: str) -> BaseModel:
    try:
        return expected.model_validate(value)
    except ValueError as error:
        raise ProtocolError(f"{place}: {error}") from error
