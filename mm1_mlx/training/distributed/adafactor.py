"""AdaFactor for matrices whose rows are spread over several processes.

AdaFactor keeps a mean of the squared gradient for each row and for each column, and limits the root mean square of an
update. The means over rows and over whole matrices need numbers from all processes. All else is row by row.

Source: MM1, "Supervised Fine-Tuning" (the optimizer); AdaFactor (arXiv:1804.04235).
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
from jaxtyping import Float

from mm1_mlx.training.distributed.processes import Processes

COLUMNS = "exp_avg_sq_col"  # mlx's name for the means of columns


class ShardedAdafactor(optim.Adafactor):
    """mlx's AdaFactor with means over the rows of all processes.

    It need not know which matrices are cut: for one that every process has whole, these means are the usual ones.
    """

    def __init__(self, *args: Any, processes: Processes, **options: Any):
        super().__init__(*args, **options)
        self._processes = processes
        self._columns: mx.array | None = None

    def apply_single(self, gradient: mx.array, parameter: mx.array, state: dict[str, mx.array]) -> mx.array:
        """Return the updated parameter, and update its state."""
        updated = super().apply_single(gradient, parameter, state)
        if gradient.ndim == 2 and self._columns is not None:
            state[COLUMNS] = self._columns
        return updated

    def _compute_rms(self, inputs: mx.array) -> Float[mx.array, ""]:
        squares = mx.sum(mx.square(inputs.astype(mx.float32)))
        total, count = self._processes.sum_arrays(mx.stack([squares, mx.array(float(inputs.size))]))
        return mx.sqrt(total / count).astype(inputs.dtype)

    def _approximate_exp_moving_avg(self, exp_avg_sq_row: mx.array, exp_avg_sq_col: mx.array) -> mx.array:
        """Return the inverse square root of the squared gradient estimated from the means of rows and columns."""
        rows, columns = exp_avg_sq_row, exp_avg_sq_col
        if rows.ndim > 1:  # a stack of experts: each one is whole in its process, and has its own means
            return super()._approximate_exp_moving_avg(rows, columns)
        count = mx.array(float(len(rows)))
        sums = mx.concatenate([count * columns, mx.stack([mx.sum(rows), count])])
        sums = self._processes.sum_arrays(sums.astype(mx.float32))
        means = sums[:-1] / sums[-1]
        self._columns = column_means = means[:-1].astype(columns.dtype)
        of_rows = mx.rsqrt(rows / means[-1].astype(rows.dtype))
        return of_rows[:, None] * mx.rsqrt(column_means)
