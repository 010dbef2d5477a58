from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm.generate import generate_step
from mlx_lm.models.switch_layers import QuantizedSwitchLinear
from mlx_lm.utils import quantize_model
from small_models import SMALL

from mm1_mlx.config import MlxLmDecoderConfig
from mm1_mlx.model.mlx_lm_parts import token_embedding
from mm1_mlx.model.mm1 import (
    MM1,
    count_parameters,
    place_visual_tokens,
    uniform_batches,
    visual_token_places,
)

IMAGE = 30  # the id that holds the place of a visual token
T = 4  # visual tokens of a picture
WIDTH = 32
TINY = replace(
    SMALL,
    vision_config=replace(
        SMALL.vision_config, image_size=12, class_token=True, pre_norm=True, patch_bias=False
    ),
    connector_config=replace(SMALL.connector_config, num_visual_tokens=T, output_dims=WIDTH, position_grid=3),
    text_config=replace(
        SMALL.text_config, vocab_size=40, hidden_dims=WIDTH, head_dims=8, max_positions=64, tied_head=True
    ),
    image_config=replace(SMALL.image_config, image_size=12),
    image_token_id=IMAGE,
    eos_token_id=None,
)
ANY_SIZE = replace(  # pictures keep their sides; each square of 2 x 2 patches is a visual token
    TINY,
    vision_config=replace(
        TINY.vision_config, class_token=False, pre_norm=False, positions="rotary", patch_block=2
    ),
    connector_config=replace(
        TINY.connector_config, num_visual_tokens=None, merge_size=2, position_antialias=True
    ),
    image_config=replace(TINY.image_config, resize="smart", size_multiple=8, min_pixels=64, max_pixels=4096),
)
CUT_UP = replace(  # rows of visual tokens end in a learned vector
    TINY,
    connector_config=replace(TINY.connector_config, row_end=True),
    image_config=replace(TINY.image_config, sub_images="anyres", max_sub_images=4, unpad=True),
)
PAIR = replace(
    TINY,
    connector_config=replace(TINY.connector_config, type="c_abstractor_pair"),
    image_config=replace(TINY.image_config, sub_images="quadrants"),
)
SPARSE = replace(TINY, text_config=replace(TINY.text_config, num_experts=3, sparse_every=2))
MLX_LM = {
    "hidden_size": WIDTH,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": 40,
}


def make(config=TINY):
    mx.random.seed(0)
    model = MM1(config)
    mx.eval(model.parameters())
    return model


def mlx_lm_config(model_type):
    return replace(TINY, text_config=MlxLmDecoderConfig(MLX_LM | {"model_type": model_type}))


@pytest.fixture(scope="module")
def model():
    return make()


def pictures(number, seed=1):
    return mx.random.normal((number, 12, 12, 3), key=mx.random.key(seed))


def prompt(*parts):
    """Ids from text ids and the word "picture"."""
    return [i for part in parts for i in ([IMAGE] * T if part == "picture" else [part])]


def assert_close(ours, theirs, tolerance=1e-5):
    np.testing.assert_allclose(np.array(ours), np.array(theirs), rtol=0, atol=tolerance)


def test_visual_tokens_stand_in_their_places_and_text_everywhere_else(model):
    ids, pixels = mx.array(prompt(1, "picture", 2, 3, "picture")), pictures(2)
    embeddings = model.embed_inputs(ids, pixel_values=pixels)
    visual = model.encode_images(pixels)
    assert_close(embeddings[1:5], visual[0], tolerance=0)
    assert_close(embeddings[7:11], visual[1], tolerance=0)
    for position in (0, 5, 6):
        assert_close(embeddings[position], model.decoder.embed_tokens.weight[ids[position]], tolerance=0)


def test_the_extra_tokens_of_a_connector_follow_the_visual_ones():
    model = make(replace(TINY, connector_config=replace(TINY.connector_config, num_extra_tokens=2)))
    ids, pixels = mx.array([1] + [IMAGE] * (T + 2) + [2]), pictures(1)
    embeddings = model.embed_inputs(ids, pixel_values=pixels)
    assert_close(embeddings[1 + T : 3 + T], model.connector.extra_tokens, tolerance=0)


