"""Convert a model folder of our own: store its weights in another type, or packed; or take its image encoder, with or without its connector."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mm1_mlx.checkpoint.load import read_config
from mm1_mlx.config import ConnectorConfig, ImageConfig, ImageEncoderConfig
from mm1_mlx.errors import CheckpointError

from ..key_table import SAME, KeyTable, Move
from ..recipe import ORIGIN, Options, Part, Recipe
from ..source_config import SourceConfig, read_json
from ..tensors import Tensors, open_tensors

PARTS = ENCODER, CONNECTOR, _ = "image_encoder.", "connector.", "decoder."


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


def read_encoder(folder: Path, options: Options) -> tuple[ImageEncoderConfig, ImageConfig, Tensors, KeyTable]:
    """Return the sizes of a model folder's image encoder, its preprocessing, tensors and key table.

    A picture becomes one view, whatever the model does with large ones, unless its connector is kept.

    Raises:
        CheckpointError: the encoder is packed, or reads what no new connector does.
        ConfigError: it has no such layer.
    """
    found, tensors = read_config(folder), open_tensors(folder)
    table = _take(ENCODER, tensors, folder, "image encoder")
    encoder, image = found.vision_config, found.image_config
    if options.feature_layer is not None:
        encoder = replace(encoder, feature_layer=options.feature_layer)
    if options.keep_connector:
        return encoder, image, tensors, table
    if image.resize == "smart":
        raise CheckpointError(
            f"the image encoder of {folder} reads pictures of any shape, and a new connector those of one shape; "
            "keep its own with `keep_connector`."
        )
    kept = {"image_size", "mean", "std", "resize", "alpha"}
    image = ImageConfig(**{name: getattr(image, name) for name in kept})
    return encoder, image, tensors, table


def read_connector(folder: Path, tensors: Tensors, output_dims: int) -> tuple[ConnectorConfig, Part, bool]:
    """Return the sizes of a model folder's connector, its tensors, and whether it is untrained.

    Raises:
        CheckpointError: the folder is not a model's, its connector is packed, or makes visual tokens of another width
            than ``output_dims``.
    """
    if not (folder / "config.json").is_file() or not matches(read_json(folder / "config.json")):
        raise CheckpointError(
            f"`keep_connector` goes with a model folder, such as mm1-tiny, as `encoder`; {folder} has no connector."
        )
    found = read_config(folder)
    connector = found.connector_config
    if connector.output_dims != output_dims:
        raise CheckpointError(
            f"the connector of {folder} makes visual tokens {connector.output_dims} wide, but the decoder is "
            f"{output_dims} wide; leave `keep_connector` out for a new one, or take a decoder of that width."
        )
    part = Part(tensors, _take(CONNECTOR, tensors, folder, "connector"))
    return connector, part, "connector" in found.untrained


def _take(prefix: str, tensors: Tensors, folder: Path, what: str) -> KeyTable:
    """Return the key table that takes one part of a model folder and drops the others."""
    names = [name for name in tensors.infos if name.startswith(prefix)]
    if any(name.endswith(".scales") for name in names):
        raise CheckpointError(f"{folder} has a quantized {what}; take it of the original.")
    others = tuple(f"{part}*" for part in PARTS if part != prefix)
    return KeyTable({name: Move((name,), SAME) for name in names}, others)
