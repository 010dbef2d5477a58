"""What is kept between two runs of the command: visual tokens, and a prompt that was read."""

import json
import os
import resource
import shutil
import subprocess
import sys

import pytest

from mm1_mlx.generate import main

ASK = "What color is it?"


@pytest.fixture
def run(capsys, tmp_path, picture):
    """Ask about a picture: exit code, the answer's JSON, what stderr says."""
    shutil.copy(picture, tmp_path / "one.png")
    shutil.copy(picture, tmp_path / "same.png")
    (tmp_path / "other.png").write_bytes(picture.read_bytes() + b"\0")

    def run(name, *argv, prompt=ASK):
        command = [
            "--image",
            tmp_path / f"{name}.png",
            "--prompt",
            prompt,
            "--max-tokens",
            4,
            "--json",
            *argv,
        ]
        code = main([str(word) for word in command])
        out, err = capsys.readouterr()
        return code, json.loads(out) if out else None, err

    return run


def test_visual_tokens_on_disk_serve_the_next_run(run, tmp_path):
    cache = ("--vision-cache", tmp_path / "cache")
    first = run("one", *cache)[1]
    second = run("same", *cache)[1]
    assert (first["encoded_views"], second["encoded_views"]) == (1, 0)
    assert first["text"] == second["text"]
    assert run("other", *cache)[1]["encoded_views"] == 1


def test_a_cache_of_no_size_keeps_nothing(run, tmp_path):
    cache = ("--vision-cache", tmp_path / "cache", "--vision-cache-size", 0)
    assert [run("one", *cache)[1]["encoded_views"] for _ in range(2)] == [1, 1]


@pytest.mark.parametrize("size", ["-1", "nan", "inf"])
def test_a_cache_size_that_cannot_be_is_refused(run, size):
    code, _, err = run("one", "--vision-cache-size", size)
    assert code == 1 and f"--vision-cache-size is {float(size)}, expected 0 MB or more" in err


def test_a_cache_folder_that_cannot_be_made_is_refused(run, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = run("one", "--vision-cache", tmp_path / "file" / "cache")
    assert code == 1 and "cannot be made" in err


@pytest.mark.parametrize("name", ["prompt", "prompt.safetensors"])
def test_a_saved_prompt_is_not_read_again(run, tmp_path, name):
    cache = tmp_path / name
    first = run("one", "--save-prompt-cache", cache)[1]
    second = run("same", "--prompt-cache-file", cache)[1]
    assert second["text"] == first["text"]
    assert (second["encoded_views"], second["prefilled_tokens"]) == (0, 1)


def test_another_question_about_a_saved_picture_reads_the_question_alone(run, tmp_path):
    cache = tmp_path / "prompt.safetensors"
    run("one", "--save-prompt-cache", cache)
    again = run("one", "--prompt-cache-file", cache, prompt="How many objects are there?")[1]
    assert again["encoded_views"] == 0 and again["prefilled_tokens"] < again["prompt_tokens"] - 16
    assert again["text"] == run("one", prompt="How many objects are there?")[1]["text"]


def test_another_picture_than_the_saved_one_is_refused(run, tmp_path):
    cache = tmp_path / "prompt.safetensors"
    run("one", "--save-prompt-cache", cache)
    code, _, err = run("other", "--prompt-cache-file", cache)
    assert code == 1 and "the saved prompt cache holds another picture 1" in err


def test_a_picture_cut_another_way_is_refused(run, tmp_path):
    cache = tmp_path / "prompt.safetensors"
    run("one", "--save-prompt-cache", cache)
    code, _, err = run("one", "--prompt-cache-file", cache, "--sub-images", "static")
    assert code == 1 and "another picture 1 (or one cut another way)" in err


def test_a_saved_prompt_may_be_packed(run, tmp_path):
    cache = tmp_path / "prompt.safetensors"
    first = run("one", "--save-prompt-cache", cache, "--kv-bits", 8)[1]
    second = run("one", "--prompt-cache-file", cache)[1]
    assert first["text"] == second["text"] == run("one", "--kv-bits", 8)[1]["text"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (
            ["--save-prompt-cache", "x", "--max-kv-size", "64"],
            "--max-kv-size does not go with a saved prompt",
        ),
    ],
)
def test_pairs_that_cannot_be_are_a_usage_error(run, argv, words):
    code, _, err = run("one", *argv)
    assert code == 2 and words in err


def test_a_saved_prompt_stays_as_it_was_packed(run, tmp_path):
    plain, packed = tmp_path / "plain", tmp_path / "packed"
    run("one", "--save-prompt-cache", plain)
    text = run("one", "--save-prompt-cache", packed, "--kv-bits", 8)[1]["text"]
    code, _, err = run("one", "--prompt-cache-file", plain, "--kv-bits", 8)
    assert (
        code == 2 and f"--kv-bits 8 does not go with {plain}, which was saved unpacked; leave it out" in err
    )
    code, _, err = run("one", "--prompt-cache-file", packed, "--kv-bits", 4)
    assert code == 2 and "which was saved packed to 8 bits" in err
    assert run("one", "--prompt-cache-file", packed, "--kv-bits", 8)[1]["text"] == text


def test_what_is_no_saved_prompt_is_not_replaced(run, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "notes").write_text("mine")
    for name, words in (("pipe", "is no regular file"), ("notes", "is no saved prompt cache")):
        code, answer, err = run("one", "--save-prompt-cache", tmp_path / name)
        assert (code, answer) == (1, None) and words in err
    assert (tmp_path / "pipe").is_fifo() and (tmp_path / "notes").read_text() == "mine"
    assert run("one", "--prompt-cache-file", tmp_path / "pipe")[0] == 1


def test_a_saved_prompt_goes_to_a_folder_that_exists(run, tmp_path):
    code, _, err = run("one", "--save-prompt-cache", tmp_path / "no" / "prompt.safetensors")
    assert code == 1 and "mm1: " in err and "no" in err


@pytest.mark.parametrize(
    ("name", "words"),
    [("folder", "is a folder"), ("none/file", "there is no folder"), ("notes/file", "there is no folder")],
)
def test_a_place_that_no_prompt_can_be_saved_in_is_refused_before_the_answer(run, tmp_path, name, words):
    (tmp_path / "folder").mkdir()
    (tmp_path / "notes").write_text("mine")
    code, answer, err = run("one", "--save-prompt-cache", tmp_path / name)
    assert (code, answer) == (1, None) and words in err


def test_an_error_after_the_answer_begins_a_line_of_its_own(tmp_path, picture):
    command = [sys.executable, "-m", "mm1_mlx.generate", "--prompt", ASK, "--image", str(picture)]
    saving = ["--save-prompt-cache", str(tmp_path / "saved")]
    limits = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))}
    done = subprocess.run([*command, *saving], stdout=-1, stderr=subprocess.STDOUT, text=True, **limits)
    *answer, error = done.stdout.splitlines()
    assert done.returncode == 1 and answer and error.startswith("mm1: the prompt cache")
    assert "is the disk full?" in error and os.listdir(tmp_path) == []
