"""New models: a public image encoder, a fresh connector, a decoder of mlx-lm's; all tiny, their weights random."""

import json

import mlx.core as mx
import pytest
from golden_weights import load_golden
from halves import (
    CLIP,
    DECODERS,
    SIGLIP,
    VISION,
    edit,
    make_decoder,
    store,
    write_decoder,
    write_encoder,
)
from mlx_lm.utils import load_model
from PIL import Image
from stand_in import (
    ANYRES,
    KANANA,
    QH360VL,
    copy_folder,
    load_weights,
    make_model,
    needs_torch,
    write_tokenizer,
)
from tokenizers import Tokenizer

import mm1_mlx
from convert.__main__ import main
from convert.conversion import convert
from convert.export import export
from convert.recipe import Options
from convert.source_config import read_json
from convert.sources.assemble import IMAGE_TOKENS
from mm1_mlx.checkpoint.card import source_license
from mm1_mlx.errors import CheckpointError, ConfigError

LAYOUTS = [
    ("clip_gelu", "alone", "model.safetensors"),
    ("clip_quickgelu", "alone", "model.safetensors"),
    ("siglip_vision_only", "alone", "model.safetensors"),
    ("clip_gelu", "hf", "model.safetensors"),
    pytest.param("clip_gelu", "hf", "pytorch_model.bin", marks=needs_torch),
    ("clip_gelu", "open_clip", "open_clip_model.safetensors"),
    ("clip_quickgelu", "open_clip", "open_clip_model.safetensors"),
    pytest.param("clip_gelu", "open_clip", "open_clip_pytorch_model.bin", marks=needs_torch),
]
IDS = mx.arange(3, 40)[None]


@pytest.fixture
def llama():
    return make_decoder("llama")


