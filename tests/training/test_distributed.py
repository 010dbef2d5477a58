"""Two processes on one machine learn what one does."""

import json
import subprocess
import sys

import pytest
from launching import LAUNCH, launch

from mm1_mlx import tiny

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


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    """The folder of a run of one process."""
    folder = tmp_path_factory.mktemp("one")
    command = [sys.executable, "-m", "mm1_mlx.lora", "--data", data, *FLAGS, "--adapter-path", folder]
    subprocess.run([str(word) for word in command], check=True, capture_output=True)
    return folder


@pytest.mark.slow
@pytest.mark.skipif(not LAUNCH.exists(), reason="mlx.launch is not installed")
@pytest.mark.parametrize("flags", [[], ["--shard"]], ids=["whole", "sharded"])
def test_two_processes_learn_what_one_does(data, alone, tmp_path, flags):
    output, errors = launch("-m", "mm1_mlx.lora", "--data", data, *FLAGS, *flags, "--adapter-path", tmp_path)
    assert output.count("update 4: loss") == 1, errors  # the first process alone reports
    for name in ("loss", "val_loss"):
        assert metrics(tmp_path, name) == pytest.approx(metrics(alone, name), rel=1e-5)
