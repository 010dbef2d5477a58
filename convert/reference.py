"""A reference run as a safetensors file: which pictures and prompts it had, and what it got.

``pixel_values`` holds all pictures' views in order (``windows_pixel_values`` for 360VL), or one tensor for each
picture, ``pixel_values_0``, ``pixel_values_1``, … (views, channels, height, width). ``input_ids``, or
``input_ids_0``, …, hold the prompts, where a visual token, or a whole picture, is a negative number or the
model's image token. Every other tensor is what a stage gave.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from mm1_mlx.errors import CheckpointError
from mm1_mlx.model.mm1 import MM1

PIXELS = ("pixel_values", "windows_pixel_values")
NO_STAGE = re.compile(r"(windows_)?pixel_values(_\d+)?|input_ids(_\d+)?|image_sizes_wh|grid_thw")


@dataclass(frozen=True)
class Reference:
    """What a reference run was given, and what it got."""

    pictures: list[mx.array]  # for each picture its views, (n, H, W, 3)
    prompts: dict[str, list[int]]  # by the suffix of the names of its stages
    stages: dict[str, mx.array]
    sizes: list[tuple[int, int]] | None = None  # (width, height) of the pictures, where their layout needs it
    folder: Path | None = None  # where image_0.png, … may lie


def read_reference(path: Path, model: MM1) -> Reference:
    """Read a reference run made for ``model``.

    Raises:
        CheckpointError: the file cannot be read, or holds no pixels.
    """
    try:
        tensors = mx.load(str(path))
    except (RuntimeError, ValueError, OSError) as error:
        raise CheckpointError(f"{path} is no readable safetensors file ({error}).") from None
    stages = {name: value for name, value in tensors.items() if not NO_STAGE.fullmatch(name)}
    if not any(name.startswith(("vision.", "lm.", "connector.", "ctt.")) for name in stages):
        stages = {f"vision.{name}": value for name, value in stages.items()}  # of an image encoder alone
    sizes = tensors["image_sizes_wh"].tolist() if "image_sizes_wh" in tensors else None
    return Reference(_pictures(tensors, model, path), _prompts(tensors), stages, sizes, path.parent)


def _pictures(tensors: dict[str, mx.array], model: MM1, path: Path) -> list[mx.array]:
    one_by_one = sorted(
        (name for name in tensors if re.fullmatch(r"pixel_values_\d+", name)),
        key=lambda name: int(name.rpartition("_")[2]),
    )
    if one_by_one:
        return [mx.moveaxis(tensors[name], 1, -1) for name in one_by_one]
    for name in PIXELS:
        if name in tensors:
            views = model.config.connector_config.views_at_once
            pixels = mx.moveaxis(tensors[name], 1, -1)
            return [pixels[start : start + views] for start in range(0, len(pixels), views)]
    raise CheckpointError(
        f"{path} holds no {' or '.join(PIXELS)}; its tensors are {', '.join(list(tensors)[:8])}."
    )


def _prompts(tensors: dict[str, mx.array]) -> dict[str, list[int]]:
    """In their order: pictures are used up one prompt after the other."""
    names = [name for name in tensors if re.fullmatch(r"input_ids(_\d+)?", name)]
    names.sort(key=lambda name: int(name.removeprefix("input_ids").lstrip("_") or 0))
    return {name.removeprefix("input_ids"): tensors[name].tolist() for name in names}


def place_pictures(ids: list[int], token: int, lengths: list[int]) -> tuple[list[int], int]:
    """``ids`` with ``token`` for every visual token, and how many pictures they hold.

    Args:
        ids: with one negative number, or ``token``, for each visual token or for each whole picture.
        token: the model's image token.
        lengths: the visual tokens of the pictures that are left, in order.
    """
    ids = [token if id < 0 else id for id in ids]
    places = ids.count(token)
    total = 0
    for count, length in enumerate(lengths, start=1):
        total += length
        if total == places:
            return ids, count
    expanded: list[int] = []
    remaining = iter(lengths)
    for id in ids:
        expanded += [token] * next(remaining) if id == token else [id]
    return expanded, places
