import dataclasses
import inspect
import sys
from types import SimpleNamespace

import mlx.core as mx
import mlx.nn as nn
import pytest
from decoder_values import values_of
from mlx_lm.generate import GenerationResponse, generate_step, stream_generate
from mlx_lm.models.cache import KVCache, RotatingKVCache
from mlx_lm.sample_utils import make_sampler
from mlx_lm.utils import _get_classes, quantize_model

from mm1_mlx.errors import ConfigError
from mm1_mlx.model.mlx_lm_kinds import KINDS
from mm1_mlx.model.mlx_lm_parts import (
    SwitchGLU,
    SwitchLinear,
    build_decoder,
    create_attention_mask,
    linear_to_lora_layers,
    make_prompt_cache,
    scaled_dot_product_attention,
    token_embedding,
)

VALUES = values_of("llama") | {"vocab_size": 40}


@pytest.mark.parametrize(
    ("function", "positional"),
    [
        (create_attention_mask, ["h", "cache"]),
        (SwitchGLU.__init__, ["self", "input_dims", "hidden_dims", "num_experts"]),
        (SwitchGLU.__call__, ["self", "x", "indices"]),
        (make_prompt_cache, ["model", "max_kv_size"]),
        (generate_step, ["prompt", "model"]),
        (stream_generate, ["model", "tokenizer", "prompt"]),
        (quantize_model, ["model", "config", "group_size", "bits"]),
        (linear_to_lora_layers, ["model", "num_layers", "config"]),
        (make_sampler, ["temp", "top_p", "min_p"]),
        (_get_classes, ["config"]),
    ],
    ids=lambda value: getattr(value, "__qualname__", None),
)
def test_mlx_lm_takes_what_we_pass_by_position_and_needs_no_more(function, positional):
    parameters = list(inspect.signature(function).parameters.values())
    assert [p.name for p in parameters[: len(positional)]] == positional
    optional = parameters[len(positional) :]
    assert all(p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in optional)


@pytest.mark.parametrize(
    ("function", "keywords"),
    [
        (scaled_dot_product_attention, {"cache", "scale", "mask"}),
        (stream_generate, {"max_tokens"}),
        (
            generate_step,
            {"max_tokens", "sampler", "prompt_cache", "prefill_step_size", "input_embeddings"}
            | {"max_kv_size", "kv_bits", "kv_group_size", "quantized_kv_start"},
        ),
        (quantize_model, {"quant_predicate"}),
        (make_sampler, {"top_k"}),
        (linear_to_lora_layers, {"use_dora"}),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
def test_mlx_lm_takes_what_we_pass_by_name(function, keywords):
    assert keywords <= set(inspect.signature(function).parameters)


def test_attention_takes_queries_keys_and_values_first():
    assert list(inspect.signature(scaled_dot_product_attention).parameters)[:3] == [
        "queries",
        "keys",
        "values",
    ]


def test_stream_generate_hands_other_options_on_to_generate_step():
    assert any(p.kind is p.VAR_KEYWORD for p in inspect.signature(stream_generate).parameters.values())


def test_what_stream_generate_yields_has_the_fields_that_we_read():
    fields = {field.name for field in dataclasses.fields(GenerationResponse)}
    assert {"text", "token", "generation_tokens", "finish_reason"} <= fields


def test_classes_are_found_by_model_type():
    from mlx_lm.models import llama

    assert _get_classes({"model_type": "llama"}) == (llama.Model, llama.ModelArgs)


def test_the_mask_without_a_cache_is_causal():
    assert create_attention_mask(mx.zeros((1, 3, 8)), None) == "causal"
    assert create_attention_mask(mx.zeros((1, 1, 8)), None) is None


def test_the_cache_of_a_decoder_has_one_entry_per_layer():
    decoder = SimpleNamespace(layers=[None] * 3)
    assert [type(c) for c in make_prompt_cache(decoder)] == [KVCache] * 3
    assert [type(c) for c in make_prompt_cache(decoder, max_kv_size=8)] == [RotatingKVCache] * 3


def test_naming_those_that_work_imports_none():
    before = {name for name in sys.modules if name.startswith("mlx_lm.models.")}
    with pytest.raises(ConfigError):
        build_decoder(VALUES | {"model_type": "llama9"})
    assert {name for name in sys.modules if name.startswith("mlx_lm.models.")} == before


@pytest.mark.parametrize("name", ["llama9", "", "base", "switch_layers", "../llama"])
def test_an_unknown_architecture_is_refused_with_those_that_work(name):
    with pytest.raises(ConfigError) as refusal:
        build_decoder(VALUES | {"model_type": name})
    start, end = str(refusal.value).split("; ")
    assert start == f"text_config.model_type {name!r} is not an architecture of mlx-lm"
    assert end == f"these work: mm1_decoder, {', '.join(KINDS)}."


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"num_attention_heads": None}, "text_config does not fit mlx-lm's llama (TypeError:"),
        (
            {"num_hidden_layers": "two", "layer_types": None},
            "text_config does not fit mlx-lm's llama (TypeError:",
        ),
        (
            {"num_attention_heads": 0, "head_dim": None},
            "text_config does not fit mlx-lm's llama (ZeroDivisionError:",
        ),
    ],
)
def test_values_that_do_not_fit_are_refused_with_the_reason(change, problem):
    with pytest.raises(ConfigError) as refusal:
        build_decoder(VALUES | {"model_type": "llama"} | change)
    assert str(refusal.value).startswith(problem)