def test_rows_with_no_one_and_two_pictures_equal_each_row_alone(model):
    rows = [
        prompt(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11),
        prompt(12, "picture", 13, 14, 15, 16, 17, 18),
        prompt("picture", 19, "picture", 20, 21),
    ]
    pixels = pictures(3)
    each = [None, pixels[:1], pixels[1:]]
    together = model.embed_inputs(mx.array(rows), pixel_values=pixels)
    logits = model(mx.array(rows), pixel_values=pixels)
    for i, (row, own) in enumerate(zip(rows, each, strict=True)):
        assert_close(together[i], model.embed_inputs(mx.array(row), pixel_values=own))
        assert_close(logits[i], model(mx.array([row]), pixel_values=own)[0])


@pytest.mark.parametrize(("start", "first_picture"), [(3, 0), (7, 1), (8, 1), (13, 2)])
def test_a_suffix_with_its_own_pictures_equals_the_tail_of_the_whole(model, start, first_picture):
    ids, pixels = mx.array(prompt(1, 2, 3, "picture", 4, "picture", 5, 6)), pictures(2)
    tail = model.embed_inputs(ids[start:], pixel_values=pixels[first_picture:])
    assert_close(tail, model.embed_inputs(ids, pixel_values=pixels)[start:])


def test_ids_with_and_without_a_batch_axis_agree(model):
    ids, pixels = mx.array(prompt(1, "picture", 2)), pictures(1)
    batched = model.embed_inputs(ids[None], pixel_values=pixels)
    assert_close(batched[0], model.embed_inputs(ids, pixel_values=pixels), tolerance=0)


def test_a_list_of_pictures_equals_their_stack(model):
    ids, pixels = mx.array(prompt("picture", 1, "picture")), pictures(2)
    from_list = model.embed_inputs(ids, pixel_values=[pixels[0], pixels[1]])
    assert_close(from_list, model.embed_inputs(ids, pixel_values=pixels), tolerance=0)


SIZES = [(8, 8), (16, 24), (16, 24), (8, 32), (16, 24)]  # height, width


def pictures_of_sizes():
    return [mx.random.normal((*size, 3), key=mx.random.key(i)) for i, size in enumerate(SIZES)]


def test_pictures_of_different_sizes_equal_each_alone():
    model, pixels = make(ANY_SIZE), pictures_of_sizes()
    alone = mx.concatenate([model.encode_images(picture[None])[0] for picture in pixels])
    ids = mx.full((len(alone),), IMAGE)
    assert_close(model.embed_inputs(ids, pixel_values=pixels), alone)


