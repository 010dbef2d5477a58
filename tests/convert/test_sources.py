"""Each public layout, on a tiny checkpoint of its own: found out, converted, equal to its reference, of use."""

import functools
import hashlib
import importlib
import json
from dataclasses import replace

import mlx.core as mx
import pytest
from golden_weights import GOLDEN
from PIL import Image
from stand_in import (
    ANYRES,
    EVERY,
    HONEYBEE,
    HONEYBEE_BIN,
    KINDS,
    NO_UNPAD,
    QH360VL,
    copy_folder,
    load_weights,
    make_model,
    make_source,
    needs_torch,
    write_tokenizer,
    yield_golden_views,
)

import mm1_mlx
from convert.__main__ import main
from convert.check import check
from convert.conversion import convert, read_source
from convert.image_encoders import INNER
from convert.recipe import Options
from convert.sources.qh360vl import IMAGE_TOKEN, INNER_ENCODER
from mm1_mlx.checkpoint.quantize import Packing
from mm1_mlx.errors import MM1Error
from mm1_mlx.inputs.sub_images import views

generate = importlib.import_module("mm1_mlx.generate")


@functools.cache
def report(name):
    """The check of one folder against its whole reference run."""
    folder = make_model(name)
    copy = copy_folder(folder, folder.with_name(folder.name + "-checked"))
    return check(copy, reference=make_source(name) / "io.safetensors")


def same_weights(one, other):
    one, other = load_weights(one), load_weights(other)
    return one.keys() == other.keys() and all(
        one[key].dtype == other[key].dtype and mx.array_equal(one[key], other[key]) for key in one
    )


def same_model(one, other):
    """Weights and configuration are equal."""
    return (
        same_weights(one, other)
        and (one / "config.json").read_bytes() == (other / "config.json").read_bytes()
    )


def logits(folder, length=12):
    """A model's answer to fixed words and noise for a picture."""
    model, _ = mm1_mlx.load(folder)
    image = model.config.image_config.image_size
    pixels = mx.random.normal(
        (model.config.connector_config.views_at_once, image, image, 3), key=mx.random.key(1)
    )
    visual = model.encode_images(pixels).flatten(0, 1)
    token = model.config.image_token_id
    ids = [1, *[token] * len(visual), *(10 + number for number in range(length))]
    return model(None, input_embeddings=model.embed_inputs(mx.array(ids), visual_tokens=visual)[None])


def edit(folder, tensors=None, **config):
    """Change a copy of a source: keys of its config.json (None removes one), and its tensors."""
    path = folder / "config.json"
    values = json.loads(path.read_text()) | config
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
    if tensors is not None:
        for old in folder.glob("model*"):
            old.unlink()
        mx.save_safetensors(str(folder / "model.safetensors"), tensors)
    return folder


def tensors_of(name):
    """A source's tensors, without its reference run."""
    folder = make_source(name)
    return {k: v for path in sorted(folder.glob("model*.safetensors")) for k, v in mx.load(str(path)).items()}


# Every layout


@pytest.mark.parametrize("name", EVERY)
def test_the_layout_is_found_out_from_the_folder(name):
    assert read_source(make_source(name), None, Options()).source == KINDS[name]


@pytest.mark.parametrize("name", EVERY)
def test_naming_the_layout_changes_nothing(name, tmp_path, capfd):
    argv = [str(make_source(name)), "--output", str(tmp_path / "out"), "--source", KINDS[name]]
    assert main(argv) == 0
    assert same_model(tmp_path / "out", make_model(name))


@pytest.mark.parametrize("name", EVERY)
def test_every_stage_of_the_reference_agrees(name):
    assert report(name).passed, report(name).table()


