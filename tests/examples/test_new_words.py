"""The example of tuning, shortened: rows are made, a run learns from them, and the answers are counted."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "new_words.py"


def run(*argv):
    done = subprocess.run([sys.executable, *map(str, argv)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_example_runs_and_learns(tmp_path):
    assert "24 rows to train" in run(EXAMPLE, "make", tmp_path / "rows", "--rows", 24)
    recipe = ("-c", ROOT / "examples/recipes/new_words.yaml", "--iters", 12, "--batch-size", 8)
    paths = ("--data", tmp_path / "rows", "--adapter-path", tmp_path / "german")
    told = run("-m", "mm1_mlx.lora", *recipe, *paths)
    losses = [float(loss) for loss in re.findall(r"validation loss ([\d.]+)", told)]
    assert losses[-1] < 0.8 * losses[0]
    before = run(EXAMPLE, "measure", "--scenes", 8)
    after = run(EXAMPLE, "measure", "--scenes", 8, "--adapter-path", tmp_path / "german")
    assert (
        re.match(r"German questions: \d+\.\d % right\nold questions: ", before) and "old questions" in after
    )