def test_a_missing_value_is_named():
    values = {k: v for k, v in VALUES.items() if k != "num_attention_heads"}
    with pytest.raises(ConfigError, match=r"does not fit mlx-lm's llama.*'num_attention_heads'"):
        build_decoder(values | {"model_type": "llama"})


def test_the_embedding_table_is_found_when_it_is_quantized():
    decoder = build_decoder(VALUES | {"model_type": "llama", "tie_word_embeddings": False})
    nn.quantize(decoder, group_size=32, bits=4)
    assert token_embedding(decoder, 40) is decoder.model.embed_tokens


@pytest.mark.parametrize(("sizes", "found"), [((7, 8), 0), ((40, 40), 2)])
def test_anything_but_one_table_of_the_vocabularys_size_is_refused(sizes, found):
    with pytest.raises(ConfigError, match=f"the decoder has {found} embeddings of 40 rows, expected 1"):
        token_embedding(nn.Sequential(*(nn.Embedding(size, 4) for size in sizes)), 40)


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_adapter_layers_have_the_names_and_shapes_that_we_combine_fuse_and_save(dora):
    model = nn.Module()
    model.layers = []
    model.linear, model.table = nn.Linear(4, 6), nn.Embedding(5, 6)
    model.experts = SwitchLinear(4, 6, num_experts=2)
    keys = ["linear", "table"] if dora else ["linear", "table", "experts"]
    linear_to_lora_layers(model, 0, {"rank": 3, "scale": 2.0, "dropout": 0.1, "keys": keys}, use_dora=dora)
    names = {"lora_a", "lora_b", "dropout"} | ({"m"} if dora else set())
    assert set(model.linear) == names | {"linear"}
    assert set(model.table) == names | {"embedding"}
    assert (model.linear.lora_a.shape, model.linear.lora_b.shape) == ((4, 3), (3, 6))
    assert (model.table.lora_a.shape, model.table.lora_b.shape) == ((5, 3), (3, 6))
    assert model.linear.scale == 2.0
    if not dora:
        assert (model.experts.lora_a.shape, model.experts.lora_b.shape) == ((2, 3, 4), (2, 6, 3))
    for key in keys:
        assert (
            model[key].fuse().weight.shape
            == model[key].get("linear", model[key].get("embedding")).weight.shape
        )
