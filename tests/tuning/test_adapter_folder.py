"""The adapter folder: saved, loaded, combined, taken off and fused; and every folder that is not one."""

import json
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import load_adapters as load_with_mlx_lm
from small_models import SMALL
from tuned_models import LLAMA, SPARSE, compute_logits, make, make_trained, train, tuning

from mm1_mlx import combine_adapters, fuse_adapters, load, load_adapters, remove_adapters, save
from mm1_mlx.checkpoint.hub import find_folder
from mm1_mlx.errors import CheckpointError
from mm1_mlx.files.identity import model_identity, vision_identity
from mm1_mlx.tuning import save_adapters
from mm1_mlx.tuning.adapters import adapter_layers, adapter_weights, prepare, tunings_of
from mm1_mlx.tuning.settings import PartTuning

LORA, FULL = PartTuning("lora", rank=4), PartTuning("full")
DORA = PartTuning("dora", rank=4, keys=("*.q_proj", "*.o_proj"))
TUNINGS = {
    "lora": tuning(decoder=LORA),
    "dora": tuning(decoder=DORA),
    "connector alone": tuning(connector=FULL),
    "connector and lora": tuning(connector=FULL, decoder=LORA),
    "lora everywhere": tuning(LORA, LORA, LORA),
    "full everywhere": tuning(FULL, FULL, FULL),
    "table and head": tuning(
        decoder=PartTuning("lora", rank=4, keys=("*.q_proj", "embed_tokens", "lm_head"))
    ),
}
MODELS = {"ours": SMALL, "llama": LLAMA, "sparse": SPARSE}


def saved(folder, how, config=SMALL, **options):
    """A tuned model whose adapter is in ``folder``."""
    identity = model_identity(make(config, bits=options.get("bits")))
    model = make_trained(config, how, **options)
    save_adapters(model, how, folder, base_identity=identity)
    return model


def loaded(folder, config=SMALL, bits=None, weight=1.0):
    model = make(config, bits=bits)
    load_adapters(model, folder, weight=weight)
    return model


def weights_of(model):
    return dict(tree_flatten(model.parameters()))


def equal(one, other):
    return one.keys() == other.keys() and all(mx.array_equal(one[key], other[key]) for key in one)


def config_of(folder):
    return json.loads((folder / "adapter_config.json").read_text())


def change_config(folder, **changes):
    (folder / "adapter_config.json").write_text(json.dumps(config_of(folder) | changes))


def change_tensors(file, change):
    tensors = dict(mx.load(str(file)))
    change(tensors)
    mx.eval(tensors)
    mx.save_safetensors(str(file), tensors)


# Save and load


@pytest.mark.parametrize("how", TUNINGS.values(), ids=TUNINGS)
def test_loaded_is_bit_for_bit_what_was_saved(how, tmp_path):
    model = saved(tmp_path / "a", how)
    again = loaded(tmp_path / "a")
    assert equal(weights_of(again), weights_of(model))
    assert equal(adapter_weights(again), adapter_weights(model))  # what learns goes on learning
    np.testing.assert_array_equal(compute_logits(again), compute_logits(model))


@pytest.mark.parametrize("config", [LLAMA, SPARSE], ids=["llama", "sparse"])
@pytest.mark.parametrize("bits", [None, 4, 8])
def test_any_decoder_packed_or_not_is_loaded_as_it_was_saved(config, bits, tmp_path):
    model = saved(tmp_path / "a", TUNINGS["connector and lora"], config, bits=bits)
    np.testing.assert_array_equal(compute_logits(loaded(tmp_path / "a", config, bits)), compute_logits(model))


def test_a_folder_has_a_file_for_adapters_and_one_for_each_part_in_full(tmp_path):
    saved(tmp_path / "a", tuning(FULL, FULL, LORA))
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert names == {
        *("adapter_config.json", "adapters.safetensors"),
        *("connector.safetensors", "image_encoder.safetensors"),
    }
    connector = mx.load(str(tmp_path / "a" / "connector.safetensors"))
    assert connector.keys() == {f"connector.{key}" for key, _ in tree_flatten(make().connector.parameters())}


