"""The connector: patch features to a fixed number of visual tokens, in MM1's three ways.

Source: MM1 (arXiv:2403.09611), "Model Architecture Ablations"; the C-Abstractor in detail is
Honeybee's (arXiv:2312.06742), its blocks RegNet's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn
from jaxtyping import Float

from mm1_mlx.config import ConnectorConfig
from mm1_mlx.model.resample import average_weights, resample, resize_positions


def adaptive_average_pool(x: Float[mx.array, "B H W C"], side: int) -> Float[mx.array, "B s s C"]:
    """Average a grid over ``side`` x ``side`` windows that cover it, of unequal size where the sides do not divide."""
    _, H, W, _ = x.shape
    return resample(x, average_weights(H, side), average_weights(W, side))


def merge_squares(x: Float[mx.array, "B H W C"], side: int) -> Float[mx.array, "B h w K"]:
    """Join each square of ``side`` x ``side`` places into one, its values ordered by channel, row, column."""
    B, H, W, C = x.shape
    x = x.reshape(B, H // side, side, W // side, side, C).transpose(0, 1, 3, 5, 2, 4)
    return x.reshape(B, H // side, W // side, C * side * side)


def square_grid(patches: Float[mx.array, "N P E"]) -> tuple[int, int]:
    """Return the height and width of a square grid of patches."""
    side = math.isqrt(patches.shape[1])
    return side, side


class DepthwiseConv(nn.Module):
    """A 3 x 3 convolution of each channel with itself, zero-padded, without bias.

    On a CPU, nine shifted products are several times as fast as the general convolution. A GPU has a
    special kernel for the depthwise case.
    """

    def __init__(self, dims: int):
        super().__init__()
        self.weight = mx.random.uniform(-1 / 3, 1 / 3, (dims, 3, 3, 1))

    def __call__(self, x: Float[mx.array, "B H W C"]) -> Float[mx.array, "B H W C"]:
        if mx.default_device() == mx.gpu:
            return mx.conv2d(x, self.weight, padding=1, groups=x.shape[-1])
        return self.convolve_by_shifts(x)

    def convolve_by_shifts(self, x: Float[mx.array, "B H W C"]) -> Float[mx.array, "B H W C"]:
        """Return the convolution as a sum of nine shifted copies, each times its weights."""
        _, H, W, _ = x.shape
        padded = mx.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
        # A channel's nine weights are adjacent in memory, so reading one of them for all channels would take steps of nine.
        taps = mx.stack([self.weight[:, i, j, 0] for i in range(3) for j in range(3)])
        products = [padded[:, n // 3 : n // 3 + H, n % 3 : n % 3 + W] * taps[n] for n in range(9)]
        return sum(products[1:], products[0])


class SqueezeExcite(nn.Module):
    """A layer that scales each channel by a factor computed from the average of the whole picture."""

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
    """The C-Abstractor: convolutions, pooling, convolutions and an MLP, so that a visual token stands for a region.

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
        inputs = [width * max(config.merge_size, 1) ** 2] + [width] * config.num_blocks
        self.after = [RegStageBlock(inputs[i], width) for i in range(config.num_blocks)]
        inputs = [width] + [config.output_dims] * config.num_readout_layers
        self.readout = [nn.Linear(inputs[i], config.output_dims) for i in range(config.num_readout_layers)]
        if config.num_extra_tokens:
            shape = (config.num_extra_tokens, config.output_dims)
            self.extra_tokens = mx.random.normal(shape, scale=0.02)
        if config.row_end:
            self.row_end = mx.random.normal((config.output_dims,), scale=0.02)

    def embed(
        self, patches: Float[mx.array, "N P E"], grid: tuple[int, int] | None = None
    ) -> Float[mx.array, "N h w E"]:
        """Return the grid that the convolutions read: normalised and with positions, where the configuration asks for
        them.
        """
        height, width = grid or square_grid(patches)
        x = self.pre_norm(patches) if self.config.pre_norm else patches
        if self.config.position_grid:
            antialias = self.config.position_antialias
            x = x + resize_positions(self.position_embedding, height, width, antialias=antialias)
        return mx.unflatten(x, 1, (height, width))

    def stage_before(
        self, patches: Float[mx.array, "N P E"], grid: tuple[int, int] | None = None
    ) -> Float[mx.array, "N h w C"]:
        """Compute everything up to the pooling, which does not depend on the number of visual tokens."""
        x = self.embed(patches, grid)
        for block in self.before:
            x = block(x)
        return x

    def pool(self, x: Float[mx.array, "N h w C"], num_visual_tokens: int | None = None) -> mx.array:
        """Reduce the grid: average it to a square of ``num_visual_tokens`` places, or merge squares of patches."""
        if self.config.merge_size:
            return merge_squares(x, self.config.merge_size)
        return adaptive_average_pool(
            x, math.isqrt(num_visual_tokens) if num_visual_tokens else self.config.side
        )

    def stage_after(self, x: Float[mx.array, "N s t C"]) -> Float[mx.array, "N T D"]:
        """Apply the second convolutions and the MLP to the pooled grid; visual tokens come row by row."""
        for block in self.after:
            x = block(x)
        return self.read_out(x.flatten(1, 2))

    def read_out(self, x: Float[mx.array, "N T C"]) -> Float[mx.array, "N T D"]:
        """Apply the final MLP: linear layers with SiLU between them."""
        x = self.readout[0](x)
        for linear in self.readout[1:]:
            x = linear(nn.silu(x))
        return x

    def encode_groups(
        self, patches: Float[mx.array, "N P E"], groups: Sequence[tuple[int, int]]
    ) -> list[Float[mx.array, "n T D"]]:
        """Return the visual tokens of consecutive views, for groups given as (views, visual tokens of each view).

        HyperCLOVAX gives the first views of a video more tokens than the later ones. All views go through the
        first convolutions together.
        """
        x = self.stage_before(patches)
        starts = [sum(n for n, _ in groups[:i]) for i in range(len(groups))]
        return [
            self.stage_after(self.pool(x[start : start + num_views], num_visual_tokens))
            for start, (num_views, num_visual_tokens) in zip(starts, groups, strict=True)
        ]

    def __call__(
        self, patches: Float[mx.array, "N P E"], grid: tuple[int, int] | None = None
    ) -> Float[mx.array, "N T D"]:
        """Return the visual tokens; ``grid`` is the patches' height and width, needed where they form no square."""
        x = self.stage_after(self.pool(self.stage_before(patches, grid)))
        if self.config.num_extra_tokens:
            extra = mx.broadcast_to(self.extra_tokens, (x.shape[0], *self.extra_tokens.shape))
            x = mx.concatenate([x, extra.astype(x.dtype)], axis=1)
        return x


