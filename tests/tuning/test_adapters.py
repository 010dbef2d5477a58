"""What learns and what does not: which linears get adapters, what is frozen, and how much that is."""

from dataclasses import replace

import jaxtyping
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from small_models import SMALL
from tuned_models import FROZEN, IDS, LLAMA, SPARSE, compute_logits, make, train, tuning

from mm1_mlx.errors import ConfigError
from mm1_mlx.model.mm1 import count_parameters
from mm1_mlx.tuning.adapters import (
    adapter_layers,
    adapter_weights,
    prepare,
    take_off,
    trained_counts,
    tuned_parts,
)
from mm1_mlx.tuning.settings import PartTuning, Tuning

LORA, DORA, FULL = PartTuning("lora"), PartTuning("dora"), PartTuning("full")
QKVO = {f"self_attn.{name}_proj" for name in "qkvo"}
MLP = {f"mlp.{name}_proj" for name in ("gate", "up", "down")}


def prepared(how, config=SMALL, **options):
    model = make(config, **options)
    prepare(model, how)
    return model


def places(model, part="decoder"):
    """Paths in the part of what has an adapter."""
    return {path.removeprefix(f"{part}.") for path in adapter_layers(model) if path.startswith(part)}


def in_layers(names, numbers=(0, 1), prefix="layers"):
    return {f"{prefix}.{number}.{name}" for number in numbers for name in names}


def deeper(num_layers, **changes):
    """A model with more layers in its image encoder."""
    return replace(SMALL, vision_config=replace(SMALL.vision_config, num_layers=num_layers, **changes))


# A new adapter


@pytest.mark.parametrize("config", [SMALL, LLAMA, SPARSE], ids=["ours", "llama", "sparse"])
def test_new_adapters_change_nothing(config):
    before = compute_logits(make(config))
    keys = ("*.q_proj",)  # experts have no DoRA
    for how in (tuning(LORA, LORA, LORA), tuning(DORA, DORA, PartTuning("dora", keys=keys))):
        np.testing.assert_array_equal(compute_logits(prepared(how, config)), before)


def test_equal_seeds_make_equal_adapters():
    def weights(seed):
        model = make()
        mx.random.seed(seed)
        prepare(model, tuning(decoder=LORA))
        return adapter_weights(model)

    one, two, other = weights(5), weights(5), weights(6)
    assert all(mx.array_equal(one[key], two[key]) for key in one)
    assert not mx.array_equal(*(w["decoder.layers.0.self_attn.q_proj.lora_a"] for w in (one, other)))


def test_dropout_acts_in_training_alone():
    model = train(prepared(tuning(decoder=PartTuning("lora", dropout=0.5))))
    np.testing.assert_array_equal(compute_logits(model), compute_logits(model))
    model.train()
    assert not np.array_equal(compute_logits(model), compute_logits(model))


# Which linears


@pytest.mark.parametrize(("config", "prefix"), [(SMALL, "layers"), (LLAMA, "model.layers")])
def test_without_keys_all_linears_of_the_layers_are_chosen_and_no_table_or_head(config, prefix):
    assert places(prepared(tuning(decoder=LORA), config)) == in_layers(QKVO | MLP, prefix=prefix)


def test_without_keys_the_connectors_linears_are_chosen_and_no_convolution():
    blocks = {"conv1", "conv3", "squeeze_excite.fc1", "squeeze_excite.fc2"}
    expected = in_layers(blocks, (0,), "before") | in_layers(blocks, (0,), "after")
    assert places(prepared(tuning(connector=LORA)), "connector") == expected | {"readout.0", "readout.1"}


def test_experts_and_routers_are_linears():
    experts = {f"layers.1.mlp.experts.{name}_proj" for name in ("gate", "up", "down")}
    expected = in_layers(QKVO) | {f"layers.0.{name}" for name in MLP} | experts | {"layers.1.mlp.router"}
    assert places(prepared(tuning(decoder=LORA), SPARSE)) == expected


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (("self_attn.q_proj",), in_layers({"self_attn.q_proj"})),
        (("*.[qk]_proj", "mlp.up_proj"), in_layers({f"self_attn.{n}_proj" for n in "qk"} | {"mlp.up_proj"})),
        (("layers.1.mlp.*",), in_layers(MLP, (1,))),
        (("*",), in_layers(QKVO | MLP)),
        (("lm_head", "embed_tokens"), {"lm_head", "embed_tokens"}),
    ],
    ids=["a name", "patterns", "a layer's", "everything in layers", "head and table by their names"],
)
def test_keys_choose_linears_by_name_or_pattern(keys, expected):
    assert places(prepared(tuning(decoder=PartTuning("lora", keys=keys)))) == expected


