"""Placeholders for the pictures of a sequence: arrays of the right shapes, made from the pictures' sizes alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import groupby

import mlx.core as mx

from mm1_mlx.data.packing import Packed
from mm1_mlx.inputs.inputs import PreparedPicture
from mm1_mlx.inputs.preprocess import smart_resize_size
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.tuning.adapters import trained_parts
from mm1_mlx.vision.encode import LARGEST_BATCH, view_bytes
from mm1_mlx.vision.look import FrozenOutput


def make_placeholders(model: MM1, packed: Packed, batch_size: int | None) -> FrozenOutput:
    """Return zeros with the shapes and types of what ``run_frozen_parts`` would return; no picture is decoded.

    Args:
        model: prepared for training.
        packed: the sequence whose pictures they stand for.
        batch_size: views encoded together.
    """
    trained = trained_parts(model)
    connector, dtype = model.config.connector_config, model.image_encoder.dtype
    if not packed.pictures or not trained & {"image_encoder", "connector"}:
        counts = [picture.layout.num_visual_tokens for picture in packed.pictures]
        return FrozenOutput(
            visual_tokens=[mx.zeros((count, connector.output_dims), dtype) for count in counts]
        )
    at_once = connector.views_at_once
    most = max((batch_size or LARGEST_BATCH) // at_once, 1) * at_once
    sizes = [_view_size(picture) for picture in packed.pictures for _ in range(picture.num_views)]
    pixels = [mx.zeros((count, *size, 3)) for count, size in _batches(sizes, most)]
    if "image_encoder" in trained:
        return FrozenOutput(pixels=pixels)
    grids = [model.image_encoder.grid(batch) for batch in pixels]
    features = [
        mx.zeros((len(batch), math.prod(grid), connector.input_dims), dtype)
        for batch, grid in zip(pixels, grids, strict=True)
    ]
    return FrozenOutput(patches=list(zip(features, grids, strict=True)))


def encoding_bytes(model: MM1, packed: Packed, batch_size: int | None) -> int:
    """Return the bytes that encoding the pictures needs outside of the loss."""
    if "image_encoder" in trained_parts(model):
        return 0  # here encoding is part of the loss
    num_views = sum(picture.num_views for picture in packed.pictures)
    return view_bytes(model) * min(batch_size or LARGEST_BATCH, num_views)


def _view_size(picture: PreparedPicture) -> tuple[int, int]:
    """Return the height and width, in pixels, of each view of a picture."""
    config = picture.image_config
    if config.resize != "smart":
        return config.image_size, config.image_size
    width, height = smart_resize_size(
        *picture.picture.size,
        multiple=config.size_multiple,
        min_pixels=config.min_pixels,
        max_pixels=config.max_pixels,
    )
    return height, width


def _batches(sizes: list[tuple[int, int]], most: int) -> Iterator[tuple[int, tuple[int, int]]]:
    """Yield, for each batch in which views are encoded, the number of views and their size.

    A batch holds at most ``most`` consecutive views of one size.
    """
    for size, views in groupby(sizes):
        count = len(list(views))
        yield from ((min(most, count - start), size) for start in range(0, count, most))
