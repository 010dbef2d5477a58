import re
import shlex
import tempfile
from itertools import product
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mm1_mlx.inputs.typed_paths import dragged_paths, one_path, picture_paths

ASK = "What is it?"
NAMES = ["cat.png", "my cat.png", "it's.png", 'the "cat".png', "a  b.png", "back\\slash.png", "ü 猫.png"]


def as_terminals_on_a_mac_do(path):
    return re.sub(r"([^\w./-])", r"\\\1", path, flags=re.ASCII)


def in_double_quotes(path):
    return '"' + re.sub(r'(["\\$`])', r"\\\1", path) + '"'


def as_url(path):
    return "file://" + quote(path)


STYLES = [str, shlex.quote, as_terminals_on_a_mac_do, in_double_quotes, as_url]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        Path(name).touch()
    return tmp_path


def test_a_path_before_a_question(folder, subtests):
    for name, style in product(NAMES, STYLES):
        with subtests.test(msg=f"{name}, {style.__name__}"):
            path = str(folder / name)
            assert picture_paths(f"{style(path)} {ASK}") == ([path], ASK)
            assert dragged_paths(f" {style(path)}  {ASK}") == ([path], ASK)


@pytest.mark.parametrize("style", STYLES)
def test_several_paths_in_a_row(folder, style):
    paths = [str(folder / name) for name in NAMES]
    assert picture_paths(" ".join(map(style, paths))) == (paths, "")
    assert dragged_paths(" ".join(map(style, paths)) + f" {ASK}") == (paths, ASK)


words = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/"), min_size=1, max_size=20
).filter(lambda name: name not in (".", "..") and len(name.encode()) < 200)


@settings(max_examples=200)
@given(name=words, style=st.sampled_from(STYLES[1:]))
def test_any_name_comes_back_from_any_terminal(name, style):
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/{name}"
        Path(path).touch()
        assert dragged_paths(f"{style(path)} {ASK}") == ([path], ASK)
        assert one_path(style(path)) == path


@given(st.text())
def test_a_line_that_names_no_file_stays_as_it_is(line):
    assert dragged_paths(line) == ([], line.strip())


@pytest.mark.parametrize(
    "line",
    ["What's that?", '"What is it?" he asked.', "/help", "~5 or 6?", "/ or \\?", "file://", "a\0b", "'"],
)
def test_a_question_is_not_taken_for_a_path(folder, line):
    assert dragged_paths(line) == ([], line)


def test_a_question_may_begin_with_the_name_of_a_file(folder):
    assert dragged_paths("cat.png is what?") == ([], "cat.png is what?")
    assert dragged_paths(f"{folder}/cat.png cat.png is what?") == ([f"{folder}/cat.png"], "cat.png is what?")
    assert picture_paths("cat.png is what?") == (["cat.png"], "is what?")


def test_the_longest_path_with_plain_spaces_wins(folder):
    for name in ("my", "my cat.png is"):
        Path(name).touch()
    assert picture_paths("my cat.png is it") == (["my cat.png is"], "it")


def test_escapes_and_plain_spaces_mix(folder):
    Path("my own cat.png").touch()
    assert picture_paths("my\\ own cat.png") == (["my own cat.png"], "")


def test_a_tilde_is_the_home_folder(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    assert dragged_paths(f"~/my cat.png {ASK}") == ([f"{folder}/my cat.png"], ASK)
    assert one_path("~/new chat.json") == f"{folder}/new chat.json"


def test_folders_are_no_pictures(folder):
    Path("pictures").mkdir()
    assert picture_paths("pictures") == ([], "pictures")


@pytest.mark.parametrize(
    ("text", "path"),
    [("new chat.json", "new chat.json"), ("'new chat.json' ", "new chat.json"), ("it's", "it's"), ("", "")],
)
def test_a_path_that_is_yet_to_be_made(folder, text, path):
    assert one_path(text) == path


def test_a_long_text_is_quickly_seen_not_to_be_a_path():
    line = "/ 'a' \"b\" \\c " * 10_000
    assert dragged_paths(line) == ([], line.strip())
