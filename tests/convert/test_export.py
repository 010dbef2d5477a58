"""The way back: a converted folder in its source's layout again, bit for bit."""

import functools
import json

import mlx.core as mx
import pytest
from golden_weights import GOLDEN
from stand_in import (
    EVERY,
    HONEYBEE,
    HONEYBEE_BIN,
    NO_UNPAD,
    QH360VL,
    copy_folder,
    load_weights,
    make_model,
    make_source,
    needs_torch,
    write_tokenizer,
)

from convert.__main__ import main
from convert.conversion import convert
from convert.export import export
from convert.recipe import Options
from convert.tensors import open_tensors
from mm1_mlx.checkpoint.quantize import Packing
from mm1_mlx.errors import CheckpointError


@functools.cache
def exported_folder(name):
    """What exporting the converted folder makes; to be read only."""
    folder = make_model(name)
    output = folder.with_name(folder.name + "-exported")
    export(folder, output)
    return output


DROPPED = (".head.", "position_ids", "inv_freq")  # SigLIP's pooling, and buffers of old transformers


def stored(folder):
    """A checkpoint's tensors by name, 360VL's encoder among them, without a reference run."""
    found = {}
    for place in (folder, folder / "vision_tower"):
        if place.is_dir():
            with open_tensors(place) as tensors:
                found |= {name: tensors.read(name) for name in tensors.infos}
    return found


def same(one, other):
    return one.dtype == other.dtype and one.shape == other.shape and bytes(one) == bytes(other)


@pytest.mark.parametrize("name", EVERY)
def test_converting_an_export_gives_the_same_files(name, tmp_path):
    convert(str(exported_folder(name)), tmp_path / "again")
    first, again = make_model(name), tmp_path / "again"
    names = {path.name for path in first.iterdir()}
    assert names == {path.name for path in again.iterdir()}
    for file in names - {"README.md"}:
        assert (again / file).read_bytes() == (first / file).read_bytes(), file


@pytest.mark.parametrize("name", EVERY)
def test_the_exported_names_are_the_sources(name):
    kept = {key for key in stored(make_source(name)) if not any(word in key for word in DROPPED)}
    assert stored(exported_folder(name)).keys() == kept


@pytest.mark.parametrize("name", EVERY)
def test_exported_values_are_the_sources_bit_for_bit(name):
    source, exported = stored(make_source(name)), stored(exported_folder(name))
    changed = {key for key in exported if not same(exported[key], source[key])}
    assert all(key.endswith("pos_emb") for key in changed)  # lose their row for the class token


@pytest.mark.parametrize("name", [QH360VL, pytest.param(HONEYBEE_BIN, marks=needs_torch)])
def test_the_row_for_the_class_token_comes_back_as_zeros(name):
    source, exported = stored(make_source(name)), stored(exported_folder(name))
    positions = [key for key in exported if key.endswith("pos_emb")]
    for key in positions:
        assert same(exported[key][:, 1:], source[key][:, 1:])
        assert mx.all(exported[key][:, 0] == 0) and mx.any(source[key][:, 0] != 0)
    assert len(positions) == (2 if name == QH360VL else 1)


@pytest.mark.parametrize("name", EVERY)
def test_the_configuration_comes_back_as_it_was(name):
    for place in ("", "vision_tower") if name == QH360VL else ("",):
        source, exported = make_source(name) / place, exported_folder(name) / place
        before, after = (json.loads((folder / "config.json").read_text()) for folder in (source, exported))
        assert after == before


def test_a_padded_head_gets_its_height_back(tmp_path):
    tensors = stored(make_source(NO_UNPAD))
    head = tensors["language_model.lm_head.weight"]
    tensors["language_model.lm_head.weight"] = mx.concatenate([head, mx.ones((16, head.shape[1]))])
    there_and_back(tensors, tmp_path)
    again = stored(tmp_path / "exported")["language_model.lm_head.weight"]
    assert same(again[:80], head) and again.shape[0] == 96 and mx.all(again[80:] == 0)


def test_a_norm_that_the_source_lacked_is_not_exported(tmp_path):
    bare = {key: value for key, value in stored(make_source(NO_UNPAD)).items() if "post_layernorm" not in key}
    there_and_back(bare, tmp_path)
    assert not any("post_layernorm" in key for key in stored(tmp_path / "exported"))


def test_bfloat16_is_exported_as_it_is(tmp_path):
    cast = {key: value.astype(mx.bfloat16) for key, value in stored(make_source(HONEYBEE)).items()}
    there_and_back(cast, tmp_path, name=HONEYBEE)
    exported = stored(tmp_path / "exported")
    assert all(same(exported[key], cast[key]) for key in cast) and exported.keys() == cast.keys()


def there_and_back(tensors, room, name=NO_UNPAD):
    """Convert a source with other tensors, and export that."""
    folder = copy_folder(make_source(name), room / "in")
    for path in folder.glob("model*"):
        path.unlink()
    mx.save_safetensors(str(folder / "model.safetensors"), tensors)
    convert(str(folder), room / "out")
    export(room / "out", room / "exported")


