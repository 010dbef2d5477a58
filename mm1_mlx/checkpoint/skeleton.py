"""MM1 itself, of which nobody has the weights: MLX makes arrays when they are computed with, and these never are."""

from __future__ import annotations

import re
from dataclasses import replace

import mlx.core as mx

from mm1_mlx.checkpoint.hub import find_folder
from mm1_mlx.checkpoint.load import load_tokenizer_of, read_config
from mm1_mlx.checkpoint.quantize import quantize
from mm1_mlx.inputs.processor import Processor
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.presets import DECODERS, preset
from mm1_mlx.settings import EMBEDDED_MODEL

NAME = re.compile(r"(?P<preset>.+?)(-(?P<bits>[234568])bit)?")


def is_preset(name: str) -> bool:
    """Whether ``skeleton`` knows a model of that name."""
    return NAME.fullmatch(name)["preset"] in DECODERS


def skeleton(name: str, *, dtype: str | None = None) -> tuple[MM1, Processor]:
    """One of MM1's models, to ask for sizes, and mm1-tiny's tokenizer in place of its own, which was not published.

    Args:
        name: of a preset, such as "mm1-7b"; "mm1-7b-4bit" is packed as ``quantize`` packs.
        dtype: "float16", "bfloat16" or "float32"; None: bfloat16.
    """
    found, tiny = NAME.fullmatch(name), find_folder(EMBEDDED_MODEL)
    known = read_config(tiny)
    tokens = {"image_token_id": known.image_token_id, "eos_token_id": known.eos_token_id}
    config = replace(preset(found["preset"]), **tokens)
    model = MM1(config)
    model.set_dtype(getattr(mx, dtype or "bfloat16"))
    if found["bits"]:
        quantize(model, bits=int(found["bits"]))
    return model.eval(), Processor(load_tokenizer_of(tiny, config), config)
