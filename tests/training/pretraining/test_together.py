"""All stages by one command on the tiny world: they learn, they chain, they go on, and two processes are as one."""

import json
import os
import signal
import subprocess
import sys

import mlx.core as mx
import numpy as np
import pytest
import yaml
from launching import LAUNCH, launch
from recipes import CAPTIONS, recipe_of

from mm1_mlx import generate, load

NAMES = ("encoder", "mixed", "sft")
LONG = (  # the miniature recipe: a minute on two cores
    {"iters": 40, "batch_size": 32, "learning_rate": 3e-3, "save_every": 20, "steps_per_report": 10},
    {"iters": 40, "batch_size": 16, "save_every": 20, "steps_per_report": 10},
    {"iters": 30, "batch_size": 8, "learning_rate": 2e-3, "save_every": 20, "steps_per_report": 10},
)
VALID = {"valid": CAPTIONS, "val_batches": 1, "steps_per_eval": 2}
SHORT = (
    VALID,
    VALID | {"shard": True},
    {"shard": True, "train": ["connector"]},
)  # a frozen decoder is cut too


def written(folder, *changes):
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe_of(*changes)))
    return path


def command(*words):
    return [str(word) for word in (sys.executable, "-m", "mm1_mlx.pretrain", *words)]


def ran(*words):
    return subprocess.run(command(*words), check=True, capture_output=True, text=True)


def metrics(folder, name, what):
    lines = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
    return [line[what] for line in lines if what in line]


def weights(folder, name):
    return mx.load(str(folder / name / "model" / "model.safetensors"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The miniature recipe, run in one go: its file and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    path = written(folder, *LONG)
    ran("-c", path, "--output", folder / "out")
    return path, folder / "out"


@pytest.mark.slow
def test_the_loss_of_each_stage_falls(whole):
    _, folder = whole
    for name, share in zip(NAMES, (0.97, 0.7, 0.9), strict=True):
        losses = metrics(folder, name, "loss")
        assert losses[-1] < share * losses[0], (name, losses)


@pytest.mark.slow
def test_the_model_at_the_end_answers(whole):
    _, folder = whole
    model, processor = load(folder / "sft" / "model")
    assert model.config.untrained == ()
    assert generate(model, processor, "What color is it?", max_tokens=4).strip()


@pytest.mark.slow
def test_a_run_that_is_interrupted_goes_on_in_the_right_stage_at_the_right_update(whole, tmp_path):
    path, expected = whole
    with subprocess.Popen(
        command("-c", path, "--output", tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    ) as process:  # fmt: skip
        stages_begun = 0
        for line in process.stdout:  # interrupt it within the second stage
            stages_begun += line.startswith("update 10:")
            if stages_begun == 2:
                process.send_signal(signal.SIGINT)
                break
        process.stdout.read()
        assert process.wait() == 0
        assert "stopped by SIGINT in stage mixed; --resume goes on" in process.stderr.read()
    assert not (tmp_path / "sft").exists()
    again = subprocess.run(
        command("-c", path, "--output", tmp_path), capture_output=True, text=True, check=False
    )
    assert again.returncode == 1 and "is there already; --resume goes on from it" in again.stderr
    done = ran("-c", path, "--output", tmp_path, "--resume")
    assert f"stage encoder is done: {tmp_path / 'encoder' / 'model'}" in done.stderr
    assert f"The model is in {tmp_path / 'sft' / 'model'}" in done.stderr
    for name in NAMES:
        theirs = weights(expected, name)
        assert all(mx.array_equal(value, theirs[key]) for key, value in weights(tmp_path, name).items())


@pytest.mark.slow
@pytest.mark.skipif(not LAUNCH.exists(), reason="mlx.launch is not installed")
def test_two_processes_learn_what_one_does(tmp_path):
    path = written(tmp_path, *SHORT)
    ran("-c", path, "--output", tmp_path / "one")
    _, errors = launch("-m", "mm1_mlx.pretrain", "-c", path, "--output", tmp_path / "two")
    for name in NAMES:
        assert (tmp_path / "two" / name / "metrics.jsonl").exists(), errors
        for what in ("loss", "val_loss"):
            found, expected = (metrics(tmp_path / which, name, what) for which in ("two", "one"))
            assert found == pytest.approx(expected, rel=1e-5)
        theirs = weights(tmp_path / "one", name)
        for key, value in weights(tmp_path / "two", name).items():
            if key.endswith("k_proj.bias"):
                continue  # softmax takes no notice of it: its gradient is rounding alone
            # where a gradient is nearly 0 its rounding decides which way Adam goes, so no number is compared alone
            apart, size = np.linalg.norm(value - theirs[key]), np.linalg.norm(theirs[key])
            assert apart <= 5e-3 * size, (name, key)
    shares = [metrics(tmp_path / which, "mixed", "mixture") for which in ("one", "two")]
    assert shares[0] == shares[1]
