"""Any values of any flags end a command with code 0, 1 or 2, without a traceback, in a short time."""

import argparse
import importlib
import io
import os
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import examples

from mm1_mlx.show import add_attention, add_memory, add_sub_images, add_tokens

NASTY = (
    *("", " ", "-1", "0", "1", "2", "1.5", "nan", "inf", "-inf", "1e400", "1" + 20 * "0", "9" * 5000, "2147483648"),
    *("x", "a=b", "=", "None", "true", "-", "☃", "\udcff", "\x1b[31m", "a\0b", "no/such/file", "a" * 5000),
    *("data:image/png;base64,AAAA", "https://example.org/x.png", "rows.jsonl", "file.yaml", "folder", "scene.png"),
)  # fmt: skip
NEVER = {"--help", "--version", "--upload-repo", "--private", "--report-to", "--train", "--test", "--resume"}
ASK = ["--prompt", "What?", "--max-tokens", "2"]
COMMANDS = {  # beginnings that make little work
    "generate": ["--image", "scene.png", *ASK],
    "generate --batch": ["--batch", "rows.jsonl", "--output", "out.jsonl", "--max-tokens", "2"],
    "chat": ["--image", "scene.png", "--max-tokens", "2"],
    "lora": ["--dry-run"],
    "lora --check-data": ["--check-data", "folder"],
    "pretrain": ["-c", "file.yaml", "--dry-run"],
    "fuse": ["--adapter-path", "folder"],
    "peft": ["export", "--adapter-path", "folder", "--base-model", "x"],
    "evaluate": ["--tasks", "tiny-color", "--shots", "0", "--limit", "1"],
    "benchmark": ["--num-images", "70"],  # does not fit the context
    "show memory": ["memory"],
    "show sub-images": ["sub-images", "scene.png"],
    "show tokens": ["tokens", "scene.png", "--token", "1"],
    "show attention": ["attention", "scene.png", *ASK],
    "convert": ["folder", "--output", "converted"],
}
SHOWN = {"memory": add_memory, "sub-images": add_sub_images, "tokens": add_tokens, "attention": add_attention}


def list_flags(name: str) -> list[argparse.Action]:
    parser = argparse.ArgumentParser(add_help=False)
    command, _, what = name.partition(" ")
    if what in SHOWN:
        SHOWN[what](parser)
    elif command == "convert":
        importlib.import_module("convert.__main__").add_convert_arguments(parser)
    elif command != "peft":
        importlib.import_module(f"mm1_mlx.{command}").add_arguments(parser)
    return [action for action in parser._actions if action.option_strings and not NEVER & set(action.option_strings)]  # fmt: skip


def draw_argv(flags: list[argparse.Action], rng: Random) -> list[str]:
    argv = []
    for action in rng.sample(flags, min(len(flags), rng.randint(1, 3))):
        flag = action.option_strings[-1]
        if action.nargs == 0:
            argv.append(flag)
        elif action.nargs in (None, "?") and rng.random() < 0.7:
            argv.append(f"{flag}={rng.choice(NASTY)}")
        else:
            number = action.nargs if isinstance(action.nargs, int) else rng.randint(1, 2)
            argv += [flag, *(rng.choice(NASTY) for _ in range(number))]
    return argv


@pytest.fixture
def sandbox(tmp_path, picture, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scene.png").write_bytes(picture.read_bytes())
    (tmp_path / "rows.jsonl").write_text('{"prompt": "Hi", "image": "scene.png"}\n')
    (tmp_path / "file.yaml").write_text("iters: 3\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "train.jsonl").write_text('{"image": "../scene.png", "caption": "A cat."}\n')
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.parametrize("name", COMMANDS)
def test_no_flags_end_in_a_traceback(sandbox, name, monkeypatch):
    flags = list_flags(name)
    home = "convert.__main__" if name == "convert" else f"mm1_mlx.{name.split()[0]}"
    main = importlib.import_module(home).main

    @settings(max_examples=examples(3))
    @given(seed=st.integers(0, 2**32))
    def run(seed):
        argv = [*COMMANDS[name], *draw_argv(flags, Random(seed))]
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Hi\n")))
        out, err, start = io.StringIO(), io.StringIO(), time.monotonic()
        with redirect_stdout(out), redirect_stderr(err):
            try:
                code = main(argv)
            except SystemExit as stop:
                code = stop.code
            except ValueError as error:
                if "embedded null" not in str(error):  # argparse opens nothing, a shell gives no NUL
                    raise
                code = 2
        assert code in (0, 1, 2), (argv, code)
        assert code == 0 or err.getvalue().strip(), argv
        assert time.monotonic() - start < 120, argv
        for path in ("out.jsonl", "out.jsonl.partial"):
            if os.path.exists(path):
                os.remove(path)

    run()
