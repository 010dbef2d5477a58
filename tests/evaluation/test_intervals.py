"""Bootstrap intervals: seeded, and as wide as they should be."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mm1_mlx.errors import DataError
from mm1_mlx.evaluation.intervals import Interval, bootstrap_interval

SCORES = st.lists(st.floats(0, 10), min_size=1, max_size=30)


@given(SCORES, st.integers(0, 2**32))
def test_equal_seeds_give_equal_bounds_inside_the_scores(scores, seed):
    interval = bootstrap_interval(scores, num_resamples=50, seed=seed)
    assert bootstrap_interval(scores, num_resamples=50, seed=seed) == interval
    assert min(scores) - 1e-9 <= interval.low <= interval.high <= max(scores) + 1e-9
    assert interval.mean == pytest.approx(np.mean(scores))


def test_the_seed_matters():
    scores = np.random.default_rng(0).normal(size=50).tolist()
    assert bootstrap_interval(scores, seed=0) != bootstrap_interval(scores, seed=1)


def test_one_score_has_no_spread():
    assert bootstrap_interval([0.25]) == Interval(mean=0.25, low=0.25, high=0.25)


def test_bounds_are_those_of_the_normal_distribution_for_many_scores():
    scores = np.random.default_rng(1).normal(3, 2, size=4000)
    interval = bootstrap_interval(scores.tolist())
    half = 1.96 * scores.std() / math.sqrt(scores.size)
    assert interval.low == pytest.approx(interval.mean - half, abs=0.1 * half)
    assert interval.high == pytest.approx(interval.mean + half, abs=0.1 * half)


def test_more_confidence_is_wider():
    scores = [0.0, 1.0] * 40
    sure, unsure = bootstrap_interval(scores, confidence=0.99), bootstrap_interval(scores, confidence=0.5)
    assert sure.low < unsure.low < 0.5 < unsure.high < sure.high


def test_bad_input_is_refused():
    with pytest.raises(DataError, match="`scores` is empty"):
        bootstrap_interval([])
    with pytest.raises(DataError, match="has 2 that are not finite"):
        bootstrap_interval([1.0, math.nan, math.inf])
    with pytest.raises(ValueError, match="`confidence` is 95"):
        bootstrap_interval([1.0], confidence=95.0)
    with pytest.raises(ValueError, match="`num_resamples` is 0"):
        bootstrap_interval([1.0], num_resamples=0)
