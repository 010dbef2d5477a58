"""Rotary positions in two dimensions: half of the angles follow a patch's row, half its column.

Queries and keys are rotated by angles that grow with the position of their patch, so that attention depends on the
distance of two patches, on a grid of any size. Nothing is learned.

Source: Qwen2-VL (arXiv:2409.12191), "Model Architecture" (naive dynamic resolution).
"""

from __future__ import annotations

import mlx.core as mx
from jaxtyping import Float

THETA = 10_000.0


def grid_angles(height: int, width: int, head_dims: int) -> Float[mx.array, "h w r"]:
    """Return each patch's angles in radians, float32: ``head_dims / 4`` from its row, then as many from its column."""
    quarter = head_dims // 4
    frequencies = mx.array([THETA ** (-i / quarter) for i in range(quarter)], mx.float32)
    rows = mx.arange(height)[:, None, None] * frequencies
    columns = mx.arange(width)[None, :, None] * frequencies
    shape = (height, width, quarter)
    return mx.concatenate([mx.broadcast_to(rows, shape), mx.broadcast_to(columns, shape)], axis=-1)


def rotate(
    x: Float[mx.array, "N heads P d"], cos: Float[mx.array, "1 P r"], sin: Float[mx.array, "1 P r"]
) -> Float[mx.array, "N heads P d"]:
    """Rotate each pair ``(x[i], x[i + d / 2])`` by its angle, in float32."""
    first, second = mx.split(x.astype(mx.float32), 2, axis=-1)
    turned = mx.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)
