"""What every command does with an error."""

import argparse
import subprocess
import sys

import pytest

from mm1_mlx.command import Subcommand, add_subcommands, put_in_words, run_command
from mm1_mlx.errors import MM1Error, SamplingError


@pytest.fixture
def parser():
    parser = argparse.ArgumentParser()
    parser.add_argument("-n", "--max-tokens", type=int)
    parser.add_argument("--image", action="append")
    parser.add_argument("--adapter-path", dest="adapters", action="append")
    add_subcommands(
        parser, Subcommand("inner", "inner", lambda own: own.add_argument("--base-model"), lambda args: None)
    )
    return parser


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("`max_tokens` is 0,\n expected 1.", "--max-tokens is 0, expected 1."),
        ("2 <image> but 1 of `images`.", "2 <image> but 1 of --image."),
        ("`adapters` or `adapter_path`", "--adapter-path or --adapter-path"),
        ("`base_model` of a subcommand", "--base-model of a subcommand"),
        ("`seed` has no flag; run `hf auth login`.", "seed has no flag; run `hf auth login`."),
    ],
)
def test_a_parameter_is_told_as_the_commands_flag(parser, message, line):
    assert put_in_words(SamplingError(message), parser) == line


def test_a_message_without_parameters_is_as_it_is(parser):
    assert put_in_words(MM1Error("the disk is full."), parser) == "the disk is full."


@pytest.mark.parametrize("flag", ["--adapter-path", "--output"])
def test_the_folder_of_a_run_is_called_by_the_commands_own_flag(flag):
    parser = argparse.ArgumentParser()
    parser.add_argument(flag)
    assert put_in_words(MM1Error("give another `folder`."), parser) == f"give another {flag}."


def test_a_command_loads_no_pytorch(tmp_path):
    pytest.importorskip("torch")
    command = [
        sys.executable,
        "-X",
        "importtime",
        "-m",
        "mm1_mlx.generate",
        "--prompt",
        "Hi",
        "--max-tokens",
        "1",
    ]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert result.returncode == 0
    assert "transformers" in imported
    assert "torch" not in imported


@pytest.mark.parametrize("word", ["", "a\0b"])
def test_a_word_that_names_nothing_is_refused(word, capsys):
    def add_arguments(parser):
        parser.add_argument("--adapter-path", dest="adapters", action="append", default=[])
        parser.add_argument("--prompt")

    def run(argv):
        return run_command("", add_arguments, lambda args: None, argv), capsys.readouterr().err

    assert run(["--prompt", ""]) == (0, "")
    code, err = run(["--adapter-path", "one", "--adapter-path", word])
    assert code == 2 and err.startswith(f"mm1: --adapter-path {'holds a NUL' if word else 'is empty'}")
