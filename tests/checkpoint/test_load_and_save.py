import contextlib
import json

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mm1_mlx import MM1, generate, load, preset, quantize, save
from mm1_mlx.checkpoint.hub import find_folder
from mm1_mlx.errors import CheckpointError, ConfigError
from mm1_mlx.files.writing import new_folder

TOKENS = mx.array([[1, 5, *[3] * 16, 40, 41, 2, 6]])


def logits_of(model):
    pixels = mx.random.normal((1, 126, 126, 3), key=mx.random.key(0))
    return np.array(model(TOKENS, pixel_values=pixels))


def change_config(folder, **changes):
    path = folder / "config.json"
    values = json.loads(path.read_text())
    for key, value in changes.items():
        section, _, name = key.rpartition("__")
        (values[section] if section else values)[name] = value
    path.write_text(json.dumps(values))


def change_weights(folder, change):
    path = str(folder / "model.safetensors")
    weights = dict(mx.load(path))
    change(weights)
    mx.eval(weights)
    mx.save_safetensors(path, weights)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_saved_then_loaded_is_bit_equal(dtype, mm1_tiny, tiny_folder, tmp_path):
    model, _ = load(tiny_folder, dtype=dtype)
    save(model, tmp_path / "copy", companions=tiny_folder)
    again, _ = load(tmp_path / "copy", dtype=dtype)
    for (key, ours), (_, theirs) in zip(
        tree_flatten(model.parameters()), tree_flatten(again.parameters()), strict=True
    ):
        assert ours.dtype == theirs.dtype and mx.array_equal(ours, theirs), key
    assert again.config == model.config


def test_a_folder_in_shards_loads(tiny_folder, mm1_tiny):
    weights = mx.load(str(tiny_folder / "model.safetensors"))
    keys = sorted(weights)
    for number, part in enumerate((keys[::2], keys[1::2]), start=1):
        path = tiny_folder / f"model-{number:05d}-of-00002.safetensors"
        mx.save_safetensors(str(path), {key: weights[key] for key in part})
    (tiny_folder / "model.safetensors").unlink()
    (tiny_folder / "model.safetensors.index.json").unlink()
    np.testing.assert_array_equal(logits_of(load(tiny_folder)[0]), logits_of(mm1_tiny[0]))


@pytest.mark.parametrize("bits, tolerance", [(8, 0.05), (4, 0.6)])
def test_a_quantized_folder_loads_as_it_was_saved(bits, tolerance, tiny_folder, tmp_path, mm1_tiny):
    model, _ = load(tiny_folder)
    quantize(model, bits=bits)
    before = logits_of(model)
    save(model, tmp_path / "packed", companions=tiny_folder)
    again, _ = load(tmp_path / "packed", dtype="float16")
    np.testing.assert_array_equal(logits_of(again), before)
    exact = logits_of(mm1_tiny[0])
    assert np.abs(before - exact).mean() < tolerance * exact.std()


def test_quantization_keeps_image_encoder_and_connector_in_16_bit(tiny_folder, tmp_path):
    save(quantize(load(tiny_folder, dtype="float32")[0], bits=4), tmp_path / "packed", companions=tiny_folder)
    stored = mx.load(str(tmp_path / "packed" / "model.safetensors"))
    packed = {key for key in stored if key.endswith(".scales")}
    assert packed and all(key.startswith("decoder.") for key in packed)
    assert {v.dtype for v in stored.values()} == {mx.float16, mx.uint32}


def test_a_quantized_model_is_not_quantized_again(tiny_folder):
    model = quantize(load(tiny_folder)[0], bits=8)
    with pytest.raises(ConfigError, match="quantized already"):
        quantize(model, bits=4)


def test_quantization_that_would_pack_nothing_is_refused():
    values = preset("mm1-tiny").to_dict()
    values["text_config"] |= {"hidden_dims": 48, "head_dims": 12, "feed_forward_dims": 40, "num_layers": 1}
    values["connector_config"] |= {"output_dims": 48}
    with pytest.raises(ConfigError, match="multiple of 128"):
        quantize(MM1(type(preset("mm1-tiny")).from_dict(values)), group_size=128)


def test_code_in_a_folder_is_not_run(tiny_folder, tmp_path):
    (tiny_folder / "tok.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Tok: pass\n")
    path = tiny_folder / "tokenizer_config.json"
    values = json.loads(path.read_text()) | {
        "tokenizer_class": "Tok",
        "auto_map": {"AutoTokenizer": ["tok.Tok", None]},
    }
    path.write_text(json.dumps(values))
    with contextlib.suppress(CheckpointError):
        load(tiny_folder)
    assert not (tmp_path / "ran").exists()


