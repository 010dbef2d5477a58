"""Key tables: what goes where and comes back bit for bit, and keys that no table knows."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convert.key_table import (
    BATCH_OF_ONE,
    DEPTHWISE,
    POINTWISE,
    SAME,
    KeyTable,
    Move,
    drop_first_row,
    flatten_patches,
    keep_first_rows,
    make_transform,
    split_rows,
    split_thirds,
)
from mm1_mlx.errors import CheckpointError
from mm1_mlx.files.weights import list_some

EXAMPLES = settings(max_examples=60)
DTYPES = st.sampled_from([mx.float32, mx.float16, mx.bfloat16])
SEEDS = st.integers(0, 2**32 - 1)
SIZES = st.integers(1, 5)


def numbers(shape, dtype, seed):
    """Any bits that ``dtype`` has, NaN and subnormal numbers among them."""
    word = {4: mx.uint32, 2: mx.uint16}[dtype.size]
    bits = np.random.default_rng(seed).integers(0, 2 ** (8 * dtype.size), shape)
    return mx.array(bits.astype(np.uint32)).astype(word).view(dtype)


def same(one, other):
    word = {4: mx.uint32, 2: mx.uint16}[one.dtype.size]
    return (
        one.dtype == other.dtype
        and one.shape == other.shape
        and mx.array_equal(one.view(word), other.view(word))
    )


def comes_back(transform, x):
    return same(transform.back(transform.there(x)), x)


def refusal(table, *keys):
    with pytest.raises(CheckpointError) as error:
        table.check(keys, "folder")
    return str(error.value)


# Every transform's way back


@EXAMPLES
@given(st.lists(SIZES, min_size=1, max_size=4).map(tuple), DTYPES, SEEDS)
def test_same_comes_back(shape, dtype, seed):
    assert comes_back(SAME, numbers(shape, dtype, seed))


@EXAMPLES
@given(st.tuples(SIZES, SIZES, st.just(1), st.just(1)), DTYPES, SEEDS)
def test_a_pointwise_convolution_comes_back(shape, dtype, seed):
    x = numbers(shape, dtype, seed)
    assert comes_back(POINTWISE, x) and POINTWISE.there(x)[0].shape == shape[:2]


@EXAMPLES
@given(st.tuples(SIZES, SIZES, SIZES, SIZES), DTYPES, SEEDS)
def test_a_depthwise_convolution_comes_back(shape, dtype, seed):
    x = numbers(shape, dtype, seed)
    assert comes_back(DEPTHWISE, x)
    assert DEPTHWISE.there(x)[0].shape == (shape[0], *shape[2:], shape[1])


@EXAMPLES
@given(st.tuples(st.just(1), SIZES, SIZES), DTYPES, SEEDS)
def test_a_batch_of_one_comes_back(shape, dtype, seed):
    x = numbers(shape, dtype, seed)
    assert comes_back(BATCH_OF_ONE, x) and BATCH_OF_ONE.there(x)[0].shape == shape[1:]


@EXAMPLES
@given(SIZES, SIZES, st.integers(0, 3), DTYPES, SEEDS)
def test_a_patch_convolution_comes_back(width, size, frames, dtype, seed):
    shape = (width, 3, *((frames,) if frames else ()), size, size)
    x = numbers(shape, dtype, seed)
    transform = flatten_patches(size, frames=frames)
    assert comes_back(transform, x)
    assert transform.there(x)[0].shape == (width, (frames or 1) * size * size * 3)


@EXAMPLES
@given(st.lists(st.integers(0, 4), min_size=1, max_size=4), SIZES, DTYPES, SEEDS)
def test_rows_come_back(lengths, width, dtype, seed):
    x = numbers((sum(length or 1 for length in lengths), width), dtype, seed)
    transform = split_rows(*lengths)
    assert comes_back(transform, x)
    assert [part.shape for part in transform.there(x)] == [(n, width) if n else (width,) for n in lengths]


@EXAMPLES
@given(SIZES, st.lists(SIZES, max_size=1), DTYPES, SEEDS)
def test_thirds_come_back(width, rest, dtype, seed):
    assert comes_back(split_thirds(width), numbers((3 * width, *rest), dtype, seed))


@EXAMPLES
@given(SIZES, SIZES, DTYPES, SEEDS)
def test_all_but_the_first_row_comes_back(length, width, dtype, seed):
    x = numbers((1, 1 + length, width), dtype, seed)
    again = drop_first_row().back(drop_first_row().there(x))
    assert same(again[:, 1:], x[:, 1:]) and same(again[:, :1], mx.zeros((1, 1, width), dtype))


@EXAMPLES
@given(SIZES, SIZES, SIZES, DTYPES, SEEDS)
def test_the_first_rows_come_back(count, more, width, dtype, seed):
    x = numbers((count + more, width), dtype, seed)
    transform = keep_first_rows(count, count + more)
    again = transform.back(transform.there(x))
    assert same(again[:count], x[:count]) and same(again[count:], mx.zeros((more, width), dtype))


# What fits


@pytest.mark.parametrize(
    "transform, shape, fits",
    [
        (SAME, (2, 3), True),
        (POINTWISE, (4, 3, 1, 1), True),
        (POINTWISE, (4, 3, 3, 3), False),  # eight of nine weights would be lost
        (POINTWISE, (4, 3, 1, 2), False),
        (POINTWISE, (4, 3), False),
        (DEPTHWISE, (4, 1, 3, 3), True),
        (DEPTHWISE, (4, 3, 3), False),
        (BATCH_OF_ONE, (1, 4, 3), True),
        (BATCH_OF_ONE, (2, 4, 3), False),
        (BATCH_OF_ONE, (), False),
        (flatten_patches(2), (5, 3, 2, 2), True),
        (flatten_patches(2), (5, 12), False),  # in an order that nothing tells
        (flatten_patches(2, frames=2), (5, 3, 2, 2, 2), True),
        (flatten_patches(2, frames=2), (5, 3, 2, 2), False),
        (split_rows(0, 4), (5, 3), True),
        (split_rows(0, 4), (6, 3), False),
        (split_thirds(2), (6, 3), True),
        (split_thirds(2), (7, 3), False),
        (drop_first_row(), (1, 5, 3), True),
        (drop_first_row(), (2, 5, 3), False),
        (keep_first_rows(4, 6), (6, 3), True),
        (keep_first_rows(4, 6), (7, 3), False),
        (keep_first_rows(4, 6), (3, 3), False),
    ],
)
def test_a_tensor_fits_where_none_of_it_would_be_lost(transform, shape, fits):
    assert transform.fits(shape) is fits


def test_a_patch_is_flattened_by_rows_then_columns_then_channels():
    x = mx.arange(2 * 3 * 2 * 2).reshape(2, 3, 2, 2)  # (E, channel, row, column)
    flat = flatten_patches(2).there(x)[0][1].tolist()
    assert flat == [x[1, c, i, j].item() for i in range(2) for j in range(2) for c in range(3)]


def test_the_frames_of_a_patch_come_first():
    x = mx.arange(3 * 2 * 2 * 2).reshape(1, 3, 2, 2, 2)  # (E, channel, frame, row, column)
    flat = flatten_patches(2, frames=2).there(x)[0][0].tolist()
    places = [(f, i, j, c) for f in range(2) for i in range(2) for j in range(2) for c in range(3)]
    assert flat == [x[0, c, f, i, j].item() for f, i, j, c in places]


def test_a_transform_of_one_tensor_has_one_target():
    doubled = make_transform(lambda x: 2 * x, lambda x: x / 2)
    (there,) = doubled.there(mx.array([1.0, 3.0]))
    assert there.tolist() == [2, 6] and doubled.back((there,)).tolist() == [1, 3]


# Keys

TABLE = KeyTable(
    {
        "layers.0.fc1.weight": Move(("a.weight",), SAME),
        "layers.0.fc2.weight": Move(("b.weight",), SAME),
        "norm.weight": Move(("norm.weight",), SAME),
    },
    dropped=("layers.*.inv_freq", "head.*"),
    absent={"norm.weight": 1.0},
)
NEEDED = ("layers.0.fc1.weight", "layers.0.fc2.weight")


def test_all_known_keys_pass():
    assert TABLE.check(TABLE.moves, "folder") is None


def test_a_key_that_may_be_absent_may_be_absent():
    assert TABLE.check(NEEDED, "folder") is None


def test_dropped_keys_pass():
    assert TABLE.check([*NEEDED, "layers.17.inv_freq", "head.probe"], "folder") is None


def test_an_unknown_key_is_named_with_the_nearest_known_one():
    assert refusal(TABLE, *NEEDED, "layers.0.fc3.weight") == (
        "folder holds layers.0.fc3.weight, which a checkpoint of its config.json does not have. The nearest known key "
        "is layers.0.fc2.weight."
    )


def test_an_unknown_key_that_resembles_none_is_named_alone():
    message = "folder holds zzz, which a checkpoint of its config.json does not have."
    assert refusal(TABLE, *NEEDED, "zzz") == message


def test_unknown_keys_are_told_before_missing_ones():
    assert refusal(TABLE, "zzz").startswith("folder holds zzz")


def test_of_many_unknown_keys_three_are_named_and_the_rest_counted():
    message = refusal(TABLE, *NEEDED, *(f"x{number}" for number in range(9)))
    assert message.startswith("folder holds x0, x1, x2 and 6 more, which")


def test_a_missing_key_is_named():
    assert refusal(TABLE, "layers.0.fc1.weight") == (
        "folder lacks layers.0.fc2.weight; a shard is missing, or its config.json belongs to another model."
    )


@pytest.mark.parametrize(
    "key, dropped",
    [
        ("layers.3.inv_freq", True),
        ("layers.3.attention.inv_freq", True),
        ("head.a.b", True),
        ("head", False),
        ("overhead.a", False),
        ("Head.a", False),
        ("layers.0.fc1.weight", False),
    ],
)
def test_patterns_drop_what_they_match_as_a_whole(key, dropped):
    assert TABLE.drops(key) is dropped


def test_a_table_under_prefixes_has_them_on_both_sides():
    under = TABLE.add_prefixes("theirs.", "ours.")
    assert under.moves["theirs.norm.weight"].targets == ("ours.norm.weight",)
    assert under.absent == {"theirs.norm.weight": 1.0}
    assert under.drops("theirs.head.a") and not under.drops("head.a")


def test_a_table_under_prefixes_keeps_the_transforms():
    under = KeyTable({"a": Move(("b", "c"), split_thirds(2))}).add_prefixes("x.", "y.")
    assert under.moves["x.a"].targets == ("y.b", "y.c")
    assert under.moves["x.a"].transform.there(mx.arange(6))[2].tolist() == [4, 5]


def test_tables_add_up():
    both = TABLE.add_prefixes("a.", "a.") + TABLE.add_prefixes("b.", "b.")
    assert len(both.moves) == 6 and len(both.absent) == 2
    assert both.drops("a.head.x") and both.drops("b.head.x")


def test_adding_changes_neither_table():
    before = dict(TABLE.moves)
    _ = TABLE + KeyTable({"new": Move(("new",), SAME)}, ("more.*",), {"new": 0.0})
    assert dict(TABLE.moves) == before and not TABLE.drops("more.x") and "new" not in TABLE.absent


@pytest.mark.parametrize(
    "keys, text", [(["b", "a"], "a, b"), (["c", "a", "b"], "a, b, c"), ("dcba", "a, b, c and 1 more")]
)
def test_a_list_of_keys_is_sorted_and_short(keys, text):
    assert list_some(keys) == text
