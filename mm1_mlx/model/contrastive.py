"""Contrastive pre-training: an image encoder and a text tower learn to embed a picture and its caption alike.

It trains an image encoder for MM1 where no trained one is available. The encoder then becomes part of MM1; the text
tower and both projections are discarded.

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

LARGEST_SCALE = 100.0  # factor for cosines; training is unstable above it


class Contrastive(nn.Module):
    """An image encoder and a text tower that embed pictures and captions in one space, E wide in the shapes here.

    Args:
        image_encoder: the encoder to train.
        text_config: the text tower, a decoder like ours whose logits are not computed.
        embedding_dims: width of the shared space.
        scale: initial factor for cosines; it is learned.
        bias: initial number to add to them, learned too; None adds nothing.
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
        return _normalize(self.image_readout(features.astype(self.image_encoder.dtype)))

    def embed_texts(
        self, ids: Integer[mx.array, "N L"], lengths: Integer[mx.array, "N"]
    ) -> Float[mx.array, "N E"]:
        """Return one unit vector for each text: the state of its last token, projected; padding after it has no
        effect.
        """
        states = self.decoder.states(self.decoder.embed(ids))
        last = mx.take_along_axis(states, (lengths - 1)[:, None, None], axis=1)[:, 0]
        return _normalize(self.text_readout(last))

    def clip_scale(self) -> None:
        """Limit the learned scale to ``LARGEST_SCALE``; to be called after each update."""
        self.log_scale = mx.minimum(self.log_scale, math.log(LARGEST_SCALE)).astype(self.log_scale.dtype)


def clip_loss(
    images: Float[mx.array, "N E"], texts: Float[mx.array, "N E"], log_scale: Float[mx.array, ""]
) -> Float[mx.array, ""]:
    """Return the cross-entropy of finding each picture's text and each text's picture, in nats, summed over the pairs.

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
    """Return the binary cross-entropy of whether each picture and each text belong together, in nats, summed over all.

    Source: SigLIP (arXiv:2303.15343), "Sigmoid loss for language image pre-training".
    """
    logits = mx.exp(log_scale) * (images @ texts.T) + bias
    signs = 2 * mx.eye(len(images)) - 1
    return mx.sum(nn.softplus(-signs * logits))


def _normalize(x: Float[mx.array, "N E"]) -> Float[mx.array, "N E"]:
    """Scale vectors to length 1 in float32, because cosines in 16 bits are too coarse for many negatives."""
    x = x.astype(mx.float32)
    return x * mx.rsqrt(mx.sum(x * x, axis=-1, keepdims=True) + 1e-12)
