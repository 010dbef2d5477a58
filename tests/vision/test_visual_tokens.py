"""Pictures are decoded late, encoded a few views at a time, and never twice."""

import threading
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from small_models import ANYRES, PAIR, SMALL, SMART

from mm1_mlx import MM1, Processor
from mm1_mlx.config import ConnectorConfig, ImageEncoderConfig
from mm1_mlx.errors import PictureError, PromptError, SamplingError
from mm1_mlx.generation.timing import Timing
from mm1_mlx.inputs.picture import Picture
from mm1_mlx.vision.cache import VisionCache
from mm1_mlx.vision.encode import (
    LARGEST_BATCH,
    default_batch_size,
    embed,
    pixel_batches,
    prefetch,
    view_bytes,
    visual_tokens_of,
)


def noise(width, height, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("batch_size", [1, 3, 5, 7, 64])
@pytest.mark.parametrize("config", [SMALL, ANYRES, SMART, PAIR], ids=["one view", "anyres", "smart", "pair"])
def test_the_size_of_a_batch_changes_nothing(make_small, config, batch_size):
    model, processor = make_small(config)
    inputs = processor("Compare.", [noise(40, 30), noise(40, 30, 1), noise(16, 60)])
    whole = embed(model, inputs)
    found = embed(model, inputs, vision_batch_size=batch_size)
    np.testing.assert_allclose(np.array(found), np.array(whole), rtol=0, atol=1e-5)


@pytest.mark.parametrize("start", [0, 1, 5, 9, 14, 20])
@pytest.mark.parametrize("length", [1, 4, 13])
def test_a_stretch_of_a_prompt_is_that_of_the_whole(make_small, start, length):
    model, processor = make_small(SMART)
    inputs = processor("a <image> b <image> c", [noise(40, 30), noise(16, 60)])
    stop = min(start + length, len(inputs.input_ids))
    found = embed(model, inputs, start=start, stop=stop)
    np.testing.assert_allclose(np.array(found), np.array(embed(model, inputs)[start:stop]), atol=1e-5)


def test_a_picture_is_measured_but_not_decoded_until_it_is_encoded(make_small, monkeypatch):
    model, processor = make_small(SMALL)
    decoded = []
    decode = Picture.decode
    monkeypatch.setattr(Picture, "decode", lambda *a, **o: decoded.append(1) or decode(*a, **o))
    inputs = processor("Look.", [noise(40, 30)])
    assert not decoded and inputs.pictures[0].picture.size == (40, 30)
    embed(model, inputs)
    assert len(decoded) == 1


def test_a_picture_that_the_cache_knows_is_not_even_decoded(make_small, monkeypatch):
    model, processor = make_small(SMALL)
    cache = VisionCache()
    first = embed(model, processor("Look.", [noise(40, 30)]), vision_cache=cache)
    monkeypatch.setattr(Picture, "decode", None)
    assert mx.array_equal(embed(model, processor("Look.", [noise(40, 30)]), vision_cache=cache), first)


def test_a_picture_shown_twice_in_a_prompt_is_encoded_once(make_small):
    model, processor = make_small(SMALL)
    inputs, timing = processor("Compare.", [noise(40, 30), noise(9, 9), noise(40, 30)]), Timing()
    tokens = mx.concatenate(visual_tokens_of(model, inputs.pictures, timing))
    assert timing.encoded_views == 2
    assert mx.array_equal(tokens[:4], tokens[8:]) and not mx.array_equal(tokens[:4], tokens[4:8])


def test_the_rule_of_cutting_is_part_of_the_key(make_small):
    _, processor = make_small(SMALL)
    cut = processor.with_image_config(sub_images="static")
    digests = {p("Look.", [noise(40, 30)]).digests for p in (processor, cut)}
    assert len(digests) == 2


def test_splitting_that_is_off_for_many_pictures_is_part_of_the_key(make_small):
    _, processor = make_small(SMALL)
    split = processor.with_image_config(sub_images="dynamic", max_sub_images=4)
    alone = split("Look.", [noise(40, 30)]).digests[0]
    among_three = split("Look.", [noise(40, 30), noise(9, 9), noise(8, 8)]).digests[0]
    assert alone != among_three


def test_damage_behind_the_header_shows_when_the_picture_is_encoded(make_small, picture, tmp_path):
    model, processor = make_small(SMALL)
    cut = tmp_path / "cut.png"
    cut.write_bytes(picture.read_bytes()[:-200])
    inputs = processor("Look.", [cut])
    with pytest.raises(PictureError, match=r"cut\.png is damaged or cut short"):
        embed(model, inputs)


def test_batches_hold_views_of_one_size_alone(make_small):
    _, processor = make_small(SMART)
    inputs = processor("Compare.", [noise(40, 30), noise(40, 30, 1), noise(16, 60), noise(40, 30)])
    shapes = [batch.shape[:3] for batch in pixel_batches(inputs.pictures, 8)]
    assert shapes == [(2, 32, 40), (1, 64, 16), (1, 32, 40)]


def test_the_next_batch_is_made_while_the_caller_works():
    started = [threading.Event() for _ in range(3)]

    def produce():
        for number, event in enumerate(started):
            event.set()
            yield number

    for number in prefetch(produce()):
        if number < 2:
            assert started[number + 1].wait(5)
        assert not any(event.is_set() for event in started[number + 2 :])


def test_an_error_on_the_way_reaches_the_caller():
    def produce():
        yield 1
        raise PictureError("cut short")

    items = prefetch(produce())
    assert next(items) == 1
    with pytest.raises(PictureError, match="cut short"):
        next(items)


def test_a_batch_below_1_is_refused(make_small):
    model, processor = make_small(SMALL)
    with pytest.raises(SamplingError, match="`vision_batch_size` is 0, expected at least 1"):
        embed(model, processor("Look.", [noise(9, 9)]), vision_batch_size=0)


def wide(mm1_tiny):
    """An encoder whose activations outweigh everything else."""
    vision = ImageEncoderConfig(
        image_size=112,
        patch_size=14,
        hidden_dims=256,
        feed_forward_dims=1024,
        num_layers=2,
        num_heads=4,
        activation="gelu",
        norm_eps=1e-5,
        class_token=True,
        pre_norm=True,
        final_norm=False,
        patch_bias=False,
    )
    connector = ConnectorConfig(
        type="c_abstractor",
        num_visual_tokens=16,
        input_dims=256,
        hidden_dims=256,
        output_dims=64,
        num_blocks=1,
    )
    config = replace(
        SMALL,
        vision_config=vision,
        connector_config=connector,
        image_config=replace(SMALL.image_config, image_size=112, sub_images="anyres", max_sub_images=64),
        text_config=replace(SMALL.text_config, max_positions=10_000),
    )
    model = MM1(config)
    mx.eval(model.parameters())
    return model, Processor(mm1_tiny[1].tokenizer, config)


def peak(model, processor, width, height):
    """Bytes over what the weights take; the visual tokens themselves are left out."""
    inputs = processor("Look.", [noise(width, height)])
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    (tokens,) = visual_tokens_of(model, inputs.pictures, batch_size=8)
    mx.eval(tokens)
    return inputs.num_views[0], mx.get_peak_memory() - before - tokens.nbytes


def test_memory_for_64_sub_images_is_that_for_8(mm1_tiny):
    model, processor = wide(mm1_tiny)
    few, many = peak(model, processor, 7 * 112, 112), peak(model, processor, 9 * 112, 7 * 112)
    assert (few[0], many[0]) == (8, 64)
    assert many[1] <= 1.3 * few[1]


def test_the_default_batch_fits_the_free_memory(mm1_tiny, monkeypatch):
    model, _ = wide(mm1_tiny)
    monkeypatch.setattr("mm1_mlx.vision.encode.free_memory", lambda: 4 * 5.5 * view_bytes(model))
    assert default_batch_size(model) == 5
    monkeypatch.setattr("mm1_mlx.vision.encode.free_memory", lambda: 0)
    assert default_batch_size(model) == 1
    monkeypatch.setattr("mm1_mlx.vision.encode.free_memory", lambda: 2**50)
    assert default_batch_size(model) == LARGEST_BATCH


def test_the_estimate_of_a_view_is_near_what_it_takes(mm1_tiny):
    model, processor = wide(mm1_tiny)
    _, eight = peak(model, processor, 7 * 112, 112)
    assert 0.4 * eight <= 8 * view_bytes(model) <= 2.5 * eight


@pytest.mark.parametrize(("shown", "extra", "places"), [(2, 0, 4), (1, 1, 5), (0, 0, 4)])
def test_places_and_visual_tokens_that_differ_in_number_are_refused_with_both(
    make_small, shown, extra, places
):
    model, processor = make_small(SMALL)
    inputs = processor("a <image> b", [noise(40, 30)])
    more = mx.full((extra,), SMALL.image_token_id, inputs.input_ids.dtype)
    inputs = replace(
        inputs, input_ids=mx.concatenate([inputs.input_ids, more]), pictures=inputs.pictures * shown
    )
    with pytest.raises(PromptError) as refusal:
        embed(model, inputs)
    assert str(refusal.value) == (
        f"the input ids have {places} places for visual tokens, but the pictures give {4 * shown}."
    )


def test_pictures_that_were_prepared_for_another_model_are_refused(make_small):
    (model, _), (_, processor) = make_small(SMALL), make_small(SMART)
    with pytest.raises(PromptError, match="prepared for 20 visual tokens, but this model makes 4 of them"):
        embed(model, processor("Look.", [noise(40, 30)]))
