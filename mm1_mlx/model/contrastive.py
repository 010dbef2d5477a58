"""An image encoder and a text tower whose readouts of a picture and of its caption come to lie side by side.

It gives MM1's image encoder a start where no trained one is at hand. The encoder goes on into MM1 afterwards; text
tower and readouts are let go of.

Source: MM1, "Model Architecture Ablations" (image encoder pre-training); CLIP (arXiv:2103.00020).
"""

from __future__ import annotations

import math

import mlx.core as mx
import mlx.nn as nn
from jaxtyping import Float, Integer

from mm1_mlx.config import DecoderConfig
from mm1_mlx.model.decoder import Decoder
from mm1_mlx.model.image_encoder import ImageEncoder

LARGEST_SCALE = 100.0  # of the cosines; beyond it training is unstable


class Contrastive(nn.Module):
    """Embeds pictures and captions in one space. A unit of that space is E wide here, whatever the two towers are.

    Args:
        image_encoder: that learns.
        text_config: of the text tower, a decoder of our kind of which no logits are asked.
        embedding_dims: width of the space.
        scale: that cosines are multiplied by, in the beginning; it is learned.
        bias: that is added to them, in the beginning; None: none is.
    """

    def __init__(
        self,
        image_encoder: ImageEncoder,
        text_config: DecoderConfig,
        embedding_dims: int,
        *,
        scale: float,
        bias: float | None = None,
    ):
        super().__init__()
        self.image_encoder = image_encoder
        self.decoder = Decoder(text_config)
        self.image_readout = nn.Linear(image_encoder.config.hidden_dims, embedding_dims, bias=False)
        self.text_readout = nn.Linear(text_config.hidden_dims, embedding_dims, bias=False)
        self.log_scale = mx.array(math.log(scale))
        if bias is not None:
            self.bias = mx.array(bias)

    def embed_images(self, pixels: Float[mx.array, "N H W 3"]) -> Float[mx.array, "N E"]:
        """Return one unit vector for each picture: the mean of its patch features, projected."""
        features = self.image_encoder(pixels).astype(mx.float32).mean(axis=1)
        return _unit(self.image_readout(features.astype(self.image_encoder.dtype)))

    def embed_texts(
        self, ids: Integer[mx.array, "N L"], lengths: Integer[mx.array, "N"]
    ) -> Float[mx.array, "N E"]:
        """Return one unit vector for each text: its last token's state, projected. What stands behind is not seen."""
        states = self.decoder.states(self.decoder.embed(ids))
        last = mx.take_along_axis(states, (lengths - 1)[:, None, None], axis=1)[:, 0]
        return _unit(self.text_readout(last))

    def clip_scale(self) -> None:
        """Keep the learned scale at or below ``LARGEST_SCALE``, between two updates."""
        self.log_scale = mx.minimum(self.log_scale, math.log(LARGEST_SCALE)).astype(self.log_scale.dtype)


def clip_loss(
    images: Float[mx.array, "N E"], texts: Float[mx.array, "N E"], log_scale: Float[mx.array, ""]
) -> Float[mx.array, ""]:
    """Return how surprising it is which text is a picture's, and which picture a text's, in nats, summed over pairs.

    Source: CLIP (arXiv:2103.00020), "Selecting an Efficient Pre-Training Method".
    """
    logits = mx.exp(log_scale) * (images @ texts.T)
    right = mx.diagonal(logits)
    of_images = mx.logsumexp(logits, axis=1) - right
    of_texts = mx.logsumexp(logits, axis=0) - right
    return mx.sum(of_images + of_texts) / 2


def siglip_loss(
    images: Float[mx.array, "N E"],
    texts: Float[mx.array, "N E"],
    log_scale: Float[mx.array, ""],
    bias: Float[mx.array, ""],
) -> Float[mx.array, ""]:
    """Return how surprising it is of each picture and each text whether they belong together, summed over all.

    Source: SigLIP (arXiv:2303.15343), "Sigmoid loss for language image pre-training".
    """
    logits = mx.exp(log_scale) * (images @ texts.T) + bias
    signs = 2 * mx.eye(len(images)) - 1
    return mx.sum(nn.softplus(-signs * logits))


def _unit(x: Float[mx.array, "N E"]) -> Float[mx.array, "N E"]:
    """Return vectors of length 1, in float32: cosines of 16 bits are too coarse for many negatives."""
    x = x.astype(mx.float32)
    return x * mx.rsqrt(mx.sum(x * x, axis=-1, keepdims=True) + 1e-12)
