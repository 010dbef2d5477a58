"""The memory that a model needs to answer, for each type of its weights; no weight is read or made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from mm1_mlx.checkpoint.quantize import Packing, packing_plan
from mm1_mlx.config import MM1Config
from mm1_mlx.errors import ConfigError
from mm1_mlx.files.weight_files import find_weights
from mm1_mlx.inputs.sub_images import view_indices
from mm1_mlx.model.mm1 import MM1, count_parameters
from mm1_mlx.vision.encode import LARGEST_BATCH, view_bytes

FULL, HALF = "float32", "bfloat16 or float16"
PACKED = {
    f"{bits} bit": bits for bits in (8, 6, 4, 3)
}  # bits of the decoder's layers; the rest is as in HALF
GROUP_SIZE = 64
PHONE_PICTURE = (4032, 3024)  # width and height in pixels
DEFAULT_CONTEXT = 4096  # tokens, for a decoder that gives no longest context


@dataclass(frozen=True)
class ModelNeed:
    """The bytes that a model needs in one form, such as 16-bit weights."""

    name: str
    weights: int
    kv_cache: int | None  # None where it is unknown
    visual_work: int  # an estimate of the largest step of encoding one batch of views

    @property
    def total(self) -> int | None:
        """All bytes together, or None where they are unknown."""
        return None if self.kv_cache is None else self.weights + self.kv_cache + self.visual_work


def list_needs(
    config: MM1Config, folder: Path | None = None, *, context: int | None = None, num_images: int = 1
) -> list[ModelNeed]:
    """Return the memory that every form of a model needs; for a packed model, only the form stored in ``folder``.

    Args:
        config: the configuration of the model.
        folder: the folder of a packed model.
        context: tokens in the KV cache; by default the longest context of the decoder.
        num_images: pictures in the prompt, each as large as a phone's.

    Raises:
        MM1Error: the model cannot have this context, the number of pictures is negative, or a packed model's weights
            are missing.
    """
    context = _check_context(config, context)
    if num_images < 0:
        raise ConfigError(f"--num-images is {num_images}, expected 0 or more.")
    model = MM1(config)
    views = min(len(view_indices(PHONE_PICTURE, config.image_config)) * num_images, LARGEST_BATCH)
    weights = weight_bytes(model, folder)
    full = (cache_bytes(model, context), views * view_bytes(model))
    model.set_dtype(mx.bfloat16)
    half = (cache_bytes(model, context), views * view_bytes(model))
    return [ModelNeed(name, size, *(full if name == FULL else half)) for name, size in weights.items()]


def _check_context(config: MM1Config, context: int | None) -> int:
    most = config.text_config.max_positions
    if context is None:
        return most or DEFAULT_CONTEXT
    if context < 1 or (most is not None and context > most):
        longest = "" if most is None else f" to {most:,}, the model's context"
        raise ConfigError(f"--context is {context:,}, expected 1{longest or ' or more'}.")
    return context


def weight_bytes(model: MM1, folder: Path | None = None) -> dict[str, int]:
    """Return the bytes of the weights in each form, by its name.

    Args:
        model: a model that is not packed; its weights need not be evaluated.
        folder: the folder of a packed model.

    Raises:
        ConfigError: the configuration is of a packed model, but there is no folder.
        CheckpointError: the folder has no weights.
    """
    packed = model.config.quantization
    if packed is not None:
        if folder is None:
            raise ConfigError("the configuration is of a packed model; give its folder.")
        sizes = [file.stat().st_size for file in find_weights(folder)[0]]
        return {f"as stored, {packed.get('bits')} bit": sum(sizes)}
    num_parameters = count_parameters(model)
    found = {FULL: 4 * num_parameters, HALF: 2 * num_parameters}
    for name, bits in PACKED.items():
        try:
            plan = packing_plan(model, Packing(bits, GROUP_SIZE))
        except ConfigError:  # the model is too narrow for groups of this size, so it has no such form
            break
        sizes = {path: module.weight.size for path, module in model.named_modules() if path in plan}
        saved = sum(2 * size - packed_bytes(size, **plan[path]) for path, size in sizes.items())
        found[name] = found[HALF] - saved
    return found


def packed_bytes(num_weights: int, *, bits: int, group_size: int, mode: str) -> int:
    """Return the bytes of packed weights: their bits, and for each group a scale and, in mode affine, a bias."""
    for_each_group = 4 if mode == "affine" else 1
    return num_weights * bits // 8 + num_weights // group_size * for_each_group


def cache_bytes(model: MM1, context: int) -> int | None:
    """Return the bytes of the KV cache after ``context`` tokens, or None where they cannot be found.

    The decoder is called, but nothing is computed, because MLX knows all shapes before. So sliding windows, and
    whatever else mlx-lm's decoders keep, are counted correctly.
    """
    cache, dims = model.make_cache(), model.config.text_config.hidden_dims
    dtype = model.image_encoder.dtype
    try:
        for length in (context - 1, 1):  # a sliding window drops old tokens only at the next call
            if length:
                ids = mx.zeros((1, length), mx.int32)
                model(ids, cache=cache, input_embeddings=mx.zeros((1, length, dims), dtype))
        return sum(entry.nbytes for entry in cache)
    except Exception:  # each architecture of mlx-lm fails in its own way
        return None


def memory_table(found: list[ModelNeed], memory: int) -> str:
    """Return a table of the needs, in GB, each with a verdict on ``memory`` bytes, for people to read."""
    lines = [
        f"{f'GB, of {memory / 1e9:.1f} here':20} {'weights':>9} {'KV cache':>9} {'visual work':>12} {'sum':>9}"
    ]
    for need in found:
        sizes = (need.weights, need.kv_cache, need.visual_work, need.total)
        shown = ["unknown" if size is None else f"{size / 1e9:.3f}" for size in sizes]
        lines.append(
            f"{need.name:20} {shown[0]:>9} {shown[1]:>9} {shown[2]:>12} {shown[3]:>9}  {_verdict(need, memory)}"
        )
    return "\n".join(lines)


def _verdict(need: ModelNeed, memory: int) -> str:
    if need.total is None:
        return "unknown: this decoder does not tell what its KV cache takes"
    left = memory - need.total
    return f"fits, {left / 1e9:.1f} GB left" if left >= 0 else f"does not fit, {-left / 1e9:.1f} GB short"
