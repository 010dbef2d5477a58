"""Check the types of values that a caller gives, by their annotations, and tell in words what was expected."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from numbers import Integral, Real
from typing import Any, Literal, get_args, get_origin

from mm1_mlx.errors import MM1Error
from mm1_mlx.strict import shown

NAMES: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "True or False",
    type(None): "None",
    Sequence: "a list",
    Iterable: "a list",
    Mapping: "keys and values",
}


def require_types(settings: Any, error: type[MM1Error]) -> None:
    """Refuse a dataclass whose fields do not have the types that they are annotated with.

    Raises:
        MM1Error: of the kind ``error``; the message names the field.
    """
    hints = typing.get_type_hints(type(settings))
    for field in fields(settings):
        require_type(field.name, getattr(settings, field.name), hints[field.name], error)


def require_type(name: str, value: Any, hint: Any, error: type[MM1Error]) -> None:
    """Refuse a value that is not of a type.

    Args:
        name: the parameter, for the message.
        value: what was given for it.
        hint: the type that it must have, as an annotation.
        error: the kind of error to raise.

    Raises:
        MM1Error: of the kind ``error``.
    """
    if not _fits(value, hint):
        wanted = " or ".join(dict.fromkeys(_describe(option) for option in _options(hint)))
        raise error(f"`{name}` is {shown(value)}, expected {wanted}.")


def _options(hint: Any) -> tuple[Any, ...]:
    if get_origin(hint) in (typing.Union, types.UnionType):
        return tuple(inner for option in get_args(hint) for inner in _options(option))
    return (hint,)


def _fits(value: Any, hint: Any) -> bool:
    return any(_fits_one(value, option) for option in _options(hint))


def _fits_one(value: Any, hint: Any) -> bool:
    origin = get_origin(hint)
    if hint in (int, float) or hint is bool:
        numbers = {int: Integral, float: Real, bool: bool}  # NumPy's numbers too
        return isinstance(value, numbers[hint]) and isinstance(value, bool) == (hint is bool)
    if origin is Literal:
        return isinstance(value, str) and value in get_args(hint)
    if origin is not None and issubclass(origin, Sequence):
        inner = get_args(hint)[0]
        one_by_one = isinstance(value, Sequence) and not isinstance(value, str | bytes)
        return one_by_one and all(_fits(entry, inner) for entry in value)
    if origin is not None and issubclass(origin, Mapping):
        return isinstance(value, Mapping)
    return isinstance(value, hint) if isinstance(hint, type) else True


def _describe(hint: Any) -> str:
    origin = get_origin(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, get_args(hint)))
    if origin is not None and issubclass(origin, Sequence):
        inner = dict.fromkeys(_describe(option) for option in _options(get_args(hint)[0]))
        return f"a list, each of it {' or '.join(inner)}"
    if origin is not None and issubclass(origin, Mapping):
        return "keys and values"
    return NAMES.get(hint) or f"a {getattr(hint, '__name__', hint)}"