def test_an_encoder_among_the_other_tensors_is_exported_among_them(tmp_path):
    encoder = mx.load(str(make_source(QH360VL) / "vision_tower" / "model.safetensors"))
    main_tensors = {key: v for key, v in stored(make_source(QH360VL)).items() if key not in encoder}
    inside = {f"model.vision_tower.vision_tower.{key}": value for key, value in encoder.items()}
    there_and_back(main_tensors | inside, tmp_path, name=QH360VL)
    assert not (tmp_path / "exported" / "vision_tower").exists()
    assert stored(tmp_path / "exported").keys() == (main_tensors | inside).keys()
    convert(str(tmp_path / "exported"), tmp_path / "again")
    first, again = load_weights(tmp_path / "out"), load_weights(tmp_path / "again")
    assert first.keys() == again.keys() and all(same(first[key], again[key]) for key in first)


def test_an_encoder_in_a_folder_of_another_name_is_found_in_the_export(tmp_path):
    folder = copy_folder(make_source(QH360VL), tmp_path / "in")
    (folder / "vision_tower").rename(folder / "clip")
    config = json.loads((folder / "config.json").read_text()) | {"mm_vision_tower": "clip"}
    (folder / "config.json").write_text(json.dumps(config))
    convert(str(folder), tmp_path / "out")
    export(tmp_path / "out", tmp_path / "exported")
    convert(str(tmp_path / "exported"), tmp_path / "again")
    assert (tmp_path / "again" / "config.json").read_bytes() == (
        tmp_path / "out" / "config.json"
    ).read_bytes()


def test_licences_go_along_and_the_model_folders_card_does_not(tmp_path):
    folder = copy_folder(make_model(NO_UNPAD), tmp_path / "model")
    (folder / "LICENSE.txt").write_text("terms")
    export(folder, tmp_path / "exported")
    assert (tmp_path / "exported" / "LICENSE.txt").read_text() == "terms"
    assert (folder / "README.md").exists() and not (tmp_path / "exported" / "README.md").exists()


def test_a_new_models_weights_survive_the_way_through_honeybees_layout(tmp_path):
    encoder = copy_folder(GOLDEN / "vision" / "clip_quickgelu", tmp_path / "clip")
    (encoder / "io.safetensors").unlink()
    source = stored(make_source(HONEYBEE))
    decoder = write_tokenizer(tmp_path / "llama")
    prefix = "language_model."
    weights = {key.removeprefix(prefix): v for key, v in source.items() if key.startswith(prefix)}
    mx.save_safetensors(str(decoder / "model.safetensors"), weights)
    config = json.loads((make_source(HONEYBEE) / "config.json").read_text())["text_config"]
    (decoder / "config.json").write_text(json.dumps(config))
    options = Options(encoder=str(encoder), decoder=str(decoder), num_visual_tokens=9)
    convert(None, tmp_path / "new", options=options)
    with pytest.raises(CheckpointError, match="the connector is untrained; train the model, then export it"):
        export(tmp_path / "new", tmp_path / "exported")
    path = tmp_path / "new" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"untrained": []}))
    told = export(tmp_path / "new", tmp_path / "exported")
    assert "honeybee's layout" in told and "the model's own are lost" in told
    convert(str(tmp_path / "exported"), tmp_path / "again")
    first, again = load_weights(tmp_path / "new"), load_weights(tmp_path / "again")
    assert first.keys() == again.keys() and all(same(first[key], again[key]) for key in first)


@needs_torch
def test_transformers_loads_an_exported_image_encoder(tmp_path):
    from transformers import CLIPVisionModel

    place = exported_folder(QH360VL) / "vision_tower"
    _, found = CLIPVisionModel.from_pretrained(place, output_loading_info=True)
    assert not found["missing_keys"] and not found["unexpected_keys"] and not found["mismatched_keys"]


# What is refused


def test_a_quantized_folder_is_refused(tmp_path, capsys):
    convert(str(make_source(NO_UNPAD)), tmp_path / "q", packing=Packing(group_size=32))
    capsys.readouterr()
    assert main(["export", str(tmp_path / "q"), "--output", str(tmp_path / "out")]) == 1
    message = "is quantized; PyTorch has no place for packed weights: export the original."
    assert capsys.readouterr().err == f"mm1: {tmp_path / 'q'} {message}\n"
    assert not (tmp_path / "out").exists()


def test_mm1_tiny_is_refused_since_no_public_layout_has_a_place_for_it(tmp_path, capsys):
    assert main(["export", "mm1-tiny", "--output", str(tmp_path / "out")]) == 1
    message = "the image encoder is not transformers' CLIP: no public PyTorch layout has a place for it."
    assert capsys.readouterr().err == f"mm1: {message}\n"
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_exists_is_refused(tmp_path, capsys):
    (tmp_path / "out").mkdir()
    assert main(["export", str(make_model(NO_UNPAD)), "--output", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.endswith("out exists; choose another folder or overwrite it.\n")


def test_an_output_that_exists_is_replaced_where_asked(tmp_path, capsys):
    (tmp_path / "out").mkdir()
    for name in ("config.json", "model.safetensors", "old"):
        (tmp_path / "out" / name).touch()
    assert main(["export", str(make_model(NO_UNPAD)), "--output", str(tmp_path / "out"), "--overwrite"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out'}: hyperclovax's layout; 1 folder\n"
    assert stored(tmp_path / "out").keys() == stored(exported_folder(NO_UNPAD)).keys()
    assert not (tmp_path / "out" / "old").exists()


def test_a_folder_that_lacks_a_weight_is_refused(tmp_path):
    folder = copy_folder(make_model(NO_UNPAD), tmp_path / "model")
    weights = load_weights(folder)
    mx.eval(weights)
    del weights["connector.readout.0.bias"]
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(CheckpointError, match=r"lacks connector\.readout\.0\.bias\.$"):
        export(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
