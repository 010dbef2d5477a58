"""Work counted by hand for a tiny model, and phases that add up."""

from dataclasses import replace

import mlx.core as mx
import pytest
from small_models import ANYRES, PAIR, SMALL, SMART

from mm1_mlx.config import ConnectorConfig
from mm1_mlx.errors import PromptError
from mm1_mlx.model.mixture_of_experts import MixtureOfExperts
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.sizing.measure import PHASES, Case, Measurement, decode_work
from mm1_mlx.sizing.work import count_work, flops_of

CASE = Case(num_images=2, prompt_tokens=5, max_tokens=4, batch_size=1, picture_size=(40, 30))


def measured(config, case=CASE, repeats=1):
    model = MM1(config)
    mx.eval(model.parameters())
    found = Measurement(model, case)
    found.repeat(repeats)
    return found


@pytest.fixture(scope="module")
def small():
    return measured(SMALL, repeats=3)


def token_flops(past):
    """One token through the small decoder's layers, with ``past`` positions before it."""
    products = 64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 128  # queries, keys and values, output, SwiGLU
    return 2 * 2 * (products + 2 * (past + 1) * 64)


HEAD = 2 * 64 * SMALL.text_config.vocab_size


def test_flops_of_the_image_encoder_equal_a_hand_count(small):
    patches, width = 16, 32
    embedding = patches * (4 * 4 * 3) * width
    layer = 4 * patches * width**2 + 2 * patches**2 * width + 2 * patches * width * 64
    assert small.phases["encoder"].work.flops == 2 * 2 * (embedding + layer)  # two pictures, two FLOPs each


def test_flops_of_average_pooling_and_its_linear_layer_equal_a_hand_count():
    pool = ConnectorConfig(type="average_pool", num_visual_tokens=4, input_dims=32, output_dims=64)
    rows, columns, linear = 2 * 4 * (4 * 32), 2 * (2 * 4 * 32), 4 * 32 * 64
    found = measured(replace(SMALL, connector_config=pool))
    assert found.phases["connector"].work.flops == 2 * 2 * (rows + columns + linear)


def test_flops_of_decoding_equal_a_hand_count(small):
    length = 2 * 4 + 5
    steps = [token_flops(past) + HEAD for past in (length, length + 1, length + 2)]
    assert decode_work(small.model, length).flops == steps[0]
    assert small.phases["decode"].work.flops == sum(steps)


def test_flops_of_prefill_leave_out_what_no_token_needs(small):
    last = 2 * 4 + 5 - 1  # positions before the last, which alone goes through the head
    projections = last * (64 * 64 * 2 + 2 * 64 * 32 + 3 * 64 * 128)
    first_layer = 2 * (projections + 2 * last**2 * 64)
    second_layer = 2 * last * 2 * 64 * 32  # keys and values; the rest is never computed
    assert small.phases["prefill"].work.flops == first_layer + second_layer + token_flops(last) + HEAD


def test_flops_of_a_fused_attention_and_of_a_convolution_equal_a_hand_count():
    shapes = [(1, 8, 5, 16), (1, 2, 7, 16), (1, 2, 7, 16)]  # queries of 8 heads, keys and values of 2
    assert flops_of("ScaledDotProductAttention", shapes, (1, 8, 5, 16)) == 2 * 2 * 8 * 5 * 7 * 16
    x, weight = mx.zeros((1, 6, 6, 4)), mx.zeros((8, 3, 3, 4))
    mx.eval(weight)
    assert count_work(lambda x: mx.conv2d(x, weight, padding=1), x).flops == 2 * 6 * 6 * 8 * 3 * 3 * 4


def test_placing_visual_tokens_multiplies_nothing(small):
    assert small.phases["embedding"].work.flops == 0 < small.phases["embedding"].work.bytes


def test_bytes_of_a_product_are_its_operands_and_result():
    a, b = mx.zeros((3, 5)), mx.zeros((5, 7))
    mx.eval(b)
    assert count_work(lambda a: a @ b, a).bytes == 4 * (3 * 5 + 5 * 7 + 3 * 7)


def test_views_move_nothing_and_the_reshape_of_a_transposed_array_copies_it():
    x = mx.zeros((4, 6))
    assert count_work(lambda x: x.T[:2], x).bytes == 0
    assert count_work(lambda x: x.T.reshape(3, 8), x).bytes == 2 * 4 * 24


def test_a_broadcast_operand_is_read_once():
    assert count_work(lambda x: x + mx.ones(8)[None], mx.zeros((16, 8))).bytes < 4 * (3 * 16 * 8)


def test_a_table_lookup_reads_the_rows_that_it_finds():
    table = mx.zeros((1000, 8))
    mx.eval(table)
    assert count_work(lambda ids: table[ids], mx.zeros(3, mx.int32)).bytes < 1000


def test_a_sparse_layer_counts_the_experts_that_are_chosen():
    few, many = (MixtureOfExperts(16, 32, experts) for experts in (2, 8))
    mx.eval(few.parameters(), many.parameters())
    few, many = (
        count_work(lambda x, layer=layer: layer(x)[0], mx.zeros((1, 1, 16))) for layer in (few, many)
    )
    router = 2 * 16 * (8 - 2)
    assert many.flops == few.flops + router
    assert many.bytes < 1.5 * few.bytes


def test_phases_take_time_and_sum_to_at_most_the_time_to_the_first_token(small):
    phases = small.phases
    for name in (*PHASES, "first_token"):
        assert len(phases[name].seconds) == 3 and min(phases[name].seconds) > 0
    for repeat in range(3):
        parts = sum(phases[name].seconds[repeat] for name in PHASES if name != "decode")
        assert parts <= phases["first_token"].seconds[repeat]
    assert phases["prefill"].peak_memory > 0


@pytest.mark.parametrize(
    ("config", "views"), [(ANYRES, 14), (SMART, 2), (PAIR, 10)], ids=["anyres", "smart", "pair"]
)  # anyres: the whole picture and 2 x 3 crops of each
def test_every_way_of_making_views_can_be_measured(config, views):
    found = measured(config)
    assert found.num_views == views
    assert all(found.phases[name].work.bytes > 0 for name in PHASES[2:])


def test_views_are_encoded_in_batches():
    one = measured(SMALL).phases["encoder"].work
    both = measured(SMALL, replace(CASE, batch_size=2)).phases["encoder"].work
    assert both.flops == one.flops and both.bytes < one.bytes  # weights are read once


def test_a_prompt_longer_than_the_context_is_refused_with_the_numbers():
    with pytest.raises(PromptError, match=r"8 visual tokens, 600 of text .* 4 of answer .* context, 512"):
        measured(SMALL, replace(CASE, prompt_tokens=600))