@pytest.mark.parametrize("name", EVERY)
def test_the_rows_cover_every_stage_of_the_reference(name):
    compared = {row.stage for row in report(name).rows}
    asked = {"input_ids", "image_sizes_wh", "pixel_values", "windows_pixel_values"}
    stages = set(mx.load(str(GOLDEN / name / "io.safetensors")))
    assert {stage for stage in stages if not stage.startswith(tuple(asked))} <= compared
    assert report(name).not_compared == []


@pytest.mark.parametrize("name", EVERY)
def test_greedy_tokens_are_equal(name):
    rows = [row for row in report(name).rows if row.stage.startswith("greedy")]
    assert rows and all(row.max_abs == 0 and row.tolerance == 0 for row in rows)


@pytest.mark.parametrize("name", [ANYRES, NO_UNPAD, QH360VL])
def test_the_views_of_a_picture_are_the_publishers_bit_for_bit(name):
    made = {
        f"views_u8_{number}": hashlib.sha256(b"".join(view.tobytes() for view in cut)).hexdigest()
        for number, (cut, _) in enumerate(yield_golden_views(make_source(name)))
    }
    assert made == json.loads((GOLDEN / name / "pixels.json").read_text())


@pytest.mark.parametrize("name", EVERY)
def test_a_converted_folder_answers_about_a_picture(name, picture, capsys):
    argv = [
        "--model",
        make_model(name),
        "--image",
        picture,
        "--prompt",
        "w5 w6",
        "--max-tokens",
        4,
        "--json",
    ]
    assert generate.main([str(word) for word in argv]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["visual_tokens"] > 0 and answer["generation_tokens"] > 0


@pytest.mark.parametrize("name", EVERY)
def test_a_folder_that_is_quantized_while_converting_answers(name, picture, tmp_path, capfd):
    argv = [str(make_source(name)), "--output", str(tmp_path / "out"), "-q", "--q-group-size", "32"]
    assert main(argv) == 0
    model, processor = mm1_mlx.load(tmp_path / "out")
    assert model.config.quantization["bits"] == 4
    pieces = list(mm1_mlx.stream_generate(model, processor, "w5", images=[picture], max_tokens=2))
    assert "".join(piece.text for piece in pieces) and pieces[-1].timing.visual_tokens > 0


@pytest.mark.parametrize("name", EVERY)
def test_quantizing_a_loaded_model_gives_the_weights_of_quantizing_while_converting(name, tmp_path):
    packing = Packing(bits=8, group_size=32)
    convert(str(make_source(name)), tmp_path / "at-once", packing=packing)
    model, _ = mm1_mlx.load(make_model(name))
    mm1_mlx.quantize(model, packing=packing)
    mm1_mlx.save(model, tmp_path / "later", companions=make_model(name))
    assert same_weights(tmp_path / "at-once", tmp_path / "later")


@pytest.mark.parametrize("name", EVERY)
def test_a_quantized_model_is_saved_and_loaded_unchanged(name, tmp_path):
    model, _ = mm1_mlx.load(make_model(name))
    mm1_mlx.quantize(model, bits=8, group_size=32)
    mm1_mlx.save(model, tmp_path / "packed", companions=make_model(name))
    again, _ = mm1_mlx.load(tmp_path / "packed", dtype="float16")
    ids = mx.arange(3, 20)[None]
    assert mx.array_equal(again(ids), model(ids))


# Honeybee


def test_stored_bfloat16_stays_bfloat16(tmp_path):
    cast = {key: value.astype(mx.bfloat16) for key, value in tensors_of(HONEYBEE).items()}
    convert(str(edit(copy_folder(make_source(HONEYBEE), tmp_path / "in"), cast)), tmp_path / "out")
    ours, original = load_weights(tmp_path / "out"), load_weights(make_model(HONEYBEE))
    assert {value.dtype for value in ours.values()} == {mx.bfloat16}
    assert all(mx.array_equal(ours[key], original[key].astype(mx.bfloat16)) for key in original)


def test_the_position_of_the_class_token_is_dropped(tmp_path):
    tensors = tensors_of(HONEYBEE)
    positions = tensors["abstractor.pos_emb"]
    tensors["abstractor.pos_emb"] = mx.concatenate([mx.full((1, 1, positions.shape[-1]), 7.0), positions], 1)
    convert(str(edit(copy_folder(make_source(HONEYBEE), tmp_path / "in"), tensors)), tmp_path / "out")
    assert same_model(tmp_path / "out", make_model(HONEYBEE))


@needs_torch
def test_the_legacy_layout_loses_its_class_row_and_its_buffers():
    torch = pytest.importorskip("torch")
    shards = sorted(make_source(HONEYBEE_BIN).glob("*.bin"))
    stored = {key: value for path in shards for key, value in torch.load(path, weights_only=True).items()}
    ours = load_weights(make_model(HONEYBEE_BIN))
    rows = stored["abstractor.pos_emb"][0, 1:].numpy()
    assert mx.array_equal(ours["connector.position_embedding"], mx.array(rows))
    assert any("inv_freq" in key for key in stored) and not any("inv_freq" in key for key in ours)


def test_honeybee_stretches_pictures_to_a_square(picture):
    config = read_source(make_source(HONEYBEE), None, Options()).config.image_config
    wide = Image.open(picture).convert("RGB").resize((200, 50))
    (view,) = views(wide, config)
    assert view.tobytes() == wide.resize((112, 112), Image.Resampling.BICUBIC).tobytes()


# HyperCLOVAX


def test_the_first_revisions_configuration_gives_the_same_model(tmp_path):
    folder = copy_folder(make_source(NO_UNPAD), tmp_path / "in")
    (folder / "config.v0_1_0_layout.json").replace(folder / "config.json")
    convert(str(folder), tmp_path / "out")
    assert same_model(tmp_path / "out", make_model(NO_UNPAD))


def with_clip(folder):
    """A HyperCLOVAX checkpoint whose encoder is a random CLIP."""
    tensors, prefix = tensors_of(NO_UNPAD), "vision_model.vision_model."
    width = tensors[f"{prefix}embeddings.patch_embedding.bias"].shape[0]
    for key in [key for key in tensors if ".head." in key or key.endswith("patch_embedding.bias")]:
        del tensors[key]
    positions = tensors[f"{prefix}embeddings.position_embedding.weight"]
    fresh = mx.random.normal((4, width), key=mx.random.key(3))
    tensors[f"{prefix}embeddings.position_embedding.weight"] = mx.concatenate([fresh[:1], positions])
    tensors[f"{prefix}embeddings.class_embedding"] = fresh[1]
    tensors[f"{prefix}pre_layrnorm.weight"], tensors[f"{prefix}pre_layrnorm.bias"] = fresh[2], fresh[3]
    vision = json.loads((folder / "config.json").read_text())["vision_config"]
    clip = {"model_type": "clip_vision_model", "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
    return edit(folder, tensors, vision_config=vision | clip)


def test_hyperclovax_may_have_a_clip_encoder(tmp_path):
    convert(str(with_clip(copy_folder(make_source(NO_UNPAD), tmp_path / "in"))), tmp_path / "out")
    model, _ = mm1_mlx.load(tmp_path / "out")
    encoder = model.config.vision_config
    assert encoder.class_token and encoder.pre_norm and encoder.activation == "quick_gelu"
    assert model.encode_images(mx.zeros((1, 56, 56, 3))).shape == (1, 4, 32)  # the class token is not read


def test_a_clip_encoder_of_hyperclovax_agrees_with_transformers(tmp_path):
    pytest.importorskip("torch")
    folder = with_clip(copy_folder(make_source(NO_UNPAD), tmp_path / "in"))
    convert(str(folder), tmp_path / "out")
    found = check(tmp_path / "out", torch_source=str(folder))
    assert found.passed and "vision.hidden_2" in {row.stage for row in found.rows}


def test_a_head_taller_than_the_vocabulary_loses_its_padding(tmp_path):
    tensors = tensors_of(NO_UNPAD)
    head = tensors["language_model.lm_head.weight"]
    tensors["language_model.lm_head.weight"] = mx.concatenate([head, mx.full((16, head.shape[1]), 9.0)])
    convert(str(edit(copy_folder(make_source(NO_UNPAD), tmp_path / "in"), tensors)), tmp_path / "out")
    assert mx.array_equal(logits(tmp_path / "out"), logits(make_model(NO_UNPAD)))


def test_the_last_layers_features_need_no_norm_after_them(tmp_path):
    tensors = tensors_of(NO_UNPAD)
    bare = {key: value for key, value in tensors.items() if "post_layernorm" not in key}
    assert bare.keys() != tensors.keys()
    for name, stored in (("with", tensors), ("without", bare)):
        folder = edit(copy_folder(make_source(NO_UNPAD), tmp_path / name), stored, use_nth_layer=-1)
        convert(str(folder), tmp_path / f"{name}-out")
    assert mx.array_equal(logits(tmp_path / "without-out"), logits(tmp_path / "with-out"))


def test_a_norm_that_the_checkpoint_lacks_is_stored_as_an_identity(tmp_path):
    tensors = {key: value for key, value in tensors_of(NO_UNPAD).items() if "post_layernorm" not in key}
    convert(str(edit(copy_folder(make_source(NO_UNPAD), tmp_path / "in"), tensors)), tmp_path / "out")
    ours = load_weights(tmp_path / "out")
    assert mx.array_equal(ours["image_encoder.post_norm.weight"], mx.ones(24))
    assert mx.array_equal(ours["image_encoder.post_norm.bias"], mx.zeros(24))


# 360VL


@pytest.mark.parametrize("inner", [INNER, ""])  # as transformers 4 and 5 write it
def test_an_encoder_among_the_other_tensors_gives_the_same_folder(inner, tmp_path):
    folder = copy_folder(make_source(QH360VL), tmp_path / "in")
    apart = folder / "vision_tower" / "model.safetensors"
    encoder = mx.load(str(apart))
    mx.eval(encoder)
    apart.unlink()
    inside = {INNER_ENCODER + inner + key.removeprefix(INNER): value for key, value in encoder.items()}
    convert(str(edit(folder, tensors_of(QH360VL) | inside)), tmp_path / "out")
    assert same_model(tmp_path / "out", make_model(QH360VL))


def make_whole_clip(folder, prefix=INNER):
    """Copy 360VL into a folder, and give its image encoder a text half, as openai/clip-vit-large-patch14-336 has."""
    copy_folder(make_source(QH360VL), folder)
    tower = folder / "vision_tower"
    names = ("logit_scale", "text_projection.weight", "text_model.final_layer_norm.weight")
    text = dict.fromkeys((*names, "visual_projection.weight"), mx.ones((4, 4)))
    vision = {prefix + key.removeprefix(INNER): value for key, value in load_weights(tower).items()}
    values = json.loads((tower / "config.json").read_text())
    (tower / "config.json").unlink()
    (tower / "config.json").write_text("{}")
    edit(tower, vision | text, model_type="clip", vision_config=values, text_config={}, projection_dim=4)
    return folder


@pytest.mark.parametrize("prefix", [INNER, ""])
def test_the_text_half_of_a_whole_clip_is_left_out_and_told_of(prefix, tmp_path):
    folder = make_whole_clip(tmp_path / "in", prefix)
    made = convert(str(folder), tmp_path / "out")
    assert same_model(tmp_path / "out", make_model(QH360VL))
    assert made.notes[0].startswith("The image encoder's text half (text_model.*, logit_scale,")


@needs_torch
def test_a_whole_clip_is_checked_against_transformers(tmp_path):
    folder = make_whole_clip(tmp_path / "in")
    convert(str(folder), tmp_path / "out")
    assert check(tmp_path / "out", torch_source=str(folder)).passed


@pytest.mark.parametrize("name", [HONEYBEE, ANYRES])
def test_an_encoder_as_transformers_5_names_it_inside_gives_the_same_folder(name, tmp_path):
    folder = copy_folder(make_source(name), tmp_path / "in")
    outer = {key.replace(f"{INNER}{INNER}", INNER): value for key, value in tensors_of(name).items()}
    convert(str(edit(folder, outer)), tmp_path / "out")
    assert same_model(tmp_path / "out", make_model(name))


def test_an_encoder_may_be_given_in_place_of_the_folders_own(tmp_path):
    folder = copy_folder(make_source(QH360VL), tmp_path / "in")
    elsewhere = (folder / "vision_tower").rename(tmp_path / "clip")
    convert(str(folder), tmp_path / "out", options=Options(encoder=str(elsewhere)))
    assert same_model(tmp_path / "out", make_model(QH360VL))


def test_the_image_token_is_found_in_the_tokenizer(tmp_path):
    folder = copy_folder(make_source(QH360VL), tmp_path / "in")
    write_tokenizer(folder, extra=("<|other|>", IMAGE_TOKEN))
    config = read_source(folder, None, Options()).config
    first = read_source(make_source(QH360VL), None, Options()).config
    assert (first.image_token_id, config.image_token_id) == (3, 4)
    assert replace(config, image_token_id=3) == first


@pytest.mark.parametrize(
    ("section", "stated", "expected"),
    [
        (None, 11, {2, 11}),
        ("text_config", [2, 11], {2, 11}),
        ("generation_config.json", [7], {2, 7}),  # which wins over the 11 of config.json
    ],
)
def test_tokens_that_end_an_answer_are_taken_from_where_they_stand(section, stated, expected, tmp_path):
    folder = copy_folder(make_source(HONEYBEE), tmp_path / "source")
    values = json.loads((folder / "config.json").read_text()) | {"eos_token_id": None}
    values["text_config"]["eos_token_id"] = None
    (folder / "generation_config.json").unlink(missing_ok=True)
    if section == "generation_config.json":
        (folder / section).write_text(json.dumps({"eos_token_id": stated}))
        values["eos_token_id"] = 11
    else:
        (values[section] if section else values)["eos_token_id"] = stated
    (folder / "config.json").write_text(json.dumps(values))
    convert(str(folder), tmp_path / "made")
    assert mm1_mlx.load(tmp_path / "made")[1].tokenizer.eos_token_ids == expected


@pytest.mark.parametrize("place", ["chat_template.json", "processor_config.json", "tokenizer_config.json"])
def test_a_chat_template_is_taken_from_where_it_stands(place, tmp_path):
    folder = copy_folder(make_source(ANYRES), tmp_path / "source")
    path = folder / place
    values = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(values | {"chat_template": "{{ messages[0].content }}"}))
    assert not convert(str(folder), tmp_path / "made").notes
    assert (tmp_path / "made" / "chat_template.jinja").read_text() == "{{ messages[0].content }}"


def test_a_source_without_a_chat_template_is_told_of():
    folder = make_source(ANYRES)
    (note,) = convert(str(folder), folder.with_name("no template")).notes
    assert note.startswith("No chat template was found") and "chat_template.json" in note


def test_a_source_with_sizes_that_no_tensor_has_is_refused_at_once(tmp_path, subtests):
    for name, section in ((HONEYBEE, "text_config"), (ANYRES, "vision_config"), (QH360VL, None)):
        with subtests.test(name):
            folder = copy_folder(make_source(name), tmp_path / name)
            values = json.loads((folder / "config.json").read_text())
            (values[section] if section else values)["num_hidden_layers"] = 9_000
            (folder / "config.json").write_text(json.dumps(values))
            with pytest.raises(MM1Error, match="9000, but the checkpoint has only"):
                convert(str(folder), tmp_path / "made")
