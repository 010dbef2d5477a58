"""Read a reference run from a safetensors file: its pictures, its prompts and its results.

``pixel_values`` holds all pictures' views in order (``windows_pixel_values`` for 360VL), or one tensor for each
picture, ``pixel_values_0``, ``pixel_values_1``, … (views, channels, height, width). ``input_ids``, or
``input_ids_0``, …, hold the prompts, where a visual token, or a whole picture, is a negative number or the
model's image token. Every other tensor is the result of a stage.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from mm1_mlx.arrays import to_list, to_number
from mm1_mlx.errors import CheckpointError
from mm1_mlx.files.tensor_files import read_tensors
from mm1_mlx.model.mm1 import MM1

PIXELS = ("pixel_values", "windows_pixel_values")
NO_STAGE = re.compile(r"(windows_)?pixel_values(_\d+)?|input_ids(_\d+)?|image_sizes_wh|grid_thw")


@dataclass(frozen=True)
class Reference:
    """The inputs and results of a reference run."""

    pictures: list[mx.array]  # for each picture its views, (n, H, W, 3)
    prompts: dict[str, list[int]]  # by the suffix of its stages' names
    stages: dict[str, mx.array]
    sizes: list[tuple[int, int]] | None = None  # (width, height) of the pictures, where their layout needs it
    folder: Path | None = None  # where image_0.png, … may lie


def read_reference(path: Path, model: MM1) -> Reference:
    """Read a reference run made for ``model``.

    Raises:
        CheckpointError: the file cannot be read, or was made for another model.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}; give the safetensors file of a reference run.")
    tensors = read_tensors(path, again="give the safetensors file of a reference run.")
    stages = {name: value for name, value in tensors.items() if not NO_STAGE.fullmatch(name)}
    if not any(name.startswith(("vision.", "lm.", "connector.", "ctt.")) for name in stages):
        # The reference is of an image encoder alone.
        stages = {f"vision.{name}": value for name, value in stages.items()}
    pictures = _pictures(tensors, model, path)
    sizes = _sizes(tensors, model, len(pictures), path)
    return Reference(pictures, _prompts(tensors, model, path), stages, sizes, path.parent)


def _pictures(tensors: dict[str, mx.array], model: MM1, path: Path) -> list[mx.array]:
    """Return each picture's views, channels last."""
    names = _find_numbered(tensors, "pixel_values") or [name for name in PIXELS if name in tensors][:1]
    if not names:
        seen = ", ".join(list(tensors)[:8])
        raise CheckpointError(f"{path} holds no {' or '.join(PIXELS)}; its tensors are {seen}.")
    together = model.config.connector_config.views_at_once
    pictures = []
    for name in names:
        pixels = tensors[name]
        patch_size = model.config.vision_config.patch_size
        fits = pixels.ndim == 4 and pixels.shape[1] == 3 and min(pixels.shape[2:]) >= patch_size
        fits = fits and (pixels.shape[2] == pixels.shape[3] or model.config.image_config.resize == "smart")
        if not fits or not len(pixels) or len(pixels) % together:
            raise CheckpointError(
                f"{path}: {name} is {pixels.shape}, expected (views, 3, height, width), square, with views in steps "
                f"of {together} and sides of at least {patch_size} pixels: it was made for another model."
            )
        pixels = mx.moveaxis(pixels, 1, -1)
        step = together if name in PIXELS else len(pixels)
        pictures += [pixels[start : start + step] for start in range(0, len(pixels), step)]
    return pictures


def _sizes(
    tensors: dict[str, mx.array], model: MM1, num_pictures: int, path: Path
) -> list[tuple[int, int]] | None:
    """Return the (width, height) of the pictures, if the model arranges visual tokens by them."""
    if model.config.image_config.sub_images != "anyres":
        return None
    sizes = tensors.get("image_sizes_wh")
    if sizes is None or sizes.shape != (num_pictures, 2):
        found = "absent" if sizes is None else sizes.shape
        raise CheckpointError(
            f"{path}: image_sizes_wh is {found}, expected ({num_pictures}, 2) for this model."
        )
    return [(width, height) for width, height in to_list(sizes)]


def _prompts(tensors: dict[str, mx.array], model: MM1, path: Path) -> dict[str, list[int]]:
    """Return the prompts in order; pictures are used up one prompt after the other."""
    vocabulary = model.config.text_config.vocab_size
    prompts = {}
    for name in _find_numbered(tensors, "input_ids") or [name for name in ("input_ids",) if name in tensors]:
        ids = tensors[name]
        if ids.ndim != 1 or not ids.size or not mx.issubdtype(ids.dtype, mx.integer):
            raise CheckpointError(f"{path}: {name} is {ids.shape} {ids.dtype}, expected a list of token ids.")
        if to_number(mx.max(ids)) >= vocabulary:
            raise CheckpointError(
                f"{path}: {name} holds {mx.max(ids).item()}, past the vocabulary of {vocabulary}: it was made for "
                "another model."
            )
        prompts[name.removeprefix("input_ids")] = to_list(ids)
    return prompts


def _find_numbered(tensors: dict[str, mx.array], stem: str) -> list[str]:
    """Return the names ``stem_0``, ``stem_1``, …, in the order of their numbers."""
    names = [name for name in tensors if re.fullmatch(rf"{stem}_\d+", name)]
    return sorted(names, key=lambda name: int(name.rpartition("_")[2]))


def place_pictures(ids: list[int], token: int, lengths: list[int]) -> tuple[list[int], int]:
    """Return ``ids`` with ``token`` for every visual token, and how many pictures they hold.

    Args:
        ids: with one negative number, or ``token``, for each visual token or for each whole picture.
        token: the model's image token.
        lengths: the visual tokens of the pictures that are left, in order.

    Raises:
        CheckpointError: there are more places than pictures.
    """
    ids = [token if id < 0 else id for id in ids]
    places = ids.count(token)
    total = 0
    for count, length in enumerate(lengths, start=1):
        total += length
        if total == places:
            return ids, count
    if places > len(lengths):
        raise CheckpointError(
            f"a prompt of the reference has {places} places for visual tokens or pictures, but {len(lengths)} pictures "
            f"of {lengths} visual tokens are left: it was made for another model."
        )
    expanded: list[int] = []
    remaining = iter(lengths)
    for id in ids:
        expanded += [token] * next(remaining) if id == token else [id]
    return expanded, places
