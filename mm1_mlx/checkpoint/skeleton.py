"""Models of which nothing but sizes is wanted: MLX makes arrays when they are computed with, and these never are."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from mm1_mlx.checkpoint.hub import WEIGHTS, find_folder
from mm1_mlx.checkpoint.load import load, read_config
from mm1_mlx.checkpoint.quantize import Packing, quantize
from mm1_mlx.checkpoint.tokenizer import load_tokenizer_of
from mm1_mlx.inputs.processor import Processor
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.presets import DECODERS, preset
from mm1_mlx.settings import EMBEDDED_MODEL

NAME = re.compile(rf"({'|'.join(DECODERS)})(?:-([234568])bit)?")


def is_preset(name: str) -> bool:
    """Say whether it is one of MM1's models, "mm1-7b", or "mm1-7b-4bit" as ``quantize`` packs it: nobody has their
    weights."""
    return NAME.fullmatch(name) is not None and not Path(name).is_dir()


def skeleton(name: str, *, dtype: str | None = None) -> tuple[MM1, Processor]:
    """Return a model to ask for sizes, none of its weights read, and its processor.

    A preset has mm1-tiny's tokenizer, for its own was not published. Weights that are not there are not downloaded.

    Args:
        name: as for ``load``, or of a preset.
        dtype: "float16", "bfloat16" or "float32"; None: the stored type, bfloat16 where nothing is stored.

    Raises:
        MM1Error: there is no such model, or its folder is not usable.
    """
    if is_preset(name):
        folder, (size, bits) = find_folder(EMBEDDED_MODEL), NAME.fullmatch(name).groups()
        known = read_config(folder)
        config = replace(preset(size), image_token_id=known.image_token_id, eos_token_id=known.eos_token_id)
        packing = bits and Packing(int(bits))
    else:
        folder = find_folder(name, weights=False)
        if any(folder.glob(WEIGHTS)):
            return load(folder, dtype=dtype, lazy=True)
        config = read_config(folder)
        print(f"mm1: the weights of {name} are not here; {dtype or 'bfloat16'} is assumed.", file=sys.stderr)
        packing = config.quantization and _packing(config.quantization)
        config = replace(config, quantization=None, quantization_config=None)
    model = MM1(config)
    if packing:
        quantize(model, packing=packing)
    model.set_dtype(getattr(mx, dtype or "bfloat16"))
    return model.eval(), Processor(load_tokenizer_of(folder, config), config)


def _packing(quantization: dict[str, Any]) -> Packing:
    """Return how most layers are packed; those that are packed otherwise count as the others."""
    bits, group_size = quantization.get("bits"), quantization.get("group_size")
    return Packing(bits, group_size, quantization.get("mode", "affine"))
