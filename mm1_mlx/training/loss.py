"""The loss: how surprising each learned token is, added up.

The trainer divides by the number of learned tokens of the whole batch, all accumulated and distributed parts of it
together; so it does not matter how a batch is split.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
from jaxtyping import Float

from mm1_mlx.generation.timing import Timing
from mm1_mlx.generation.vision_cache import VisionCache
from mm1_mlx.generation.visual_tokens import arranged, arranged_tokens, each_picture, pixel_batches
from mm1_mlx.model.mm1 import MM1, place_visual_tokens, visual_token_places
from mm1_mlx.training.packing import Packed, logits_of


@dataclass(frozen=True)
class Seen:
    """Pictures of a packed sequence as far as no trained weight is involved; the rest is made in the loss."""

    visual_tokens: list[mx.array] | None = None  # (K, D) of each picture: encoder and connector are frozen
    patches: list[tuple[mx.array, tuple[int, int]]] | None = None  # features and grid: the encoder is frozen
    pixels: list[mx.array] | None = None  # (n, H, W, 3) each: the encoder is trained too


def see(
    model: MM1,
    packed: Packed,
    *,
    trained: frozenset[str],
    cache: VisionCache | None = None,
    batch_size: int | None = None,
) -> Seen:
    """Do the frozen part's work on the pictures once, outside of the gradient, a few views at a time.

    Args:
        trained: names of the parts that learn: "image_encoder", "connector", "decoder".
        cache: visual tokens of pictures seen before; of use where encoder and connector are frozen.
        batch_size: views encoded together.

    Raises:
        PictureError: a picture is damaged.
    """
    if not packed.pictures:
        return Seen(visual_tokens=[])
    if not trained & {"image_encoder", "connector"}:
        return Seen(visual_tokens=arranged_tokens(model, packed.pictures, Timing(), cache, batch_size))
    at_once = model.config.connector_config.views_at_once
    most = max((batch_size or 16) // at_once, 1) * at_once
    batches = [mx.array(batch) for batch in pixel_batches(packed.pictures, most)]
    if "image_encoder" in trained:
        return Seen(pixels=batches)
    patches = []
    for batch in batches:
        patches.append((model.image_encoder(batch), model.image_encoder.grid(batch)))
        mx.eval(patches[-1][0])
    return Seen(patches=patches)


def visual_tokens(model: MM1, packed: Packed, seen: Seen) -> Float[mx.array, "K D"] | None:
    """All visual tokens of a packed sequence, arranged; gradients flow to the parts that are trained."""
    if not packed.pictures:
        return None
    if seen.visual_tokens is not None:
        return mx.concatenate(seen.visual_tokens)
    patches = seen.patches or [
        (model.image_encoder(batch), model.image_encoder.grid(batch)) for batch in seen.pixels
    ]
    made = mx.concatenate([model.connector(features, grid).flatten(0, 1) for features, grid in patches])
    own = zip(packed.pictures, each_picture(made, packed.pictures), strict=True)
    return mx.concatenate([arranged(model, picture, tokens) for picture, tokens in own])


def embeddings_of(model: MM1, packed: Packed, seen: Seen) -> Float[mx.array, "L D"]:
    """What the decoder reads of a packed sequence."""
    text, visual = model.embed_text(packed.ids), visual_tokens(model, packed, seen)
    if visual is None:
        return text
    return place_visual_tokens(text, visual, visual_token_places(packed.ids, model.config.image_token_id))


def loss_sum(model: MM1, packed: Packed, seen: Seen) -> Float[mx.array, ""]:
    """Cross entropy of the learned tokens of one packed sequence, in nats, added up in float32."""
    logits = logits_of(model, packed, embeddings_of(model, packed, seen))
    learned = packed.learned[1:]  # the first token of a row is never learned, so no row predicts the next
    losses = nn.losses.cross_entropy(logits[:-1].astype(mx.float32), packed.ids[1:])
    return mx.sum(mx.where(learned, losses, 0.0))
