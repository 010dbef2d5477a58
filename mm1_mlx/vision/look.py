"""Pictures on their way into a loss: what no trained weight touches is made before, the rest inside the gradient.

Tuning, pre-training and whatever else learns from pictures go by it; they bring pictures and, in ``embed_seen``, ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import mlx.core as mx
from jaxtyping import Float, Integer

from mm1_mlx.inputs.inputs import PreparedPicture
from mm1_mlx.model.mm1 import MM1, place_visual_tokens, visual_token_places
from mm1_mlx.vision.cache import VisionCache
from mm1_mlx.vision.encode import LARGEST_BATCH, each_picture, pixel_batches, views_together, visual_tokens_of
from mm1_mlx.vision.turns import in_turn


@dataclass(frozen=True)
class Seen:
    """Some pictures as far as no trained weight is involved; the first three are in each other's place."""

    visual_tokens: list[mx.array] | None = None  # (K, D) of each picture: encoder and connector are frozen
    patches: list[tuple[mx.array, tuple[int, int]]] | None = None  # features and grid: the encoder is frozen
    pixels: list[mx.array] | None = None  # (n, H, W, 3) each: the encoder is trained too
    idle: int | None = None  # processes call trained parts in step: so many last batches count for nothing

    @property
    def num_batches(self) -> int:
        """How often trained parts are called."""
        return len(self.pixels or self.patches or [])


def see(
    model: MM1,
    pictures: Sequence[PreparedPicture],
    *,
    trained: frozenset[str],
    cache: VisionCache | None = None,
    batch_size: int | None = None,
) -> Seen:
    """Do the frozen parts' work on pictures once, outside of the gradient, a few views at a time.

    Args:
        model: that looks at them.
        pictures: in reading order.
        trained: names of the parts that learn: "image_encoder", "connector", "decoder".
        cache: visual tokens of pictures seen before; of use where encoder and connector are frozen.
        batch_size: views encoded together.

    Raises:
        PictureError: a picture is damaged.
    """
    if not trained & {"image_encoder", "connector"}:
        return Seen(visual_tokens=visual_tokens_of(model, pictures, cache=cache, batch_size=batch_size))
    most = views_together(model, batch_size or LARGEST_BATCH)  # not by free memory: sums go by the batches
    pixels = [mx.array(batch) for batch in pixel_batches(pictures, most)]
    if "image_encoder" in trained:
        return Seen(pixels=pixels)
    patches = []
    for batch in pixels:
        patches.append(model.patch_features(batch))
        mx.eval(patches[-1][0])
    return Seen(patches=patches)


def with_idle(model: MM1, seen: Seen, number: int) -> Seen:
    """Add batches that count for nothing, as small as the connector takes; trained parts are called in turn."""
    side = model.config.image_config.image_size
    views = mx.zeros((model.config.connector_config.views_at_once, side, side, 3))
    if seen.pixels is not None:
        return replace(seen, pixels=[*seen.pixels, *[views] * number], idle=number)
    grid = model.image_encoder.grid(views)
    shape = (len(views), grid[0] * grid[1], model.config.connector_config.input_dims)
    features = mx.zeros(shape, model.image_encoder.dtype)
    return replace(seen, patches=[*(seen.patches or []), *[(features, grid)] * number], idle=number)


def embed_seen(
    model: MM1, ids: Integer[mx.array, "L"], pictures: Sequence[PreparedPicture], seen: Seen
) -> Float[mx.array, "L D"]:
    """Return what the decoder reads of ids and their pictures; gradients flow to the parts that are trained."""
    text, visual_tokens = model.embed_text(ids), seen.visual_tokens
    if visual_tokens is None:
        text, visual_tokens = _look(model, pictures, seen, text)
    if not visual_tokens:
        return text
    places = visual_token_places(ids, model.config.image_token_id)
    return place_visual_tokens(text, mx.concatenate(visual_tokens), places)


def _look(
    model: MM1, pictures: Sequence[PreparedPicture], seen: Seen, text: Float[mx.array, "L D"]
) -> tuple[Float[mx.array, "L D"], list[Float[mx.array, "K D"]]]:
    """Return the text again, and the visual tokens of each picture as the decoder reads them."""
    made = [text]
    for batch in seen.pixels or seen.patches or []:
        views, grid = batch if isinstance(batch, tuple) else (batch, None)
        if seen.idle is not None:
            made[-1], views = in_turn(made[-1], views)
        tokens = model.encode_images(views) if grid is None else model.connector(views, grid)
        made.append(tokens.flatten(0, 1))
    text, *made = made
    num_own = len(made) - (seen.idle or 0)
    for tokens in made[num_own:]:
        text = text + (0 * tokens[0]).astype(text.dtype)  # counts for nothing, and is computed
    if not pictures:
        return text, []
    own = zip(pictures, each_picture(mx.concatenate(made[:num_own]), pictures), strict=True)
    return text, [model.arrange(tokens, picture.layout.order) for picture, tokens in own]
