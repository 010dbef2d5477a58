"""Counted bytes against those of models that are really there."""

import resource
import sys
from dataclasses import replace

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from small_models import SMALL

from mm1_mlx import MM1, load, quantize, save
from mm1_mlx.checkpoint.hub import find_folder
from mm1_mlx.config import MlxLmDecoderConfig
from mm1_mlx.errors import CheckpointError, ConfigError
from mm1_mlx.machine import machine_memory
from mm1_mlx.presets import MM1_TINY, preset
from mm1_mlx.sizing.inference import (
    FULL,
    HALF,
    PACKED,
    ModelNeed,
    cache_bytes,
    list_needs,
    memory_table,
    weight_bytes,
)

GB = 10**9
LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": 768,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}
SLIDING = LLAMA | {"sliding_window": 64, "layer_types": ["sliding_attention"] * 2 + ["full_attention"]}
SPARSE = replace(SMALL.text_config, num_experts=4, sparse_every=2)


def with_decoder(decoder):
    return replace(SMALL, text_config=MlxLmDecoderConfig(decoder) if isinstance(decoder, dict) else decoder)


CONFIGS = {"small": SMALL, "sparse": with_decoder(SPARSE), "llama": with_decoder(LLAMA), "mm1-tiny": MM1_TINY}
CACHES = {"small": SMALL, "llama": with_decoder(LLAMA), "sliding window": with_decoder(SLIDING)}


def held(model):
    return sum(value.nbytes for _, value in tree_flatten(model.parameters()))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("name", PACKED)
def test_packed_weights_take_what_a_quantized_model_holds(config, name):
    assert weight_bytes(MM1(config))[name] == held(quantize(MM1(config), bits=PACKED[name]))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_plain_weights_take_what_a_model_holds(config):
    model = MM1(config)
    found = weight_bytes(model)
    assert found[FULL] == held(model)
    model.set_dtype(mx.bfloat16)
    assert found[HALF] == held(model)


def test_a_packed_folder_is_weighed_as_it_is_stored(tmp_path):
    model, _ = load("mm1-tiny", dtype="float16")
    save(quantize(model, bits=4), tmp_path / "packed", companions=find_folder("mm1-tiny"))
    packed, _ = load(tmp_path / "packed", dtype="float16")
    (need,) = list_needs(packed.config, tmp_path / "packed")
    assert need.name == "as stored, 4 bit"
    assert need.weights == pytest.approx(held(packed), rel=0.01)


def test_a_packed_configuration_without_its_folder_is_refused():
    packed = replace(SMALL, quantization={"bits": 4, "group_size": 64})
    with pytest.raises(ConfigError, match="give its folder"):
        list_needs(packed)


def test_a_packed_folder_without_weights_is_refused(tmp_path):
    packed = replace(SMALL, quantization={"bits": 4, "group_size": 64})
    with pytest.raises(CheckpointError, match="the weights are missing"):
        list_needs(packed, tmp_path)


def test_a_decoder_too_narrow_to_pack_has_its_plain_forms_alone():
    connector = replace(SMALL.connector_config, output_dims=32)
    narrow = replace(SMALL.text_config, hidden_dims=32, feed_forward_dims=48, num_heads=2, num_kv_heads=2)
    assert list(weight_bytes(MM1(replace(SMALL, connector_config=connector, text_config=narrow)))) == [
        FULL,
        HALF,
    ]


@pytest.mark.parametrize("config", CACHES.values(), ids=CACHES)
@pytest.mark.parametrize("length", [1, 100, 300])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_cache_takes_what_it_holds_after_as_many_tokens(config, length, dtype):
    model = MM1(config)
    model.set_dtype(getattr(mx, dtype))
    cache, ids = model.make_cache(), mx.zeros((1, length), mx.int32)
    if length > 1:
        mx.eval(model(ids[:, 1:], cache=cache))
    mx.eval(model(ids[:, :1], cache=cache))
    assert cache_bytes(model, length) == sum(entry.nbytes for entry in cache)


def test_the_context_is_the_models_or_the_one_that_is_asked_for():
    most = list_needs(SMALL)[0].kv_cache
    assert most == list_needs(SMALL, context=512)[0].kv_cache > list_needs(SMALL, context=256)[0].kv_cache
    for context in (0, 513):
        with pytest.raises(ConfigError, match=rf"--context is {context}, expected 1 to 512"):
            list_needs(SMALL, context=context)


def test_more_pictures_are_more_views_up_to_a_batch():
    work = [list_needs(SMALL, num_images=number)[0].visual_work for number in (0, 1, 2, 16, 100)]
    assert work[0] == 0 and work[2] == 2 * work[1] and work[4] == work[3] == 16 * work[1]
    with pytest.raises(ConfigError, match="--num-images is -1"):
        list_needs(SMALL, num_images=-1)


def test_weighing_the_largest_models_allocates_no_memory():
    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    mx.reset_peak_memory()
    held_before = mx.get_active_memory()
    assert list_needs(preset("mm1-30b"))[0].weights > 100 * GB
    assert mx.get_peak_memory() - held_before < 2**20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - before < 2**27


def form(name, weights, kv_cache=0):
    return ModelNeed(name, weights, kv_cache, 0)


FORMS = [form(FULL, 40 * GB), form(HALF, 20 * GB), form("8 bit", 11 * GB), form("4 bit", 6 * GB)]


def test_an_unknown_cache_leaves_the_verdict_open():
    unknown = [form(HALF, GB, kv_cache=None)]
    row = memory_table(unknown, 100 * GB).splitlines()[1]
    assert row.count("unknown") == 3 and "fit" not in row and row.endswith("what its KV cache takes")


def test_the_table_says_of_each_form_whether_it_fits():
    rows = memory_table(FORMS, 12 * GB).splitlines()[1:]
    assert [row.partition("  does ")[2] or row[-17:] for row in rows] == [
        "not fit, 28.0 GB short",
        "not fit, 8.0 GB short",
        "fits, 1.0 GB left",
        "fits, 6.0 GB left",
    ]
    assert rows[2].split()[2:6] == ["11.000", "0.000", "0.000", "11.000"]


def test_this_machine_has_some_memory():
    assert GB < machine_memory() < 10**6 * GB
