"""The result of reading a source: the model's configuration, and where each of its tensors goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from mm1_mlx.config import MM1Config
from mm1_mlx.image_config import Alpha

from .choices import NewConnector
from .gguf_file import GgufFile
from .key_table import KeyTable
from .tensors import TensorInfo, Tensors

PREPROCESSOR = "preprocessor_config.json"  # in a source: how pictures become pixels
ORIGIN = "conversion.json"  # in a model folder: what the conversion back to its source's layout needs

ROWS_AT_ONCE = 4096  # of a table whose mean is computed
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Options:
    """Facts that a user may add to a source folder."""

    encoder: str | None = None  # a folder or hub id, where the image encoder is stored apart
    decoder: str | None = None
    tokenizer: str | None = None  # a folder or hub id, where the source has no tokenizer
    image_token: str | None = None  # the token to stand for a picture
    add_image_token: bool = False  # to the tokenizer of a new model
    alpha: Alpha | None = None  # what transparent pixels become, in place of the source's rule
    connector: NewConnector = "c_abstractor"  # for a new model, like the next three
    num_visual_tokens: int = 144
    feature_layer: int | None = None
    seed: int = 0
    keep_connector: bool = False  # that of the encoder's model folder, in place of a new one


@dataclass(frozen=True)
class Part:
    """Some of a model's tensors, the table that says where they go, and what the conversion back needs."""

    tensors: AnyTensors
    table: KeyTable
    source_config: Mapping[str, Any] = field(default_factory=dict)  # the config.json beside them
    subfolder: str = ""  # folder in the source, where they are stored apart from the rest


@dataclass(frozen=True)
class Recipe:
    """A whole conversion, read and checked; no weight has been read yet."""

    source: str  # the source module's name
    config: MM1Config
    parts: tuple[Part, ...]
    companions: tuple[Path, ...]  # folders with tokenizer files; the first ones take precedence
    origins: tuple[Path, ...]  # folders of the weights, whose licences apply to the result
    chat_template: str | None = None  # in place of the tokenizer's own
    base_models: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # what the user should know
    added_token: str | None = None  # that the tokenizer gets, to stand for a picture


class LoadedTensors:
    """Arrays that MLX has opened but not read yet, with the interface of ``Tensors``; each can be read once."""

    def __init__(self, arrays: dict[str, mx.array], folder: Path, name: str):
        self._arrays = arrays
        self.shards = [folder / name]
        self.infos = {
            key: TensorInfo(value.shape, value.dtype, self.shards[0]) for key, value in arrays.items()
        }

    def read(self, name: str) -> mx.array:
        return self._arrays.pop(name)


class EnlargedTensors:
    """Tensors some of which get more rows, each the mean of those that they have, so that none is ever likeliest.

    Args:
        tensors: as they are stored.
        names: those that get more rows.
        num_rows: how many more.
    """

    def __init__(self, tensors: AnyTensors, names: set[str], num_rows: int):
        self._tensors, self._names, self._num_rows = tensors, names, num_rows
        self.shards = tensors.shards
        self.infos = {
            name: replace(info, shape=(info.shape[0] + num_rows, *info.shape[1:])) if name in names else info
            for name, info in tensors.infos.items()
        }

    def read(self, name: str) -> mx.array:
        value = self._tensors.read(name)
        if name not in self._names:
            return value
        total = mx.zeros(value.shape[1:])
        for start in range(0, len(value), ROWS_AT_ONCE):
            total = total + value[start : start + ROWS_AT_ONCE].astype(mx.float32).sum(axis=0)
            mx.eval(total)
        mean = (total / len(value)).astype(value.dtype)
        return mx.concatenate([value, *[mean[None]] * self._num_rows])


AnyTensors = Tensors | LoadedTensors | GgufFile | EnlargedTensors


def shapes_of(tensors: AnyTensors) -> Shapes:
    """Return every tensor's shape by its name."""
    return {name: info.shape for name, info in tensors.infos.items()}


def select_prefix(shapes: Shapes, prefix: str) -> Shapes:
    """Return the shapes whose names start with ``prefix``, by the rest of their names."""
    return {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
