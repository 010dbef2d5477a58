"""Build models only for their sizes: MLX makes an array when it is computed with, and these arrays never are."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from mm1_mlx.checkpoint.hub import find_folder
from mm1_mlx.checkpoint.load import load, read_config
from mm1_mlx.checkpoint.quantize import Packing, quantize
from mm1_mlx.checkpoint.tokenizer import load_tokenizer_of
from mm1_mlx.files.weight_files import WEIGHTS
from mm1_mlx.inputs.processor import Processor
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.presets import DECODERS, preset
from mm1_mlx.settings import EMBEDDED_MODEL

NAME = re.compile(rf"({'|'.join(DECODERS)})(?:-([234568])bit)?")


def is_preset(name: str) -> bool:
    """Say whether ``name`` is one of MM1's unpublished models: "mm1-7b", or "mm1-7b-4bit" as ``quantize`` packs it."""
    return _match_preset(name) is not None


def _match_preset(name: str) -> re.Match[str] | None:
    return None if Path(name).is_dir() else NAME.fullmatch(name)


def skeleton(name: str, *, dtype: str | None = None) -> tuple[MM1, Processor]:
    """Return a model whose weights are not read, for questions about its sizes, and its processor.

    A preset gets mm1-tiny's tokenizer, because its own was not published. Absent weights are not downloaded.

    Args:
        name: a name as for ``load``, or a preset.
        dtype: "float16", "bfloat16" or "float32"; None means the stored type, or bfloat16 where nothing is stored.

    Raises:
        MM1Error: there is no such model, or its folder is not usable.
    """
    if found := _match_preset(name):
        folder, (size, bits) = find_folder(EMBEDDED_MODEL), found.groups()
        known = read_config(folder)
        config = replace(preset(size), image_token_id=known.image_token_id, eos_token_id=known.eos_token_id)
        packing = Packing(int(bits)) if bits else None
    else:
        folder = find_folder(name, weights=False)
        if any(folder.glob(WEIGHTS)):
            return load(folder, dtype=dtype, lazy=True)
        config = read_config(folder)
        print(f"mm1: the weights of {name} are not here; {dtype or 'bfloat16'} is assumed.", file=sys.stderr)
        packing = _packing(config.quantization) if config.quantization else None
        config = replace(config, quantization=None, quantization_config=None)
    model = MM1(config)
    if packing:
        quantize(model, packing=packing)
    model.set_dtype(getattr(mx, dtype or "bfloat16"))
    model.eval()
    return model, Processor(load_tokenizer_of(folder, config), config)


def _packing(quantization: dict[str, Any]) -> Packing:
    """Return how most layers are packed; layers that are packed otherwise count like them."""
    bits, group_size = quantization.get("bits"), quantization.get("group_size")
    return Packing(bits, group_size, quantization.get("mode", "affine"))
