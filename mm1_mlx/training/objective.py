"""The loss: the cross entropy of every learned token, added up.

The trainer divides by the number of learned tokens of the whole batch, counted over all micro-batches and processes,
so it does not matter how a batch is split.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
from jaxtyping import Float

from mm1_mlx.arrays import flatten
from mm1_mlx.data.packing import Packed, logits_of
from mm1_mlx.model.decoder import Decoder
from mm1_mlx.model.mixture_of_experts import MixtureOfExperts, Routing
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.vision.look import FrozenOutput, embed_pictures


def loss_sum(
    model: MM1, packed: Packed, seen: FrozenOutput, routings: list[Routing] | None = None
) -> Float[mx.array, ""]:
    """Return the cross entropy of the learned tokens of one packed sequence, in nats, summed in float32."""
    embeddings, places = embed_pictures(model, packed.ids, packed.pictures, seen), packed.places
    logits = logits_of(model, packed, embeddings, routings, places)
    following = places + 1  # the first token of a row is never learned, so no row predicts the next
    losses = nn.losses.cross_entropy(logits.astype(mx.float32), packed.ids[following])
    return mx.sum(mx.where(packed.learned[following], losses, 0.0))


def objective(
    model: MM1, packed: Packed, seen: FrozenOutput
) -> tuple[Float[mx.array, ""], Float[mx.array, ""]]:
    """Return what training lowers, and the part of it that is ``loss_sum``.

    The two are equal unless the routers of a sparse decoder learn. The router loss is a mean over the tokens of a
    sequence. It counts once for each learned token, so that the sum over a batch, divided by its learned tokens, is
    the paper's loss.

    Source: MM1, "Scaling via Mixture-of-Experts".
    """
    if not packed.num_tokens or not _routers_learn(model):
        loss = loss_sum(model, packed, seen)
        return loss, loss
    routings: list[Routing] = []
    loss = loss_sum(model, packed, seen, routings)
    without_padding = [routing.keep_first(packed.num_tokens) for routing in routings]
    return loss + packed.num_learned * model.decoder.router_loss(without_padding), loss


def _routers_learn(model: MM1) -> bool:
    """Tell whether the decoder is ours, is sparse and has trained routers; mlx-lm's do not show their decisions."""
    if not isinstance(model.decoder, Decoder):
        return False
    mixtures = [layer.mlp for layer in model.decoder.layers if isinstance(layer.mlp, MixtureOfExperts)]
    return any(flatten(mixture.router.trainable_parameters()) for mixture in mixtures)
