from dataclasses import replace

import jaxtyping
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from small_models import SMALL

from mm1_mlx import MM1, load, quantize, save
from mm1_mlx.checkpoint.hub import find_folder
from mm1_mlx.checkpoint.quantize import Packing, packing_plan, quantization_config
from mm1_mlx.config import MlxLmDecoderConfig
from mm1_mlx.errors import ConfigError

PACKED = (nn.QuantizedLinear, nn.QuantizedEmbedding)
PACKINGS = {
    "affine 4": Packing(bits=4, group_size=32),
    "affine 8": Packing(bits=8),
    "mxfp4": Packing(mode="mxfp4"),
    "mxfp8": Packing(mode="mxfp8"),
    "nvfp4": Packing(mode="nvfp4"),
}
PLAIN = {"group_size": 64, "bits": 4, "mode": "affine"}


def make(config=SMALL):
    mx.random.seed(0)
    model = MM1(config)
    mx.eval(model.parameters())
    return model


def with_layers(num_layers, **changes):
    return make(replace(SMALL, text_config=replace(SMALL.text_config, num_layers=num_layers, **changes)))


def of_width(width):
    """A model whose decoder's layers have ``width`` inputs, all of them."""
    text = replace(SMALL.text_config, hidden_dims=width, head_dims=width // 4, feed_forward_dims=width)
    connector = replace(SMALL.connector_config, output_dims=width)
    return make(replace(SMALL, text_config=text, connector_config=connector))


def logits_of(model):
    pixels = mx.random.normal((1, 16, 16, 3), key=mx.random.key(0))
    ids = mx.array([[1, 5, *[SMALL.image_token_id] * 4, 40, 41]])
    return np.array(model(ids, pixel_values=pixels).astype(mx.float32))


def packed_paths(model):
    return {path for path, module in model.named_modules() if isinstance(module, PACKED)}


def parts(paths):
    return {path.partition(".")[0] for path in paths}


# Every mode


@pytest.mark.parametrize("packing", PACKINGS.values(), ids=PACKINGS)
@pytest.mark.parametrize("everything", [False, True], ids=["decoder", "all parts"])
def test_a_packed_folder_answers_as_before_it_was_saved(packing, everything, tmp_path):
    packing = replace(packing, encoder=everything, connector=everything, mixed=everything)
    model = quantize(make(), packing=packing)
    save(model, tmp_path / "packed", companions=find_folder("mm1-tiny"))
    again, _ = load(tmp_path / "packed", dtype="float16")
    assert packed_paths(again) == packed_paths(model)
    assert again.config == model.config
    np.testing.assert_array_equal(logits_of(again), logits_of(model))


@pytest.mark.parametrize(("name", "tolerance"), list(zip(PACKINGS, (0.2, 0.02, 0.2, 0.06, 0.2), strict=True)))
def test_a_packed_model_answers_about_as_the_original(name, tolerance):
    exact = logits_of(make())
    packed = logits_of(quantize(make(), packing=PACKINGS[name]))
    assert 0 < np.abs(packed - exact).mean() < tolerance * exact.std()


@pytest.mark.parametrize(
    ("mode", "bits", "group_size"), [("mxfp4", 4, 32), ("mxfp8", 8, 32), ("nvfp4", 4, 16), ("affine", 4, 64)]
)
def test_a_mode_has_its_own_bits_and_group_size(mode, bits, group_size):
    packing = Packing(mode=mode)
    assert packing == Packing(bits, group_size, mode)
    assert packing.plain == {"group_size": group_size, "bits": bits, "mode": mode}


# Which parts


def test_every_layer_of_the_decoder_is_packed_and_nothing_else():
    model = quantize(make(), bits=4)
    assert parts(packed_paths(model)) == {"decoder"}
    assert len(packed_paths(model)) == 2 * 7 + 2  # layers, embedding and head


@pytest.mark.parametrize(
    ("asked", "packed"),
    [
        ({"encoder": True}, {"decoder", "image_encoder"}),
        ({"connector": True}, {"decoder", "connector"}),
        ({"encoder": True, "connector": True}, {"decoder", "image_encoder", "connector"}),
    ],
)
def test_image_encoder_and_connector_are_packed_when_asked_for(asked, packed):
    assert parts(packing_plan(make(), Packing(group_size=32, **asked))) == packed


def test_layers_of_no_whole_number_of_groups_stay_as_they_are():
    plan = packing_plan(make(), Packing(group_size=32, encoder=True, connector=True))
    assert "image_encoder.layers.0.attention.q_proj" in plan and "connector.readout.0" in plan
    assert "image_encoder.patch_embedding" not in plan  # 48 values
    assert "connector.before.0.squeeze_excite.fc2" not in plan  # 8 values


def test_routers_of_a_sparse_decoder_stay_as_they_are():
    plan = packing_plan(with_layers(2, num_experts=4, sparse_every=2), Packing())
    assert "decoder.layers.1.mlp.experts.gate_proj" in plan
    assert "decoder.layers.1.mlp.router" not in plan


def test_a_decoder_of_mlx_lms_says_itself_how_its_layers_are_packed():
    values = {
        **{"model_type": "qwen3_moe", "hidden_size": 64, "num_hidden_layers": 1, "intermediate_size": 64},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "rms_norm_eps": 1e-6},
        **{"vocab_size": 768, "num_experts": 4, "num_experts_per_tok": 2, "decoder_sparse_step": 1},
        **{"mlp_only_layers": [], "moe_intermediate_size": 64, "rope_theta": 1e4, "norm_topk_prob": True},
        **{"tie_word_embeddings": True, "max_position_embeddings": 64},
    }
    plan = packing_plan(make(replace(SMALL, text_config=MlxLmDecoderConfig(values))), Packing(mixed=True))
    gate = {"group_size": 64, "bits": 8, "mode": "affine"}
    assert plan["decoder.model.layers.0.mlp.gate"] == gate


