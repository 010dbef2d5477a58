"""The training script, shortened: it writes a folder that loads, and goes on where it was stopped."""

import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest

from mm1_mlx import load

SCRIPT = Path(__file__).parents[2] / "examples" / "train_mm1_tiny.py"
STAGES = ("encoder", "words", "joint")


def command(folder, output):
    flags = [word for stage in STAGES for word in (f"--{stage}-steps", "2" if stage != "joint" else "5")]
    flags += ["--steps-per-report", "1", "--save-every", "1"]
    return [sys.executable, "-u", str(SCRIPT), "--run", str(folder), "--output", str(output), *flags]


@pytest.mark.slow
def test_training_writes_a_model_folder_and_a_killed_run_goes_on_bit_for_bit(tmp_path):
    done = subprocess.run(
        command(tmp_path / "a", tmp_path / "whole"), capture_output=True, text=True, check=True
    )
    assert all(f"{stage} 2/" in done.stdout for stage in STAGES)
    load(tmp_path / "whole")

    killed = subprocess.Popen(
        command(tmp_path / "b", tmp_path / "resumed"), stdout=subprocess.PIPE, text=True
    )
    for line in killed.stdout:
        if line.startswith("joint 3/5"):
            break
    killed.kill()
    killed.communicate()
    again = command(tmp_path / "b", tmp_path / "resumed")
    done = subprocess.run(again, capture_output=True, text=True, check=True)
    assert "joint: goes on at step" in done.stdout
    weights = [mx.load(str(tmp_path / name / "model.safetensors")) for name in ("whole", "resumed")]
    assert all(mx.array_equal(value, weights[1][key]) for key, value in weights[0].items())
