"""``python -m mm1_mlx.evaluate`` as a person calls it."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from published_layouts import write_rows

from mm1_mlx.evaluate import main


def test_tables_go_to_stdout_and_the_rest_to_stderr(run_main, data, tmp_path):
    code, out, err = run_main(
        main,
        "--tasks",
        "coco,vqav2",
        "--data",
        data,
        "--shots",
        0,
        2,
        "--shot-seeds",
        0,
        1,
        "--output",
        tmp_path / "out",
    )
    assert code == 0 and out == (tmp_path / "out" / "results.md").read_text()
    assert "| **mm1-tiny** | 2 |" in out and "| MM1-30B | 16 | 125.3 | 71.9 |" in out
    assert "mm1-tiny knows only" in err and "vqav2, 2 shots, seed 1: 100%" in err


def test_tasks_are_listed(run_main):
    code, out, _ = run_main(main, "--list-tasks")
    assert code == 0
    names = [line.split()[0] for line in out.splitlines()]
    assert names[:9] == ["coco", "nocaps", "textcaps", "vqav2", "textvqa", "vizwiz", "gqa", "okvqa", "rows"]
    assert "tiny-color" in names and "dataset_coco.json" in out


def test_own_rows_with_their_control(run_main, tmp_path):
    asked = {"question": "How many objects are there?", "choices": ["1", "2", "3", "4", "5"]}
    write_rows(tmp_path, [{"image": seed, "answer": str(1 + seed % 5)} | asked for seed in range(4)])
    code, out, _ = run_main(
        main, "--tasks", "rows", "--data", tmp_path, "--prompts", "chat", "--rank", "--swapped"
    )
    assert code == 0
    head = next(line for line in out.splitlines() if line.startswith("| task"))
    assert "likeliest choice" in head and "another's picture" in head and "| rows | exact match | 0 |" in out


def test_a_file_is_scored_by_itself(run_main, tmp_path):
    run_main(main, "--tasks", "tiny-color", "--limit", 6, "--output", tmp_path)
    code, out, _ = run_main(main, "score", tmp_path / "predictions.jsonl", "--task", "tiny-color")
    assert code == 0 and "| tiny-color | exact match | 0 |" in out
    code, out, _ = run_main(main, "score", tmp_path / "predictions.jsonl", "--task", "tiny-color", "--json")
    assert json.loads(out)[0]["num_queries"] == 6
    code, _, err = run_main(main, "score", tmp_path / "predictions.jsonl", "--task", "tiny-shape")
    assert code == 1 and re.search(
        r"holds predictions of tiny-color, none of tiny-shape; give --task tiny-color", err
    )


def test_all_tasks_of_a_file_are_scored_unless_some_are_named(run_main, data, tmp_path):
    run_main(main, "--tasks", "gqa,coco", "--data", data, "--output", tmp_path)
    file = tmp_path / "predictions.jsonl"
    for words, found in (
        ([], ["gqa", "coco"]),
        (["--task", "c*"], ["coco"]),
        (["--task", "coco,gqa"], ["coco", "gqa"]),
    ):
        code, out, _ = run_main(main, "score", file, "--json", *words)
        assert code == 0 and [result["task"] for result in json.loads(out)] == found


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "give --tasks NAME; --list-tasks tells"),
        (["--tasks", "cocoa"], 1, "--tasks has 'cocoa', which is none of coco"),
        (["--tasks", "coco"], 1, "give the folder that they are in with --data"),
        (["--tasks", "coco", "--data", "EMPTY"], 1, "there is no dataset_coco.json in"),
        (["--tasks", "tiny-color", "--shots", "2", "2"], 1, "--shots is [2, 2]"),
        (
            ["--tasks", "tiny-color", "--shots", "500"],
            1,
            "--shots 500 were asked for, but its support set has 128",
        ),
        (["--tasks", "tiny-color", "--shots", "60", "--limit", "2"], 1, "--shots 60 do not fit"),
        (["--tasks", "tiny-color", "--limit", "0"], 1, "--limit is 0"),
        (["--tasks", "tiny-color", "--resume"], 2, "--resume goes on with an --output folder"),
        (["--tasks", "tiny-color", "--limit", "1", "--output", "FILE"], 1, "--output"),
        (["--tasks", "tiny-color", "--output", ""], 2, "--output is empty"),
        (["--tasks", "tiny-color", "--batch-size", "0"], 1, "--batch-size is 0"),
        (["score", "FILE", "--task", "vqav2"], 1, "holds no predictions"),
        (["score", "NONE", "--task", "vqav2"], 1, "cannot be read"),
        (["score", "NONE", "--task", "cocoa"], 1, "--task has 'cocoa', which is none of coco"),
    ],
)
def test_what_is_wrong_is_told_in_one_line_with_its_flag(run_main, tmp_path, words, code, message):
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "FILE").write_text("")
    words = [str(tmp_path / word) if word in ("EMPTY", "FILE", "NONE") else word for word in words]
    found, out, err = run_main(main, *words)
    assert (found, out) == (code, "")
    assert message in err.splitlines()[-1] and "`" not in err and "Traceback" not in err


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_to_the_same_files(tmp_path):
    """Killed where nothing can be put in order, then resumed."""
    argv = [
        sys.executable,
        "-m",
        "mm1_mlx.evaluate",
        "--tasks",
        "tiny-color",
        "--limit",
        "60",
        "--batch-size",
        "1",
    ]
    argv += ["--shots", "0", "2", "--output"]
    subprocess.run([*argv, str(tmp_path / "whole")], check=True, capture_output=True)
    running = subprocess.Popen(
        [*argv, str(tmp_path / "out")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    partial = tmp_path / "out" / "predictions.jsonl.partial"
    while not partial.exists() or len(partial.read_bytes().splitlines()) < 70:
        assert running.poll() is None
        time.sleep(0.02)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    assert not (tmp_path / "out" / "results.json").exists()
    subprocess.run([*argv, str(tmp_path / "out"), "--resume"], check=True, capture_output=True)
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()
    assert not partial.exists()
