"""The image encoder of a model with a text tower beside it, as a contrastive stage trains them, and what that takes."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
from jaxtyping import Float

from mm1_mlx.data.pairs import Pairs
from mm1_mlx.errors import ConfigError
from mm1_mlx.model.contrastive import Contrastive
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.sizing.need import Need
from mm1_mlx.sizing.training import training_need
from mm1_mlx.training.optimizer import clipped, make_optimizer
from mm1_mlx.training.pretraining.gradient_cache import Embedded, Pull
from mm1_mlx.training.pretraining.recipe import ContrastiveSettings
from mm1_mlx.training.recipe import Recipe

COSINES = 6  # arrays of all pictures by all texts, in float32, that the loss and its gradient hold
BEGINNINGS = {"clip": (1 / 0.07, None), "siglip": (10.0, -10.0)}  # scale and bias of the cosines


def towers(model: MM1, settings: ContrastiveSettings) -> Contrastive:
    """Return the image encoder of a model with a new text tower beside it; the encoder is shared.

    Raises:
        ConfigError: pictures of this model differ in size, or are more than one view each.
    """
    config = model.config
    if config.image_config.resize == "smart" or config.connector_config.views_at_once > 1:
        raise ConfigError(
            "a contrastive stage needs one view of one size of each picture; this model's image_config or connector "
            "makes others."
        )
    tower, (scale, bias) = settings.tower(config.text_config.vocab_size), BEGINNINGS[settings.loss]
    made = Contrastive(model.image_encoder, tower, settings.embedding_dims, scale=scale, bias=bias)
    for module in (made.decoder, made.image_readout, made.text_readout):
        module.set_dtype(model.image_encoder.dtype)
    return made


def embed_pairs(model: Contrastive, pairs: Pairs, pixels: Float[mx.array, "N H W 3"]) -> Embedded:
    """Return the unit vectors of pictures and of their captions."""
    return model.embed_images(pixels), model.embed_texts(pairs.ids, pairs.lengths)


def learned_beside(model: Contrastive) -> list[mx.array]:
    """Return what the loss takes beside embeddings, and is learned too: the scale, and a bias where there is one."""
    return [model.log_scale, *([model.bias] if "bias" in model else [])]


def contrastive_need(model: Contrastive, update: Sequence[Pairs], recipe: Recipe) -> Need:
    """Return what training two towers takes, by the largest chunk of an update.

    Args:
        model: prepared; its sizes alone count.
        update: of one process.
        recipe: of the run.

    Raises:
        TrainingError: the model has an operation that MLX does not show.
    """
    largest = max(update, key=lambda pairs: pairs.num_places)
    number, dims = largest.num_learned, len(model.image_readout.weight)
    side = largest.pictures[0].image_config.image_size
    zeros = mx.zeros((number, dims))
    others = learned_beside(model)
    pull = Pull(zeros, zeros, tuple(map(mx.zeros_like, others)), mx.array(0.0), mx.array(0.0))

    def loss(model: Contrastive, pixels: mx.array) -> mx.array:
        return pull.of(*embed_pairs(model, largest, pixels), learned_beside(model))

    return training_need(
        model,
        loss,
        mx.zeros((number, side, side, 3)),
        optimizer=make_optimizer(recipe),
        clip=lambda gradients: clipped(gradients, recipe.clip_norm, mx.array(1.0)),
        several=len(update) > 1,
        pictures=COSINES * 4 * recipe.rows_per_update**2,
    )