# A mixed recipe


def bits_of(plan, *paths):
    return [plan[path]["bits"] for path in paths]


@pytest.mark.parametrize(("bits", "more"), [(2, 4), (3, 6), (4, 6), (5, 8), (6, 8), (8, 8)])
def test_head_and_embedding_get_more_bits_in_a_mixed_recipe(bits, more):
    plan = packing_plan(make(), Packing(bits=bits, mixed=True))
    assert bits_of(plan, "decoder.lm_head", "decoder.embed_tokens") == [more, more]


@pytest.mark.parametrize(("num_layers", "edges"), [(16, {0, 1, 14, 15}), (8, {0, 7}), (3, {0, 2}), (1, {0})])
def test_the_first_and_last_eighth_of_the_layers_get_more_bits_in_a_mixed_recipe(num_layers, edges):
    plan = packing_plan(with_layers(num_layers), Packing(bits=4, mixed=True))
    bits = {
        number: {plan[p]["bits"] for p in plan if f".layers.{number}." in p} for number in range(num_layers)
    }
    assert bits == {number: {6} if number in edges else {4} for number in range(num_layers)}


@pytest.mark.parametrize("mode", ["mxfp4", "mxfp8", "nvfp4"])
def test_what_matters_most_is_mxfp8_in_a_mixed_recipe_of_another_mode(mode):
    plan = packing_plan(with_layers(8), Packing(mode=mode, mixed=True))
    assert plan["decoder.lm_head"] == {"group_size": 32, "bits": 8, "mode": "mxfp8"}
    assert plan["decoder.layers.3.mlp.up_proj"]["mode"] == mode


def test_layers_that_the_finer_packing_does_not_divide_are_packed_plainly_in_a_mixed_recipe():
    plan = packing_plan(of_width(48), Packing(mode="nvfp4", mixed=True))  # mxfp8 has groups of 32
    assert plan == packing_plan(of_width(48), Packing(mode="nvfp4"))


