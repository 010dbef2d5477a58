"""Which rows come when."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64


def order(num_rows: int, seed: int, epoch: int) -> Int64[np.ndarray, "R"]:
    """The order in which an epoch takes the rows: a permutation that ``seed`` and ``epoch`` alone decide.

    It sorts raw random bits, which NumPy keeps from version to version; its own shuffles may change.
    """
    bits = np.random.Philox(np.random.SeedSequence(seed, spawn_key=(epoch,)))
    return np.argsort(bits.random_raw(num_rows), kind="stable").astype(np.int64)
