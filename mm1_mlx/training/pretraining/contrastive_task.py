"""A contrastive stage: from pictures and their captions an image encoder learns what tells them apart.

Source: MM1, "Model Architecture Ablations" (image encoder pre-training); CLIP (arXiv:2103.00020) and SigLIP
(arXiv:2303.15343) for the losses and how they begin.
"""

from __future__ import annotations

import mlx.core as mx
from jaxtyping import Float

from mm1_mlx.data.pairs import Pairs
from mm1_mlx.errors import ConfigError
from mm1_mlx.model.contrastive import Contrastive
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.training.pretraining.gradient_cache import Embedded
from mm1_mlx.training.pretraining.recipe import ContrastiveSettings

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
