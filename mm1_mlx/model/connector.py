"""The connector: patch features to a fixed number of visual tokens, in MM1's three ways.

Source: MM1 (arXiv:2403.09611), "Model Architecture Ablations"; the C-Abstractor in detail is
Honeybee's (arXiv:2312.06742), its blocks RegNet's.
"""

from __future__ import annotations

import math

import mlx.core as mx
import mlx.nn as nn
from jaxtyping import Float

from mm1_mlx.config import ConnectorConfig
from mm1_mlx.model.resample import average_weights, resample, resize_positions


def adaptive_average_pool(x: Float[mx.array, "B H W C"], side: int) -> Float[mx.array, "B s s C"]:
    """Average over ``side`` x ``side`` windows that cover the grid, uneven where they must be."""
    _, H, W, _ = x.shape
    return resample(x, average_weights(H, side), average_weights(W, side))


class DepthwiseConv(nn.Module):
    """A 3 x 3 convolution of each channel with itself, zero-padded, without bias.

    On a CPU nine shifted products are several times as fast as the general convolution; a GPU has a
    kernel of its own for the depthwise case.
    """

    def __init__(self, dims: int):
        super().__init__()
        self.weight = mx.random.uniform(-1 / 3, 1 / 3, (dims, 3, 3, 1))

    def __call__(self, x: Float[mx.array, "B H W C"]) -> Float[mx.array, "B H W C"]:
        if mx.default_device() == mx.gpu:
            return mx.conv2d(x, self.weight, padding=1, groups=x.shape[-1])
        return self.shifted(x)

    def shifted(self, x: Float[mx.array, "B H W C"]) -> Float[mx.array, "B H W C"]:
        _, H, W, _ = x.shape
        padded = mx.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
        total = mx.zeros_like(x)
        for i in range(3):
            for j in range(3):
                total = total + padded[:, i : i + H, j : j + W] * self.weight[:, i, j, 0]
        return total


class SqueezeExcite(nn.Module):
    """Scales channels by what the whole picture holds."""

    def __init__(self, dims: int, squeezed_dims: int):
        super().__init__()
        self.fc1 = nn.Linear(dims, squeezed_dims)
        self.fc2 = nn.Linear(squeezed_dims, dims)

    def __call__(self, x: Float[mx.array, "B H W C"]) -> Float[mx.array, "B H W C"]:
        scale = self.fc2(nn.silu(self.fc1(x.mean(axis=(1, 2), keepdims=True))))
        return x * mx.sigmoid(scale)


class RegStageBlock(nn.Module):
    """RegNet's bottleneck: 1 x 1, depthwise 3 x 3, squeeze-excite, 1 x 1, around a shortcut.

    Norms are over channels; the 1 x 1 convolutions are linear layers. The squeezed width is a quarter
    of the block's *input* width.
    """

    NORM_EPS = 1e-5

    def __init__(self, input_dims: int, dims: int):
        super().__init__()
        self.conv1 = nn.Linear(input_dims, dims, bias=False)
        self.norm1 = nn.LayerNorm(dims, eps=self.NORM_EPS)
        self.conv2 = DepthwiseConv(dims)
        self.norm2 = nn.LayerNorm(dims, eps=self.NORM_EPS)
        self.squeeze_excite = SqueezeExcite(dims, round(input_dims / 4))
        self.conv3 = nn.Linear(dims, dims, bias=False)
        self.norm3 = nn.LayerNorm(dims, eps=self.NORM_EPS)
        if input_dims != dims:
            self.shortcut = nn.Linear(input_dims, dims, bias=False)
            self.shortcut_norm = nn.LayerNorm(dims, eps=self.NORM_EPS)

    def __call__(self, x: Float[mx.array, "B H W I"]) -> Float[mx.array, "B H W C"]:
        y = nn.silu(self.norm1(self.conv1(x)))
        y = nn.silu(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(self.squeeze_excite(y)))
        if "shortcut" in self:
            x = self.shortcut_norm(self.shortcut(x))
        return nn.silu(x + y)


