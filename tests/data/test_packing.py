"""Rows that share a sequence are learned as if each were alone."""

from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten, tree_map
from small_models import ANYRES, PAIR, SMALL, SMART

from mm1_mlx import MM1, Processor
from mm1_mlx.config import MlxLmDecoderConfig
from mm1_mlx.data.examples import Example, make_example
from mm1_mlx.data.packing import PAD_TO, RowsApart, can_pack, join, pack
from mm1_mlx.data.row_forms import Record, Turn
from mm1_mlx.errors import TrainingError
from mm1_mlx.training import causality
from mm1_mlx.training.causality import require_causality
from mm1_mlx.training.objective import loss_sum
from mm1_mlx.vision.cache import VisionCache
from mm1_mlx.vision.look import run_frozen_parts

ALL = frozenset({"image_encoder", "connector", "decoder"})
SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 64, "vocab_size": 768}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "head_dim": 16}
LLAMA = MlxLmDecoderConfig(SIZES | {"model_type": "llama"})
QWEN3 = MlxLmDecoderConfig(
    SIZES
    | {"model_type": "qwen3", "max_position_embeddings": 512, "rope_theta": 1e4, "tie_word_embeddings": True}
)
GEMMA3 = MlxLmDecoderConfig(
    SIZES | {"model_type": "gemma3_text", "sliding_window": 8, "sliding_window_pattern": 2}
)
SPARSE = replace(SMALL.text_config, num_experts=4, sparse_every=2)
DECODERS = {
    "ours": SMALL,
    "sparse": replace(SMALL, text_config=SPARSE),
    "llama": replace(SMALL, text_config=LLAMA),
    "qwen3": replace(SMALL, text_config=QWEN3),
    "gemma3": replace(SMALL, text_config=GEMMA3),
}
VIEWS = {"anyres": ANYRES, "smart": SMART, "pair": PAIR}


def noise(width, height, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


RECORDS = [
    Record(
        "a", (Turn("user", "<image>What is it?"), Turn("assistant", "a red circle")), None, (noise(40, 30),)
    ),
    Record("b", (Turn("user", "Hello."), Turn("assistant", "hi")), None, ()),
    Record("c", (), "<image>one <image>two", (noise(16, 60, 1), noise(9, 9, 2))),
    Record("d", (Turn("user", "<image>And?"), Turn("assistant", "blue")), None, (noise(40, 30, 3),)),
]


@pytest.fixture
def make(mm1_tiny):
    """A model with random weights, and rows as it reads them."""

    def make(config):
        mx.random.seed(0)
        model = MM1(config)
        mx.eval(model.parameters())
        processor = Processor(mm1_tiny[1].tokenizer, config)
        return model, [make_example(record, processor) for record in RECORDS]

    return make


def loss_and_gradients(model, sequences, trained=ALL):
    """Per learned token, over all sequences together."""
    total, gradients, learned = 0.0, None, sum(packed.num_learned for packed in sequences)
    for packed in sequences:
        loss, own = nn.value_and_grad(model, loss_sum)(
            model, packed, run_frozen_parts(model, packed.pictures, trained=trained)
        )
        total += loss.item() / learned
        own = tree_map(lambda g: g / learned, own)
        gradients = own if gradients is None else tree_map(mx.add, gradients, own)
        mx.eval(gradients)
    return total, dict(tree_flatten(gradients))


def assert_equal(ours, theirs):
    assert ours[0] == pytest.approx(theirs[0], abs=1e-5)
    assert ours[1].keys() == theirs[1].keys()
    for name, gradient in ours[1].items():
        np.testing.assert_allclose(
            np.array(gradient), np.array(theirs[1][name]), rtol=0, atol=1e-5, err_msg=name
        )


@pytest.mark.parametrize("config", [*DECODERS.values(), *VIEWS.values()], ids=[*DECODERS, *VIEWS])
def test_packed_loss_and_gradients_equal_the_unpacked_ones(make, config):
    model, examples = make(config)
    together = loss_and_gradients(model, [join(examples)])
    assert_equal(together, loss_and_gradients(model, [join([e], pad_to=1) for e in examples]))


def test_how_a_batch_is_split_changes_nothing(make):
    model, examples = make(SMALL)
    once = loss_and_gradients(model, [join(examples)])
    assert_equal(loss_and_gradients(model, [join(examples[:2]), join(examples[2:])]), once)
    assert_equal(loss_and_gradients(model, [join(examples[:1]), join(examples[1:])]), once)


@pytest.mark.parametrize("trained", [{"decoder"}, {"connector"}, {"connector", "decoder"}])
@pytest.mark.parametrize("config", VIEWS.values(), ids=VIEWS)
def test_what_frozen_parts_make_beforehand_changes_nothing(make, config, trained):
    model, examples = make(config)
    packed = join(examples)
    ahead = loss_sum(
        model, packed, run_frozen_parts(model, packed.pictures, trained=frozenset(trained), batch_size=3)
    ).item()
    assert ahead == pytest.approx(
        loss_sum(model, packed, run_frozen_parts(model, packed.pictures, trained=ALL)).item(), rel=1e-5
    )


def test_cached_visual_tokens_change_nothing(make):
    model, examples = make(SMALL)
    packed, cache = join(examples), VisionCache()
    losses = [
        loss_sum(
            model,
            packed,
            run_frozen_parts(model, packed.pictures, trained=frozenset({"decoder"}), cache=cache),
        ).item()
        for _ in range(2)
    ]
    assert losses[0] == losses[1] and cache.hits == 4


def test_the_loss_is_that_of_each_row_computed_plainly(make):
    model, examples = make(SMALL)
    total = 0.0
    for example in examples:
        packed = join([example], pad_to=1)
        pixels = run_frozen_parts(model, packed.pictures, trained=ALL).pixels
        logits = model(packed.ids[None], mx.concatenate(pixels) if pixels else None)[0]
        logprobs = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
        places = np.flatnonzero(example.learned)
        total -= logprobs[places - 1, example.ids[places]].sum()
    packed = join(examples)
    assert loss_sum(
        model, packed, run_frozen_parts(model, packed.pictures, trained=ALL)
    ).item() == pytest.approx(total, rel=1e-5)


# Masks


@pytest.mark.parametrize("config", DECODERS.values(), ids=DECODERS)
def test_every_kind_of_decoder_is_causal_and_keeps_rows_apart(make, config):
    model, examples = make(config)
    packed = join(examples)
    require_causality(model, packed, run_frozen_parts(model, packed.pictures, trained=frozenset()))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda rows: mx.ones((len(rows), len(rows)), mx.bool_), "a later token or picture"),
        (lambda rows: mx.tril(mx.ones((len(rows), len(rows)), mx.bool_)), "another row"),
    ],
    ids=["sees all", "sees other rows"],
)
def test_a_wrong_mask_is_found(make, monkeypatch, wrong, words):
    model, examples = make(SMALL)
    packed = join(examples)
    monkeypatch.setattr(RowsApart, "make_mask", lambda self, length, **_: wrong(self._rows))
    with pytest.raises(TrainingError, match=f"when {words} changed"):
        require_causality(model, packed, run_frozen_parts(model, packed.pictures, trained=frozenset()))