def test_an_image_token_that_the_tokenizer_lacks_is_refused(tiny_folder):
    change_config(tiny_folder, image_token_id=767)
    refused(tiny_folder, "image_token_id is 767")


def test_integers_in_the_place_of_floats_are_refused(tiny_folder):
    change_weights(tiny_folder, lambda w: w.update({"decoder.norm.weight": mx.ones((256,), mx.int32)}))
    refused(tiny_folder, "decoder.norm.weight holds", "int32")


def test_quantized_configs_carry_both_keys(tiny_folder):
    model, _ = load(tiny_folder)
    values = quantize(model, bits=4).config.to_dict()
    assert (
        values["quantization"]
        == values["quantization_config"]
        == {"group_size": 64, "bits": 4, "mode": "affine"}
    )


def test_unknown_bits_are_refused(mm1_tiny):
    with pytest.raises(ConfigError, match="7 bits"):
        quantize(mm1_tiny[0], bits=7)


def test_a_sparse_model_is_saved_loaded_and_quantized(tiny_folder, tmp_path):
    values = preset("mm1-tiny").to_dict()
    values["text_config"] |= {"num_experts": 4, "sparse_every": 2, "num_layers": 2}
    model = MM1(type(preset("mm1-tiny")).from_dict(values))
    quantize(model, bits=8)
    save(model, tmp_path / "sparse", companions=tiny_folder)
    np.testing.assert_array_equal(logits_of(load(tmp_path / "sparse", dtype="float16")[0]), logits_of(model))


def test_an_mlx_lm_decoder_is_saved_and_loaded(tiny_folder, tmp_path):
    values = preset("mm1-tiny").to_dict()
    values["text_config"] = {
        **{"model_type": "qwen2", "hidden_size": 256, "num_hidden_layers": 1, "intermediate_size": 64},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "vocab_size": 768},
    }
    model = MM1(type(preset("mm1-tiny")).from_dict(values))
    save(model, tmp_path / "qwen2", companions=tiny_folder)
    np.testing.assert_array_equal(logits_of(load(tmp_path / "qwen2")[0]), logits_of(model))