def new_model(output, decoder, *, encoder=CLIP, **options):
    """Put a new model together, with 4 visual tokens a picture where its connector is new."""
    options = ({} if options.get("keep_connector") else {"num_visual_tokens": 4}) | options
    convert(None, output, options=Options(encoder=str(encoder), decoder=str(decoder), **options))
    return output


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A new model for each kind of decoder; to be read only."""
    room = tmp_path_factory.mktemp("models")
    return {kind: new_model(room / kind, make_decoder(kind)) for kind in DECODERS}


@pytest.fixture
def new(llama, tmp_path):
    """Make a new model of a Llama decoder and load it."""

    def new(name="new", decoder=llama, **options):
        return mm1_mlx.load(new_model(tmp_path / name, decoder, **options))

    return new


def same_weights(one, other):
    one, other = load_weights(one), load_weights(other)
    return one.keys() == other.keys() and all(
        one[key].dtype == other[key].dtype and mx.array_equal(one[key], other[key]) for key in one
    )


# Decoders


@pytest.mark.parametrize("kind", DECODERS)
def test_logits_on_text_are_those_of_mlx_lm_alone(kind, models):
    alone, _ = load_model(make_decoder(kind))
    model, _ = mm1_mlx.load(models[kind])
    expected = alone(IDS)
    assert mx.array_equal(model(IDS), expected) and mx.std(expected).item() > 0.1


@pytest.mark.parametrize("kind", DECODERS)
def test_embedded_text_gives_the_same_logits(kind, models):
    model, _ = mm1_mlx.load(models[kind])
    assert mx.array_equal(model(None, input_embeddings=model.embed_inputs(IDS)), model(IDS))


@pytest.mark.parametrize("kind", DECODERS)
def test_a_new_model_answers_a_prompt_with_a_picture(kind, models, picture):
    model, processor = mm1_mlx.load(models[kind])
    pieces = list(mm1_mlx.stream_generate(model, processor, "w5 w6", images=[picture], max_tokens=4))
    assert "".join(piece.text for piece in pieces) and pieces[-1].timing.visual_tokens == 4


def test_experts_that_are_stored_apart_are_stacked(models):
    assert same_weights(models["mixtral, its experts apart"], models["mixtral"])


@pytest.mark.parametrize("kind", ["gemma3_text", "mixtral, its experts apart"])
def test_a_decoder_can_be_packed_while_it_is_put_together(kind, picture, tmp_path, capfd):
    argv = ["--encoder", str(CLIP), "--decoder", str(make_decoder(kind)), "--num-visual-tokens", "4"]
    assert main([*argv, "--output", str(tmp_path / "new"), "-q", "--q-group-size", "32"]) == 0
    model, processor = mm1_mlx.load(tmp_path / "new")
    assert model.config.quantization["bits"] == 4
    pieces = list(mm1_mlx.stream_generate(model, processor, "w5", images=[picture], max_tokens=2))
    assert "".join(piece.text for piece in pieces) and pieces[-1].timing.visual_tokens == 4


def test_a_stored_head_is_kept_where_the_decoder_does_not_say_that_it_is_tied(new, llama, tmp_path):
    silent = edit(copy_folder(llama, tmp_path / "silent"), tie_word_embeddings=None)
    model, _ = new(decoder=silent)
    assert model.config.text_config.values["tie_word_embeddings"] is False
    assert mx.array_equal(model(IDS), new("saying", llama)[0](IDS))


def test_a_decoder_without_a_head_is_tied_where_it_does_not_say_so(new, llama, tmp_path):
    weights = load_weights(llama)
    del weights["lm_head.weight"]
    values = read_json(llama / "config.json").values
    silent = edit(store(copy_folder(llama, tmp_path / "in"), weights, values), tie_word_embeddings=None)
    assert mx.array_equal(new(decoder=silent)[0](IDS), load_model(silent)[0](IDS))


def test_gemma_keeps_a_head_that_is_stored_whatever_it_says(new, tmp_path):
    weights = load_weights(make_decoder("gemma3_text"))
    weights["lm_head.weight"] = mx.random.normal((80, 32), key=mx.random.key(1))
    values = read_json(make_decoder("gemma3_text") / "config.json").values | {"tie_word_embeddings": True}
    folder = store(copy_folder(make_decoder("gemma3_text"), tmp_path / "in"), weights, values)
    assert mx.array_equal(new(decoder=folder)[0](IDS), load_model(folder)[0](IDS))


def test_of_a_gemma_with_pictures_of_its_own_the_decoder_is_taken(models, tmp_path):
    weights = {f"language_model.{key}": v for key, v in load_weights(make_decoder("gemma3_text")).items()}
    weights |= {"vision_tower.x.weight": mx.zeros((2, 2)), "multi_modal_projector.y": mx.zeros((2,))}
    text = read_json(make_decoder("gemma3_text") / "config.json").values
    del text["vocab_size"]  # mlx-lm takes it from the whole
    values = {"model_type": "gemma3", "vocab_size": 80, "text_config": text, "vision_config": {}}
    folder = store(copy_folder(make_decoder("gemma3_text"), tmp_path / "in"), weights, values)
    assert same_weights(new_model(tmp_path / "new", folder), models["gemma3_text"])
    assert mm1_mlx.load(tmp_path / "new")[0].config.text_config.model_type == "gemma3_text"


@pytest.mark.parametrize("kind", ["llama", "mixtral"])
def test_the_angles_may_stand_where_transformers_5_puts_them(kind, models, tmp_path):
    rope = {"rope_theta": 1000.0, "rope_type": "default"}
    folder = edit(copy_folder(make_decoder(kind), tmp_path / "in"), rope_theta=None, rope_parameters=rope)
    (model, _), (other, _) = mm1_mlx.load(new_model(tmp_path / "new", folder)), mm1_mlx.load(models[kind])
    assert mx.array_equal(model(IDS), other(IDS))


def test_the_decoders_own_ends_of_an_answer_are_kept(new, llama, tmp_path):
    folder = copy_folder(llama, tmp_path / "ends")
    (folder / "generation_config.json").write_text('{"eos_token_id": [7, 2], "temperature": 0.6}')
    model, processor = new(decoder=folder)
    assert model.config.eos_token_id == (7, 2) and processor.tokenizer.eos_token_ids == {7, 2}


def test_the_tokenizer_may_come_from_another_folder(new, llama, tmp_path):
    bare = copy_folder(llama, tmp_path / "bare")
    for path in bare.glob("tokenizer*"):
        path.unlink()
    model, _ = new(decoder=bare, tokenizer=str(write_tokenizer(tmp_path / "tokens", extra=("<image>",))))
    assert model.config.image_token_id == 3


# Image encoders


@pytest.mark.parametrize(("name", "layout", "file"), LAYOUTS)
def test_every_stage_of_an_encoders_reference_agrees(name, layout, file, llama, tmp_path, capfd):
    folder = new_model(tmp_path / "new", llama, encoder=write_encoder(tmp_path / "in", name, layout, file))
    assert main(["check", str(folder), "--reference", str(VISION / name / "io.safetensors")]) == 0
    parity = json.loads((folder / "parity.json").read_text())
    compared = {row["stage"] for row in parity["stages"]}
    assert parity["passed"] and {"vision.embeddings", "vision.last_hidden_state"} <= compared


@pytest.mark.parametrize(
    ("encoder", "layer", "stage"),
    [
        (CLIP, None, "hidden_3"),
        (CLIP, -2, "hidden_2"),
        (SIGLIP, None, "last_hidden_state"),
        (SIGLIP, -2, "hidden_2"),
    ],
)
def test_the_connector_reads_the_chosen_layer_without_the_class_token(encoder, layer, stage, new):
    model, _ = new(encoder=encoder, feature_layer=layer)
    run = load_golden("vision", encoder.name, "io.safetensors")
    features = model.image_encoder(run["pixel_values"].transpose(0, 2, 3, 1))
    assert mx.allclose(features, run[stage][:, -16:], rtol=0, atol=1e-4)


def test_a_whole_clip_whose_nested_width_is_stale_is_converted(new, models, tmp_path):
    folder = write_encoder(tmp_path / "dfn", "clip_gelu", "hf", "model.safetensors")
    vision = read_json(folder / "config.json").values["vision_config"]
    edit(folder, projection_dim=1024, vision_config=vision | {"projection_dim": 512})
    new(encoder=folder)
    assert same_weights(tmp_path / "new", models["llama"])


@pytest.mark.parametrize(
    ("name", "layout", "resize", "mean"),
    [
        ("clip_gelu", "alone", "crop", 0.48145466),
        ("clip_gelu", "open_clip", "squash", 0.48145466),
        ("siglip_vision_only", "alone", "squash", 0.5),
    ],
)
def test_pictures_are_prepared_as_the_encoders_kind_asks(name, layout, resize, mean, new, tmp_path):
    model, _ = new(encoder=write_encoder(tmp_path / "in", name, layout, "model.safetensors"))
    image = model.config.image_config
    assert (image.resize, image.mean[0]) == (resize, mean)
    assert image.image_size == model.config.vision_config.image_size


def test_transparent_pixels_become_white_unless_the_colours_under_them_are_asked_for(new):
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    for options, level in (({}, 1), ({"alpha": "drop"}, 0), ({"alpha": "white"}, 1)):
        model, processor = new(f"new-{options}", **options)
        image, pixels = model.config.image_config, processor("w5", [clear]).pixel_values
        expected = [(level - mean) / std for mean, std in zip(image.mean, image.std, strict=True)]
        assert mx.allclose(pixels, mx.array(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize("keep", [False, True])
def test_a_model_folder_gives_its_encoder_and_if_asked_its_connector(
    keep, new, tiny_folder, picture, tmp_path
):
    decoder = write_decoder(tmp_path / "llama", "llama", hidden_size=256)
    options = {"keep_connector": True} if keep else {"num_visual_tokens": 16}
    model, processor = new(decoder=decoder, encoder=tiny_folder, **options)
    theirs, ours = load_weights(tiny_folder), load_weights(tmp_path / "new")
    parts = ("image_encoder.", "connector.") if keep else ("image_encoder.",)
    taken = [key for key in theirs if key.startswith(parts)]
    assert all(mx.array_equal(ours[key], theirs[key]) for key in taken)
    first = "connector.readout.0.weight"
    assert mx.array_equal(ours[first], theirs[first]) == keep
    assert model.config.untrained == (() if keep else ("connector",))
    pieces = list(mm1_mlx.stream_generate(model, processor, "w5", images=[picture], max_tokens=1))
    assert pieces[-1].timing.visual_tokens == 16


@pytest.mark.parametrize("name", [QH360VL, ANYRES, KANANA])
def test_a_kept_connector_reads_pictures_cut_as_before(name, new, picture, tmp_path):
    folder = make_model(name)
    theirs, theirs_processor = mm1_mlx.load(folder)
    decoder = write_decoder(tmp_path / "llama", "llama", hidden_size=theirs.config.text_config.hidden_dims)
    ours, processor = new(decoder=decoder, encoder=folder, keep_connector=True)
    assert ours.config.image_config == theirs.config.image_config
    before, after = (mx.stack(list(p("w5", [picture]).pixel_values)) for p in (theirs_processor, processor))
    assert mx.array_equal(ours.encode_images(after), theirs.encode_images(before))


def test_an_encoders_own_preprocessing_goes_first(new, tmp_path):
    folder = write_encoder(tmp_path / "in", "clip_gelu", "alone", "model.safetensors")
    values = {
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [1.0, 2.0, 3.0],
        "size": {"height": 56, "width": 56},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(values))
    image = new(encoder=folder)[0].config.image_config
    assert (image.resize, image.mean, image.std) == ("squash", (0.1, 0.2, 0.3), (1.0, 2.0, 3.0))


# Connectors


@pytest.mark.parametrize("number", [4, 9, 16])
@pytest.mark.parametrize("connector", ["c_abstractor", "average_pool", "attention_pool"])
def test_each_connector_makes_the_visual_tokens_asked_for(connector, number, new, picture):
    model, processor = new(connector=connector, num_visual_tokens=number)
    assert model.config.connector_config.type == connector
    assert model.encode_images(mx.zeros((2, 56, 56, 3))).shape == (2, number, 32)
    pieces = list(mm1_mlx.stream_generate(model, processor, "w5", images=[picture], max_tokens=1))
    assert pieces[-1].timing.visual_tokens == number


def test_without_a_choice_a_picture_has_144_visual_tokens(llama, tmp_path, capfd):
    assert main(["--encoder", str(CLIP), "--decoder", str(llama), "--output", str(tmp_path / "new")]) == 0
    connector = mm1_mlx.load(tmp_path / "new")[0].config.connector_config
    assert (connector.type, connector.num_visual_tokens) == ("c_abstractor", 144)


@pytest.mark.parametrize("connector", ["c_abstractor", "average_pool", "attention_pool"])
def test_the_seed_decides_the_connector_alone(connector, llama, tmp_path):
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        new_model(tmp_path / name, llama, connector=connector, seed=seed)
    assert same_weights(tmp_path / "one", tmp_path / "two")
    one, three = load_weights(tmp_path / "one"), load_weights(tmp_path / "three")
    differ = {key for key in one if not mx.array_equal(one[key], three[key])}
    assert differ and all(key.startswith("connector.") for key in differ)


def test_the_connector_is_stored_in_the_encoders_type(llama, tmp_path):
    stored = mx.load(str(CLIP / "model.safetensors"))
    weights = {key: value.astype(mx.bfloat16) for key, value in stored.items()}
    encoder = store(tmp_path / "in", weights, read_json(CLIP / "config.json").values)
    found = load_weights(new_model(tmp_path / "new", llama, encoder=encoder))
    dtypes = {
        part: {v.dtype for k, v in found.items() if k.startswith(part)} for part in ("connector", "decoder")
    }
    assert dtypes == {"connector": {mx.bfloat16}, "decoder": {mx.float32}}


# A new model is untrained, and says so


def test_the_configuration_says_that_the_connector_is_untrained(models):
    assert read_json(models["llama"] / "config.json").values["untrained"] == ["connector"]


def test_the_card_says_that_the_connector_is_untrained(models):
    card = (models["llama"] / "README.md").read_text()
    assert "**The connector is untrained: answers are noise until trained.**" in card
    assert "`clip_gelu + llama`" in card


def test_converting_says_that_the_connector_is_untrained(llama, tmp_path, capfd):
    argv = ["--encoder", str(CLIP), "--decoder", str(llama), "--output", str(tmp_path / "new")]
    assert main(argv) == 0
    assert "The connector is new and untrained" in capfd.readouterr().err


def test_the_first_answer_about_a_picture_says_that_the_connector_is_untrained(models, picture, capsys):
    model, processor = mm1_mlx.load(models["llama"])
    mm1_mlx.generate(model, processor, "w5", images=[picture], max_tokens=1)
    assert "the connector of" in (err := capsys.readouterr().err) and "is untrained" in err


# The token that stands for a picture


@pytest.mark.parametrize("token", [token for token in IMAGE_TOKENS if token != "<unk>"])
def test_a_token_that_text_never_holds_stands_for_a_picture(token, new, llama, tmp_path):
    folder = write_tokenizer(copy_folder(llama, tmp_path / "in"), at={40: token})
    assert new(decoder=folder)[0].config.image_token_id == 40


def test_the_unknown_token_stands_for_a_picture_where_there_is_no_better(new):
    assert new()[0].config.image_token_id == 0


def test_the_image_token_goes_before_reserved_ones(new, llama, tmp_path):
    tokens = {3: "<|reserved_special_token_0|>", 4: "<unused0>", 50: "<image>"}
    folder = write_tokenizer(copy_folder(llama, tmp_path / "in"), at=tokens)
    assert new(decoder=folder)[0].config.image_token_id == 50


def test_the_image_token_may_be_chosen(new, llama, tmp_path):
    folder = write_tokenizer(copy_folder(llama, tmp_path / "in"), at={3: "<image>", 60: "<picture>"})
    assert new(decoder=folder, image_token="<picture>")[0].config.image_token_id == 60


def test_a_token_past_the_decoders_vocabulary_is_passed_over(new, llama, tmp_path):
    folder = write_tokenizer(copy_folder(llama, tmp_path / "in"), at={5: "<unused0>"})
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens(["<image_soft_token>"])  # as Gemma 3 of 1B has it
    tokenizer.save(str(folder / "tokenizer.json"))
    assert new(decoder=folder)[0].config.image_token_id == 5


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3_text"])
def test_an_added_token_has_a_row_that_is_never_likeliest_and_changes_no_other(
    kind, models, picture, tmp_path
):
    folder = new_model(tmp_path / "new", make_decoder(kind), add_image_token=True)
    model, processor = mm1_mlx.load(folder)
    old, _ = mm1_mlx.load(models[kind])
    ours, theirs = model(IDS), old(IDS)
    assert ours.shape[-1] == 81 and model.config.image_token_id == 80
    assert mx.array_equal(ours[..., :80], theirs)
    assert mx.allclose(ours[..., 80], theirs.mean(axis=-1), rtol=0, atol=1e-5)
    assert processor.image_token == "<image>"
    assert processor.tokenizer.encode("w5 <image> w6", add_special_tokens=False) == [5, 80, 6]
    pieces = list(mm1_mlx.stream_generate(model, processor, "w5 <image> w6", images=[picture], max_tokens=2))
    assert pieces[-1].timing.visual_tokens == 4


def test_an_added_token_takes_a_row_that_the_tokenizer_left_unused(models, llama, tmp_path):
    decoder = write_tokenizer(copy_folder(llama, tmp_path / "in"), vocab_size=70)
    edit(decoder, "tokenizer_config.json", added_tokens_decoder={"0": {"content": "<unk>", "special": True}})
    options = {"image_token": "<picture>", "add_image_token": True}
    folder = new_model(tmp_path / "new", decoder, **options)
    model, processor = mm1_mlx.load(folder)
    assert (model.config.image_token_id, processor.image_token) == (70, "<picture>")
    assert same_weights(folder, models["llama"])


# Licences


def with_license(folder, copy, license):
    """A copy of a folder with a card and a licence's text; without a licence, neither."""
    copy_folder(folder, copy)
    if license is not None:
        (copy / "README.md").write_text(f"---\nlicense: {license}\n---\n")
        (copy / "LICENSE").write_text(f"the text of {license} for {folder.name}")
    return copy


