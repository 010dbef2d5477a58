"""Compare the sizes of a configuration with the shapes of its tensors, before anything is built by them.

A model of a million layers takes forever to build, only to be found without weights. Building makes no arrays, so
exact sizes may be compared afterwards; here it is enough that no number is out of all proportion.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mm1_mlx.config import DecoderConfig, MM1Config
from mm1_mlx.errors import ConfigError
from mm1_mlx.model.mm1 import MM1

Shapes = Mapping[str, tuple[int, ...]]

PACKED = 32  # an axis of packed weights is at most this many times shorter than the layer is wide
COUNT = re.compile(r"layers?$|^depth$|blocks$")
WIDTH = re.compile(r"(size|dims?|heads|experts|rank|tokens)$")
NO_WIDTH = re.compile(r"image_size|block_size|chunk_size|per_tok|position|window|min_|max_|num_visual_tokens")


def require_sizes(config: MM1Config, shapes: Shapes, where: object) -> None:
    """Refuse a configuration with more layers than there are tensors, or wider than any tensor is long.

    Args:
        config: a model's configuration.
        shapes: those of its tensors, by any names.
        where: the configuration's file, for the message.

    Raises:
        ConfigError: a size is out of proportion.
    """
    vision, connector, text = config.vision_config, config.connector_config, config.text_config
    for section, values in (("vision_config", vision.to_dict()), ("connector_config", connector.to_dict())):
        require_proportion(values, shapes, f"{where}: {section}")
    decoder = text.to_dict() if isinstance(text, DecoderConfig) else text.values
    require_proportion(decoder, shapes, f"{where}: text_config")
    longest = _longest(shapes)
    for name, side in (
        ("vision_config: image_size / patch_size", vision.grid_side if vision.positions == "learned" else 0),
        ("connector_config: position_grid", connector.position_grid or 0),
    ):
        if side**2 > longest:
            raise ConfigError(f"{where}: {name} is {side}, but no tensor has positions for so many patches.")


def build_model(config: MM1Config, shapes: Shapes, where: object) -> MM1:
    """Return a model with random weights, which MLX makes only where they are used.

    Raises:
        ConfigError: a size is out of proportion, or no model has these sizes.
    """
    require_sizes(config, shapes, where)
    try:
        return MM1(config)
    except (ArithmeticError, MemoryError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"{where}: no model of these sizes can be built ({reason}).") from None


def require_proportion(values: Mapping[str, Any], shapes: Shapes, where: object) -> None:
    """Refuse counts above the number of tensors, and widths far above the longest axis of any.

    Raises:
        ConfigError: a number is above.
    """
    longest = _longest(shapes)
    for key, value in values.items():
        if type(value) is not int:
            continue
        if COUNT.search(key) and value > len(shapes):
            raise ConfigError(
                f"{where}: {key} is {value}, but the checkpoint has only {len(shapes)} tensors."
            )
        if WIDTH.search(key) and not NO_WIDTH.search(key) and value > PACKED * longest:
            raise ConfigError(f"{where}: {key} is {value}, but the longest axis of its tensors is {longest}.")


def _longest(shapes: Shapes) -> int:
    return max((axis for shape in shapes.values() for axis in shape), default=0)