def test_an_existing_folder_is_not_overwritten_unasked(mm1_tiny, tiny_folder):
    with pytest.raises(CheckpointError, match="exists"):
        save(mm1_tiny[0], tiny_folder, companions=tiny_folder)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_is_not_replaced_by_a_folder(overwrite, mm1_tiny, tiny_folder, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(CheckpointError, match="out is a file; choose another folder"):
        save(mm1_tiny[0], tmp_path / "out", companions=tiny_folder, overwrite=overwrite)
    assert (tmp_path / "out").read_text() == "mine"


def test_licences_go_along(mm1_tiny, tiny_folder, tmp_path):
    for name in ("LICENSE", "LICENSE-CODE.txt", "notes.txt"):
        (tiny_folder / name).write_text(name)
    save(mm1_tiny[0], tmp_path / "out", companions=tiny_folder)
    copied = {path.name for path in (tmp_path / "out").glob("*") if path.suffix in ("", ".txt")}
    assert copied == {"LICENSE", "LICENSE-CODE.txt"}


def test_a_failed_save_leaves_nothing(tmp_path):
    with pytest.raises(OSError), new_folder(tmp_path / "out") as folder:
        (folder / "half").write_text("x")
        raise OSError("disk full")
    assert list(tmp_path.iterdir()) == []


def test_saving_needs_a_tokenizer(mm1_tiny, tmp_path):
    with pytest.raises(CheckpointError, match="tokenizer"):
        save(mm1_tiny[0], tmp_path / "out", companions=tmp_path)


@pytest.mark.parametrize(
    ("untrained", "named"),
    [
        (["connector"], "connector of {} is"),
        (["image encoder", "connector"], "image encoder and connector of {} are"),
    ],
)
def test_untrained_parts_are_told_once_when_a_picture_is_read(untrained, named, tiny_folder, capsys, picture):
    change_config(tiny_folder, untrained=untrained)
    model, processor = load(tiny_folder)
    processor = processor.with_image_config(resize="pad")
    generate(model, processor, "red", max_tokens=1)
    assert capsys.readouterr() == ("", "")
    for _ in range(2):
        generate(model, processor, "red", images=[picture], max_tokens=1)
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"mm1: the {named.format(tiny_folder)} untrained: its answers about pictures are noise.\n"


def test_an_untrained_decoder_is_told_when_it_is_loaded(tiny_folder, capsys):
    change_config(tiny_folder, untrained=["decoder"])
    load(tiny_folder)
    told = f"mm1: the decoder of {tiny_folder} is untrained: its answers are noise.\n"
    assert capsys.readouterr() == ("", told)


def test_a_trained_model_loads_without_a_word(tiny_folder, capsys):
    load(tiny_folder)
    assert capsys.readouterr() == ("", "")


def refused(folder, *words, kind=CheckpointError):
    with pytest.raises(kind) as caught:
        load(folder)
    for word in words:
        assert word in str(caught.value)


def test_unknown_model_names_what_exists():
    refused("no-such-model", "'no-such-model'", "mm1-tiny")


def test_a_preset_without_weights_says_so():
    refused("mm1-7b", "no published weights")


def test_a_file_is_not_a_model_folder(picture):
    refused(picture, "is a file")


def test_a_folder_without_config_is_refused(tmp_path):
    refused(tmp_path, "no config.json")


def test_a_broken_config_is_refused(tiny_folder):
    (tiny_folder / "config.json").write_text("{")
    refused(tiny_folder, "config.json", "not valid JSON")


def test_another_architectures_folder_is_refused(tiny_folder):
    change_config(tiny_folder, model_type="llava")
    refused(tiny_folder, "'llava'", "'mm1'")


def test_an_unknown_config_key_is_named(tiny_folder):
    change_config(tiny_folder, vision_config__patch_sise=14)
    refused(tiny_folder, "'patch_sise'", "patch_size", kind=ConfigError)


def test_a_folder_without_weights_is_refused(tiny_folder):
    (tiny_folder / "model.safetensors").unlink()
    refused(tiny_folder, "index.json names", "model.safetensors, which is missing")
    (tiny_folder / "model.safetensors.index.json").unlink()
    refused(tiny_folder, "no model*.safetensors")


def test_damaged_weights_are_refused(tiny_folder):
    path = tiny_folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    refused(tiny_folder, "model.safetensors", "damaged")


def test_a_missing_tensor_is_named(tiny_folder):
    change_weights(tiny_folder, lambda w: w.pop("connector.readout.0.bias"))
    refused(tiny_folder, "lacks connector.readout.0.bias")


def test_an_extra_tensor_is_named(tiny_folder):
    change_weights(tiny_folder, lambda w: w.update(stray=mx.zeros(3)))
    refused(tiny_folder, "holds stray")


def test_a_misshapen_tensor_is_named_with_both_shapes(tiny_folder):
    change_weights(tiny_folder, lambda w: w.update({"decoder.norm.weight": mx.zeros((7,))}))
    refused(tiny_folder, "decoder.norm.weight is (7,), expected (256,)")


def test_nan_weights_are_named(tiny_folder):
    change_weights(tiny_folder, lambda w: w.update({"decoder.norm.weight": mx.full((256,), mx.nan)}))
    refused(tiny_folder, "NaN or infinity in decoder.norm.weight")


def test_a_missing_tokenizer_is_refused(tiny_folder):
    (tiny_folder / "tokenizer.json").unlink()
    refused(tiny_folder, "tokenizer")


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(tiny_folder):
    change_config(tiny_folder, text_config__vocab_size=600)
    change_weights(
        tiny_folder, lambda w: w.update({k: w[k][:600] for k in w if k == "decoder.embed_tokens.weight"})
    )
    refused(tiny_folder, "600")


def test_an_unknown_dtype_is_refused(tiny_folder):
    with pytest.raises(ConfigError, match="int8"):
        load(tiny_folder, dtype="int8")
    with pytest.raises(ConfigError, match="dtype is 'int8', expected one of float16, bfloat16, float32"):
        load(tiny_folder, dtype=mx.int8)


def test_a_dtype_may_be_mlxs_own(tiny_folder):
    assert load(tiny_folder, dtype=mx.bfloat16)[0].image_encoder.dtype == mx.bfloat16


def test_a_folder_may_have_a_card_and_weights_of_its_own(mm1_tiny, tmp_path):
    model, _ = mm1_tiny
    weights = {key: value * 2 for key, value in tree_flatten(model.parameters())}
    save(model, tmp_path / "own", companions=find_folder("mm1-tiny"), weights=weights, card="# Own\n")
    assert (tmp_path / "own" / "README.md").read_text() == "# Own\n"
    loaded, _ = load(tmp_path / "own")
    assert all(mx.array_equal(value, weights[key]) for key, value in tree_flatten(loaded.parameters()))


def test_the_card_of_another_model_is_not_copied(mm1_tiny, tmp_path):
    companions = find_folder("mm1-tiny")
    assert (companions / "README.md").exists()
    save(mm1_tiny[0], tmp_path / "own", companions=companions)
    assert not (tmp_path / "own" / "README.md").exists()
