import math

import mlx.core as mx
import numpy as np
import pytest
from golden_weights import GOLDEN
from hypothesis import given
from hypothesis import strategies as st

from mm1_mlx.model.resample import average_weights, bicubic_weights, resize_positions

sizes = st.integers(1, 40)


@given(sizes, sizes)
def test_average_windows_are_pytorchs(source, target):
    weights = np.array(average_weights(source, target))
    for i, row in enumerate(weights):
        start, stop = math.floor(i * source / target), math.ceil((i + 1) * source / target)
        np.testing.assert_allclose(row[start:stop], 1 / (stop - start))
        assert np.count_nonzero(row) == stop - start


@given(sizes, sizes)
def test_bicubic_weights_keep_a_constant(source, target):
    np.testing.assert_allclose(np.array(bicubic_weights(source, target)).sum(axis=1), 1, atol=1e-12)


@pytest.mark.parametrize("side, height, width", [(27, 48, 48), (9, 14, 5), (24, 12, 31)])
def test_positions_equal_pytorchs_bicubic_interpolation(side, height, width):
    expected = np.load(GOLDEN / "interpolate.npz")[f"{side}_{height}_{width}"]
    table = mx.array(np.sin(np.arange(side * side * 3, dtype=np.float32)).reshape(side * side, 3))
    np.testing.assert_allclose(np.array(resize_positions(table, height, width)), expected, atol=2e-6)


def test_positions_of_the_same_grid_are_left_alone():
    table = mx.random.normal((16, 4))
    assert resize_positions(table, 4, 4) is table
