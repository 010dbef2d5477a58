"""A layer that is called in another way gives what it gave, and keeps its keys, its kind and what is read of it."""

from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_unflatten
from small_models import SMALL

from mm1_mlx import MM1
from mm1_mlx.config import MlxLmDecoderConfig
from mm1_mlx.model.layer_calls import layers_of, make_stand_in, redirect_calls, replace_module
from mm1_mlx.tuning.adapters import prepare
from mm1_mlx.tuning.settings import PartTuning, Tuning

SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-6,
    "vocab_size": 768,
    "max_position_embeddings": 512,
    "rope_theta": 1e4,
    "tie_word_embeddings": True,
}
GEMMA = {"sliding_window": 8, "sliding_window_pattern": 2, "query_pre_attn_scalar": 16}
DECODERS = {
    "ours": SMALL.text_config,
    "sparse": replace(SMALL.text_config, num_experts=4, sparse_every=2),
    "llama": MlxLmDecoderConfig({"model_type": "llama"} | SIZES),
    "sliding llama": MlxLmDecoderConfig(
        {"model_type": "llama", "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8}
        | SIZES
    ),
    "gemma3_text": MlxLmDecoderConfig({"model_type": "gemma3_text"} | SIZES | GEMMA),
    "qwen3": MlxLmDecoderConfig({"model_type": "qwen3"} | SIZES),
    "mixtral": MlxLmDecoderConfig({"model_type": "mixtral"} | SIZES),
}


@pytest.fixture(params=DECODERS)
def model(request):
    mx.random.seed(0)
    made = MM1(replace(SMALL, text_config=DECODERS[request.param]))
    mx.eval(made.parameters())
    return made


def plainly(function, layer, *args, **options):
    return function(layer, *args, **options)


def logits(model):
    return model(mx.arange(12)[None] + 100)


def values(tree):
    return {key: np.array(value) for key, value in tree_flatten(tree)}


def same(found, expected):
    assert found.keys() == expected.keys()
    for key, value in found.items():
        np.testing.assert_array_equal(value, expected[key], err_msg=key)


def test_every_layer_goes_by_the_call_and_gives_what_it_gave(model):
    def counted(function, layer, *args, **options):
        seen.append(type(layer).__name__)
        return function(layer, *args, **options)

    seen, plain = [], logits(model)
    with redirect_calls(model, layers_of(model), counted):
        np.testing.assert_array_equal(logits(model), plain)
    assert seen == [type(layer).__name__ for layer in model.decoder.layers]
    np.testing.assert_array_equal(logits(model), plain)


def test_keys_and_gradients_stay(model):
    prepare(model, Tuning(*[PartTuning("frozen")] * 2, PartTuning("lora", rank=2)))
    before, gradients_of = values(model.parameters()), nn.value_and_grad(model, lambda m: logits(m).sum())
    _, expected = gradients_of(model)
    with redirect_calls(model, layers_of(model), plainly):
        same(values(model.parameters()), before)
        _, found = gradients_of(model)
    same(values(found), values(expected))
    same(values(model.parameters()), before)


def test_what_is_learned_inside_stays_outside(model):
    layer = model.decoder.layers[0]
    layer.scale = mx.zeros(3)  # a parameter of the layer itself
    (path,) = (path for path, module in model.named_modules() if module is layer)
    with redirect_calls(model, [layer], plainly):
        model.update(tree_unflatten([(f"{path}.scale", mx.ones(3))]))
        model.train().decoder.freeze()
    assert model.decoder.layers[0] is layer
    assert layer.training and not tree_flatten(layer.trainable_parameters())
    np.testing.assert_array_equal(layer.scale, 1)


def test_a_table_is_still_a_table_and_a_head(model):
    ids = mx.arange(5)
    (table,) = (m for m in model.modules() if isinstance(m, nn.Embedding))
    rows, head, plain = table(ids), table.as_linear(mx.ones((1, 64))), logits(model)
    other = make_stand_in(table, plainly)
    replace_module(model, table, other)
    assert isinstance(other, nn.Embedding)
    np.testing.assert_array_equal(other(ids), rows)
    np.testing.assert_array_equal(other.as_linear(mx.ones((1, 64))), head)
    np.testing.assert_array_equal(logits(model), plain)
