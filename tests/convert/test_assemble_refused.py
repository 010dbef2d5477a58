"""What cannot become a new model: each refused in one line, and nothing is written."""

import re

import pytest
from halves import CLIP, OPEN_CLIP, edit, make_decoder, write_encoder
from stand_in import KANANA, NO_UNPAD, copy_folder, make_model, make_source, write_tokenizer

from convert.__main__ import main


@pytest.fixture
def llama():
    return make_decoder("llama")


@pytest.fixture
def refused(llama, tmp_path, capfd):
    """Put together what cannot be: the message, in one line, and nothing is written."""

    def refused(*argv, encoder=CLIP, decoder=None):
        pair = ["--encoder", encoder, "--decoder", decoder or llama] if encoder else []
        words = [*pair, *argv, "--output", tmp_path / "out"]
        assert main([str(word) for word in words]) == 1
        err = capfd.readouterr().err
        assert err.startswith("mm1: ") and err.count("\n") == 1, err
        assert not (tmp_path / "out").exists()
        return err

    return refused


@pytest.mark.parametrize("key", ["quantization", "quantization_config"])
def test_a_quantized_decoder_is_refused(key, refused, llama, tmp_path):
    folder = edit(copy_folder(llama, tmp_path / "in"), **{key: {"group_size": 64, "bits": 4}})
    assert "in/config.json: the decoder is quantized; take the original and --quantize it." in refused(
        decoder=folder
    )


def test_a_decoder_that_takes_no_embeddings_is_refused_with_those_that_do(refused, llama, tmp_path):
    err = refused(decoder=edit(copy_folder(llama, tmp_path / "in"), model_type="gemma3n"))
    assert "'gemma3n' looks ids up in further tables inside its layers; these work:" in err
    assert all(f" {name}," in err for name in ("gemma3_text", "llama", "mixtral", "qwen3"))


def test_a_decoder_that_mlx_lm_lacks_is_refused(refused, llama, tmp_path):
    err = refused(decoder=edit(copy_folder(llama, tmp_path / "in"), model_type="bert"))
    assert "'bert' is not an architecture of mlx-lm; these work:" in err


def test_a_decoder_without_weights_of_its_layers_is_refused(refused, llama, tmp_path):
    folder = edit(copy_folder(llama, tmp_path / "in"), num_hidden_layers=3)
    err = refused(decoder=folder)
    assert f"mlx-lm cannot load the decoder of {folder}: Missing 9 parameters" in err
    assert "model.layers.2." in err


@pytest.mark.parametrize("kind", ["dinov2", "siglip2_vision_model"])
def test_another_image_encoder_is_refused_by_name(kind, refused, tmp_path):
    err = refused(encoder=edit(copy_folder(CLIP, tmp_path / "in"), model_type=kind))
    assert f"the image encoder is {kind!r}; CLIP (transformers or open_clip), SigLIP, SigLIP 2 for" in err


def test_an_open_clip_encoder_of_timms_is_refused_by_name(refused, tmp_path):
    folder = write_encoder(tmp_path / "in", "clip_gelu", "open_clip", "open_clip_model.safetensors")
    vision = {"timm_model_name": "vit_so400m_patch14_siglip_384", "image_size": 384}
    edit(folder, OPEN_CLIP, model_cfg={"embed_dim": 1152, "vision_cfg": vision})
    err = refused(encoder=folder)
    assert "'vit_so400m_patch14_siglip_384'" in err and "give the transformers version" in err


def test_an_open_clip_encoder_whose_pictures_are_padded_is_refused(refused, tmp_path):
    folder = write_encoder(tmp_path / "in", "clip_gelu", "open_clip", "open_clip_model.safetensors")
    edit(folder, OPEN_CLIP, preprocess_cfg={"resize_mode": "longest"})
    assert "resize_mode is 'longest', expected shortest or squash." in refused(encoder=folder)


def test_a_connector_that_cannot_be_kept_is_refused(refused):
    message = "the connector of .* makes visual tokens 256 wide, but the decoder is 32 wide; leave --keep-connector out"
    assert re.search(message, refused("--keep-connector", encoder="mm1-tiny"))
    message = (
        "--keep-connector goes with a model folder, such as mm1-tiny, as --encoder; .* has no connector."
    )
    assert re.search(message, refused("--keep-connector"))
    err = refused("--keep-connector", "--num-visual-tokens", 4, encoder="mm1-tiny")
    assert "--num-visual-tokens is for a new connector; leave it or --keep-connector out." in err