def test_the_configuration_speaks_of_the_decoder_in_mlx_lms_names(tmp_path):
    own = PartTuning("lora", rank=4, scale=2.5, dropout=0.1, keys=("self_attn.q_proj",), num_layers=1)
    saved(tmp_path / "a", tuning(connector=FULL, decoder=own))
    found = config_of(tmp_path / "a")
    assert (found["fine_tune_type"], found["num_layers"]) == ("lora", 1)
    parameters = {"rank": 4, "scale": 2.5, "dropout": 0.1, "keys": ["self_attn.q_proj"]}
    assert found["lora_parameters"] == parameters
    assert found["connector"] == {"fine_tune_type": "full", "num_layers": -1}
    assert found["base_model"]["identity"] == model_identity(make())


@pytest.mark.parametrize("keys", [(), ("self_attn.q_proj",)], ids=["all linears", "a name"])
@pytest.mark.parametrize("how", ["lora", "dora"])
def test_mlx_lm_reads_an_adapter_of_the_decoder(how, keys, tmp_path):
    model = saved(tmp_path / "a", tuning(decoder=PartTuning(how, rank=4, keys=keys, num_layers=1)), LLAMA)
    again = make(LLAMA)
    load_with_mlx_lm(again, str(tmp_path / "a"))
    np.testing.assert_array_equal(compute_logits(again), compute_logits(model))


def test_saving_again_replaces_the_adapter_and_nothing_else(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "metrics.jsonl").write_text("{}")
    saved(tmp_path, tuning(connector=FULL, decoder=LORA))
    model = saved(tmp_path, tuning(decoder=DORA), seed=2)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("checkpoints", "metrics.jsonl", "adapter_config.json", "adapters.safetensors")
    }
    np.testing.assert_array_equal(compute_logits(loaded(tmp_path)), compute_logits(model))


def test_a_tuning_that_is_not_the_models_is_not_saved(tmp_path):
    model = make_trained(SMALL, tuning(decoder=LORA))
    for other in (tuning(decoder=PartTuning("lora", rank=4, scale=2.0)), tuning(connector=FULL)):
        with pytest.raises(ValueError, match="not prepared with this tuning"):
            save_adapters(model, other, tmp_path / "a", base_identity="")
    assert not (tmp_path / "a").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "a").write_text("mine")
    with pytest.raises(CheckpointError, match="a cannot be written: File exists"):
        saved(tmp_path / "a", tuning(decoder=LORA))


def test_a_loaded_adapter_is_trained_further_and_saved_again(tmp_path):
    saved(tmp_path / "a", TUNINGS["connector and lora"])
    model = make()
    identity = model_identity(model)
    load_adapters(model, tmp_path / "a")
    before = compute_logits(model)
    train(model, seed=3)
    save_adapters(model, *tunings_of(model), tmp_path / "b", base_identity=identity)
    np.testing.assert_array_equal(compute_logits(loaded(tmp_path / "b")), compute_logits(model))
    assert not np.array_equal(compute_logits(model), before)


# Hot swap


@pytest.mark.parametrize("how", TUNINGS.values(), ids=TUNINGS)
def test_taken_off_the_model_is_bit_for_bit_as_it_was(how, tmp_path):
    saved(tmp_path / "a", how)
    model = loaded(tmp_path / "a")
    remove_adapters(model)
    assert equal(weights_of(model), weights_of(make()))
    assert model_identity(model) == model_identity(make())


def test_one_adapter_follows_another(tmp_path):
    one = saved(tmp_path / "one", TUNINGS["connector and lora"])
    two = saved(tmp_path / "two", TUNINGS["dora"], seed=2)
    model = make()
    for folder, expected in (("one", one), ("two", two), ("one", one)):
        load_adapters(model, tmp_path / folder)
        np.testing.assert_array_equal(compute_logits(model), compute_logits(expected))
        remove_adapters(model)