def test_a_decoder_with_a_running_state_is_not_packed(make):
    lfm2 = SIZES | {
        "model_type": "lfm2",
        "max_position_embeddings": 512,
        "norm_eps": 1e-5,
        "conv_bias": False,
    }
    lfm2 |= {"conv_L_cache": 3, "block_dim": 64, "block_ff_dim": 64, "block_multiple_of": 32}
    lfm2 |= {"block_ffn_dim_multiplier": 1.0, "block_auto_adjust_ff_dim": False, "full_attn_idxs": [1]}
    assert can_pack(make(SMALL)[0])
    assert not can_pack(make(replace(SMALL, text_config=MlxLmDecoderConfig(lfm2)))[0])


def test_the_tolerance_is_for_every_dtype():
    assert set(causality.TOLERANCE) == {mx.float32, mx.float16, mx.bfloat16}


# Packing


def rows_of(lengths):
    return [
        Example(str(n), np.full(length, n, np.int32), np.arange(length) > 0, ())
        for n, length in enumerate(lengths)
    ]


@settings(max_examples=60)
@given(st.lists(st.integers(1, 90), min_size=1, max_size=30), st.integers(60, 300))
def test_every_row_is_packed_once_and_whole(lengths, capacity):
    sequences = pack(rows_of(lengths), width=capacity, most=capacity)
    names = sorted(int(name) for packed in sequences for name in packed.names)
    assert names == list(range(len(lengths)))
    for packed in sequences:
        assert packed.num_tokens <= capacity or len(packed.names) == 1
        ids, rows = np.array(packed.ids), np.array(packed.rows)
        for place, name in enumerate(packed.names):
            assert (ids[rows == place] == int(name)).all() and (rows == place).sum() == lengths[int(name)]
        assert (rows[packed.num_tokens :] == -1).all() and len(rows) % PAD_TO == 0
        assert packed.num_learned == sum(lengths[int(name)] - 1 for name in packed.names)
        assert not np.array(packed.learned)[packed.num_tokens :].any()


@given(st.lists(st.integers(16, 20), min_size=8, max_size=40))
def test_no_two_sequences_would_fit_in_one(lengths):
    tokens = sorted(packed.num_tokens for packed in pack(rows_of(lengths), width=128, most=2048))
    assert len(tokens) < 2 or tokens[0] + tokens[1] > 128


def test_short_rows_do_not_fill_a_long_sequence():
    """Attention over a sequence costs its length squared."""
    sequences = pack(rows_of([30] * 64), width=240, most=2048)
    assert len(sequences) == 8 and all(packed.num_tokens == 240 for packed in sequences)


def test_a_long_row_is_alone_and_makes_no_room_for_others():
    sequences = pack(rows_of([300, 100, 100, 30, 900]), width=240, most=2048)
    assert [packed.num_tokens for packed in sequences] == [900, 300, 230]


def test_the_same_rows_are_packed_in_the_same_way():
    lengths = [5, 9, 9, 3, 30, 9]
    first, second = (pack(rows_of(lengths), width=40, most=2048) for _ in range(2))
    assert [packed.names for packed in first] == [packed.names for packed in second]