@pytest.mark.parametrize("license", ["mit", None])
def test_one_licence_of_both_halves_is_that_of_the_new_model(license, llama, tmp_path):
    decoder = with_license(llama, tmp_path / "decoder", license)
    folder = new_model(tmp_path / "new", decoder, encoder=with_license(CLIP, tmp_path / "clip", license))
    assert source_license(folder) == ({"license": license} if license else {})


@pytest.mark.parametrize(("encoder", "decoder"), [("apple-amlr", "mit"), (None, "mit"), ("apple-amlr", None)])
def test_with_two_licences_a_new_model_is_under_neither_alone(encoder, decoder, llama, tmp_path):
    halves = (
        with_license(llama, tmp_path / "decoder", decoder),
        with_license(CLIP, tmp_path / "clip", encoder),
    )
    stated = source_license(new_model(tmp_path / "new", halves[0], encoder=halves[1]))
    assert stated["license"] == "other"
    assert all(name in stated["license_name"] for name in (encoder, decoder) if name)


def test_the_texts_of_both_licences_go_along(llama, tmp_path):
    decoder = with_license(llama, tmp_path / "decoder", "mit")
    folder = new_model(tmp_path / "new", decoder, encoder=with_license(CLIP, tmp_path / "clip", "apple-amlr"))
    texts = {path.read_text() for path in folder.glob("LICENSE*")}
    assert texts == {"the text of mit for llama", "the text of apple-amlr for clip_gelu"}


