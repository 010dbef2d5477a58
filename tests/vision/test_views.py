"""From pictures that are cut into views, or keep their sides, to an answer."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from small_models import ANYRES, PAIR, ROW_ID, SMART

from mm1_mlx import stream_generate
from mm1_mlx.config import MlxLmDecoderConfig
from mm1_mlx.tiny import IMAGE_ID
from mm1_mlx.vision.encode import LARGEST_BATCH, embed

PROMPT = "What is <image> beside <image>?"
MODELS = {"anyres": ANYRES, "smart": SMART, "pair": PAIR}
WIDE, TALL = (90, 40), (30, 120)  # pixels


def noise(width, height):
    return np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)


def assert_close(ours, theirs, tolerance=1e-5):
    np.testing.assert_allclose(np.array(ours), np.array(theirs), rtol=0, atol=tolerance)


@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS)
def test_embeddings_of_a_prompt_equal_the_models_own(make_small, config):
    model, processor = make_small(config)
    inputs = processor(PROMPT, [noise(*WIDE), noise(*TALL)])
    theirs = model.embed_inputs(
        inputs.input_ids, pixel_values=inputs.pixel_values, token_order=inputs.token_order
    )
    assert_close(embed(model, inputs), theirs)


@pytest.mark.parametrize(
    ("config", "sizes"), [(ANYRES, [WIDE, TALL] * 2), (PAIR, [WIDE] * 4)], ids=["anyres", "pair"]
)
def test_more_views_than_fit_in_one_batch_change_nothing(make_small, config, sizes):
    model, processor = make_small(config)
    inputs = processor("Compare.", [noise(*size) for size in sizes])
    assert len(inputs.pixel_values) > LARGEST_BATCH
    visual = model.encode_images(inputs.pixel_values).flatten(0, 1)
    if inputs.token_order is not None:
        visual = model.arrange(visual, inputs.token_order)
    places = [position for range_ in inputs.image_places for position in range_]
    assert_close(embed(model, inputs)[mx.array(places)], visual)


def test_an_unpadded_picture_is_the_whole_then_its_rows_each_with_an_end(make_small):
    model, processor = make_small(ANYRES)
    inputs = processor("What is <image>?", [noise(32, 32)])  # two by two crops without padding
    views = model.encode_images(inputs.pixel_values)
    whole, (top_left, top_right, bottom_left, bottom_right) = views[0], views[1:]
    expected = [whole]
    for left, right in ((top_left, top_right), (bottom_left, bottom_right)):
        for row in (slice(0, 2), slice(2, 4)):  # two by two visual tokens a crop
            expected += [left[row], right[row], model.connector.row_end[None]]
    (places,) = inputs.image_places
    assert_close(embed(model, inputs)[places.start : places.stop], mx.concatenate(expected))


def test_each_picture_of_any_size_stands_row_by_row_between_its_row_tokens(make_small, mm1_tiny):
    assert mm1_tiny[1].tokenizer.decode([ROW_ID]) == "\n"
    model, processor = make_small(SMART)
    inputs = processor(PROMPT, [noise(*WIDE), noise(*TALL)])
    embeddings, row_token = embed(model, inputs), model.embed_text(mx.array([ROW_ID]))
    for pixels, places in zip(inputs.pixel_values, inputs.image_places, strict=True):
        columns = pixels.shape[1] // 8  # patches of 4 pixels, merged two by two
        rows = mx.unflatten(model.encode_images(pixels[None])[0], 0, (-1, columns))
        expected = mx.concatenate([part for row in rows for part in (row_token, row)])
        assert_close(embeddings[places.start : places.stop], expected)


def test_text_beside_pictures_is_embedded_as_without_them(make_small):
    model, processor = make_small(SMART)
    inputs = processor(PROMPT, [noise(*WIDE), noise(*TALL)])
    text = [i for i, id in enumerate(inputs.input_ids.tolist()) if id != IMAGE_ID]
    expected = model.embed_text(inputs.input_ids[mx.array(text)])
    assert_close(embed(model, inputs)[mx.array(text)], expected, 0)


LLAMA = MlxLmDecoderConfig(
    {
        **{"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 64},
        **{"num_attention_heads": 4, "rms_norm_eps": 1e-6, "vocab_size": 768},
    }
)


@pytest.mark.parametrize(
    "config",
    [*MODELS.values(), replace(SMART, text_config=LLAMA)],
    ids=[*MODELS, "smart with llama"],
)
def test_greedy_generation_equals_the_argmax_of_whole_passes(make_small, config):
    model, processor = make_small(config)
    pictures = [noise(*WIDE), noise(*TALL)]
    inputs = processor(PROMPT, pictures)
    ids, options = inputs.input_ids, {"token_order": inputs.token_order}
    for piece in stream_generate(model, processor, PROMPT, images=pictures, max_tokens=4):
        logits = model(ids[None], pixel_values=inputs.pixel_values, **options)
        assert int(logits[0, -1].argmax()) == piece.token
        ids = mx.concatenate([ids, mx.array([piece.token], dtype=ids.dtype)])


@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS)
def test_timing_counts_the_tokens_of_all_views(make_small, config):
    model, processor = make_small(config)
    pictures = [noise(*WIDE), noise(*TALL)]
    inputs = processor(PROMPT, pictures)
    (piece,) = stream_generate(model, processor, PROMPT, images=pictures, max_tokens=1)
    assert (piece.timing.prompt_tokens, piece.timing.visual_tokens) == (
        len(inputs.input_ids),
        inputs.num_visual_tokens,
    )