class CAbstractorPair(nn.Module):
    """360VL's two C-Abstractors: one reads the four quadrants as one large grid, the other the whole picture.

    Five views, the quadrants row by row and the whole, become twice ``num_visual_tokens``: details first.
    """

    def __init__(self, config: ConnectorConfig):
        super().__init__()
        self.config = config
        self.detail = CAbstractor(config)
        self.overview = CAbstractor(config)

    @staticmethod
    def join_quadrants(patches: Float[mx.array, "N 4 P E"]) -> Float[mx.array, "N Q E"]:
        """Join four square grids, given row by row, into one grid of twice their side."""
        N, _, P, E = patches.shape
        side = math.isqrt(P)
        grid = patches.reshape(N, 2, 2, side, side, E).transpose(0, 1, 3, 2, 4, 5)
        return grid.reshape(N, 4 * P, E)

    def __call__(
        self, patches: Float[mx.array, "N P E"], grid: tuple[int, int] | None = None
    ) -> Float[mx.array, "M T D"]:
        views = mx.unflatten(patches, 0, (-1, 5))
        detail = self.detail(self.join_quadrants(views[:, :4]))
        return mx.concatenate([detail, self.overview(views[:, 4])], axis=1)


class AveragePool(nn.Module):
    """The paper's option (a): an average over windows of patches, then a linear layer."""

    def __init__(self, config: ConnectorConfig):
        super().__init__()
        self.config = config
        self.output_proj = nn.Linear(config.input_dims, config.output_dims)

    def __call__(
        self, patches: Float[mx.array, "N P E"], grid: tuple[int, int] | None = None
    ) -> Float[mx.array, "N T D"]:
        x = adaptive_average_pool(mx.unflatten(patches, 1, grid or square_grid(patches)), self.config.side)
        return self.output_proj(x.flatten(1, 2))


class AttentionPool(nn.Module):
    """The paper's option (b): learned queries attend to the linearly projected patches."""

    def __init__(self, config: ConnectorConfig):
        super().__init__()
        self.config = config
        width = config.hidden_dims
        self.queries = mx.random.normal((config.side**2, width), scale=0.02)
        self.input_proj = nn.Linear(config.input_dims, width)
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.output_proj = nn.Linear(width, config.output_dims)

    def __call__(
        self, patches: Float[mx.array, "N P E"], grid: tuple[int, int] | None = None
    ) -> Float[mx.array, "N T D"]:
        heads = self.config.num_heads
        x = self.input_proj(patches)
        queries = mx.broadcast_to(self.queries, (x.shape[0], *self.queries.shape))
        q, k, v = (
            mx.unflatten(y, -1, (heads, -1)).transpose(0, 2, 1, 3)
            for y in (self.q_proj(queries), self.k_proj(x), self.v_proj(x))
        )
        x = mx.fast.scaled_dot_product_attention(q, k, v, scale=q.shape[-1] ** -0.5)
        return self.output_proj(x.transpose(0, 2, 1, 3).flatten(2))


Connector = CAbstractor | CAbstractorPair | AveragePool | AttentionPool
CONNECTORS: dict[str, type[Connector]] = {
    "c_abstractor": CAbstractor,
    "c_abstractor_pair": CAbstractorPair,
    "average_pool": AveragePool,
    "attention_pool": AttentionPool,
}


def make_connector(config: ConnectorConfig) -> Connector:
    """Build the connector that ``config.type`` names, with random weights."""
    return CONNECTORS[config.type](config)
