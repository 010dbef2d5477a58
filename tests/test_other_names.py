"""Flags that people know from mlx-lm and mlx-vlm are answered with the ones here."""

import importlib

import pytest

ANSWERS = {
    ("lora", "--lora-rank", "8"): "mm1: --lora-rank is --rank here.",
    ("lora", "--lora-alpha=16"): "mm1: --lora-alpha is --scale here.",
    ("lora", "--mask-prompt"): "mm1: --mask-prompt is not here: only the assistant's turns are learned",
    ("lora", "--steps-per-save", "5"): "mm1: --steps-per-save is --save-every here.",
    ("generate", "--repetition-penalty", "1.1"): "mm1: --repetition-penalty is not here: --temp, --top-p",
    ("generate", "--max_new_tokens", "5"): "mm1: --max-new-tokens is --max-tokens here.",
    ("chat", "--system-prompt", "x"): "mm1: --system-prompt is --system here.",
    ("evaluate", "--output-dir", "x"): "mm1: --output-dir is --output here.",
    ("fuse", "--export-gguf"): "mm1: --export-gguf is not here: there is no GGUF",
}


@pytest.mark.parametrize("words", ANSWERS)
def test_a_flag_of_mlx_lm_is_answered(run_main, words):
    command, *argv = words
    code, out, err = run_main(importlib.import_module(f"mm1_mlx.{command}").main, *argv)
    assert (code, out) == (2, "") and err.startswith(ANSWERS[words]) and err.count("\n") == 1


def test_a_flag_that_a_command_has_itself_is_its_own(run_main):
    _, _, err = run_main(importlib.import_module("mm1_mlx.generate").main, "--batch", "no.jsonl")
    assert "--batch needs --output" in err


COMMANDS = (
    "__main__",
    "generate",
    "chat",
    "pretrain",
    "lora",
    "fuse",
    "peft",
    "evaluate",
    "show",
    "benchmark",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_version(run_main, command):
    code, out, _ = run_main(importlib.import_module(f"mm1_mlx.{command}").main, "--version")
    assert (code, out) == (0, "mm1_mlx 0.1.0\n")


def test_convert_takes_mlx_lms_flags(run_main, tmp_path):
    main = importlib.import_module("convert.__main__").main
    _, _, err = run_main(main, "--hf-path", tmp_path / "no", "--mlx-path", tmp_path / "out")
    assert "is no folder or file here and no hub id" in err
    code, _, err = run_main(main, "x", "--hf-path", "y", "--mlx-path", "z")
    assert code == 2 and "are the same flag; give one." in err
    assert run_main(main, "--version")[1] == "mm1_mlx 0.1.0\n"
