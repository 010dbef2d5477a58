"""YAML files: strict about keys, as people write numbers."""

import pytest

from mm1_mlx.errors import ConfigError
from mm1_mlx.files.yaml_files import read_mapping


def read(tmp_path, text):
    path = tmp_path / "file.yaml"
    path.write_text(text)
    return read_mapping(path, "file.yaml", "flags")


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("1e-4", 1e-4),
        ("2.5e3", 2500.0),
        ("-1E+2", -100.0),
        ("0.5", 0.5),
        ("3", 3),
        ("1e-4x", "1e-4x"),
        ("e4", "e4"),
    ],
)
def test_numbers_are_numbers(tmp_path, word, value):
    assert read(tmp_path, f"rate: {word}") == {"rate": value}


def test_keys_are_those_of_python(tmp_path):
    assert read(tmp_path, "batch-size: 3") == {"batch_size": 3}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\na: 2", "the key 'a' stands twice"),
        ("b: {a: 1, a: 2}", "the key 'a' stands twice"),
        ("a-b: 1\na_b: 2", "the key 'a_b' stands twice, with - and with _"),
        ("a: [1", "cannot be read"),
        ("- a", r"holds \['a'\], expected flags"),
        ("", "holds None, expected flags"),
    ],
)
def test_what_is_no_mapping_is_told(tmp_path, text, words):
    with pytest.raises(ConfigError, match=rf"file.yaml.* {words}"):
        read(tmp_path, text)


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ConfigError, match="x cannot be read: No such file"):
        read_mapping(tmp_path / "x", "x", "flags")


def test_aliases_that_grow_are_refused_before_they_do(tmp_path):
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40)]
    with pytest.raises(ConfigError, match=r"its \*aliases stand for more than 100,000 values"):
        read(tmp_path, "\n".join(lines))


def test_an_alias_may_be_used_twice(tmp_path):
    assert read(tmp_path, "a: &a {b: 1}\nc: *a\nd: {<<: *a, e: 2}") == {
        "a": {"b": 1},
        "c": {"b": 1},
        "d": {"b": 1, "e": 2},
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: &a [*a]", r"an \*alias stands inside"),
        ("[" * 3000, "recursion"),
        ("# " + "x" * 1_000_000, "more than 1,000,000 bytes"),
        ("a: !!bool x", "cannot be read"),
        ("a: !!timestamp x", "cannot be read"),
        ("a: !!int ''", "cannot be read"),
    ],
)
def test_what_would_break_the_parser_is_told(tmp_path, text, words):
    with pytest.raises(ConfigError, match=words):
        read(tmp_path, text)