def test_each_part_has_its_own_keys():
    how = tuning(*(PartTuning("lora", keys=(key,)) for key in ("*.fc1", "readout.*", "*.o_proj")))
    model = prepared(how)
    assert places(model, "image_encoder") == {"layers.0.feed_forward.fc1"}
    assert places(model, "connector") == {"readout.0", "readout.1"}
    assert places(model) == in_layers({"self_attn.o_proj"})


def test_the_last_layers_are_chosen():
    model = prepared(tuning(decoder=PartTuning("lora", num_layers=1)))
    assert places(model) == in_layers(QKVO | MLP, (1,))


def test_layers_behind_the_features_that_are_taken_get_no_adapter():
    how = tuning(image_encoder=PartTuning("lora", num_layers=1, keys=("*.q_proj",)))
    model = prepared(how, deeper(3, feature_layer=-2))
    assert places(model, "image_encoder") == {"layers.1.attention.q_proj"}


def test_an_adapter_of_the_token_table_is_read_by_any_decoder():
    for config, key in ((SMALL, "embed_tokens"), (LLAMA, "model.embed_tokens"), (SPARSE, "embed_tokens")):
        model = prepared(tuning(decoder=PartTuning("lora", keys=(key,))), config)
        before = model.embed_text(IDS)
        table = adapter_layers(model)[f"decoder.{key}"]
        table.lora_b = mx.ones_like(table.lora_b)
        assert not mx.allclose(model.embed_text(IDS), before, atol=0.1)


# What is trained


@pytest.mark.parametrize("part", ["image_encoder", "connector", "decoder"])
def test_one_part_in_full_and_nothing_else(part):
    model = prepared(tuning(**{part: FULL}))
    unused = {"image_encoder.post_norm.weight", "image_encoder.post_norm.bias"}
    expected = {f"{part}.{key}" for key, _ in tree_flatten(model[part].parameters())} - unused
    assert set(adapter_weights(model)) == expected


def test_the_last_layers_in_full():
    model = prepared(tuning(decoder=PartTuning("full", num_layers=1)))
    assert {key.split(".")[2] for key in adapter_weights(model)} == {"1"}


def test_layers_behind_the_features_that_are_taken_are_not_trained():
    for final_norm in (False, True):
        model = prepared(tuning(image_encoder=FULL), deeper(2, feature_layer=-2, final_norm=final_norm))
        tops = {".".join(key.split(".")[1:3]) for key in adapter_weights(model)}
        assert "layers.0" in tops and "layers.1" not in tops
        assert ("post_norm.weight" in tops) == final_norm


def test_training_changes_what_is_trained_alone():
    model = prepared(tuning(connector=FULL, decoder=LORA))
    before = dict(tree_flatten(model.parameters()))
    train(model)
    changed = {k for k, v in tree_flatten(model.parameters()) if not mx.array_equal(v, before[k])}
    assert changed == set(adapter_weights(model))


@pytest.mark.parametrize("bits", [4, 8])
def test_adapters_train_over_packed_weights_which_stay_frozen(bits):
    model = prepared(tuning(connector=FULL, decoder=LORA), bits=bits)
    keys = set(adapter_weights(model))
    assert not [key for key in keys if key.endswith((".scales", ".biases", ".linear.weight"))]
    before = compute_logits(model)
    assert not np.array_equal(compute_logits(train(model)), before)


def test_counts_are_of_each_part_and_packed_weights_count_as_what_they_stand_for():
    how = tuning(connector=FULL, decoder=PartTuning("lora", rank=2, keys=("*.q_proj",)))
    sizes = {part: count_parameters(make()[part]) for part in ("image_encoder", "connector", "decoder")}
    lora = 2 * 2 * (64 + 64)
    for bits in (None, 8, 6, 3):
        counts = trained_counts(prepared(how, bits=bits))
        assert counts == {
            "image_encoder": (0, sizes["image_encoder"]),
            "connector": (sizes["connector"], sizes["connector"]),
            "decoder": (lora, sizes["decoder"] + lora),
        }


def test_taken_off_the_model_is_as_it_was():
    model = prepared(tuning(LORA, DORA, PartTuning("lora", keys=("*.q_proj", "embed_tokens"))))
    assert tuned_parts(model) == {"image_encoder", "connector", "decoder"}
    take_off(train(model))
    np.testing.assert_array_equal(compute_logits(model), compute_logits(make()))
    assert tuned_parts(model) == set()
    assert [k for k, _ in tree_flatten(model.parameters())] == [
        k for k, _ in tree_flatten(make().parameters())
    ]


# What is refused, and leaves the model as it was