def test_removing_nothing_changes_nothing():
    model = make()
    remove_adapters(model)
    assert equal(weights_of(model), weights_of(make()))


def test_a_part_trained_in_full_cannot_be_taken_off_where_it_was_trained():
    model = make_trained(SMALL, tuning(connector=FULL))
    with pytest.raises(ValueError, match="the connector was trained in full, over its first weights"):
        remove_adapters(model)


def test_caches_tell_an_adapter_from_none_and_from_another(tmp_path):
    saved(tmp_path / "eyes", tuning(connector=LORA))
    saved(tmp_path / "words", tuning(decoder=LORA))
    model, seen, read = make(), [], []
    for folder in ("eyes", "words", None):
        seen.append(vision_identity(model))
        read.append(model_identity(model))
        remove_adapters(model)
        if folder:
            load_adapters(model, tmp_path / folder)
    plain, eyes, words = seen
    assert plain == words != eyes  # visual tokens do not depend on the decoder
    assert len(set(read)) == 3


# Several, and weights


def fused_weights(model):
    fuse_adapters(model)
    return weights_of(model)


@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS)
def test_halves_of_two_adapters_are_their_mean(config, tmp_path):
    one = tuning(FULL, FULL, PartTuning("lora", rank=4, scale=20.0))
    two = tuning(connector=FULL, decoder=PartTuning("lora", rank=2, scale=5.0, num_layers=1))
    expected = [
        fused_weights(saved(tmp_path / str(n), how, config, seed=n)) for n, how in enumerate((one, two))
    ]
    model = make(config)
    combine_adapters(model, {tmp_path / "0": 0.5, tmp_path / "1": 0.5})
    logits = compute_logits(model)
    for key, value in fused_weights(model).items():
        mean = (expected[0][key] + expected[1][key]) / 2
        np.testing.assert_allclose(np.array(value), np.array(mean), rtol=0, atol=1e-6, err_msg=key)
    np.testing.assert_allclose(compute_logits(model), logits, rtol=0, atol=1e-5)


def test_lora_stands_beside_what_another_adapter_trained_in_full(tmp_path):
    base = weights_of(make())
    full = fused_weights(saved(tmp_path / "full", tuning(decoder=FULL)))
    lora = fused_weights(saved(tmp_path / "lora", tuning(decoder=LORA), seed=2))
    model = make()
    combine_adapters(model, {tmp_path / "full": 1.0, tmp_path / "lora": -2.0})
    for key, value in fused_weights(model).items():
        expected = full[key] - 2 * (lora[key] - base[key])
        np.testing.assert_allclose(np.array(value), np.array(expected), rtol=0, atol=1e-5, err_msg=key)


