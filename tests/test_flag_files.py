"""A YAML file's values are checked as their flags' would be."""

import pytest

from mm1_mlx import lora
from mm1_mlx.command import run_command


@pytest.fixture
def tell(tmp_path, capsys):
    """Run lora with a file, and return the exit code and the line on stderr."""

    def tell(text):
        path = tmp_path / "flags.yaml"
        path.write_text(text)
        code = lora.main(["-c", str(path)])
        return code, capsys.readouterr().err.replace(f"-c {path}: ", "")

    return tell


def read(tmp_path, text):
    """Return the parsed flags that a file gives."""
    (tmp_path / "flags.yaml").write_text(text)
    found = []
    argv = ["-c", str(tmp_path / "flags.yaml")]
    assert not run_command(None, lora.add_arguments, found.append, argv, take_defaults=lora._take_defaults)
    return found[0]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("data: 5", "data is 5, expected text"),
        ("model: null", "model is None, expected a value; leave model out for mm1-tiny"),
        ("adapter_path: 2026-01-01", "adapter_path is datetime.date(2026, 1, 1), expected text"),
        ("data: \"a\\0b\"", "data is 'a\\x00b', expected text"),
        ("check_data: [a]", "check_data is ['a'], expected text"),
        ("report_to: 5", "report_to is 5, expected text"),
        ("cache_visual_tokens: .nan", "cache_visual_tokens is nan, expected a number"),
        ("cache_visual_tokens: [1]", "cache_visual_tokens is [1], expected a number"),
        ("memory: true", "memory is True, expected a number"),
        ("memory: " + "9" * 400, "expected a number"),
        ("dry_run: 'no'", "dry_run is 'no', expected true or false"),
        ("pack: 1", "pack is 1, expected true or false"),
        ("iters: 1.5", "iters is 1.5, expected a whole number"),
        ("batch_size: '4'", "batch_size is '4', expected a whole number"),
        ("optimizer: [adam]", "optimizer is ['adam'], expected one of adamw, adam"),
        ("rank: {encoder: null}", "rank is {'encoder': None}, expected text or numbers"),
        ("train: [[a]]", "train is [['a']], expected a value, a list of them, or one by part"),
        ("learning_rate_factors: [1, 2]", "learning_rate_factors is [1, 2], expected a list of 3 numbers"),
        ("lora_parameters: null", "lora_parameters is None, expected rank, scale"),
        ("mask_prompt: true", "mask_prompt: --mask-prompt is not here: only the assistant's turns are learned"),
        ("lr_schedule: x", "lr_schedule: --lr-schedule is --schedule"),
    ],
)  # fmt: skip
def test_a_value_that_its_flag_cannot_have_is_refused(tell, text, told):
    code, line = tell(text)
    assert code == 1 and line.startswith("mm1: ") and told in line and line.count("\n") == 1


def test_values_as_mlx_lm_writes_them(tmp_path):
    args = read(tmp_path, "train: true\ncache_visual_tokens: true\nseed: null\nscale: 20\nmemory: 16\n")
    assert (args.train, args.cache_visual_tokens, args.seed) == ([], 4000.0, None)
    assert (args.scale, args.memory, type(args.memory)) == (20, 16.0, float)
    assert read(tmp_path, "train: false").train is None


def test_two_values_for_one_part_are_refused(tell):
    assert "--rank 2: there is a value already" in tell("rank: [1, 2]\ntrain: true")[1]
    assert "there is a value for the encoder already" in tell("rank: [encoder=1, encoder=2]\ntrain: true")[1]
