"""Recorded attention against MLX's own function, and against weights worked out from a decoder's layer."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from PIL import Image
from small_models import SMALL

import mm1_mlx
from mm1_mlx import MM1, Processor
from mm1_mlx.config import MlxLmDecoderConfig
from mm1_mlx.errors import ConfigError, PromptError
from mm1_mlx.seeing.attention import (
    answer_with_attention,
    attention_weights,
    compute_attention,
    record_attention,
    split_words,
)
from mm1_mlx.seeing.boxes import find_sight
from mm1_mlx.tiny import VOCAB_SIZE

PICTURES = Path(mm1_mlx.__file__).parents[1] / "examples" / "pictures"
LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": VOCAB_SIZE,
    "max_position_embeddings": 512,
}
SLIDING = LLAMA | {"sliding_window": 8, "layer_types": ["sliding_attention"] * 2 + ["full_attention"]}
DECODERS = {"ours": None, "llama": LLAMA, "a sliding window": SLIDING}
ANSWER = [40, 41, 42]


@pytest.fixture
def make(mm1_tiny):
    """A small model with random weights, and what it reads of a picture and a question."""

    def make(decoder=None, **connector):
        config = replace(SMALL, connector_config=replace(SMALL.connector_config, **connector))
        if decoder is not None:
            config = replace(config, text_config=MlxLmDecoderConfig(decoder))
        mx.random.seed(0)
        model = MM1(config)
        mx.eval(model.parameters())
        processor = Processor(mm1_tiny[1].tokenizer, config)
        return model, processor, processor("What is it?", [Image.new("RGB", (30, 20), "red")])

    return make


def heads(num_heads, length, seed):
    return mx.random.normal((1, num_heads, length, 8), key=mx.random.key(seed))


WINDOW = (mx.arange(10)[:, None] >= mx.arange(10)) & (mx.arange(10)[:, None] < mx.arange(10) + 4)
MASKS = {
    "none": None,
    "causal": "causal",
    "boolean": WINDOW,
    "added": mx.where(WINDOW, 0.5, -1e9),
    "of every head": mx.random.normal((1, 6, 10, 10), key=mx.random.key(4)),
    "of keys alone": mx.arange(10)[None] < 7,
}


def test_weights_times_values_are_what_mlx_makes(subtests):
    for (name, mask), kv_heads, rows in product(MASKS.items(), [6, 2, 1], [10, 3]):
        with subtests.test(msg=f"mask {name}, {kv_heads} heads of keys, {rows} rows"):
            q, k, v = heads(6, 10, 1), heads(kv_heads, 10, 2), heads(kv_heads, 10, 3)
            weights = attention_weights(q, k, scale=0.4, mask=mask, rows=rows)
            np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-5)
            made = mx.fast.scaled_dot_product_attention(q, k, v, scale=0.4, mask=mask)[:, :, -rows:]
            np.testing.assert_allclose(weights @ mx.repeat(v, 6 // kv_heads, axis=1), made, atol=1e-5)


def test_a_sink_takes_its_part_of_the_attention():
    q, k, v, sinks = heads(4, 5, 1), heads(4, 5, 2), heads(4, 5, 3), mx.array([0.0, 1.0, 2.0, 3.0])
    weights = attention_weights(q, k, scale=0.4, mask="causal", sinks=sinks, rows=5)
    made = mx.fast.scaled_dot_product_attention(q, k, v, scale=0.4, mask="causal", sinks=sinks)
    np.testing.assert_allclose(weights @ v, made, atol=1e-5)
    assert mx.all(weights.sum(axis=-1) < 1).item()


@pytest.mark.parametrize("decoder", DECODERS.values(), ids=DECODERS)
def test_every_layer_of_the_decoder_is_recorded_and_the_image_encoder_is_not(make, decoder):
    model, _, inputs = make(decoder)
    found = compute_attention(model, inputs, ANSWER)
    assert found.shape == (len(model.layers), len(ANSWER), len(inputs.input_ids) + len(ANSWER) - 1)
    np.testing.assert_allclose(found.sum(axis=-1), 1, rtol=1e-5)
    first = len(
        inputs.input_ids
    )  # position 0 of the answer: read by the second token's writer, not the first's
    assert (found[:, 0, first:] == 0).all() and (found[:, 1, first] > 0).all()


def test_a_sliding_window_looks_no_further(make):
    found = compute_attention(*make(SLIDING)[::2], ANSWER)
    assert ((found > 0).sum(axis=-1) == 8)[:2].all() and ((found > 0).sum(axis=-1) > 8)[2].all()


@pytest.mark.parametrize("decoder", [None, LLAMA], ids=["ours", "llama"])
def test_the_first_layers_weights_are_those_of_its_queries_and_keys(make, decoder):
    model, _, inputs = make(decoder)
    found = compute_attention(model, inputs, ANSWER)[0]
    layer = model.layers[0]
    ids = mx.concatenate([inputs.input_ids, mx.array(ANSWER[:-1])])
    x = layer.input_layernorm(model.embed_inputs(ids, pixel_values=inputs.pixel_values))[None]
    q, k = (
        layer.self_attn.rope(mx.unflatten(proj(x), -1, (-1, 16)).transpose(0, 2, 1, 3))
        for proj in (layer.self_attn.q_proj, layer.self_attn.k_proj)
    )
    scores = np.array(q[0] @ mx.repeat(k, 2, axis=1)[0].swapaxes(-1, -2)) / 4
    scores[:, np.triu(np.ones(scores.shape[1:], bool), 1)] = -np.inf
    weights = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(found, weights.mean(axis=0)[-len(ANSWER) :], atol=1e-5)


def test_recording_changes_no_result_and_leaves_no_trace(make):
    model, _, inputs = make(LLAMA)
    before = mx.fast.scaled_dot_product_attention
    plain = model(inputs.input_ids[None], pixel_values=inputs.pixel_values)
    with record_attention(1) as found:
        recorded = model(inputs.input_ids[None], pixel_values=inputs.pixel_values)
    assert len(found) == 1 + 3  # the image encoder's layer too: it ran inside
    np.testing.assert_array_equal(plain, recorded)
    with pytest.raises(ValueError), record_attention(1):
        raise ValueError
    assert mx.fast.scaled_dot_product_attention is before


def test_a_decoder_that_attends_by_itself_is_refused(make):
    class Mean(nn.Module):
        def __call__(self, x, mask, cache):
            return mx.cumsum(x, axis=1) / mx.arange(1, x.shape[1] + 1)[:, None]

    model, _, inputs = make()
    for layer in model.layers:
        layer.self_attn = Mean()
    with pytest.raises(ConfigError, match="a mm1_decoder decoder's attention cannot be shown"):
        compute_attention(model, inputs, ANSWER)


def test_attention_pooling_is_refused(make):
    model, processor, _ = make(type="attention_pool", position_grid=None)
    with pytest.raises(ConfigError, match="stand for no place"):
        answer_with_attention(model, processor, Image.new("RGB", (9, 9)), "What?")


def test_words_are_joined_from_their_tokens(mm1_tiny):
    tokenizer = mm1_tiny[1].tokenizer
    text = "a small triangle, and 3 stars."
    answer = tokenizer.encode(text, add_special_tokens=False)
    words = split_words(tokenizer, answer)
    assert [word for word, _ in words] == text.split()
    assert sorted(n for _, tokens in words for n in tokens) == list(range(len(answer)))
    for word, tokens in words:
        assert tokenizer.decode([answer[n] for n in tokens]).strip() == word


def test_a_character_of_several_tokens_takes_them_all(mm1_tiny):
    tokenizer = mm1_tiny[1].tokenizer
    answer = tokenizer.encode("🟣 é", add_special_tokens=False)
    assert split_words(tokenizer, answer) == [("🟣", [0, 1, 2, 3]), ("é", [5, 6])]
    assert split_words(tokenizer, answer[:2]) == [(tokenizer.decode(answer[:2]), [0, 1])]


def test_a_colour_is_read_off_the_object_that_was_asked_for(mm1_tiny):
    picture = Image.open(PICTURES / "shapes.png").convert("RGB")
    (word,) = answer_with_attention(*mm1_tiny, picture, "What color is the circle?").words
    token = find_sight(picture.size, mm1_tiny[1].config).tokens[word.paid.argmax()]
    ((left, top, right, bottom),) = token.boxes
    assert word.text == "purple" and 0.1 < word.paid.sum() < 1
    assert left < 80 < right and top < 24 < bottom  # the circle's middle


def test_one_layer_can_be_chosen(mm1_tiny):
    picture = Image.open(PICTURES / "shapes.png").convert("RGB")
    ask = (*mm1_tiny, picture, "What color is the circle?")
    layers = [answer_with_attention(*ask, layer=layer).words[0].paid for layer in (1, 2, 3, 4)]
    np.testing.assert_allclose(np.mean(layers, axis=0), answer_with_attention(*ask).words[0].paid, rtol=1e-5)
    attended = answer_with_attention(*ask, layer=2)
    assert (attended.text, attended.num_layers) == ("purple", 4)
    assert attended.source == "layer 2 of 4 of the decoder, the mean of its heads"
    with pytest.raises(PromptError, match="--layer is 5, expected 1 to 4"):
        answer_with_attention(*ask, layer=5)