def test_a_picture_of_any_size_makes_as_many_visual_tokens_as_its_configuration_says():
    model = make(ANY_SIZE)
    for (height, width), picture in zip(SIZES, pictures_of_sizes(), strict=True):
        expected = ANY_SIZE.connector_config.num_tokens(height // 4, width // 4)
        assert model.encode_images(picture[None]).shape == (1, expected, WIDTH)


def test_logits_of_pictures_of_different_sizes_equal_those_of_their_embeddings():
    model, pixels = make(ANY_SIZE), pictures_of_sizes()[:2]
    ids = mx.array([[1, IMAGE, 2, *[IMAGE] * 6, 3]])
    embeddings = model.embed_inputs(ids, pixel_values=pixels)
    assert_close(model(ids, pixel_values=pixels), model.decoder(None, input_embeddings=embeddings), 0)


def test_five_views_of_a_pair_are_one_picture():
    model, views = make(PAIR), pictures(10)
    assert model.encode_images(views).shape == (2, 2 * T, WIDTH)
    ids = mx.array([1] + [IMAGE] * (2 * T) + [2] + [IMAGE] * (2 * T))
    embeddings = model.embed_inputs(ids, pixel_values=views)
    for picture, start in ((views[:5], 1), (views[5:], 2 + 2 * T)):
        assert_close(embeddings[start : start + 2 * T], model.encode_images(picture)[0])


def test_visual_tokens_are_arranged_as_numbered():
    tokens = mx.random.normal((6, WIDTH), key=mx.random.key(5))
    order = [5, 0, 3, 3]
    assert_close(make().arrange(tokens, mx.array(order)), mx.stack([tokens[i] for i in order]), 0)


def test_minus_one_is_the_learned_end_of_a_row():
    model = make(CUT_UP)
    tokens = mx.random.normal((6, WIDTH), key=mx.random.key(5))
    row_end = model.connector.row_end
    arranged = model.arrange(tokens, mx.array([4, -1, 5, 0, -1]))
    assert_close(arranged, mx.stack([tokens[4], row_end, tokens[5], tokens[0], row_end]), 0)


def test_the_end_of_a_row_takes_the_type_of_the_visual_tokens():
    tokens = mx.zeros((2, WIDTH), mx.float16)
    assert make(CUT_UP).arrange(tokens, mx.array([0, -1])).dtype == mx.float16


def test_embeddings_of_arranged_visual_tokens_stand_in_the_given_order():
    model, views, order = make(CUT_UP), pictures(3), mx.array([0, 1, 2, 3, 11, -1, 4, -1])
    ids = mx.array([1] + [IMAGE] * 8 + [2])
    embeddings = model.embed_inputs(ids, pixel_values=views, token_order=order)
    expected = model.arrange(model.encode_images(views).flatten(0, 1), order)
    assert_close(embeddings[1:9], expected, 0)


def test_logits_depend_on_the_order_of_the_visual_tokens():
    model, views = make(CUT_UP), pictures(1)
    ids = mx.array([prompt(1, "picture", 2)])
    one, other = (
        model(ids, pixel_values=views, token_order=mx.array(o)) for o in ([0, 1, 2, 3], [3, 1, 2, -1])
    )
    assert mx.abs(one - other)[:, -1].max() > 1e-3


@st.composite
def views_in_order(draw):
    """Numbered views, as an array of one size or a list of several, and how they may be batched."""
    at_once = draw(st.sampled_from([1, 5]))
    sizes = draw(st.lists(st.integers(1, 3), max_size=6))
    as_list = draw(st.booleans())
    sides = [side if as_list else 2 for side in sizes for _ in range(at_once)]
    return at_once, sides, as_list, draw(st.none() | st.integers(at_once, 16))


def batches_of(at_once, sides, as_list, most):
    views = [mx.full((side, side, 3), float(number)) for number, side in enumerate(sides)]
    pixels = views if as_list else mx.stack(views) if views else mx.zeros((0, 2, 2, 3))
    return list(uniform_batches(pixels, at_once, most))


@settings(max_examples=60)
@given(views_in_order())
def test_batches_hold_every_view_once_in_order_and_as_it_is(case):
    views = [view for batch in batches_of(*case) for view in batch]
    assert [view[0, 0, 0].item() for view in views] == list(range(len(case[1])))
    assert [view.shape for view in views] == [(side, side, 3) for side in case[1]]


@settings(max_examples=60)
@given(views_in_order())
def test_batches_split_no_views_that_go_together(case):
    assert all(len(batch) and len(batch) % case[0] == 0 for batch in batches_of(*case))


@settings(max_examples=60)
@given(views_in_order())
def test_batches_are_no_larger_than_asked_for(case):
    assert all(case[3] is None or len(batch) <= case[3] for batch in batches_of(*case))


@pytest.mark.parametrize("no_pictures", [None, [], mx.zeros((0, 12, 12, 3))], ids=["none", "list", "array"])
def test_without_pictures_the_text_stands_alone(model, no_pictures):
    ids = mx.array([[1, 2, 3]])
    embeddings = model.embed_inputs(ids, pixel_values=no_pictures)
    assert_close(embeddings, model.decoder.embed(ids), tolerance=0)
    assert_close(model(ids), model.decoder(ids), tolerance=0)


def test_a_pass_over_pictures_and_text_can_be_compiled(model):
    ids, pixels = mx.array([prompt(1, "picture", 2, "picture")]), pictures(2)
    compiled = mx.compile(lambda ids, pixels: model(ids, pixel_values=pixels))
    assert_close(compiled(ids, pixels), model(ids, pixel_values=pixels))
    assert_close(compiled(ids + (ids != IMAGE), -pixels), model(ids + (ids != IMAGE), pixel_values=-pixels))


def test_the_embedding_multiplier_scales_text_and_not_visual_tokens():
    plain, scaled = (
        make(),
        make(replace(TINY, text_config=replace(TINY.text_config, embedding_multiplier=3.0))),
    )
    ids, pixels = mx.array(prompt(1, "picture", 2)), pictures(1)
    once, thrice = (m.embed_inputs(ids, pixel_values=pixels) for m in (plain, scaled))
    assert_close(thrice[1:5], once[1:5], tolerance=0)
    assert_close(thrice[0], 3 * once[0])


def test_visual_tokens_take_the_type_of_the_text():
    text, visual = mx.zeros((3, 2), dtype=mx.float16), mx.ones((1, 2))
    placed = place_visual_tokens(text, visual, mx.array([-1, 0, -1]))
    assert placed.dtype == mx.float16
    assert placed.tolist() == [[0, 0], [1, 1], [0, 0]]


def is_visual_grids():
    """Batches of sequences that say, position by position, whether a visual token stands there."""
    rows = st.integers(1, 12).flatmap(
        lambda length: st.lists(st.booleans(), min_size=length, max_size=length)
    )
    return rows.flatmap(
        lambda row: st.lists(st.lists(st.booleans(), min_size=len(row), max_size=len(row)), max_size=3).map(
            lambda rest: [row, *rest]
        )
    )


@settings(max_examples=60)
@given(is_visual_grids())
def test_visual_tokens_are_placed_in_reading_order(grid):
    expected_places, expected, number = [], [], 0
    for row in grid:
        for is_visual in row:
            expected_places.append(number if is_visual else -1)
            expected.append([100.0 + number] * 2 if is_visual else [-float(len(expected))] * 2)
            number += is_visual
    shape = (len(grid), len(grid[0]))
    places = visual_token_places(mx.where(mx.array(grid), IMAGE, 5), IMAGE)
    text = mx.broadcast_to(-mx.arange(len(expected))[:, None].astype(mx.float32), (len(expected), 2))
    visual = mx.broadcast_to(100.0 + mx.arange(number)[:, None], (number, 2))
    placed = place_visual_tokens(text.reshape(*shape, 2), visual, places)
    assert places.flatten().tolist() == expected_places
    assert placed.reshape(-1, 2).tolist() == expected


@pytest.mark.parametrize(
    "config",
    [TINY, SPARSE, mlx_lm_config("llama"), mlx_lm_config("qwen2")],
    ids=["dense", "sparse", "llama", "qwen2"],
)
def test_decoding_with_a_cache_after_a_picture_equals_one_pass(config):
    model = make(config)
    ids, pixels = mx.array([prompt(1, "picture", 2, "picture", 3, 4, 5, 6)]), pictures(2)
    cache = model.make_cache()
    first = model(ids[:, :11], pixel_values=pixels, cache=cache)
    steps = [model(ids[:, i : i + 1], cache=cache) for i in range(11, ids.shape[1])]
    assert_close(mx.concatenate([first, *steps], axis=1), model(ids, pixel_values=pixels))


@pytest.mark.parametrize(
    "config", [TINY, mlx_lm_config("llama"), mlx_lm_config("qwen2")], ids=["ours", "llama", "qwen2"]
)
def test_mlx_lm_generates_from_pictures_what_full_passes_prefer(config):
    model = make(config)
    ids, pixels = mx.array(prompt(1, "picture", 2, 3)), pictures(1)
    embeddings = model.embed_inputs(ids, pixel_values=pixels)
    mx.eval(embeddings)
    steps = generate_step(ids, model, input_embeddings=embeddings, max_tokens=5, prefill_step_size=3)
    generated = [token for token, _ in steps]
    for token in generated:
        assert mx.argmax(model(None, input_embeddings=embeddings[None])[0, -1]).item() == token
        embeddings = mx.concatenate([embeddings, model.embed_text(mx.array([token]))])


def test_logits_depend_on_the_picture(model):
    ids = mx.array([prompt(1, "picture", 2)])
    one, other = (model(ids, pixel_values=pictures(1, seed))[:, -1] for seed in (1, 2))
    assert mx.abs(one - other).max() > 1e-3


def test_a_larger_picture_gives_as_many_visual_tokens(model):
    pixels = mx.random.normal((1, 20, 20, 3), key=mx.random.key(4))
    assert model.encode_images(pixels).shape == (1, T, WIDTH)


@pytest.mark.parametrize("model_type", ["llama", "qwen2"])
def test_a_decoder_of_mlx_lms_reads_pictures_and_text(model_type):
    model = make(mlx_lm_config(model_type))
    ids, pixels = mx.array(prompt(1, "picture", 2)), pictures(1)
    table = model.decoder.model.embed_tokens
    assert token_embedding(model.decoder, 40) is table
    embeddings = model.embed_inputs(ids, pixel_values=pixels)
    assert_close(embeddings[1:5], model.encode_images(pixels)[0], tolerance=0)
    assert_close(embeddings[mx.array([0, 5])], table.weight[mx.array([1, 2])], tolerance=0)
    expected = model.decoder(ids[None], input_embeddings=embeddings[None])
    assert_close(model(ids[None], pixel_values=pixels), expected, tolerance=0)


def test_quantization_packs_the_decoder_and_keeps_encoder_connector_and_routers():
    model = make(SPARSE)
    quantize_model(model, SPARSE.to_dict(), group_size=32, bits=4)
    kinds = (nn.QuantizedLinear, nn.QuantizedEmbedding, QuantizedSwitchLinear)
    packed = {path for path, module in model.named_modules() if isinstance(module, kinds)}
    attention = {f"decoder.layers.{i}.self_attn.{name}_proj" for i in (0, 1) for name in "qkvo"}
    dense = {f"decoder.layers.0.mlp.{name}_proj" for name in ("gate", "up", "down")}
    experts = {f"decoder.layers.1.mlp.experts.{name}_proj" for name in ("gate", "up", "down")}
    assert packed == attention | dense | experts | {"decoder.embed_tokens"}
    assert isinstance(model.decoder.layers[1].mlp.router, nn.Linear)


@pytest.mark.parametrize("config", [TINY, mlx_lm_config("llama")], ids=["ours", "llama"])
def test_a_quantized_decoder_reads_pictures_beside_text(config):
    model = make(config)
    quantize_model(model, config.to_dict(), group_size=32, bits=8)
    ids, pixels = mx.array(prompt(1, "picture", 2)), pictures(1)
    embeddings = model.embed_inputs(ids, pixel_values=pixels)
    assert_close(embeddings[1:5], model.encode_images(pixels)[0], tolerance=0)
    exact = make(config).embed_inputs(ids, pixel_values=pixels)
    assert_close(embeddings, exact, tolerance=0.01)


def test_parameters_are_counted_one_by_one():
    linear = nn.Linear(3, 5)
    assert count_parameters(linear) == 3 * 5 + 5


def test_a_decoder_of_mlx_lms_says_itself_what_to_pack():
    values = {
        **{"model_type": "qwen3_moe", "hidden_size": WIDTH, "num_hidden_layers": 1, "intermediate_size": 64},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "rms_norm_eps": 1e-6},
        **{"vocab_size": 40, "num_experts": 4, "num_experts_per_tok": 2, "decoder_sparse_step": 1},
        **{"mlp_only_layers": [], "moe_intermediate_size": 32, "rope_theta": 1e4, "norm_topk_prob": True},
        **{"tie_word_embeddings": True, "max_position_embeddings": 64},
    }
    model = MM1(replace(TINY, text_config=MlxLmDecoderConfig(values)))
    path = "decoder.model.layers.0.mlp.gate"
    gate = model.decoder.model.layers[0].mlp.gate
    assert model.quant_predicate(path, gate) == {"group_size": 64, "bits": 8}
