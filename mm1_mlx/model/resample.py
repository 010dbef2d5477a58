"""Change the size of a grid of features with one small matrix for each axis.

Bicubic interpolation and adaptive average pooling are both linear and separable, so each is a matrix
for the rows and one for the columns. The matrices depend on sizes alone and are made from Python floats.
"""

from __future__ import annotations

import math
from functools import lru_cache

import mlx.core as mx
from jaxtyping import Float

Matrix = tuple[tuple[float, ...], ...]


@lru_cache(maxsize=64)
def bicubic_weights(source: int, target: int) -> Matrix:
    """Return the ``(target, source)`` matrix of PyTorch's ``interpolate(mode="bicubic", align_corners=False)``.

    The kernel is Keys' with a = -0.75, without antialiasing; positions outside the grid take the value at its edge.
    """
    rows = []
    for i in range(target):
        center = (i + 0.5) * source / target - 0.5
        first = math.floor(center) - 1
        row = [0.0] * source
        for k in range(first, first + 4):
            row[min(max(k, 0), source - 1)] += _keys(abs(center - k))
        rows.append(tuple(row))
    return tuple(rows)


@lru_cache(maxsize=64)
def bicubic_antialias_weights(source: int, target: int) -> Matrix:
    """Return the matrix of the same interpolation with ``antialias=True``, which blurs a grid that it shrinks.

    The kernel is Keys' with a = -0.5, as wide as the step between targets; positions outside the grid count for nothing.
    """
    step = max(source / target, 1.0)
    rows = []
    for i in range(target):
        center = (i + 0.5) * source / target
        row = [_keys(abs(k + 0.5 - center) / step, a=-0.5) for k in range(source)]
        total = sum(row)
        rows.append(tuple(weight / total for weight in row))
    return tuple(rows)


def _keys(x: float, a: float = -0.75) -> float:
    """Return Keys' cubic convolution kernel at distance ``x`` of at least 0."""
    if x <= 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    if x < 2:
        return a * (((x - 5) * x + 8) * x - 4)
    return 0.0


@lru_cache(maxsize=64)
def average_weights(source: int, target: int) -> Matrix:
    """Return the ``(target, source)`` matrix of PyTorch's adaptive average pooling.

    Window i is ``floor(i s / t)`` to ``ceil((i + 1) s / t)``: windows overlap when ``target`` does not
    divide ``source`` (27 to 12), and it repeats values when ``target`` is the larger.
    """
    rows = []
    for i in range(target):
        start, stop = i * source // target, -((i + 1) * source // -target)
        rows.append(tuple(1 / (stop - start) if start <= k < stop else 0.0 for k in range(source)))
    return tuple(rows)


def resample(x: Float[mx.array, "B H W C"], rows: Matrix, columns: Matrix) -> Float[mx.array, "B h w C"]:
    """Apply the matrix ``rows`` along H and ``columns`` along W."""
    B, H, W, C = x.shape
    x = (mx.array(rows, dtype=x.dtype) @ x.reshape(B, H, W * C)).reshape(B, -1, W, C)
    return mx.array(columns, dtype=x.dtype) @ x


def resize_positions(
    table: Float[mx.array, "P D"], height: int, width: int, *, antialias: bool = False
) -> Float[mx.array, "Q D"]:
    """Interpolate the learned positions of a square grid to ``height`` x ``width`` patches."""
    P, D = table.shape
    side = math.isqrt(P)
    if (height, width) == (side, side):
        return table
    grid = table.reshape(1, side, side, D)
    weights = bicubic_antialias_weights if antialias else bicubic_weights
    grid = resample(grid, weights(side, height), weights(side, width))
    return grid.reshape(height * width, D)
