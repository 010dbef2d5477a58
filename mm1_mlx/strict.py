"""Dataclasses that refuse unknown keys and wrong types: the base of every part of ``config.json``."""

from __future__ import annotations

import difflib
import sys
import types
import typing
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, ClassVar, Literal, TypeVar, get_args, get_origin

from mm1_mlx.errors import ConfigError

C = TypeVar("C", bound="Config")

LARGEST = 2**31  # sizes must be smaller; MLX cannot count more elements of an axis
SEEDS = 2**64  # seeds must be smaller


@dataclass(frozen=True)
class Config:
    """A strict dataclass: unknown keys, missing keys and wrong types are refused by name."""

    called: ClassVar[str] = ""  # the name in messages; by default that of the class

    @classmethod
    def from_dict(cls: type[C], values: Any) -> C:
        """Build an instance from parsed JSON.

        Raises:
            ConfigError: a key is unknown or missing, or a value has the wrong type.
        """
        if not isinstance(values, dict):
            raise ConfigError(f"{cls._name()} is {shown(values)}, expected keys and values.")
        known = {f.name: f for f in fields(cls)}
        for key in values:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f" Did you mean {near[0]}?" if near else f" Known keys: {', '.join(known)}."
                raise ConfigError(f"{cls._name()} has an unknown key {key!r}.{hint}")
        hints = typing.get_type_hints(cls)
        checked = {key: typed(cls._name(), key, value, hints[key]) for key, value in values.items()}
        missing = [name for name, f in known.items() if name not in values and not _has_default(f)]
        if missing:
            raise ConfigError(f"{cls._name()} lacks {', '.join(missing)}.")
        return cls(**checked)

    def to_dict(self) -> dict[str, Any]:
        """Return all values as plain JSON values."""
        return asdict(self)

    @classmethod
    def _name(cls) -> str:
        return cls.called or cls.__name__

    def _require(self, condition: bool, message: str) -> None:
        if not condition:
            raise ConfigError(f"{self._name()}: {message}")

    def _require_seed(self, seed: int) -> None:
        self._require(0 <= seed < SEEDS, f"seed is {seed}, expected 0 to 2^64 - 1.")

    def _require_positive(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            self._require(value > 0, f"{name} is {value}, expected more than 0.")
            self._require(value < LARGEST, f"{name} is {value}, expected less than 2^31.")


def _has_default(f: Any) -> bool:
    return f.default is not MISSING or f.default_factory is not MISSING


def typed(owner: str, key: str, value: Any, hint: Any) -> Any:
    """Convert ``value`` to the type that ``hint`` gives."""
    options = get_args(hint) if get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    for option in options:
        if option is type(None) and value is None:
            return None
        if get_origin(option) is Literal and value in get_args(option):
            return value
        if get_origin(option) is tuple and isinstance(value, list | tuple):
            inner = get_args(option)[0]
            if get_args(option)[-1] is Ellipsis or len(get_args(option)) == len(value):
                return tuple(typed(owner, key, v, inner) for v in value)
        if option is float:
            if (type(value) is int or type(value) is float) and abs(
                value
            ) <= sys.float_info.max:  # excludes NaN
                return float(value)
        elif isinstance(option, type) and type(value) is option:
            return value
        if isinstance(option, type) and issubclass(option, Config) and isinstance(value, dict):
            return option.from_dict(value)
    wanted = " or ".join(_describe(o) for o in options)
    raise ConfigError(f"{owner}.{key} is {shown(value)}, expected {wanted}.")


def shown(value: Any) -> str:
    """Return a value as text, shortened for a message."""
    found = repr(value)
    return found if len(found) <= 60 else f"{found[:57]}…{found[-1]}"


def _describe(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    if hint is type(None):
        return "null"
    if get_origin(hint) is tuple:
        number = "any number of" if get_args(hint)[-1] is Ellipsis else len(get_args(hint))
        return f"a list of {number} {_describe(get_args(hint)[0])}"
    if isinstance(hint, type) and issubclass(hint, Config | dict):
        return "keys and values"
    return getattr(hint, "__name__", str(hint))
