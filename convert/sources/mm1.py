"""Convert a model folder of our own: store its weights in another type, or packed."""

from __future__ import annotations

from pathlib import Path

from mm1_mlx.checkpoint.load import read_config
from mm1_mlx.errors import CheckpointError

from ..key_table import SAME, KeyTable, Move
from ..recipe import ORIGIN, Options, Part, Recipe
from ..source_config import SourceConfig, read_json
from ..tensors import open_tensors


def matches(config: SourceConfig) -> bool:
    """Say whether a folder's config.json is that of a model folder."""
    return config.values.get("model_type") == "mm1"


def read(folder: Path, config: SourceConfig, options: Options) -> Recipe:
    """Read a model folder, whose tensors keep their names.

    Raises:
        CheckpointError: the folder is quantized already.
    """
    found = read_config(folder)
    if found.quantization is not None:
        raise CheckpointError(f"{folder} is quantized already; convert the original.")
    tensors = open_tensors(folder)
    table = KeyTable({name: Move((name,), SAME) for name in tensors.infos})
    origin = read_json(folder / ORIGIN).values if (folder / ORIGIN).exists() else {}
    base = tuple(origin.get("base_models", ()))
    return Recipe("mm1", found, (Part(tensors, table),), (folder,), (folder,), base_models=base)
