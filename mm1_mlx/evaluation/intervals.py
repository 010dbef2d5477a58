"""Say how sure a mean is, by drawing the queries again and again.

Source: Efron, "Bootstrap Methods: Another Look at the Jackknife", The Annals of Statistics 7 (1979); the percentile
method.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mm1_mlx.errors import DataError

BLOCK = 1 << 22  # draws held at a time


@dataclass(frozen=True)
class Interval:
    """A mean and the bounds between which it lies with the confidence asked for."""

    mean: float
    low: float
    high: float


def bootstrap_interval(
    scores: Sequence[float], *, confidence: float = 0.95, num_resamples: int = 2000, seed: int = 0
) -> Interval:
    """Return the mean of the queries' scores and its bootstrap interval; equal seeds give equal bounds.

    Args:
        scores: One score for each query.
        confidence: The share of resampled means between the bounds.
        num_resamples: How many times as many queries are drawn, with repetition.
        seed: Decides the draws.

    Raises:
        DataError: there is no score, or one is not finite.
        ValueError: a setting is out of range.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.size == 0:
        raise DataError("`scores` is empty, expected one score for each query.")
    if not np.isfinite(values).all():
        raise DataError(f"`scores` has {int((~np.isfinite(values)).sum())} that are not finite numbers.")
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` is {confidence}, expected a number between 0 and 1.")
    if num_resamples < 1:
        raise ValueError(f"`num_resamples` is {num_resamples}, expected at least 1.")
    random = np.random.default_rng(seed)
    rows = max(1, BLOCK // values.size)
    means = [
        values[random.integers(values.size, size=(min(rows, num_resamples - start), values.size))].mean(
            axis=1
        )
        for start in range(0, num_resamples, rows)
    ]
    low, high = np.quantile(np.concatenate(means), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(values.mean()), float(low), float(high))
