"""The benchmark against mlx_vlm, with models of a few weights. Whole only where MLX_VLM_PYTHON names a Python with it."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from mm1_mlx import load
from mm1_mlx.lora import main as lora

FOLDER = Path(__file__).parents[2] / "examples" / "benchmarks"
SCRIPT = FOLDER / "against_mlx_vlm.py"
MEMORY = {"padding": 0.25, "mlx_gb": 1.5, "process_gb": 2.5}


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module(SCRIPT.stem)
    sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def timed_runs(script):
    return importlib.import_module("timed_runs")


@pytest.fixture(scope="module")
def sizes(script):
    return script.Sizes(56, 64, 64, 2)


@pytest.fixture(scope="module")
def made(script, sizes, tmp_path_factory):
    """Rows and the three model folders."""
    folder = tmp_path_factory.mktemp("made")
    script.make_all(folder, sizes, 3)
    return folder


def test_both_sides_have_the_same_weights(made, sizes):
    theirs = mx.load(str(made / "theirs" / "model.safetensors"))
    model, _ = load(made / "every")
    ours = dict(tree_flatten(model.parameters()))
    assert sum(value.size for value in theirs.values()) == sum(value.size for value in ours.values())
    for key, value in theirs.items():
        if key.startswith("language_model."):
            assert mx.array_equal(value, ours["decoder." + key.removeprefix("language_model.")])
    positions = theirs["vision_tower.vision_model.embeddings.position_embedding.weight"]
    assert positions.shape == (1 + sizes.num_patches, sizes.encoder_dims)
    assert mx.array_equal(positions[1:], ours["image_encoder.position_embedding"])
    kernels = theirs["vision_tower.vision_model.embeddings.patch_embedding.weight"]
    first = ours["image_encoder.patch_embedding.weight"][0].reshape(14, 14, 3)
    assert mx.array_equal(kernels[0].transpose(1, 2, 0), first)


def test_the_encoder_and_decoder_of_the_c_abstractor_are_those_of_every_patch(made):
    every, pooled = (dict(tree_flatten(load(made / name)[0].parameters())) for name in ("every", "pooled"))
    shared = [key for key in every if not key.startswith("connector.")]
    assert shared and all(mx.array_equal(every[key], pooled[key]) for key in shared)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "visual"), [(2, 16), (8, 4)])
def test_our_side_trains_and_its_report_agrees_with_the_tokens_counted(
    script, timed_runs, made, tmp_path, number, visual
):
    chosen = timed_runs.RUNS[number]
    run = timed_runs.Run(chosen.name, chosen.model, 3, chosen.flags)
    numbers = timed_runs.train(run, made, tmp_path / "run", sys.executable, 3, 3)
    text, learned = script.count_tokens(made / "rows", made / "tokenizer")
    assert numbers["tokens"] == pytest.approx(3 * (text + visual)) and 0 < learned < text
    assert numbers["rows"] == 3 and numbers["rows_per_second"] == pytest.approx(3 / numbers["seconds"])
    assert 0 < numbers["mlx_gb"] < numbers["process_gb"]
    assert sys.platform != "linux" or numbers["cpu_seconds_per_row"] > 0


def test_the_table_is_drawn_from_the_numbers(script, sizes, timed_runs):
    slow = MEMORY | {"rows_per_second": 2.0, "cpu_seconds_per_row": 0.5}
    fast = MEMORY | {"rows_per_second": 5.0, "cpu_seconds_per_row": 0.1}
    own = timed_runs.RUNS[8]
    lines = script.write_table({"mlx_vlm": [slow, fast, slow], own.name: [fast] * 3}, sizes, text_tokens=10.0)
    _, _, theirs, ours = lines.splitlines()
    assert theirs.startswith(
        "| mlx_vlm | 1 | 16 | 2.00 (2.00–5.00) | 1.00 (1.00–1.00) | 20 | 52 | 0.50 (0.10–0.50) |"
    )
    speed = "5.00 (5.00–5.00) | 2.50 (1.00–2.50) | 50 | 70 | 0.10 (0.10–0.10) | 0.20 (0.20–1.00)"
    assert ours == f"| mm1_mlx, {own.name} | 16 | 4 | {speed} | 25 % | 1.50 | 2.50 |"


def test_cpu_seconds_that_the_machine_does_not_tell_leave_their_cells_empty(script, sizes):
    numbers = MEMORY | {"rows_per_second": 2.0, "cpu_seconds_per_row": None}
    assert "| – | – |" in script.write_table({"mlx_vlm": [numbers]}, sizes, text_tokens=10.0)


def test_reports_of_mlx_vlm_are_of_one_row_each(timed_runs):
    counts = {"train_num_padded_tokens": 20, "train_num_processed_tokens": 180}
    line = counts | {"step_time": 0.5, "data_time_per_step": 0.25, "peak_memory": 0.25}
    expected = {"seconds": 1.5, "tokens": 360, "padding": 0.1, "mlx_gb": 0.25}
    assert timed_runs.read_theirs([line, line]) == pytest.approx(expected)


def test_the_larger_batch_is_the_default_of_ours(timed_runs, run_main):
    _, told, _ = run_main(lora, "--help")
    told = " ".join(told[told.index("--batch-size BATCH_SIZE\n") :].split())
    assert told.split("(default: ")[1].startswith(f"{timed_runs.BATCH})")


def test_a_python_without_mlx_vlm_is_refused_with_the_way_to_install_it(
    script, run_main, tmp_path, monkeypatch
):
    (tmp_path / "mlx_vlm.py").touch()  # a module, so that mlx_vlm.train cannot be there
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for python, reason in (
        (sys.executable, "'mlx_vlm' is not a package"),
        ("no-such-python", "No such file"),
    ):
        code, out, err = run_main(script.main, "--their-python", python)
        assert code == 1 and not out and err.startswith(f"mm1: {python} has no mlx_vlm.train")
        assert reason in err and "pip install mlx-vlm" in err


@pytest.mark.slow
@pytest.mark.skipif("MLX_VLM_PYTHON" not in os.environ, reason="MLX_VLM_PYTHON names no Python with mlx_vlm")
def test_the_whole_comparison(timed_runs, tmp_path):
    path = tmp_path / "numbers.json"
    small = ("--rows", "3", "--repeats", "1", "--image-size", "56", "--widths", "64", "64", "--layers", "2")
    argv = [sys.executable, SCRIPT, "--their-python", os.environ["MLX_VLM_PYTHON"], *small, "--json", path]
    done = subprocess.run([*map(str, argv)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(path.read_text())
    per_row = {
        run.model: found["results"][run.name][0]["tokens"] / 3 for run in timed_runs.RUNS if run.rows == 1
    }
    assert per_row["every"] == pytest.approx(per_row["pooled"] + 12)
    assert per_row["theirs"] == pytest.approx(per_row["every"], abs=1)
    assert "What differs:" in done.stdout and done.stdout.count("\n| ") == 1 + len(timed_runs.RUNS)
