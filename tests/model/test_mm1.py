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

from mm1_mlx.config import (
    ConnectorConfig,
    DecoderConfig,
    ImageConfig,
    ImageEncoderConfig,
    MlxLmDecoderConfig,
    MM1Config,
)
from mm1_mlx.errors import PromptError
from mm1_mlx.model.mlx_lm_parts import token_embedding
from mm1_mlx.model.mm1 import MM1, count_parameters, place_visual_tokens, visual_token_places

IMAGE = 30  # the id that holds the place of a visual token
T = 4  # visual tokens of a picture
WIDTH = 32
TINY = MM1Config(
    vision_config=ImageEncoderConfig(
        image_size=12,
        patch_size=4,
        hidden_dims=32,
        feed_forward_dims=32,
        num_layers=1,
        num_heads=2,
        activation="quick_gelu",
        norm_eps=1e-5,
        class_token=True,
        pre_norm=True,
        final_norm=False,
        patch_bias=False,
    ),
    connector_config=ConnectorConfig(
        type="c_abstractor",
        num_visual_tokens=T,
        input_dims=32,
        hidden_dims=32,
        output_dims=WIDTH,
        num_blocks=1,
        num_readout_layers=2,
        position_grid=3,
    ),
    text_config=DecoderConfig(
        vocab_size=40,
        hidden_dims=WIDTH,
        feed_forward_dims=64,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dims=8,
        max_positions=64,
        rope_theta=1000.0,
        norm_eps=1e-5,
        tied_head=True,
    ),
    image_config=ImageConfig(image_size=12, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    image_token_id=IMAGE,
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


@pytest.mark.parametrize("no_pictures", [None, [], mx.zeros((0, 12, 12, 3))], ids=["none", "list", "array"])
def test_without_pictures_the_text_stands_alone(model, no_pictures):
    ids = mx.array([[1, 2, 3]])
    embeddings = model.embed_inputs(ids, pixel_values=no_pictures)
    assert_close(embeddings, model.decoder.embed(ids), tolerance=0)
    assert_close(model(ids), model.decoder(ids), tolerance=0)


@pytest.mark.parametrize(
    ("parts", "number", "places"), [(("picture", 1), 2, 4), (("picture", IMAGE), 1, 5), (("picture",), 0, 4)]
)
def test_places_and_visual_tokens_that_differ_in_number_are_refused_with_both(model, parts, number, places):
    ids, pixels = mx.array(prompt(*parts)), pictures(number) if number else None
    with pytest.raises(PromptError) as refusal:
        model.embed_inputs(ids, pixel_values=pixels)
    assert str(refusal.value) == (
        f"the input ids have {places} places for visual tokens, but the pictures give {number * T} "
        "(4 for each picture or sub-image)."
    )


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


@settings(max_examples=60, deadline=None, derandomize=True)
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
