"""The patches that a visual token responds to, found from the connector's gradients at a given picture.

Only the connector is measured. The patch features that it reads already depend on the whole picture, through the
attention of the image encoder.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from jaxtyping import Float
from PIL import Image

from mm1_mlx.config import ImageConfig
from mm1_mlx.errors import PromptError
from mm1_mlx.inputs.preprocess import normalize
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.seeing.boxes import Box, Sight, block_order

PROBES = 16  # number of random directions of a token; a token with no more dimensions is measured along each of them


def choose_tokens(seen: Sight, most: int = 6) -> list[int]:
    """Return the numbers, from 1, of the first view's visual tokens, in at most ``most`` rows and columns."""
    numbered = [(n, token) for n, token in enumerate(seen.tokens, 1) if token is not None]
    own = [(n, token) for n, token in numbered if token.view == numbered[0][1].view]
    placed = [(n, token) for n, token in own if token.boxes]
    if not placed:  # attention pooling, whose tokens have no place
        return [own[place][0] for place in _pick_evenly(len(own), most * most)]
    rows, columns = (sorted({getattr(token, axis) for _, token in placed}) for axis in ("row", "column"))
    rows, columns = ({places[n] for n in _pick_evenly(len(places), most)} for places in (rows, columns))
    return [n for n, token in placed if token.row in rows and token.column in columns]


def _pick_evenly(number: int, most: int) -> list[int]:
    """Pick at most ``most`` of ``number`` places at equal distances, among them the first and the last."""
    return sorted(set(np.linspace(0, number - 1, min(number, most)).round().astype(int).tolist()))


def response_map(
    model: MM1, views: list[Image.Image], seen: Sight, config: ImageConfig, token: int
) -> list[tuple[Box, float]]:
    """Return, for the box of each patch, how strongly one visual token responds to it.

    Args:
        model: the model whose connector is measured.
        views: all views of the picture, as ``inputs.sub_images.views`` makes them.
        seen: the places of the views and of the visual tokens on the picture.
        config: how views become pixels.
        token: the number of the visual token, counted from 1 in reading order.

    Raises:
        PromptError: there is no such visual token, or it is the same for every picture.
    """
    if not 1 <= token <= len(seen.tokens):
        raise PromptError(
            f"`token` is {token}, but the picture has {len(seen.tokens)} visual tokens, from 1."
        )
    place = seen.tokens[token - 1]
    if place is None or (place.row == 0 and model.config.connector_config.type != "attention_pool"):
        raise PromptError(
            f"visual token {token} is learned and the same for every picture: it sees no patch."
        )
    at_once = model.config.connector_config.views_at_once
    first = place.view // at_once * at_once
    features, grid = model.patch_features(mx.array(normalize(views[first : first + at_once], config)))
    number = place.number % model.config.connector_config.num_tokens(*grid)
    norms = measure_responses(model.connector, features, grid, number)
    order = block_order(*grid, model.config.vision_config.patch_block)
    boxes = [view.patch_boxes() for view in seen.views[first : first + at_once]]
    return [
        (of_view[patch], float(norm))
        for of_view, of_norms in zip(boxes, norms, strict=True)
        for patch, norm in zip(order, of_norms, strict=True)
    ]


def measure_responses(
    connector: nn.Module, patches: Float[mx.array, "N P E"], grid: tuple[int, int], number: int
) -> Float[np.ndarray, "N P"]:
    """Return the Frobenius norm of d (visual token ``number``) / d (patch features) for each patch.

    It is estimated from gradients along random directions, which have this norm on average, and are 0 where it is 0.
    """
    dims = connector(patches, grid).shape[-1]
    if dims <= PROBES:
        directions = mx.eye(dims)
    else:
        directions = mx.random.normal((PROBES, dims), key=mx.random.key(0)) / PROBES**0.5
    copies = mx.tile(patches, (len(directions), 1, 1))
    (_,), (gradient,) = mx.vjp(
        lambda x: connector(x, grid)[:, number], [copies], [directions.astype(patches.dtype)]
    )
    squares = mx.square(gradient.astype(mx.float32)).reshape(len(directions), *patches.shape)
    return np.array(mx.sqrt(squares.sum(axis=(0, 3))))
