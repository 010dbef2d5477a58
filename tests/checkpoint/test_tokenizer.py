"""A tokenizer whose library fails is refused in one line; what its library prints is not shown."""

import json

import pytest

from mm1_mlx import load
from mm1_mlx.checkpoint.tokenizer import explain_tokenizer_errors
from mm1_mlx.errors import CheckpointError, PromptError


def change_pattern(folder, pattern):
    path = folder / "tokenizer.json"
    values = json.loads(path.read_text())
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    path.write_text(json.dumps(values | {"pre_tokenizer": split}))


@pytest.mark.parametrize("pattern", ["(a+)+$", "(x+x+)+y", "(?:(1|11)+)+$", "(", r"\p{Foo}", r"\g<0>x"])
def test_a_pattern_that_its_library_fails_on_is_refused(pattern, tiny_folder, capfd):
    change_pattern(tiny_folder, pattern)
    with pytest.raises(CheckpointError, match=r"the tokenizer of .* cannot be loaded: Onig") as caught:
        load(tiny_folder)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_pattern_that_fails_on_one_text_is_told_there(tiny_folder, capfd):
    change_pattern(tiny_folder, "(?:(ab)+)+c(?:(d+)+)+$")
    _, processor = load(tiny_folder)
    with pytest.raises(PromptError, match="the model's tokenizer fails on this text"):
        processor.prompt_ids("abc" + "d" * 60 + "!", 0)
    capfd.readouterr()


def test_what_else_is_printed_meanwhile_is_shown(tmp_path, capfd):
    import os

    with explain_tokenizer_errors(tmp_path):
        os.write(2, b"a warning\n")
    assert capfd.readouterr().err == "a warning\n"
