"""The memory that a training run will take, foreseen from its graphs; nothing is computed.

What no graph shows is what the trainer holds beside it: the sum of the gradients so far where an update has several
sequences.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import mlx.core as mx

from mm1_mlx.data.packing import Packed
from mm1_mlx.inputs.inputs import PreparedPicture
from mm1_mlx.inputs.preprocess import smart_resize_size
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.training.graph import arrays_in, peak_bytes, traced
from mm1_mlx.training.optimizer import clipped, make_optimizer
from mm1_mlx.training.recipe import Recipe
from mm1_mlx.training.step_graph import step_graph
from mm1_mlx.tuning.adapters import trained_parts, tunings_of
from mm1_mlx.vision.encode import LARGEST_BATCH, view_bytes
from mm1_mlx.vision.look import Seen


@dataclass(frozen=True)
class Need:
    """Bytes that a run takes."""

    weights: int  # of the model as it was loaded
    adapters: int  # trained numbers beside frozen weights
    optimizer: int  # what it keeps for every trained number
    gradients: int  # of one sequence, and the sum so far where there are several
    activations: int  # of the largest sequence, kept for its backward pass
    checkpointed: int  # the same where layers are computed twice
    pictures: int  # while views go through an image encoder that learns nothing
    updating: int  # gradients and what is new, while the optimizer works
    kept: int = 0  # visual tokens of pictures seen before

    def total(self, *, grad_checkpoint: bool) -> int:
        """Encoding, the backward pass and the update come one after the other: the largest counts."""
        activations = self.checkpointed if grad_checkpoint else self.activations
        step = self.gradients + max(activations, self.pictures)
        return self.weights + self.adapters + self.optimizer + self.kept + max(step, self.updating)


def training_need(model: MM1, sequences: Sequence[Packed], settings: Recipe) -> Need:
    """What training a prepared model takes, by the largest of an update's packed sequences.

    Raises:
        TrainingError: the decoder has an operation that MLX does not show.
    """
    largest = max(sequences, key=lambda packed: len(packed.ids))
    seen = _placeholders(model, largest, settings)
    trained = arrays_in(model.trainable_parameters())
    gradients = _bytes(trained)
    with _in_training(model):
        steps = [peak_bytes(step_graph(model, largest, seen, checkpointed=on)) for on in (False, True)]
    activations = [_bytes(arrays_in(vars(seen))) + max(step - gradients, 0) for step in steps]
    state, updating = _optimizer_bytes(model, settings)
    adapters = _adapter_bytes(model)
    return Need(
        weights=_bytes(arrays_in(model.parameters())) - adapters,
        adapters=adapters,
        optimizer=state,
        gradients=gradients * (2 if len(sequences) > 1 else 1),
        activations=activations[0],
        checkpointed=activations[1],
        pictures=_picture_bytes(model, largest, settings),
        updating=updating,
    )


def _bytes(arrays: Sequence[mx.array]) -> int:
    return sum(array.nbytes for array in arrays)


def _adapter_bytes(model: MM1) -> int:
    """Of what is trained in parts that have adapters."""
    (tuning,) = tunings_of(model)
    parts = [part for part, own in tuning.parts.items() if own.has_adapters]
    return _bytes([array for part in parts for array in arrays_in(model[part].trainable_parameters())])


@contextmanager
def _in_training(model: MM1) -> Iterator[None]:
    """Inside, dropout is on."""
    before = model.training
    model.train()
    try:
        yield
    finally:
        model.train(before)


def _optimizer_bytes(model: MM1, settings: Recipe) -> tuple[int, int]:
    """What the optimizer keeps, and what it takes beside weights and state to make new ones of gradients."""
    optimizer, trained = make_optimizer(settings), model.trainable_parameters()
    optimizer.init(trained)

    def update(weights: dict[str, Any], state: dict[str, Any], gradients: dict[str, Any]) -> Any:
        optimizer.state = state
        gradients = clipped(gradients, settings.clip_norm, mx.array(1.0))
        return optimizer.apply_gradients(gradients, weights), optimizer.state

    trees = (trained, optimizer.state, trained)  # gradients are as large as what they are of
    sizes, state = [array.nbytes for array in arrays_in(trees)], _bytes(arrays_in(optimizer.state))
    graph = traced(update, *trees)
    freed = dict(zip(graph.inputs, sizes, strict=True))
    return state, _bytes(arrays_in(trained)) + peak_bytes(graph, freed)


def _picture_bytes(model: MM1, packed: Packed, settings: Recipe) -> int:
    if "image_encoder" in trained_parts(model):
        return 0  # it is part of the step
    batch = settings.vision_batch_size or LARGEST_BATCH
    return view_bytes(model) * min(batch, sum(picture.num_views for picture in packed.pictures))


def _placeholders(model: MM1, packed: Packed, settings: Recipe) -> Seen:
    """Pictures as they come into the loss, by their sizes alone."""
    trained = trained_parts(model)
    connector, dtype = model.config.connector_config, model.image_encoder.dtype
    if not packed.pictures or not trained & {"image_encoder", "connector"}:
        counts = [picture.layout.num_visual_tokens for picture in packed.pictures]
        return Seen(visual_tokens=[mx.zeros((count, connector.output_dims), dtype) for count in counts])
    at_once = connector.views_at_once
    most = max((settings.vision_batch_size or LARGEST_BATCH) // at_once, 1) * at_once
    sizes = [_view_size(picture) for picture in packed.pictures for _ in range(picture.num_views)]
    pixels = [mx.zeros((count, *size, 3)) for count, size in _batches(sizes, most)]
    if "image_encoder" in trained:
        return Seen(pixels=pixels)
    grids = [model.image_encoder.grid(batch) for batch in pixels]
    width = connector.input_dims
    return Seen(
        patches=[
            (mx.zeros((len(batch), math.prod(grid), width), dtype), grid)
            for batch, grid in zip(pixels, grids, strict=True)
        ]
    )


def _view_size(picture: PreparedPicture) -> tuple[int, int]:
    """Height and width, in pixels, of each of its views."""
    config = picture.image_config
    if config.resize != "smart":
        return config.image_size, config.image_size
    limits = {"min_pixels": config.min_pixels, "max_pixels": config.max_pixels}
    width, height = smart_resize_size(*picture.picture.size, multiple=config.size_multiple, **limits)
    return height, width


def _batches(sizes: list[tuple[int, int]], most: int) -> Iterator[tuple[int, tuple[int, int]]]:
    """Consecutive views of one size, at most ``most`` together, as they are encoded."""
    for size, views in groupby(sizes):
        count = len(list(views))
        yield from ((min(most, count - start), size) for start in range(0, count, most))
