"""The image encoder and the text tower that a contrastive stage trains together, and the memory that this needs."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
from jaxtyping import Float

from mm1_mlx.data.pairs import Pairs
from mm1_mlx.errors import ConfigError
from mm1_mlx.model.contrastive import Contrastive
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.sizing.need import Need
from mm1_mlx.sizing.training import estimate_training
from mm1_mlx.training.optimizer import clip_gradients, make_optimizer
from mm1_mlx.training.pretraining.gradient_cache import Embedded, Pull
from mm1_mlx.training.pretraining.recipe import ContrastiveSettings
from mm1_mlx.training.recipe import Recipe

COSINES = 6  # number of (pictures, texts) arrays in float32 that the loss and its gradient hold at once
BEGINNINGS = {"clip": (1 / 0.07, None), "siglip": (10.0, -10.0)}  # initial scale and bias of the cosines


def make_towers(model: MM1, settings: ContrastiveSettings) -> Contrastive:
    """Make a pair of towers from the image encoder of a model, which is shared, and a new text tower.

    Raises:
        ConfigError: pictures of this model differ in size, or have more than one view each.
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
    """Embed pictures and their captions as unit vectors."""
    return model.embed_images(pixels), model.embed_texts(pairs.ids, pairs.lengths)


def list_loss_parameters(model: Contrastive) -> list[mx.array]:
    """Return the learned numbers that the loss takes besides embeddings: its scale, and its bias where it has one."""
    return [model.log_scale, *([model.bias] if "bias" in model else [])]


def estimate_contrastive(model: Contrastive, update: Sequence[Pairs], recipe: Recipe) -> Need:
    """Estimate the memory that training two towers needs, from the largest chunk of an update.

    Args:
        model: prepared for training; only its sizes count.
        update: the chunks of one process.
        recipe: the settings of the run.

    Raises:
        TrainingError: the model has an operation that MLX does not show.
    """
    largest = max(update, key=lambda pairs: pairs.num_places)
    number, dims = largest.num_learned, len(model.image_readout.weight)
    side = largest.pictures[0].image_config.image_size
    zeros = mx.zeros((number, dims))
    others = list_loss_parameters(model)
    pull = Pull(zeros, zeros, tuple(map(mx.zeros_like, others)), mx.array(0.0), mx.array(0.0))

    def loss(model: Contrastive, pixels: mx.array) -> mx.array:
        return pull.of(*embed_pairs(model, largest, pixels), list_loss_parameters(model))

    return estimate_training(
        model,
        loss,
        mx.zeros((number, side, side, 3)),
        optimizer=make_optimizer(recipe),
        clip=lambda gradients: clip_gradients(gradients, recipe.clip_norm, mx.array(1.0)),
        several=len(update) > 1,
        pictures=COSINES * 4 * recipe.rows_per_update**2,
    )
