"""The command as people run it: a table on stdout, a drawing in a file, every mistake in one line."""

import importlib
import io
import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from PIL import Image
from test_generate_command import damage_config, refused

import mm1_mlx
from mm1_mlx.checkpoint.hub import find_folder

command = importlib.import_module("mm1_mlx.show")
SHAPES = Path(mm1_mlx.__file__).parents[1] / "examples" / "pictures" / "shapes.png"
DRAWINGS = {
    "sub-images": (),
    "tokens": ("--token", "6"),
    "attention": ("--prompt", "What color is the circle?"),
}


def damage_image_config(folder, **changes):
    values = json.loads((folder / "config.json").read_text())
    values["image_config"] |= changes
    (folder / "config.json").write_text(json.dumps(values))


def size_of(path):
    with Image.open(path) as picture:
        return picture.size


@pytest.fixture
def run(run_main, tmp_path, monkeypatch):
    """Run in this process, in a folder of its own: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    return partial(run_main, command.main)


def test_config_shows_every_part_with_its_parameters(run):
    code, out, err = run("config")
    assert (code, err) == (0, "")
    for words in ("image encoder  5 layers", "connector      c_abstractor", "decoder        4 layers"):
        assert words in out
    for words in (
        "together       4,310,144 parameters",
        "context        1,024 tokens",
        "untrained      nothing",
    ):
        assert words in out
    assert "4032 x 3024      1             16           1.6 %" in out


@pytest.mark.parametrize(("preset", "parameters"), [("mm1-30b", "31,067"), ("mm1-3b-moe", "65,542")])
def test_config_of_the_largest_presets(run, preset, parameters):
    code, out, _ = run("config", "--preset", preset)
    assert code == 0 and f"together       {parameters}," in out


def test_config_says_what_is_untrained(run, tiny_folder):
    values = json.loads((tiny_folder / "config.json").read_text())
    (tiny_folder / "config.json").write_text(json.dumps(values | {"untrained": ["connector"]}))
    assert "untrained      connector" in run("config", "--model", tiny_folder)[1]


def test_config_says_how_a_folder_is_packed(run, tmp_path):
    model, _ = mm1_mlx.load("mm1-tiny", dtype="float16")
    mm1_mlx.save(mm1_mlx.quantize(model), tmp_path / "packed", companions=find_folder("mm1-tiny"))
    _, out, _ = run("config", "--model", "packed")
    assert "quantization   4 bit in groups of 64, affine" in out


def test_memory_is_a_table_and_a_verdict(run):
    code, out, err = run("memory", "--context", "256", "--num-images", "2")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [line[:20].strip() for line in lines[1:]] == [
        "float32",
        "bfloat16 or float16",
        "8 bit",
        "6 bit",
        "4 bit",
        "3 bit",
    ]
    assert all(re.search(r"  fits, [0-9.]+ GB left$", line) for line in lines[1:])


def test_memory_of_what_no_machine_holds(run):
    _, out, _ = run("memory", "--preset", "mm1-3b-moe")
    assert "131.085" in out


@pytest.mark.parametrize("what", DRAWINGS)
def test_a_drawing_is_written_and_its_path_printed_last(run, what):
    code, out, _ = run(what, SHAPES, *DRAWINGS[what])
    assert code == 0 and out.splitlines()[-1] == f"shapes-{what}.png"
    assert min(size_of(f"shapes-{what}.png")) > 600


@pytest.mark.parametrize("what", DRAWINGS)
def test_output_names_the_drawing_and_may_replace_one(run, what, tmp_path):
    for _ in range(2):
        assert run(what, SHAPES, *DRAWINGS[what], "--output", "mine.png")[1].endswith("mine.png\n")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.png"]


def test_sub_images_lists_every_view_and_the_cost(run):
    _, out, _ = run("sub-images", SHAPES, "--sub-images", "static")
    lines = out.splitlines()
    assert lines[1].split() == ["1", "whole", "x", "0.0", "to", "126.0,", "y", "0.0", "to", "126.0", "16"]
    assert lines[5].split()[:3] == ["5", "2", "2"] and "80 tokens, 7.8 % of the context" in lines


def test_sub_images_follow_the_flags_for_large_pictures(run):
    _, out, _ = run(
        "sub-images", SHAPES, "--sub-images", "dynamic", "--min-sub-images", 3, "--max-sub-images", 4
    )
    assert "80 tokens" in out  # four crops and the whole


@pytest.mark.parametrize("size", [(1, 1), (20, 2000), (2000, 20), (4032, 3024)])
@pytest.mark.parametrize("rule", ["none", "static", "dynamic", "anyres"])
def test_pictures_of_every_shape_are_drawn(run, size, rule):
    Image.new("RGB", size, "orange").save("picture.png")
    most = () if rule in ("none", "static") else ("--max-sub-images", 9)
    code, out, err = run("sub-images", "picture.png", "--sub-images", rule, *most)
    assert code == 0, err
    width, height = size_of(out.splitlines()[-1])
    assert 300 <= width <= 1700 and height <= 3000


def test_sub_images_reads_no_weights(run, tiny_folder):
    (tiny_folder / "model.safetensors").unlink()
    assert run("sub-images", SHAPES, "--model", tiny_folder)[0] == 0


def test_position_tags_are_counted_by_the_models_tokenizer(run, tiny_folder):
    damage_image_config(
        tiny_folder, sub_images="dynamic", max_sub_images=4, min_sub_images=4, position_tags="index"
    )
    _, out, _ = run("sub-images", SHAPES, "--model", tiny_folder)
    assert "text tokens between" in out and "80 tokens" not in out


def test_all_tokens_of_a_view_are_drawn_in_one_sheet(run):
    _, out, _ = run("tokens", SHAPES)
    assert [line.split()[0] for line in out.splitlines()[1:-1]] == [str(n) for n in range(1, 17)]
    assert min(size_of("shapes-tokens.png")) > 1500


def test_tokens_may_be_chosen(run):
    _, out, _ = run("tokens", SHAPES, "--token", 3, 16)
    assert [line.split()[0] for line in out.splitlines()[1:-1]] == ["3", "16"]


def test_words_have_their_share_of_attention(run):
    _, out, err = run("attention", SHAPES, "--prompt", "What color is the circle?")
    assert "mm1-tiny knows only the tiny world" in err
    lines = out.splitlines()
    assert lines[0] == "attention: the mean of all heads and 4 layers of the decoder"
    assert lines[2].split()[:2] == ["1", "purple"] and "row 1, column 3" in out


def test_a_word_and_a_layer_may_be_chosen(run):
    ask = ("attention", SHAPES, "--prompt", "Describe the picture.", "--word", 3)
    _, out, _ = run(*ask)
    _, other, _ = run(*ask, "--layer", 1)
    assert len(out.splitlines()) == 4 and "black" in out and "black" in other and out != other
    assert other.startswith("attention: layer 1 of 4 of the decoder")


def test_a_picture_from_stdin(run, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(SHAPES.read_bytes())))
    _, out, _ = run("attention", "-", *DRAWINGS["attention"])
    assert out.splitlines()[-1] == "picture-attention.png"


@pytest.mark.parametrize("what", DRAWINGS)
def test_an_unreadable_picture(run, what, tmp_path):
    (tmp_path / "text.png").write_text("Dear diary")
    for picture, words in (
        ("nowhere.png", "no picture at"),
        ("text.png", "not a picture"),
        (".", "is a folder"),
    ):
        code, out, err = run(what, picture, *DRAWINGS[what])
        assert (code, out) == (1, "") and words in err and err.count("mm1: ") == 1


@pytest.mark.parametrize("what", DRAWINGS)
def test_an_output_that_cannot_be_written(run, what):
    refused(run(what, SHAPES, *DRAWINGS[what], "--output", "no/where.png"), "no folder no")
    refused(run(what, SHAPES, *DRAWINGS[what], "--output", "a.jpg"), "ends in .png")
    refused(run(what, SHAPES, *DRAWINGS[what], "--output", SHAPES), "is the picture itself")


def test_a_token_that_is_not_there(run):
    refused(run("tokens", SHAPES, "--token", 17), "--token is 17", "16 visual tokens")


def test_a_word_that_is_not_there(run):
    code, out, err = run("attention", SHAPES, *DRAWINGS["attention"], "--word", 2)
    assert (code, out) == (1, "") and "mm1: --word is 2, expected 1 to 1" in err


def test_two_places_for_one_picture(run):
    code, _, err = run("attention", SHAPES, "--prompt", "<image> and <image>?")
    assert code == 1 and "2 <image> but 1" in err


def test_unknown_models_and_presets(run):
    for what in ("config", "memory"):
        refused(run(what, "--model", "nowhere"), "no model named 'nowhere'")
        refused(run(what, "--preset", "mm1-90b"), "no preset is named 'mm1-90b'", "mm1-30b")


def test_a_broken_configuration(run, tiny_folder):
    damage_config(tiny_folder, patch_sise=1)
    for argv in (("config",), ("memory",), ("sub-images", SHAPES)):
        refused(run(*argv, "--model", tiny_folder), "unknown key 'patch_sise'")


@pytest.mark.parametrize(
    "argv", [(), ("pictures",), ("tokens",), ("config", "--model", "x", "--preset", "y")]
)
def test_wrong_usage(run, argv):
    code, _, err = run(*argv)
    assert code == 2 and "usage:" in err


def test_help_loads_neither_mlx_nor_numpy():
    code = (
        "import sys; from mm1_mlx.show import main\n"
        "for what in ([], ['config'], ['memory'], ['sub-images'], ['tokens'], ['attention']):\n"
        "    try: main([*what, '--help'])\n"
        "    except SystemExit: pass\n"
        "assert not {'mlx.core', 'transformers', 'torch', 'numpy', 'PIL'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