class CAbstractor(nn.Module):
    """Convolutions, pooling, convolutions, an MLP: a visual token stands for a region of the picture.

    Source: MM1, "Model Architecture Ablations"; Honeybee, "C-Abstractor".
    """

    PRE_NORM_EPS = 1e-6

    def __init__(self, config: ConnectorConfig):
        super().__init__()
        self.config = config
        width = config.hidden_dims if config.num_blocks else config.input_dims
        if config.pre_norm:
            self.pre_norm = nn.LayerNorm(config.input_dims, eps=self.PRE_NORM_EPS)
        if config.position_grid:
            shape = (config.position_grid**2, config.input_dims)
            self.position_embedding = mx.random.normal(shape, scale=0.02)
        inputs = [config.input_dims] + [width] * config.num_blocks
        self.before = [RegStageBlock(inputs[i], width) for i in range(config.num_blocks)]
        self.after = [RegStageBlock(width, width) for _ in range(config.num_blocks)]
        inputs = [width] + [config.output_dims] * config.num_readout_layers
        self.readout = [nn.Linear(inputs[i], config.output_dims) for i in range(config.num_readout_layers)]
        if config.num_extra_tokens:
            shape = (config.num_extra_tokens, config.output_dims)
            self.extra_tokens = mx.random.normal(shape, scale=0.02)

    def embed(self, patches: Float[mx.array, "N P E"]) -> Float[mx.array, "N h w E"]:
        """The square grid that the convolutions see: normalised and with positions, where configured."""
        N, P, E = patches.shape
        side = math.isqrt(P)
        x = self.pre_norm(patches) if self.config.pre_norm else patches
        if self.config.position_grid:
            x = x + resize_positions(self.position_embedding, side, side)
        return x.reshape(N, side, side, E)

    def read_out(self, x: Float[mx.array, "N T C"]) -> Float[mx.array, "N T D"]:
        """The MLP: linear layers with SiLU between."""
        x = self.readout[0](x)
        for linear in self.readout[1:]:
            x = linear(nn.silu(x))
        return x

    def __call__(self, patches: Float[mx.array, "N P E"]) -> Float[mx.array, "N T D"]:
        x = self.embed(patches)
        for block in self.before:
            x = block(x)
        x = adaptive_average_pool(x, self.config.side)
        for block in self.after:
            x = block(x)
        x = self.read_out(x.flatten(1, 2))
        if self.config.num_extra_tokens:
            extra = mx.broadcast_to(self.extra_tokens, (x.shape[0], *self.extra_tokens.shape))
            x = mx.concatenate([x, extra.astype(x.dtype)], axis=1)
        return x


class AveragePool(nn.Module):
    """Average over windows of patches, then a linear layer: the paper's option (a)."""

    def __init__(self, config: ConnectorConfig):
        super().__init__()
        self.config = config
        self.output_proj = nn.Linear(config.input_dims, config.output_dims)

    def __call__(self, patches: Float[mx.array, "N P E"]) -> Float[mx.array, "N T D"]:
        N, P, E = patches.shape
        side = math.isqrt(P)
        x = adaptive_average_pool(patches.reshape(N, side, side, E), self.config.side)
        return self.output_proj(x.flatten(1, 2))


class AttentionPool(nn.Module):
    """Learned queries attend to the linearly projected patches: the paper's option (b)."""

    def __init__(self, config: ConnectorConfig):
        super().__init__()
        self.config = config
        width = config.hidden_dims
        self.queries = mx.random.normal((config.num_visual_tokens, width), scale=0.02)
        self.input_proj = nn.Linear(config.input_dims, width)
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.output_proj = nn.Linear(width, config.output_dims)

    def __call__(self, patches: Float[mx.array, "N P E"]) -> Float[mx.array, "N T D"]:
        heads = self.config.num_heads
        x = self.input_proj(patches)
        queries = mx.broadcast_to(self.queries, (x.shape[0], *self.queries.shape))
        q, k, v = (
            mx.unflatten(y, -1, (heads, -1)).transpose(0, 2, 1, 3)
            for y in (self.q_proj(queries), self.k_proj(x), self.v_proj(x))
        )
        x = mx.fast.scaled_dot_product_attention(q, k, v, scale=q.shape[-1] ** -0.5)
        return self.output_proj(x.transpose(0, 2, 1, 3).flatten(2))


CONNECTORS = {"c_abstractor": CAbstractor, "average_pool": AveragePool, "attention_pool": AttentionPool}


def make_connector(config: ConnectorConfig) -> CAbstractor | AveragePool | AttentionPool:
    """The connector that ``config.type`` names."""
    return CONNECTORS[config.type](config)
