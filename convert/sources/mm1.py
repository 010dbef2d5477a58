"""Convert a model folder of our own: store its weights in another type, or packed; or take its image encoder alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mm1_mlx.checkpoint.load import read_config
from mm1_mlx.config import ImageConfig, ImageEncoderConfig
from mm1_mlx.errors import CheckpointError

from ..key_table import SAME, KeyTable, Move
from ..recipe import ORIGIN, Options, Part, Recipe
from ..source_config import SourceConfig, read_json
from ..tensors import Tensors, open_tensors

ENCODER = "image_encoder."


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


def read_encoder(
    folder: Path, feature_layer: int | None
) -> tuple[ImageEncoderConfig, ImageConfig, Tensors, KeyTable]:
    """Return the sizes of a model folder's image encoder, its preprocessing, tensors and key table.

    A picture becomes one view, whatever the model does with large ones.

    Raises:
        CheckpointError: the encoder is packed.
        ConfigError: it has no such layer.
    """
    found, tensors = read_config(folder), open_tensors(folder)
    names = [name for name in tensors.infos if name.startswith(ENCODER)]
    if any(name.endswith(".scales") for name in names):
        raise CheckpointError(f"{folder} has a quantized image encoder; take it of the original.")
    encoder, image = found.vision_config, found.image_config
    if feature_layer is not None:
        encoder = replace(encoder, feature_layer=feature_layer)
    kept = {"image_size", "mean", "std", "resize", "alpha", "size_multiple", "min_pixels", "max_pixels"}
    image = ImageConfig(**{name: getattr(image, name) for name in kept})
    table = KeyTable({name: Move((name,), SAME) for name in names}, ("connector.*", "decoder.*"))
    return encoder, image, tensors, table
