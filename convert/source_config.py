"""Read a PyTorch checkpoint's own configuration: nothing is guessed, and errors name what is absent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from mm1_mlx.errors import CheckpointError
from mm1_mlx.files.json_files import parse_json

T = TypeVar("T")


class SourceConfig:
    """One JSON object of a source and where it is, so that errors name file and key."""

    def __init__(self, values: dict[str, Any], where: str):
        self.values = values
        self.where = where

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def need(self, key: str, kind: type[T]) -> T:
        """Return the value of ``key``.

        Raises:
            CheckpointError: the value is absent, or of another type than ``kind``.
        """
        if self.values.get(key) is None:
            raise CheckpointError(
                f"{self.where} has no {key!r}, and it cannot be derived; add it to the file."
            )
        return self._get_checked(key, kind)

    def get(self, key: str, kind: type[T], default: T) -> T:
        """Return the value of ``key``, or where it is absent or null, ``default``, a published class's own default."""
        return default if self.values.get(key) is None else self._get_checked(key, kind)

    def colors(self, key: str, default: Sequence[float] | None = None) -> tuple[float, float, float]:
        """Return three numbers, one for each of red, green and blue."""
        value = self.values.get(key)
        value = default if value is None else value
        if not (
            isinstance(value, Sequence)
            and len(value) == 3
            and all(isinstance(number, int | float) and math.isfinite(number) for number in value)
        ):
            raise CheckpointError(f"{self.where}: {key} is {value!r}, expected three numbers.")
        red, green, blue = map(float, value)
        return red, green, blue

    def section(self, *names: str) -> SourceConfig:
        """Return the nested object under the first of ``names`` that exists."""
        for name in names:
            if isinstance(self.values.get(name), dict):
                return SourceConfig(self.values[name], f"{self.where}: {name}")
        wanted = " or ".join(repr(name) for name in names)
        raise CheckpointError(f"{self.where} has no {wanted} section; its keys are {self._keys()}.")

    def agree(self, key: str, derived: object, what: str) -> None:
        """Refuse a declared value that contradicts the tensors; an absent one is accepted."""
        declared = self.values.get(key)
        if declared is not None and declared != derived:
            raise CheckpointError(f"{self.where}: {key} is {declared!r}, but {what} {derived!r}.")

    def _get_checked(self, key: str, kind: type[T]) -> T:
        value = _widen(self.values[key], kind)
        if type(value) is not kind:
            raise CheckpointError(f"{self.where}: {key} is {value!r}, expected {kind.__name__}.")
        return value

    def _keys(self) -> str:
        return ", ".join(sorted(self.values)[:12]) or "none"


def _widen(value: Any, kind: type) -> Any:
    """Return an integer as a float if a float is expected, because JSON may write 1.0 as 1."""
    return float(value) if kind is float and type(value) is int else value


def read_json(path: Path) -> SourceConfig:
    """Read a JSON file that holds one object.

    Raises:
        CheckpointError: there is no such file, or it holds something else.
    """
    values = parse_json(path, f"{path.parent} has no {path.name}.")
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds {type(values).__name__}, expected a JSON object.")
    return SourceConfig(values, str(path))
