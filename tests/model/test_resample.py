import math

import mlx.core as mx
import numpy as np
import pytest
from golden_weights import GOLDEN
from hypothesis import given
from hypothesis import strategies as st

from mm1_mlx.model.resample import (
    average_weights,
    bicubic_antialias_weights,
    bicubic_weights,
    resize_positions,
)

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


# interpolate(torch.eye(source)[None, None], (target, source), mode="bicubic", antialias=True), in float64
ANTIALIASED = {
    (7, 2): [
        [0.2285381, 0.3012169, 0.2744346, 0.1715286, 0.056176, -0.0093905, -0.0225038],
        [-0.0225038, -0.0093905, 0.056176, 0.1715286, 0.2744346, 0.3012169, 0.2285381],
    ],
    (5, 3): [
        [0.5846154, 0.4461538, 0.0, -0.0307692, 0.0],
        [-0.0372093, 0.2465116, 0.5813953, 0.2465116, -0.0372093],
        [0.0, -0.0307692, 0.0, 0.4461538, 0.5846154],
    ],
    (3, 5): [
        [1.0754717, -0.0754717, 0.0],
        [0.6492537, 0.3955224, -0.0447761],
        [0.0, 1.0, 0.0],
        [-0.0447761, 0.3955224, 0.6492537],
        [0.0, -0.0754717, 1.0754717],
    ],
}


@pytest.mark.parametrize("source, target", ANTIALIASED)
def test_antialiased_weights_are_pytorchs(source, target):
    ours = np.array(bicubic_antialias_weights(source, target))
    np.testing.assert_allclose(ours, ANTIALIASED[source, target], rtol=0, atol=1e-7)


@given(sizes, sizes)
def test_antialiased_weights_keep_a_constant(source, target):
    np.testing.assert_allclose(np.array(bicubic_antialias_weights(source, target)).sum(axis=1), 1, atol=1e-12)


def test_positions_are_antialiased_along_both_axes():
    table = np.sin(np.arange(49, dtype=np.float32)).reshape(7, 7)
    rows, columns = (np.array(bicubic_antialias_weights(7, target)) for target in (2, 9))
    ours = resize_positions(mx.array(table.reshape(49, 1)), 2, 9, antialias=True)
    np.testing.assert_allclose(np.array(ours).reshape(2, 9), rows @ table @ columns.T, atol=1e-6)
