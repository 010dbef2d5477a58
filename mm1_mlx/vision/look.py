"""Encode pictures for training: frozen parts run once beforehand, trained parts run inside the gradient.

Tuning, pre-training and all else that learns from pictures use it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import mlx.core as mx
from jaxtyping import Float, Integer

from mm1_mlx.inputs.inputs import PreparedPicture
from mm1_mlx.model.mm1 import MM1, visual_token_places
from mm1_mlx.vision.cache import VisionCache
from mm1_mlx.vision.encode import (
    LARGEST_BATCH,
    pixel_batches,
    round_to_groups,
    split_by_picture,
    visual_tokens_of,
)
from mm1_mlx.vision.turns import compute_in_turn


@dataclass(frozen=True)
class FrozenOutput:
    """What the frozen parts make of some pictures; only one of the first three fields is set."""

    visual_tokens: list[mx.array] | None = None  # (K, D) of each picture: encoder and connector are frozen
    patches: list[tuple[mx.array, tuple[int, int]]] | None = None  # features and grid: the encoder is frozen
    pixels: list[mx.array] | None = None  # (n, H, W, 3) each: the encoder is trained too
    idle: int | None = None  # how many of the last batches count for nothing; None: this process runs alone

    @property
    def num_batches(self) -> int:
        """How often the trained parts are called."""
        return len(self.pixels or self.patches or [])


def run_frozen_parts(
    model: MM1,
    pictures: Sequence[PreparedPicture],
    *,
    trained: frozenset[str],
    cache: VisionCache | None = None,
    batch_size: int | None = None,
) -> FrozenOutput:
    """Run the frozen parts on pictures once, outside of the gradient, a few views at a time.

    Args:
        model: the model that is trained.
        pictures: in reading order.
        trained: names of the trained parts: "image_encoder", "connector", "decoder".
        cache: visual tokens of earlier pictures; used only where encoder and connector are frozen.
        batch_size: views encoded together.

    Raises:
        PictureError: a picture is damaged.
    """
    if not trained & {"image_encoder", "connector"}:
        return FrozenOutput(
            visual_tokens=visual_tokens_of(model, pictures, cache=cache, batch_size=batch_size)
        )
    most = round_to_groups(
        model, batch_size or LARGEST_BATCH
    )  # independent of free memory, because sums depend on the batches
    pixels = [mx.array(batch) for batch in pixel_batches(pictures, most)]
    if "image_encoder" in trained:
        return FrozenOutput(pixels=pixels)
    patches = []
    for batch in pixels:
        patches.append(model.patch_features(batch))
        mx.eval(patches[-1][0])
    return FrozenOutput(patches=patches)


def add_idle_batches(model: MM1, seen: FrozenOutput, number: int) -> FrozenOutput:
    """Add batches whose result counts for nothing, as small as the connector takes; trained parts then run in a fixed
    order.
    """
    side = model.config.image_config.image_size
    views = mx.zeros((model.config.connector_config.views_at_once, side, side, 3))
    if seen.pixels is not None:
        return replace(seen, pixels=[*seen.pixels, *[views] * number], idle=number)
    grid = model.image_encoder.grid(views)
    shape = (len(views), grid[0] * grid[1], model.config.connector_config.input_dims)
    features = mx.zeros(shape, model.image_encoder.dtype)
    return replace(seen, patches=[*(seen.patches or []), *[(features, grid)] * number], idle=number)


def embed_pictures(
    model: MM1, ids: Integer[mx.array, "L"], pictures: Sequence[PreparedPicture], seen: FrozenOutput
) -> Float[mx.array, "L D"]:
    """Return what the decoder reads of ids and their pictures; gradients flow to the parts that are trained."""
    text, visual_tokens = model.embed_text(ids), seen.visual_tokens
    if visual_tokens is None:
        text, visual_tokens = _run_trained_parts(model, pictures, seen, text)
    if not visual_tokens:
        return text
    places = visual_token_places(ids, model.config.image_token_id)
    return model.place(text, mx.concatenate(visual_tokens), places)


def _run_trained_parts(
    model: MM1, pictures: Sequence[PreparedPicture], seen: FrozenOutput, text: Float[mx.array, "L D"]
) -> tuple[Float[mx.array, "L D"], list[Float[mx.array, "K D"]]]:
    """Return the text unchanged, and the visual tokens of each picture in the decoder's order."""
    made = [text]
    batches: Sequence[tuple[mx.array, tuple[int, int] | None]] = seen.patches or []
    if seen.pixels:
        batches = [(pixels, None) for pixels in seen.pixels]
    for views, grid in batches:
        if seen.idle is not None:
            made[-1], views = compute_in_turn(made[-1], views)
        tokens = model.encode_images(views) if grid is None else model.connector(views, grid)
        made.append(tokens.flatten(0, 1))
    text, *made = made
    num_own = len(made) - (seen.idle or 0)
    for tokens in made[num_own:]:
        text = text + (0 * tokens[0]).astype(text.dtype)  # counts for nothing, but makes MLX compute it
    if not pictures:
        return text, []
    own = zip(pictures, split_by_picture(mx.concatenate(made[:num_own]), pictures), strict=True)
    return text, [model.arrange(tokens, picture.layout.order) for picture, tokens in own]
