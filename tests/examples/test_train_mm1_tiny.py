"""The training script, shortened: it writes a folder that loads, and goes on where it was stopped."""

import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest

from mm1_mlx import load

SCRIPT = Path(__file__).parents[2] / "examples" / "train_mm1_tiny.py"
STAGES = ("encoder", "words", "joint")


def train(folder, output):
    steps = [word for stage in STAGES for word in (f"--{stage}-steps", "2")]
    argv = [sys.executable, str(SCRIPT), "--run", folder / "run", "--output", folder / output, *steps]
    done = subprocess.run(list(map(str, argv)), capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.slow
def test_training_writes_a_model_folder_and_resumes_bit_for_bit(tmp_path):
    said = train(tmp_path, "first")
    assert all(f"{stage} 2/2" in said for stage in STAGES)
    load(tmp_path / "first")
    (tmp_path / "run" / "joint.safetensors").unlink()
    said = train(tmp_path, "second")
    assert "words: goes on at step 2" in said and "joint 2/2" in said
    weights = [mx.load(str(tmp_path / name / "model.safetensors")) for name in ("first", "second")]
    assert all(mx.array_equal(value, weights[1][key]) for key, value in weights[0].items())
