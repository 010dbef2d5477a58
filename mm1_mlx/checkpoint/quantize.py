"""Fewer bits per weight, in the decoder; image encoder and connector keep theirs."""

from __future__ import annotations

from dataclasses import replace

from mlx_lm.utils import quantize_model

from mm1_mlx.errors import ConfigError
from mm1_mlx.model.mm1 import MM1

BITS = (2, 3, 4, 5, 6, 8)


def quantize(model: MM1, *, bits: int = 4, group_size: int = 64) -> MM1:
    """Pack the decoder's weights in place, and say so in ``model.config``.

    Raises:
        ConfigError: MLX has no such number of bits or group size.
    """
    if bits not in BITS or group_size not in (32, 64, 128):
        raise ConfigError(
            f"{bits} bits in groups of {group_size}: expected bits of {', '.join(map(str, BITS))} and "
            "groups of 32, 64 or 128."
        )
    _, values = quantize_model(model, model.config.to_dict(), group_size, bits)
    model.config = replace(
        model.config, quantization=values["quantization"], quantization_config=values["quantization_config"]
    )
    return model
