"""What MLX's own annotations leave open, said in one place: the arrays of a tree or a file, and an array's values.

MLX annotates a function for all its uses at once: ``tolist`` gives a number or a list, ``load`` an array or a mapping.
Each function here covers one use and gives it one type.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import mlx.core as mx
from mlx.utils import tree_flatten

from mm1_mlx.errors import ConfigError
from mm1_mlx.settings import DTYPES


@runtime_checkable
class HasValues(Protocol):
    """An array, or anything else that can give its values to Python."""

    def tolist(self) -> Any: ...

    def item(self) -> Any: ...


@runtime_checkable
class HasDtype(Protocol):
    """An array, or a tensor that is not read yet."""

    @property
    def dtype(self) -> mx.Dtype: ...

    @property
    def nbytes(self) -> int: ...


def flatten(tree: Any) -> dict[str, mx.array]:
    """Return the arrays of nested dicts and lists, such as a module's parameters, by their dotted paths."""
    arrays: dict[str, mx.array] = {}
    tree_flatten(tree, destination=arrays)
    return arrays


def name_dtype(dtype: str | mx.Dtype | None) -> str | None:
    """Return the name of a floating-point type, which may be given as MLX has it, or None where none is given.

    Raises:
        ConfigError: it is not one of ``DTYPES``.
    """
    name = str(dtype).removeprefix("mlx.core.") if isinstance(dtype, mx.Dtype) else dtype
    if name is not None and name not in DTYPES:
        raise ConfigError(f"dtype is {name!r}, expected one of {', '.join(DTYPES)}.")
    return name


def to_list(array: HasValues) -> list[Any]:
    """Return the values of an array that has at least one axis."""
    return array.tolist()


def to_number(array: HasValues) -> int | float:
    """Return the value of an array that holds one real number."""
    return array.item()


def main_dtype(stored: Iterable[HasDtype]) -> mx.Dtype:
    """Return the floating-point type that takes the most bytes among arrays, or among the forms of tensors."""
    sizes: dict[mx.Dtype, int] = {}
    for one in stored:
        if mx.issubdtype(one.dtype, mx.floating):
            sizes[one.dtype] = sizes.get(one.dtype, 0) + one.nbytes
    return max(sizes, key=lambda dtype: sizes[dtype])


def memory_of(array: Any) -> memoryview:
    """Return an evaluated array's own bytes, to read or to fill: an MLX array is a buffer, but is not annotated as one."""
    return memoryview(array)


def load_tensors(path: Path) -> tuple[dict[str, mx.array], dict[str, str]]:
    """Return the tensors of a safetensors file, each read when it is first computed with, and the file's metadata."""
    loaded = mx.load(str(path), format="safetensors", return_metadata=True)
    return cast("tuple[dict[str, mx.array], dict[str, str]]", loaded)  # as ``mx.load`` documents it
