"""Names that only a publisher's own code knows: of a decoder's kind, and of a tokenizer's class."""

import json

import pytest
from halves import CLIP, edit, make_decoder
from stand_in import KANANA, copy_folder, make_source

import mm1_mlx
from convert.conversion import convert
from convert.recipe import Options
from mm1_mlx.errors import CheckpointError, MM1Error

LLAMA = ["LlamaForCausalLM"]


@pytest.fixture
def kanana(tmp_path):
    return copy_folder(make_source(KANANA), tmp_path / "kanana")


def edit_text(folder, **values):
    """Change settings of the decoder's section."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["text_config"] |= values
    path.write_text(json.dumps(config))
    return folder


def give_own_class(folder):
    """Give a tokenizer a class of its publisher's, whose code would leave a mark if it ran."""
    (folder / "own.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\nclass Own: pass\n")
    names = {"AutoTokenizer": ["own.Own", "own.OwnFast"], "AutoProcessor": "own.OwnProcessor"}
    return edit(folder, "tokenizer_config.json", tokenizer_class="Own", auto_map=names)


def assemble(decoder, output):
    options = Options(encoder=str(CLIP), decoder=str(decoder), num_visual_tokens=4)
    return convert(None, output, options=options)


def test_a_section_of_a_kind_of_its_own_is_a_llama_by_its_architecture(kanana, tmp_path):
    edit_text(kanana, model_type="kanana-1.5-3b-instruct", architectures=LLAMA)
    convert(str(kanana), tmp_path / "out")
    assert mm1_mlx.load(tmp_path / "out")[0].config.text_config.model_type == "llama"


def test_an_architecture_is_not_believed_against_a_known_kind_or_without_one(kanana, tmp_path, subtests):
    for kind, architectures in (("qwen2", LLAMA), ("own", ["OwnForCausalLM"]), ("own", None)):
        with subtests.test(kind), pytest.raises(CheckpointError, match=f"the decoder is {kind!r}"):
            convert(str(edit_text(kanana, model_type=kind, architectures=architectures)), tmp_path / "out")


def test_a_decoder_of_a_kind_of_its_own_is_taken_by_its_architecture(tmp_path):
    decoder = copy_folder(make_decoder("llama"), tmp_path / "decoder")
    assemble(edit(decoder, model_type="own", architectures=LLAMA), tmp_path / "new")
    assert mm1_mlx.load(tmp_path / "new")[0].config.text_config.model_type == "llama"


def test_a_decoder_of_its_publishers_own_code_is_refused(tmp_path):
    decoder = copy_folder(make_decoder("llama"), tmp_path / "decoder")
    edit(decoder, model_type="own", architectures=LLAMA, auto_map={"AutoModelForCausalLM": "own.Llama"})
    with pytest.raises(MM1Error, match="'own' is not an architecture of mlx-lm"):
        assemble(decoder, tmp_path / "new")


def test_a_tokenizer_with_a_class_of_its_own_is_read_from_its_json(kanana, tmp_path):
    convert(str(make_source(KANANA)), tmp_path / "plain")
    convert(str(give_own_class(kanana)), tmp_path / "out")
    expected, found = (mm1_mlx.load(tmp_path / name)[1].tokenizer for name in ("plain", "out"))
    assert found.encode("w7 w9 w11") == expected.encode("w7 w9 w11") == [7, 9, 11]
    assert "auto_map" not in json.loads((tmp_path / "out/tokenizer_config.json").read_text())
    assert not (kanana / "ran").exists()


def test_a_decoders_tokenizer_with_a_class_of_its_own_is_read_too(tmp_path):
    decoder = give_own_class(copy_folder(make_decoder("llama"), tmp_path / "decoder"))
    assemble(decoder, tmp_path / "new")
    assert mm1_mlx.load(tmp_path / "new")[1].tokenizer.encode("w7 w9") == [7, 9]


def test_a_tokenizer_that_only_its_publishers_code_reads_is_refused(kanana, tmp_path):
    give_own_class(kanana)
    (kanana / "tokenizer.json").rename(kanana / "tokenizer.model")
    with pytest.raises(CheckpointError, match=r"is its publisher's own code.*has no tokenizer.json; give"):
        convert(str(kanana), tmp_path / "out")


def test_a_picture_is_a_turn_of_its_own_in_kananas_prompts(kanana, tmp_path):
    template = "{% for m in messages %}{{ 'Human: ' + m.content }}{% endfor %}{{ '\\nAI: ' }}"
    convert(str(edit(kanana, "tokenizer_config.json", chat_template=template)), tmp_path / "out")
    _, processor = mm1_mlx.load(tmp_path / "out")
    assert processor._chat_text("What?", 1, None, True) == "Human: <image>\nHuman: What?\nAI: "


def test_kananas_limits_of_pixels_are_found_where_transformers_5_writes_them(kanana, tmp_path):
    path = kanana / "preprocessor_config.json"
    values = json.loads(path.read_text())
    least, most = values.pop("min_pixels"), values.pop("max_pixels")
    path.write_text(json.dumps(values | {"size": {"shortest_edge": least, "longest_edge": most}}))
    convert(str(kanana), tmp_path / "out")
    image = mm1_mlx.load(tmp_path / "out")[0].config.image_config
    assert (image.min_pixels, image.max_pixels) == (least, most)
