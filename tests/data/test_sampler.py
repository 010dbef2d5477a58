"""Which rows an update gets: the seed and its number alone decide."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mm1_mlx.data.sampler import Sampler, order
from mm1_mlx.data.settings import DataSettings

SETTINGS = DataSettings(batch_size=4)


@pytest.mark.parametrize("size", [1, 2])
def test_every_epoch_sees_every_row_once(size):
    seen = []
    for rank in range(size):
        sampler = Sampler(10, replace(SETTINGS, batch_size=2), rank, size)
        seen += [row for update in range(5) for row in sampler.rows_of(update)]
    assert sorted(seen) == list(range(10))


def test_the_rows_of_an_update_do_not_depend_on_those_before():
    first, second = (Sampler(10, SETTINGS) for _ in range(2))
    for update in range(9):
        first.rows_of(update)
    assert first.rows_of(9) == second.rows_of(9)
    assert first.rows_of(0) != first.rows_of(5)


@given(st.integers(1, 40), st.integers(1, 8), st.integers(1, 4), st.integers(0, 50))
def test_processes_share_the_rows_of_a_process_alone(num_rows, rows_each, size, update):
    settings = DataSettings(batch_size=rows_each * size)
    alone = Sampler(num_rows, settings).rows_of(update)
    shares = [Sampler(num_rows, settings, rank, size).rows_of(update) for rank in range(size)]
    assert [shares[place % size][place // size] for place in range(len(alone))] == alone


@given(st.integers(0, 40), st.integers(1, 4))
def test_processes_share_the_first_rows(num_rows, size):
    shares = [Sampler(100, SETTINGS, rank, size).first(num_rows) for rank in range(size)]
    assert sorted(row for share in shares for row in share) == list(range(num_rows))


@given(st.integers(0, 300), st.integers(0, 2**64), st.integers(0, 2**31))
def test_an_order_is_a_permutation_that_seed_and_epoch_decide(num_rows, seed, epoch):
    found = order(num_rows, seed, epoch)
    np.random.seed(seed % 1000)
    assert sorted(found.tolist()) == list(range(num_rows))
    assert np.array_equal(found, order(num_rows, seed, epoch))


@given(st.tuples(*[st.integers(0, 1000)] * 2), st.tuples(*[st.integers(0, 1000)] * 2))
def test_every_epoch_of_every_seed_has_an_order_of_its_own(one, other):
    assert np.array_equal(order(50, *one), order(50, *other)) == (one == other)


def test_orders_are_those_of_earlier_versions():
    assert order(10, 0, 0).tolist() == [1, 4, 5, 6, 8, 2, 0, 3, 9, 7]
    assert order(10, 7, 3).tolist() == [4, 5, 1, 0, 8, 3, 6, 9, 2, 7]