def test_image_encoder_and_connector_are_packed_plainly_in_a_mixed_recipe():
    packing = Packing(bits=4, group_size=32, mixed=True, encoder=True, connector=True)
    plan = packing_plan(make(), packing)
    others = {path: values for path, values in plan.items() if not path.startswith("decoder.")}
    assert others and all(values == packing.plain for values in others.values())


# What config.json says


def test_a_plain_packing_is_described_by_its_numbers_alone():
    packing = Packing(bits=4)
    assert quantization_config(packing, packing_plan(make(), packing)) == PLAIN


def test_layers_that_differ_are_described_one_by_one():
    model = quantize(with_layers(3), packing=Packing(bits=4, mixed=True))
    expected = {"decoder.embed_tokens", "decoder.lm_head"}
    for number in (0, 2):
        expected |= {f"decoder.layers.{number}.self_attn.{name}_proj" for name in "qkvo"}
        expected |= {f"decoder.layers.{number}.mlp.{name}_proj" for name in ("gate", "up", "down")}
    described = model.config.quantization
    assert described == PLAIN | {path: PLAIN | {"bits": 6} for path in expected}
    assert model.config.quantization_config == described


def test_a_mixed_recipe_that_differs_in_nothing_is_described_as_a_plain_one():
    packing = Packing(bits=8, mixed=True)
    assert quantization_config(packing, packing_plan(make(), packing)) == PLAIN | {"bits": 8}


# What is refused


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mode": "mxfp4", "bits": 8}, "mxfp4 has 4 bits in groups of 32; drop the other numbers."),
        ({"mode": "mxfp8", "bits": 4}, "mxfp8 has 8 bits in groups of 32; drop the other numbers."),
        ({"mode": "nvfp4", "group_size": 32}, "nvfp4 has 4 bits in groups of 16; drop the other numbers."),
        ({"mode": "mxfp4", "bits": 0}, "mxfp4 has 4 bits in groups of 32; drop the other numbers."),
        (
            {"bits": 0},
            "0 bits in groups of 64: expected 2, 3, 4, 5, 6, 8 bits and groups of 32, 64, 128.",
        ),
        (
            {"group_size": 0},
            "4 bits in groups of 0: expected 2, 3, 4, 5, 6, 8 bits and groups of 32, 64, 128.",
        ),
        (
            {"bits": 7},
            "7 bits in groups of 64: expected 2, 3, 4, 5, 6, 8 bits and groups of 32, 64, 128.",
        ),
        (
            {"group_size": 16},
            "4 bits in groups of 16: expected 2, 3, 4, 5, 6, 8 bits and groups of 32, 64, 128.",
        ),
    ],
)
def test_a_packing_that_does_not_exist_is_refused(values, message):
    with pytest.raises(ConfigError) as refusal:
        Packing(**values)
    assert str(refusal.value) == message


def test_an_unknown_mode_is_refused_with_those_there_are(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as outside the tests
    with pytest.raises(ConfigError) as refusal:
        Packing(mode="fp4")
    assert str(refusal.value) == "mode is 'fp4', expected affine, mxfp4, mxfp8, nvfp4."


def test_numbers_that_a_mode_has_anyway_may_be_given():
    assert Packing(4, 32, "mxfp4") == Packing(mode="mxfp4")


@pytest.mark.parametrize(
    ("packing", "width", "reason"),
    [
        (Packing(group_size=128), 64, "a multiple of 128 inputs; lower the group size."),
        (Packing(mode="nvfp4"), 24, "a multiple of 16 inputs; take mode affine with a lower group size."),
    ],
    ids=["affine", "nvfp4"],
)
def test_a_packing_that_packs_nothing_is_refused(packing, width, reason):
    with pytest.raises(ConfigError) as refusal:
        packing_plan(of_width(width), packing)
    assert str(refusal.value) == f"no layer of the decoder has {reason}"
