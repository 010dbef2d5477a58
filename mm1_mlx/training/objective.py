"""The loss: how surprising each learned token is, added up.

The trainer divides by the number of learned tokens of the whole batch, all accumulated and distributed parts of it
together; so it does not matter how a batch is split.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
from jaxtyping import Float
from mlx.utils import tree_flatten

from mm1_mlx.data.packing import Packed, logits_of
from mm1_mlx.model.decoder import Decoder
from mm1_mlx.model.mixture_of_experts import Routing
from mm1_mlx.model.mm1 import MM1, place_visual_tokens, visual_token_places
from mm1_mlx.training.distributed.turns import in_turn
from mm1_mlx.vision.cache import VisionCache
from mm1_mlx.vision.encode import arranged, arranged_tokens, each_picture, pixel_batches
from mm1_mlx.vision.timing import Timing


@dataclass(frozen=True)
class Seen:
    """Pictures of a packed sequence as far as no trained weight is involved; the rest is made in the loss."""

    visual_tokens: list[mx.array] | None = None  # (K, D) of each picture: encoder and connector are frozen
    patches: list[tuple[mx.array, tuple[int, int]]] | None = None  # features and grid: the encoder is frozen
    pixels: list[mx.array] | None = None  # (n, H, W, 3) each: the encoder is trained too
    idle: int | None = None  # processes call trained parts in step: so many last batches count for nothing


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


def embeddings_of(model: MM1, packed: Packed, seen: Seen) -> Float[mx.array, "L D"]:
    """What the decoder reads of a packed sequence; gradients flow to the parts that are trained."""
    text, visual_tokens = model.embed_text(packed.ids), seen.visual_tokens
    if visual_tokens is None:
        text, visual_tokens = _look(model, packed, seen, text)
    if not visual_tokens:
        return text
    places = visual_token_places(packed.ids, model.config.image_token_id)
    return place_visual_tokens(text, mx.concatenate(visual_tokens), places)


def _look(
    model: MM1, packed: Packed, seen: Seen, text: Float[mx.array, "L D"]
) -> tuple[Float[mx.array, "L D"], list[Float[mx.array, "K D"]]]:
    """The text again, and the visual tokens of each picture as the decoder reads them."""
    batches = seen.patches
    if batches is None:
        batches = [(pixels, model.image_encoder.grid(pixels)) for pixels in seen.pixels]
    made = [text]
    for views, grid in batches:
        if seen.idle is not None:
            made[-1], views = in_turn(made[-1], views)
        features = views if seen.pixels is None else model.image_encoder(views)
        made.append(model.connector(features, grid).flatten(0, 1))
    text, *made = made
    for tokens in made[len(made) - (seen.idle or 0) :]:
        text = text + (0 * tokens[0]).astype(text.dtype)  # counts for nothing, and is computed
    if not packed.pictures:
        return text, []
    own = zip(packed.pictures, each_picture(mx.concatenate(made), packed.pictures), strict=True)
    return text, [arranged(model, picture, tokens) for picture, tokens in own]


def loss_sum(
    model: MM1, packed: Packed, seen: Seen, routings: list[Routing] | None = None
) -> Float[mx.array, ""]:
    """Cross entropy of the learned tokens of one packed sequence, in nats, added up in float32."""
    logits = logits_of(model, packed, embeddings_of(model, packed, seen), routings)
    learned = packed.learned[1:]  # the first token of a row is never learned, so no row predicts the next
    losses = nn.losses.cross_entropy(logits[:-1].astype(mx.float32), packed.ids[1:])
    return mx.sum(mx.where(learned, losses, 0.0))


def objective(model: MM1, packed: Packed, seen: Seen) -> tuple[Float[mx.array, ""], Float[mx.array, ""]]:
    """What training makes smaller, and ``loss_sum``, which is all of it unless the routers of a sparse decoder learn.

    Theirs is a mean over the tokens of a sequence. It counts once for each learned token, so that the sum over a
    batch, divided by its learned tokens, is the paper's.

    Source: MM1, "Scaling via Mixture-of-Experts".
    """
    if not packed.num_tokens or not _routers_learn(model):
        loss = loss_sum(model, packed, seen)
        return loss, loss
    routings: list[Routing] = []
    loss = loss_sum(model, packed, seen, routings)
    without_padding = [routing.of_first(packed.num_tokens) for routing in routings]
    return loss + packed.num_learned * model.decoder.router_loss(without_padding), loss


def _routers_learn(model: MM1) -> bool:
    """Whether our decoder is sparse and its routers are trained; mlx-lm's decoders do not tell what theirs decide."""
    if not isinstance(model.decoder, Decoder):
        return False
    sparse = [layer.mlp for layer in model.decoder.layers if layer.is_sparse]
    return any(tree_flatten(mixture.router.trainable_parameters()) for mixture in sparse)
