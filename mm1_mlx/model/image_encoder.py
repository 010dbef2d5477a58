"""The image encoder: a ViT in CLIP's or SigLIP's flavour, pixels to patch features."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
from jaxtyping import Float

from mm1_mlx.config import ImageEncoderConfig
from mm1_mlx.model.resample import resize_positions


def quick_gelu(x: mx.array) -> mx.array:
    """``x * sigmoid(1.702 x)``, OpenAI CLIP's activation."""
    return x * mx.sigmoid(1.702 * x)


ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": nn.gelu, "gelu_tanh": nn.gelu_approx}


class Attention(nn.Module):
    """Every patch attends to every patch."""

    def __init__(self, dims: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dims // num_heads) ** -0.5
        self.q_proj = nn.Linear(dims, dims)
        self.k_proj = nn.Linear(dims, dims)
        self.v_proj = nn.Linear(dims, dims)
        self.out_proj = nn.Linear(dims, dims)

    def __call__(self, x: Float[mx.array, "N P E"]) -> Float[mx.array, "N P E"]:
        q, k, v = (
            mx.unflatten(proj(x), -1, (self.num_heads, -1)).transpose(0, 2, 1, 3)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        x = mx.fast.scaled_dot_product_attention(q, k, v, scale=self.scale)
        return self.out_proj(x.transpose(0, 2, 1, 3).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, dims: int, hidden_dims: int, activation: str):
        super().__init__()
        self.fc1 = nn.Linear(dims, hidden_dims)
        self.fc2 = nn.Linear(hidden_dims, dims)
        self._activation = ACTIVATIONS[activation]

    def __call__(self, x: Float[mx.array, "N P E"]) -> Float[mx.array, "N P E"]:
        return self.fc2(self._activation(self.fc1(x)))


class EncoderLayer(nn.Module):
    def __init__(self, config: ImageEncoderConfig):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_dims, eps=config.norm_eps)
        self.attention = Attention(config.hidden_dims, config.num_heads)
        self.norm2 = nn.LayerNorm(config.hidden_dims, eps=config.norm_eps)
        self.feed_forward = FeedForward(config.hidden_dims, config.feed_forward_dims, config.activation)

    def __call__(self, x: Float[mx.array, "N P E"]) -> Float[mx.array, "N P E"]:
        x = x + self.attention(self.norm1(x))
        return x + self.feed_forward(self.norm2(x))


class ImageEncoder(nn.Module):
    """A ViT that hands on the patch features of one hidden state.

    The patch embedding is a reshape and a matrix product, equal to a convolution with stride
    ``patch_size``. Learned positions are interpolated when the picture has another size than the
    positions were learned for: that is how MM1 goes from 378 to 672 pixels.

    Source: MM1, "Model Architecture Ablations" and "Supervised Fine-Tuning" (position interpolation).
    """

    def __init__(self, config: ImageEncoderConfig):
        super().__init__()
        self.config = config
        width = config.hidden_dims
        self.patch_embedding = nn.Linear(3 * config.patch_size**2, width, bias=config.patch_bias)
        self.position_embedding = mx.random.normal((config.grid_side**2, width), scale=0.02)
        if config.class_token:
            self.class_embedding = mx.random.normal((width,), scale=0.02)
            self.class_position = mx.random.normal((width,), scale=0.02)
        if config.pre_norm:
            self.pre_norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.layers = [EncoderLayer(config) for _ in range(config.num_layers)]
        self.post_norm = nn.LayerNorm(width, eps=config.norm_eps)

    def patches(self, pixels: Float[mx.array, "N H W 3"]) -> Float[mx.array, "N P p"]:
        """Cut into patches, row by row; what is left of a last whole patch is cropped."""
        N, H, W, _ = pixels.shape
        p = self.config.patch_size
        h, w = H // p, W // p
        grid = pixels[:, : h * p, : w * p].reshape(N, h, p, w, p, 3)
        return grid.transpose(0, 1, 3, 2, 4, 5).reshape(N, h * w, p * p * 3)

    def embed(self, pixels: Float[mx.array, "N H W 3"]) -> Float[mx.array, "N S E"]:
        """Hidden state 0: patches with positions, the class token in front where there is one."""
        N, H, W, _ = pixels.shape
        p = self.config.patch_size
        pixels = pixels.astype(self.position_embedding.dtype)
        x = self.patch_embedding(self.patches(pixels))
        x = x + resize_positions(self.position_embedding, H // p, W // p)
        if self.config.class_token:
            first = mx.broadcast_to(self.class_embedding + self.class_position, (N, 1, x.shape[-1]))
            x = mx.concatenate([first, x], axis=1)
        return self.pre_norm(x) if self.config.pre_norm else x

    def __call__(self, pixels: Float[mx.array, "N H W 3"]) -> Float[mx.array, "N P E"]:
        """Patch features, row by row, without the class token."""
        x = self.embed(pixels)
        for layer in self.layers[: self.config.num_feature_layers]:
            x = layer(x)
        if self.config.final_norm:
            x = self.post_norm(x)
        return x[:, 1:] if self.config.class_token else x
