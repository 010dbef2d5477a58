"""The loss: how surprising each learned token is, added up.

The trainer divides by the number of learned tokens of the whole batch, all accumulated and distributed parts of it
together; so it does not matter how a batch is split.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
from jaxtyping import Float
from mlx.utils import tree_flatten

from mm1_mlx.data.packing import Packed, logits_of
from mm1_mlx.model.decoder import Decoder
from mm1_mlx.model.mixture_of_experts import Routing
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.vision.look import FrozenOutput, embed_pictures


def loss_sum(
    model: MM1, packed: Packed, seen: FrozenOutput, routings: list[Routing] | None = None
) -> Float[mx.array, ""]:
    """Return the cross entropy of the learned tokens of one packed sequence, in nats, added up in float32."""
    logits = logits_of(model, packed, embed_pictures(model, packed.ids, packed.pictures, seen), routings)
    learned = packed.learned[1:]  # the first token of a row is never learned, so no row predicts the next
    losses = nn.losses.cross_entropy(logits[:-1].astype(mx.float32), packed.ids[1:])
    return mx.sum(mx.where(learned, losses, 0.0))


def objective(
    model: MM1, packed: Packed, seen: FrozenOutput
) -> tuple[Float[mx.array, ""], Float[mx.array, ""]]:
    """Return what training makes smaller, and ``loss_sum``: all of it unless the routers of a sparse decoder learn.

    Theirs is a mean over the tokens of a sequence. It counts once for each learned token, so that the sum over a
    batch, divided by its learned tokens, is the paper's.

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
    """Say whether our decoder is sparse and its routers are trained; mlx-lm's do not tell what theirs decide."""
    if not isinstance(model.decoder, Decoder):
        return False
    sparse = [layer.mlp for layer in model.decoder.layers if layer.is_sparse]
    return any(tree_flatten(mixture.router.trainable_parameters()) for mixture in sparse)