def refused(how, *words, config=SMALL, **options):
    model = make(config, **options)
    with pytest.raises(ConfigError) as refusal:
        prepare(model, how)
    for word in words:
        assert word in str(refusal.value)
    assert not adapter_layers(model) and not tuned_parts(model)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rank": 0}, "rank is 0, expected more than 0"),
        ({"rank": -4}, "rank is -4, expected more than 0"),
        ({"scale": 0.0}, "scale is 0.0, expected more than 0"),
        ({"scale": float("inf")}, "scale is inf"),
        ({"dropout": 1.0}, "dropout is 1.0, expected at least 0 and less than 1"),
        ({"dropout": -0.1}, "dropout is -0.1"),
        ({"num_layers": 0}, "num_layers is 0, expected more than 0, or -1 for all"),
        ({"how": "full", "keys": ("*",)}, "keys are for lora and dora, but how is 'full'"),
        ({"how": "lore"}, "how is 'lore', expected one of frozen, lora, dora, full"),
    ],
    ids=str,
)
def test_values_out_of_range_are_refused(values, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as outside the tests
    with pytest.raises(ConfigError) as refusal:
        PartTuning(**{"how": "lora"} | values)
    assert message in str(refusal.value)


def test_a_tuning_is_read_as_it_was_written():
    how = tuning(
        FULL, FROZEN, PartTuning("dora", rank=4, scale=2.0, dropout=0.1, keys=("a", "b"), num_layers=3)
    )
    assert Tuning.from_dict(how.to_dict()) == how


def test_an_unknown_part_is_refused_with_the_nearest():
    values = tuning(decoder=LORA).to_dict()
    with pytest.raises(ConfigError, match=r"unknown key 'image_encodr'\. Did you mean image_encoder"):
        Tuning.from_dict(values | {"image_encodr": values["decoder"]})


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("q_proj", ("no linear named 'q_proj'", "the nearest are self_attn.q_proj")),
        ("self_attn.query_proj", ("the nearest are self_attn.q_proj",)),
        ("*.fc1", ("no linear named '*.fc1'", "mlp.down_proj")),
        ("lm_*", ("no linear named 'lm_*'", "lm_head")),
        ("norm", ("no linear named 'norm'",)),
    ],
)
def test_a_key_that_finds_nothing_is_refused_with_the_nearest_names(key, words):
    refused(tuning(decoder=PartTuning("lora", keys=("*.o_proj", key))), "decoder", *words)


def test_a_key_of_a_layer_that_is_not_chosen_is_refused():
    how = tuning(decoder=PartTuning("lora", keys=("layers.0.mlp.up_proj",), num_layers=1))
    refused(how, "no linear named 'layers.0.mlp.up_proj' in its last 1 layers")


def test_a_rank_above_that_of_every_chosen_linear_is_refused():
    refused(tuning(decoder=PartTuning("lora", rank=65)), "rank is 65", "of the decoder has rank 64")
    how = PartTuning("lora", rank=33, keys=("*.k_proj",))
    refused(tuning(decoder=how), "of the decoder has rank 32")
    refused(tuning(decoder=how), "of the decoder has rank 32", bits=4)


@pytest.mark.parametrize("how", ["lora", "full"])
def test_more_layers_than_there_are_are_refused(how):
    own = PartTuning(how, num_layers=3)
    refused(tuning(decoder=own), "num_layers is 3, but the decoder has 2")
    refused(tuning(image_encoder=own), "num_layers is 3, but the image encoder has 1")


def test_a_packed_part_is_not_trained_in_full():
    refused(tuning(decoder=FULL), "the decoder is quantized", "take lora or dora", bits=4)
    refused(tuning(decoder=PartTuning("full", num_layers=1)), "the decoder is quantized", bits=4)


@pytest.mark.parametrize(
    ("keys", "config", "bits", "reason"),
    [
        ((), SPARSE, None, "mlp.experts.gate_proj is experts"),
        (("embed_tokens",), SMALL, 4, "embed_tokens is a packed table"),
        (("*.q_proj",), SMALL, 6, "q_proj is weights of 6 bits"),
    ],
)
def test_what_dora_cannot_adapt_is_refused(keys, config, bits, reason):
    how = tuning(decoder=PartTuning("dora", keys=keys, rank=4))
    refused(how, "there is no dora; take lora", config=config, bits=bits)


def test_an_encoder_whose_features_come_before_all_layers_has_no_linears_to_adapt():
    refused(tuning(image_encoder=LORA), "no linears in its layers", config=deeper(1, feature_layer=0))


def test_a_model_is_prepared_once():
    model = prepared(tuning(decoder=LORA))
    with pytest.raises(ValueError, match="remove_adapters takes them off"):
        prepare(model, tuning(decoder=LORA))


def test_training_mode_stays_as_it_was():
    model = make()
    model.train()
    prepare(model, tuning(decoder=PartTuning("lora", dropout=0.5)))
    assert {module.training for module in model.modules() if isinstance(module, nn.Dropout)} == {True}