def test_an_encoder_of_pictures_of_any_shape_takes_no_new_connector(refused):
    err = refused(encoder=make_model(KANANA))
    assert (
        "reads pictures of any shape, and a new connector those of one shape; keep its own with --keep-connector."
        in err
    )


def test_a_number_of_visual_tokens_that_is_no_square_is_refused(refused):
    err = refused("--num-visual-tokens", 130)
    assert "num_visual_tokens is 130, not a perfect square; the nearest are 121 and 144." in err


def test_a_layer_that_the_encoder_lacks_is_refused(refused):
    assert "feature_layer is -9, expected -4 to 3 for 3 layers." in refused("--feature-layer", -9)


def test_a_seed_below_0_is_refused(refused):
    assert "--seed is -1, expected 0 to 2^64 - 1." in refused("--seed", -1)


@pytest.mark.parametrize("part", ["--encoder", "--decoder"])
def test_one_half_of_a_new_model_is_refused(part, refused):
    assert "give SOURCE, or --encoder and --decoder for a new model." in refused(part, CLIP, encoder=None)


def test_a_source_with_a_decoder_of_its_own_is_refused(refused, llama):
    source = make_source(NO_UNPAD)
    assert "--decoder" in refused(source, "--decoder", llama, encoder=None)


def test_a_tokenizer_without_a_token_for_pictures_is_refused(refused, llama, tmp_path):
    folder = copy_folder(llama, tmp_path / "in")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text((folder / name).read_text().replace("<unk>", "<und>"))
    err = refused(decoder=folder)
    assert "no token '<image>' or '<|image|>'" in err
    told = "name one of its tokens that text never holds with --image-token, or add a new one with --add-image-token."
    assert err.endswith(f"{told}\n")


def test_the_unused_special_tokens_are_told_where_none_stands_for_pictures(refused, llama, tmp_path):
    folder = write_tokenizer(
        copy_folder(llama, tmp_path / "in"), at={30: "<repo>", 31: "<file>", 32: "<user>"}
    )
    (folder / "chat_template.jinja").write_text("<user>{{ messages[0].content }}")
    err = refused("--image-token", "<picture>", decoder=folder)
    assert "with --image-token (its unused special tokens: '<file>', '<repo>'), or add a new one" in err


def test_a_token_that_the_tokenizer_has_is_not_added(refused, llama, tmp_path):
    folder = write_tokenizer(copy_folder(llama, tmp_path / "in"), at={30: "<image>"})
    err = refused("--add-image-token", decoder=folder)
    assert "the tokenizer has '<image>' already; drop --add-image-token" in err


def test_a_source_whose_tokens_are_settled_gets_none(refused):
    err = refused(make_source(NO_UNPAD), "--add-image-token", encoder=None)
    assert "--add-image-token has no say in the conversion of this SOURCE; drop it." in err


def test_an_image_token_that_the_tokenizer_lacks_is_refused(refused):
    assert "the tokenizer has no token '<picture>'" in refused("--image-token", "<picture>")


def test_a_tokenizer_larger_than_the_decoders_vocabulary_is_refused(refused, llama, tmp_path):
    err = refused(decoder=write_tokenizer(copy_folder(llama, tmp_path / "in"), vocab_size=90))
    assert "the tokenizer has 90 tokens, but the decoder's vocabulary is 80" in err


def test_the_name_of_a_layout_without_a_source_is_refused(refused):
    assert "--source names the layout of SOURCE, and there is none; drop it." in refused("--source", "mm1")


@pytest.mark.parametrize(
    ("output", "message"),
    [("clip", "is the source itself"), ("llama", "is the source itself"), (".", "holds the source")],
)
def test_neither_half_is_replaced_by_the_new_model(output, message, llama, tmp_path, capfd):
    encoder, decoder = copy_folder(CLIP, tmp_path / "clip"), copy_folder(llama, tmp_path / "llama")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    argv = ["--encoder", encoder, "--decoder", decoder, "--output", tmp_path / output, "--overwrite"]
    assert main([str(word) for word in argv]) == 1
    assert message in capfd.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