def test_tables_are_combined_too(tmp_path):
    key, keys = "decoder.embed_tokens.weight", ("embed_tokens",)
    hows = (tuning(decoder=PartTuning("lora", rank=r, keys=keys)) for r in (4, 2))
    one, two = (fused_weights(saved(tmp_path / str(n), how, seed=n))[key] for n, how in enumerate(hows))
    model = make()
    combine_adapters(model, {tmp_path / "0": 1.0, tmp_path / "1": 1.0})
    expected = one + two - weights_of(make())[key]
    np.testing.assert_allclose(np.array(fused_weights(model)[key]), np.array(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("how", ["lora", "connector alone"])
def test_no_weight_is_no_change_and_combined_ones_come_off(how, tmp_path):
    saved(tmp_path / "a", TUNINGS[how])
    saved(tmp_path / "b", TUNINGS["connector and lora"], seed=2)
    before = compute_logits(make())
    np.testing.assert_array_equal(compute_logits(loaded(tmp_path / "a", weight=0.0)), before)
    model = make()
    combine_adapters(model, {tmp_path / "a": 0.3, tmp_path / "b": 0.7})
    assert not np.allclose(compute_logits(model), before, atol=1e-2)
    remove_adapters(model)
    np.testing.assert_array_equal(compute_logits(model), before)


def test_a_weighted_adapter_is_saved_as_it_weighs(tmp_path):
    saved(tmp_path / "a", TUNINGS["connector and lora"])
    half = loaded(tmp_path / "a", weight=0.5)
    save_adapters(half, *tunings_of(half), tmp_path / "half", base_identity=model_identity(make()))
    np.testing.assert_array_equal(compute_logits(loaded(tmp_path / "half")), compute_logits(half))


def test_combined_adapters_are_not_saved_as_one(tmp_path):
    for n in (0, 1):
        saved(tmp_path / str(n), TUNINGS["lora"], seed=n)
    model = make()
    combine_adapters(model, {tmp_path / "0": 1.0, tmp_path / "1": 1.0})
    with pytest.raises(ValueError, match="not prepared with this tuning"):
        save_adapters(model, TUNINGS["lora"], tmp_path / "both", base_identity="")


def test_dora_goes_with_adapters_of_other_parts_alone(tmp_path):
    saved(tmp_path / "dora", TUNINGS["dora"])
    saved(tmp_path / "lora", TUNINGS["lora"])
    saved(tmp_path / "eyes", TUNINGS["connector alone"])
    for weights in ({"dora": 1.0, "lora": 1.0}, {"dora": 0.5}):
        with pytest.raises(
            CheckpointError, match=r"dora has DoRA in the decoder.*with weight 1 and with no other"
        ):
            combine_adapters(make(), {tmp_path / name: weight for name, weight in weights.items()})
    model = make()
    combine_adapters(model, {tmp_path / "dora": 1.0, tmp_path / "eyes": 0.5})
    assert len(adapter_layers(model)) == 4


# Fuse


@pytest.mark.parametrize("how", TUNINGS.values(), ids=TUNINGS)
def test_fused_equals_unfused(how, tmp_path):
    model = saved(tmp_path / "a", how)
    logits = compute_logits(model)
    fuse_adapters(model)
    assert weights_of(model).keys() == weights_of(make()).keys()
    np.testing.assert_allclose(compute_logits(model), logits, rtol=0, atol=5e-5)


@pytest.mark.parametrize("config", [LLAMA, SPARSE], ids=["llama", "sparse"])
@pytest.mark.parametrize("bits", [None, 4])
def test_any_decoder_fused_and_dequantized_equals_unfused(config, bits, tmp_path):
    model = make_trained(config, tuning(connector=LORA, decoder=LORA), bits=bits)
    logits = compute_logits(model)
    fuse_adapters(model, dequantize=True)
    assert weights_of(model).keys() == weights_of(make(config)).keys()
    assert model.config == config
    np.testing.assert_allclose(compute_logits(model), logits, rtol=0, atol=1e-5)


def test_a_packed_model_is_packed_again_as_it_was():
    model = make_trained(SMALL, TUNINGS["lora"], bits=8)
    logits, change = compute_logits(model), np.abs(compute_logits(model) - compute_logits(make(bits=8))).max()
    fuse_adapters(model)
    packed = make(bits=8)
    assert model.config == packed.config
    found, expected = weights_of(model), weights_of(packed)
    assert {k: (v.shape, v.dtype) for k, v in found.items()} == {
        k: (v.shape, v.dtype) for k, v in expected.items()
    }
    assert 0 < np.abs(compute_logits(model) - logits).max() < 0.05 * change  # rounding


@pytest.mark.parametrize("how", ["dora", "table and head"])
def test_what_else_stands_beside_packed_weights_is_fused(how):
    model = make_trained(SMALL, TUNINGS[how], bits=4)
    logits = compute_logits(model)
    fuse_adapters(model, dequantize=True)
    np.testing.assert_allclose(compute_logits(model), logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("how", ["lora", "dora"])
def test_fusing_keeps_the_type_of_the_weights(how):
    model = make()
    model.set_dtype(mx.float16)
    prepare(model, TUNINGS[how])
    fuse_adapters(model)
    assert {value.dtype for value in weights_of(model).values()} == {mx.float16}


def test_a_fused_model_is_saved_loaded_and_tuned_as_any_other(tmp_path):
    model = make_trained(SMALL, TUNINGS["connector and lora"])
    fuse_adapters(model)
    save(model, tmp_path / "fused", companions=find_folder("mm1-tiny"))
    again, _ = load(tmp_path / "fused", dtype="float32")
    np.testing.assert_array_equal(compute_logits(again), compute_logits(model))
    prepare(model, TUNINGS["dora"])


# With a model folder


@pytest.fixture
def folder(tmp_path):
    """A model folder whose connector is untrained."""
    model = make(replace(SMALL, untrained=("connector",)))
    save(model, tmp_path / "model", companions=find_folder("mm1-tiny"))
    return tmp_path / "model"


def save_for(folder, path, how):
    model, _ = load(folder, dtype="float32")
    identity = model_identity(model)
    prepare(model, how)
    save_adapters(train(model), how, path, base_identity=identity)
    return compute_logits(model)


def test_load_takes_an_adapter_or_several(folder, tmp_path):
    logits = save_for(folder, tmp_path / "a", TUNINGS["connector and lora"])
    model, _ = load(folder, adapter_path=tmp_path / "a", dtype="float32")
    np.testing.assert_array_equal(compute_logits(model), logits)
    one = {str(tmp_path / "a"): 0.5}
    combined, expected = load(folder, adapter_path=one, dtype="float32")[0], load(folder, dtype="float32")[0]
    load_adapters(expected, tmp_path / "a", weight=0.5)
    np.testing.assert_array_equal(compute_logits(combined), compute_logits(expected))


def test_an_untrained_part_that_was_tuned_is_not_called_untrained(folder, tmp_path):
    save_for(folder, tmp_path / "words", TUNINGS["lora"])
    save_for(folder, tmp_path / "eyes", TUNINGS["connector alone"])
    _, processor = load(folder, adapter_path=tmp_path / "words", dtype="float32")
    assert "the connector of" in processor.notices[0]
    model, processor = load(folder, adapter_path=tmp_path / "eyes", dtype="float32")
    assert not processor.notices
    fuse_adapters(model)
    assert model.config.untrained == ()


# What is refused, and leaves the model as it was


def refused(folder, *words, config=SMALL, bits=None, weight=1.0):
    model = make(config, bits=bits)
    with pytest.raises(CheckpointError) as refusal:
        load_adapters(model, folder, weight=weight)
    for word in words:
        assert word in str(refusal.value)
    assert not tunings_of(model) and equal(weights_of(model), weights_of(make(config, bits=bits)))


def test_a_folder_without_configuration_is_refused(tmp_path):
    refused(tmp_path / "none", "none has no adapter_config.json; give an adapter folder")


def test_an_adapter_of_another_model_is_refused(tmp_path):
    saved(tmp_path / "a", TUNINGS["lora"])
    refused(tmp_path / "a", "was tuned on another model", config=SPARSE)
    refused(tmp_path / "a", "was tuned on another model", bits=4)
    other = make()
    other.decoder.norm.weight = other.decoder.norm.weight + 0.001
    with pytest.raises(CheckpointError, match=r"or on other weights or another config\.json of it"):
        load_adapters(other, tmp_path / "a")


def test_an_adapter_of_the_model_in_another_type_is_refused_with_the_one_to_take(tmp_path):
    saved(tmp_path / "a", TUNINGS["lora"])
    model = make()
    model.set_dtype(mx.float16)
    with pytest.raises(
        CheckpointError, match="in float32, and this one is in float16; load it with `dtype` float32"
    ):
        load_adapters(model, tmp_path / "a")


def test_the_model_is_asked_before_any_tensor_is_read(tmp_path):
    saved(tmp_path / "a", TUNINGS["lora"])
    (tmp_path / "a" / "adapters.safetensors").unlink()
    refused(tmp_path / "a", "was tuned on another model", config=SPARSE)


@pytest.mark.parametrize("name", ["adapters.safetensors", "connector.safetensors"])
def test_a_missing_file_is_named(name, tmp_path):
    saved(tmp_path / "a", TUNINGS["connector and lora"])
    (tmp_path / "a" / name).unlink()
    refused(tmp_path / "a", f"lacks {name}")


def test_a_file_of_which_the_configuration_does_not_speak_is_named(tmp_path):
    saved(tmp_path / "a", TUNINGS["lora"])
    saved(tmp_path / "b", TUNINGS["connector alone"])
    (tmp_path / "b" / "connector.safetensors").rename(tmp_path / "a" / "connector.safetensors")
    refused(tmp_path / "a", "holds connector.safetensors, which adapter_config.json does not speak of")


def test_a_cut_file_is_refused(tmp_path):
    saved(tmp_path / "a", TUNINGS["lora"])
    path = tmp_path / "a" / "adapters.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    refused(tmp_path / "a", "adapters.safetensors is damaged")


def test_one_wrong_byte_is_noticed(tmp_path):
    saved(tmp_path / "a", TUNINGS["lora"])
    path = tmp_path / "a" / "adapters.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    refused(tmp_path / "a", "is damaged, or its files are of different saves")


def test_files_of_different_saves_are_refused(tmp_path):
    for n in (0, 1):
        saved(tmp_path / str(n), TUNINGS["connector and lora"], seed=n)
    (tmp_path / "1" / "connector.safetensors").replace(tmp_path / "0" / "connector.safetensors")
    refused(tmp_path / "0", "its files are of different saves")


def test_numbers_that_are_none_are_refused_by_name(tmp_path):
    saved(tmp_path / "a", TUNINGS["lora"])
    key = "decoder.layers.0.mlp.up_proj.lora_a"
    change_tensors(
        tmp_path / "a" / "adapters.safetensors", lambda t: t.update({key: mx.full((64, 4), mx.nan)})
    )
    refused(tmp_path / "a", f"NaN or infinity in {key}")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"lora_parameters": {"rank": 2, "scale": 20.0, "dropout": 0.0}},
            ("lora_a is (64, 4), expected (64, 2)",),
        ),
        (
            {"lora_parameters": {"rank": 4, "scale": 20.0, "dropout": 0.0, "keys": ["*.q_proj"]}},
            ("holds decoder",),
        ),
        ({"num_layers": 9}, ("adapter_config.json", "num_layers is 9")),
        ({"lora_parameters": {"rank": 0}}, ("adapter_config.json", "rank is 0")),
        ({"lora_parameters": {"alpha": 16}}, ("unknown key 'alpha'",)),
        ({"lora_parameters": 8}, ("adapter_config.json",)),
        ({"fine_tune_type": "lore"}, ("adapter_config.json", "'lore'")),
        ({"base_model": None}, ("does not say which model it is of; give a folder that mm1_mlx tuned",)),
        ({"base_model": None, "peft_type": "LORA"}, ("mm1_mlx.peft import reads PEFT's",)),
    ],
    ids=str,
)
def test_a_configuration_that_does_not_fit_is_refused(changes, words, tmp_path):
    saved(tmp_path / "a", TUNINGS["lora"])
    change_config(tmp_path / "a", **changes)
    refused(tmp_path / "a", *words)


@pytest.mark.parametrize("text", ["{", "[]", "null", "3"])
def test_a_configuration_that_is_none_is_refused(text, tmp_path):
    saved(tmp_path / "a", TUNINGS["lora"])
    (tmp_path / "a" / "adapter_config.json").write_text(text)
    refused(tmp_path / "a", "adapter_config.json")


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_a_weight_that_is_no_number_is_refused(weight, tmp_path):
    saved(tmp_path / "a", TUNINGS["lora"])
    refused(tmp_path / "a", "expected a finite number", weight=weight)


def test_a_tuned_model_takes_no_adapter(tmp_path):
    saved(tmp_path / "a", TUNINGS["lora"])
    model = loaded(tmp_path / "a")
    with pytest.raises(ValueError, match="remove_adapters takes them off"):
        load_adapters(model, tmp_path / "a")
