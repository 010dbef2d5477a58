"""AdaFactor of matrices whose rows lie with several processes.

It keeps a mean of the squared gradient for each row and for each column, and holds an update's root mean square below
a limit: means over rows and over whole matrices, of which a process has a part. All else is row by row.

Source: MM1, "Supervised Fine-Tuning" (the optimizer); AdaFactor (arXiv:1804.04235).
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
from jaxtyping import Float

from mm1_mlx.training.distributed.processes import Processes

COLUMNS = "exp_avg_sq_col"  # what mlx calls the means of columns


class ShardedAdafactor(optim.Adafactor):
    """As mlx's, with means over the rows of all processes.

    A matrix that every process has as a whole has the same means, so nothing needs to know which ones are cut.
    """

    def __init__(self, *args: Any, processes: Processes, **options: Any):
        super().__init__(*args, **options)
        self._processes = processes
        self._columns: mx.array | None = None

    def apply_single(self, gradient: mx.array, parameter: mx.array, state: dict[str, mx.array]) -> mx.array:
        """The updated parameter."""
        updated = super().apply_single(gradient, parameter, state)
        if gradient.ndim == 2:
            state[COLUMNS] = self._columns
        return updated

    def _compute_rms(self, inputs: mx.array) -> Float[mx.array, ""]:
        squares = mx.sum(mx.square(inputs.astype(mx.float32)))
        total, count = self._processes.sum(mx.stack([squares, mx.array(float(inputs.size))]))
        return mx.sqrt(total / count).astype(inputs.dtype)

    def _approximate_exp_moving_avg(self, rows: mx.array, columns: mx.array) -> mx.array:
        """One over the root of what rows (R) and columns (C) say the squared gradient is."""
        if rows.ndim > 1:  # each expert has means of its own, and is here as a whole
            return super()._approximate_exp_moving_avg(rows, columns)
        count = mx.array(float(len(rows)))
        sums = mx.concatenate([count * columns, mx.stack([mx.sum(rows), count])])
        sums = self._processes.sum(sums.astype(mx.float32))
        means = sums[:-1] / sums[-1]
        self._columns = means[:-1].astype(columns.dtype)
        of_rows = mx.rsqrt(rows / means[-1].astype(rows.dtype))
        return of_rows[:, None] * mx.rsqrt(self._columns)
