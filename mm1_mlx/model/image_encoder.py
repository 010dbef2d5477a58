"""The image encoder: a ViT in CLIP's, SigLIP's, AIMv2's or Qwen2-VL's flavour, pixels to patch features."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
from jaxtyping import Float

from mm1_mlx.config import ImageEncoderConfig
from mm1_mlx.model.resample import resize_positions
from mm1_mlx.model.rotary_2d import grid_angles, rotate

Rotation = tuple[mx.array, mx.array]  # cosines and sines of every patch's angles


def quick_gelu(x: mx.array) -> mx.array:
    """Return ``x * sigmoid(1.702 x)``, the activation of OpenAI's CLIP."""
    return x * mx.sigmoid(1.702 * x)


ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": nn.gelu, "gelu_tanh": nn.gelu_approx, "silu": nn.silu}
NORMS = {"layer": nn.LayerNorm, "rms": nn.RMSNorm}


def make_norm(config: ImageEncoderConfig) -> nn.LayerNorm | nn.RMSNorm:
    """Make a norm of the encoder's kind and width."""
    return NORMS[config.norm](config.hidden_dims, eps=config.norm_eps)


def flatten_blocks(grid: Float[mx.array, "N h w C"], side: int) -> Float[mx.array, "N P C"]:
    """Flatten a grid block by block of ``side`` x ``side``; the blocks, and the places inside each, go row by row."""
    N, h, w, C = grid.shape
    blocks = grid.reshape(N, h // side, side, w // side, side, C).transpose(0, 1, 3, 2, 4, 5)
    return blocks.reshape(N, h * w, C)


class Attention(nn.Module):
    """Attention of every patch to every patch."""

    def __init__(self, dims: int, num_heads: int, bias: bool):
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dims // num_heads) ** -0.5
        self.q_proj = nn.Linear(dims, dims, bias=bias)
        self.k_proj = nn.Linear(dims, dims, bias=bias)
        self.v_proj = nn.Linear(dims, dims, bias=bias)
        self.out_proj = nn.Linear(dims, dims, bias=bias)

    def __call__(
        self, x: Float[mx.array, "N P E"], rotation: Rotation | None = None
    ) -> Float[mx.array, "N P E"]:
        q, k, v = (
            mx.unflatten(proj(x), -1, (self.num_heads, -1)).transpose(0, 2, 1, 3)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        if rotation is not None:
            q, k = rotate(q, *rotation), rotate(k, *rotation)
        x = mx.fast.scaled_dot_product_attention(q, k, v, scale=self.scale)
        return self.out_proj(x.transpose(0, 2, 1, 3).flatten(2))


class FeedForward(nn.Module):
    """Two linear maps with an activation between them, which a third map multiplies where the layer is gated."""

    def __init__(self, config: ImageEncoderConfig):
        super().__init__()
        dims, hidden_dims = config.hidden_dims, config.feed_forward_dims
        self.fc1 = nn.Linear(dims, hidden_dims, bias=config.bias)
        self.fc2 = nn.Linear(hidden_dims, dims, bias=config.bias)
        if config.gated:
            self.fc3 = nn.Linear(dims, hidden_dims, bias=config.bias)
        self._activation, self._gated = ACTIVATIONS[config.activation], config.gated

    def __call__(self, x: Float[mx.array, "N P E"]) -> Float[mx.array, "N P E"]:
        inside = self._activation(self.fc1(x))
        return self.fc2(inside * self.fc3(x) if self._gated else inside)


class EncoderLayer(nn.Module):
    def __init__(self, config: ImageEncoderConfig):
        super().__init__()
        self.norm1 = make_norm(config)
        self.attention = Attention(config.hidden_dims, config.num_heads, config.bias)
        self.norm2 = make_norm(config)
        self.feed_forward = FeedForward(config)

    def __call__(
        self, x: Float[mx.array, "N P E"], rotation: Rotation | None = None
    ) -> Float[mx.array, "N P E"]:
        x = x + self.attention(self.norm1(x), rotation)
        return x + self.feed_forward(self.norm2(x))


class ImageEncoder(nn.Module):
    """A ViT that returns the patch features of one of its hidden states.

    The patch embedding is a reshape and a matrix product, equal to a convolution with stride
    ``patch_size``. Learned positions are interpolated when the picture has another size than the
    positions were learned for: that is how MM1 goes from 378 to 672 pixels. Rotary positions fit any
    picture; they are applied in every attention, and features come block by block of patches.

    Source: MM1, "Model Architecture Ablations" and "Supervised Fine-Tuning" (position interpolation);
    AIMv2 (arXiv:2411.14402) for RMSNorm and SwiGLU; Qwen2-VL (arXiv:2409.12191) for rotary positions.
    """

    def __init__(self, config: ImageEncoderConfig):
        super().__init__()
        self.config = config
        width = config.hidden_dims
        values = config.temporal_patch_size * config.patch_size**2 * 3
        self.patch_embedding = nn.Linear(values, width, bias=config.patch_bias)
        learned = config.positions == "learned"
        if learned:
            self.position_embedding = mx.random.normal((config.grid_side**2, width), scale=0.02)
        if config.class_token:
            self.class_embedding = mx.random.normal((width,), scale=0.02)
            self.class_position = mx.random.normal((width,), scale=0.02)
        if config.patch_norm:
            self.patch_norm = make_norm(config)
        if config.pre_norm:
            self.pre_norm = make_norm(config)
        self.layers = [EncoderLayer(config) for _ in range(config.num_layers)]
        if learned:
            self.post_norm = make_norm(config)

    @property
    def dtype(self) -> mx.Dtype:
        """The type that the encoder computes in: that of its norms, which are never quantized."""
        return self.layers[0].norm1.weight.dtype

    def grid(self, pixels: Float[mx.array, "N H W 3"]) -> tuple[int, int]:
        """Return the rows and columns of patches, in whole blocks, that pictures of this size have."""
        p, b = self.config.patch_size, self.config.patch_block
        _, H, W, _ = pixels.shape
        return H // (p * b) * b, W // (p * b) * b

    def patches(self, pixels: Float[mx.array, "N H W 3"]) -> Float[mx.array, "N P p"]:
        """Cut pictures into patches, block by block; pixels past the last whole block are left out.

        The values of a patch are its frames, all equal, each row by row.
        """
        N, p, (h, w) = len(pixels), self.config.patch_size, self.grid(pixels)
        grid = pixels[:, : h * p, : w * p].reshape(N, h, p, w, p, 3)
        grid = grid.transpose(0, 1, 3, 2, 4, 5).reshape(N, h, w, p * p * 3)
        return mx.tile(flatten_blocks(grid, self.config.patch_block), (1, 1, self.config.temporal_patch_size))

    def tokens(self, pixels: Float[mx.array, "N H W 3"]) -> Float[mx.array, "N S E"]:
        """Embed the patches with their learned positions, after the class token where there is one."""
        x = self.patch_embedding(self.patches(pixels.astype(self.dtype)))
        if self.config.patch_norm:
            x = self.patch_norm(x)
        if self.config.positions == "learned":
            x = x + resize_positions(self.position_embedding, *self.grid(pixels))
        if self.config.class_token:
            first = mx.broadcast_to(self.class_embedding + self.class_position, (len(x), 1, x.shape[-1]))
            x = mx.concatenate([first, x], axis=1)
        return x

    def embed(self, pixels: Float[mx.array, "N H W 3"]) -> Float[mx.array, "N S E"]:
        """Return hidden state 0, which the first layer reads."""
        x = self.tokens(pixels)
        return self.pre_norm(x) if self.config.pre_norm else x

    def rotation(self, pixels: Float[mx.array, "N H W 3"]) -> Rotation | None:
        """Return how the layers rotate queries and keys; None where positions are learned."""
        if self.config.positions == "learned":
            return None
        angles = grid_angles(*self.grid(pixels), self.config.hidden_dims // self.config.num_heads)
        angles = flatten_blocks(angles[None], self.config.patch_block)
        return mx.cos(angles), mx.sin(angles)

    def __call__(self, pixels: Float[mx.array, "N H W 3"]) -> Float[mx.array, "N P E"]:
        """Return the patch features, block by block (row by row where a block is one patch), without the class token."""
        x, rotation = self.embed(pixels), self.rotation(pixels)
        for layer in self.layers[: self.config.num_feature_layers]:
            x = layer(x, rotation)
        if self.config.final_norm:
            x = self.post_norm(x)
        return x[:, 1:] if self.config.class_token else x