# The way to PyTorch


def trained(folder):
    """A new model that no longer counts as untrained."""
    return edit(folder, untrained=None)


def test_an_untrained_model_is_not_exported(models, tmp_path, capfd):
    assert main(["export", str(models["llama"]), "--output", str(tmp_path / "out")]) == 1
    assert "the connector is untrained; train the model, then export it." in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def there_and_back(request, tmp_path):
    """A new model, squashing pictures, before and after its way through Honeybee's layout."""
    decoder = write_decoder(tmp_path / "llama", "llama", tie_word_embeddings=request.param)
    encoder = write_encoder(tmp_path / "clip", "clip_gelu", "open_clip", "open_clip_model.safetensors")
    first = trained(new_model(tmp_path / "new", decoder, encoder=encoder, feature_layer=-2))
    export(first, tmp_path / "exported")
    convert(str(tmp_path / "exported"), tmp_path / "again", options=Options(alpha="white"))
    return first, tmp_path / "again"


def test_weights_survive_the_way_through_honeybees_layout(there_and_back):
    assert same_weights(*there_and_back)


def test_logits_about_a_picture_survive_the_way_through_honeybees_layout(there_and_back):
    pixels = load_golden("vision", "clip_gelu", "io.safetensors")["pixel_values"][:1].transpose(0, 2, 3, 1)
    ids = mx.array([[1, 0, 0, 0, 0, *range(10, 20)]])
    first, again = (mm1_mlx.load(folder)[0] for folder in there_and_back)
    assert again.config.image_config == first.config.image_config
    assert mx.array_equal(again(ids, pixels), first(ids, pixels))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": SIGLIP}, "the image encoder is not transformers' CLIP"),
        ({"connector": "average_pool"}, "has a place for this average_pool connector"),
        ({"decoder": "qwen3"}, "Honeybee's layout has a Llama decoder; this one is 'qwen3'"),
    ],
)
def test_parts_that_no_public_layout_has_are_not_exported(options, message, tmp_path, capfd):
    options = {"decoder": "llama"} | options
    folder = trained(new_model(tmp_path / "new", make_decoder(options.pop("decoder")), **options))
    assert main(["export", str(folder), "--output", str(tmp_path / "out")]) == 1
    assert message in capfd.readouterr().err


