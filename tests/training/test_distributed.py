"""Two processes on one machine learn what one does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mm1_mlx import tiny

LAUNCH = Path(sys.executable).with_name("mlx.launch")
FLAGS = [
    "--train",
    "--iters",
    4,
    "--batch-size",
    4,
    "--steps-per-report",
    1,
    "--steps-per-eval",
    2,
    "--seed",
    3,
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    lines = []
    for number in range(8):
        tiny.render(tiny.make_scene(tiny.TRAINING_SEEDS + 8_200_000 + number)).save(folder / f"{number}.png")
        answer = "rot" if number % 2 else "ein blaues Quadrat"
        lines.append(json.dumps({"image": f"{number}.png", "question": "Was ist das?", "answer": answer}))
    (folder / "train.jsonl").write_text("\n".join(lines))
    (folder / "valid.jsonl").write_text("\n".join(lines[:3]))
    return folder


def metrics(folder, name):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


@pytest.mark.slow
@pytest.mark.skipif(not LAUNCH.exists(), reason="mlx.launch is not installed")
def test_two_processes_learn_what_one_does(data, tmp_path):
    command = [sys.executable, "-m", "mm1_mlx.lora", "--data", data, *FLAGS, "--adapter-path"]
    alone = [str(word) for word in (*command, tmp_path / "one")]
    subprocess.run(alone, check=True, capture_output=True)
    together = [str(word) for word in (LAUNCH, "-n", 2, "--backend", "ring", *command, tmp_path / "two")]
    done = subprocess.run(together, capture_output=True, text=True, timeout=300, env=os.environ.copy())
    assert done.returncode == 0, done.stderr
    for name in ("loss", "val_loss"):
        assert metrics(tmp_path / "two", name) == pytest.approx(metrics(tmp_path / "one", name), rel=1e-5)
    assert done.stdout.count("update 4: loss") == 1  # the first process alone reports