def test_a_decoder_with_weights_that_its_index_does_not_list_is_refused(llama, tmp_path):
    decoder = copy_folder(llama, tmp_path / "decoder")
    weights = load_weights(decoder)
    index = {"weight_map": dict.fromkeys(weights, "model.safetensors")}
    (decoder / "model.safetensors.index.json").write_text(json.dumps(index))
    mx.save_safetensors(
        str(decoder / "model_old.safetensors"), {k: mx.zeros_like(v) for k, v in weights.items()}
    )
    with pytest.raises(CheckpointError, match=r"holds model_old\.safetensors, which"):
        new_model(tmp_path / "new", decoder)


def test_tokens_that_end_an_answer_stand_in_the_decoders_config(tmp_path):
    decoder = write_decoder(tmp_path / "decoder", "llama", eos_token_id=[2, 7, 9])
    _, processor = mm1_mlx.load(new_model(tmp_path / "new", decoder))
    assert processor.tokenizer.eos_token_ids == {2, 7, 9}


def test_a_decoder_with_a_window_that_mlx_lm_leaves_out_is_refused(llama, tmp_path):
    decoder = edit(copy_folder(llama, tmp_path / "decoder"), model_type="mistral", sliding_window=16)
    with pytest.raises(ConfigError, match="sliding_window is 16") as caught:
        new_model(tmp_path / "new", decoder)
    assert str(decoder) in str(caught.value)
    edit(decoder, max_position_embeddings=16)
    assert mm1_mlx.load(new_model(tmp_path / "new", decoder))[0].config.text_config.max_positions == 16


def test_the_base_of_rotary_positions_is_read_inside_a_model_that_reads_pictures(llama, tmp_path):
    values = json.loads((llama / "config.json").read_text())
    inner = {key: value for key, value in values.items() if key != "rope_theta"}
    inner["rope_parameters"] = {"rope_theta": 5e5, "rope_type": "default"}
    decoder = copy_folder(llama, tmp_path / "decoder")
    store(
        decoder,
        {f"language_model.{name}": value for name, value in load_weights(llama).items()},
        {"model_type": "mistral3", "text_config": inner},
    )
    model, _ = mm1_mlx.load(new_model(tmp_path / "new", decoder))
    assert model.config.text_config.values["rope_theta"] == 5e5


def test_sizes_of_a_decoder_that_no_tensor_has_are_refused_at_once(llama, tmp_path, subtests):
    for key, value in (("num_hidden_layers", 10**6), ("vocab_size", 2**31 - 1), ("intermediate_size", 2**33)):
        with subtests.test(key):
            decoder = edit(copy_folder(llama, tmp_path / key), **{key: value})
            with pytest.raises(ConfigError, match=f"{key} is {value}"):
                new_model(tmp_path / "new", decoder)
