"""``python -m mm1_mlx.pretrain`` as people run it: what it says, and what it refuses."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from mm1_mlx.pretrain import main
from mm1_mlx.training.pretraining.stages import Stages

ROOT = Path(__file__).parents[1]
QUICK = {"iters": 2, "batch_size": 2, "steps_per_report": 1}
CAPTIONS = {"captions": {"generator": "tiny:captions"}}


@pytest.fixture
def run(run_main, tmp_path):
    """Writes a recipe of one stage, with some keys changed, and runs it: exit code, stdout, stderr."""

    def run(*words, model="mm1-tiny", **stage):
        stage = {"name": "one", "sources": CAPTIONS} | QUICK | stage
        recipe = {"model": model, "stages": [{k: v for k, v in stage.items() if v is not None}]}
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        return run_main(main, "-c", tmp_path / "recipe.yaml", "--output", tmp_path / "out", *words)

    return run


def test_it_tells_what_it_decides_and_where_the_model_is(run, tmp_path):
    code, out, err = run()
    assert code == 0, err
    assert "learning_rate 0.00111: MM1's exp(-0.4214 ln N - 0.5535)" in err
    assert out.count("update ") == 2 and f"The model is in {tmp_path / 'out' / 'one' / 'model'}" in err
    assert (tmp_path / "out" / "one" / "loss.png").exists()


def test_a_run_that_is_there_is_not_begun_again_by_mistake(run):
    assert run()[0] == 0
    code, _, err = run()
    assert code == 1 and "is there already; --resume goes on from it, or give another --output" in err
    code, out, err = run("--resume")
    assert code == 0 and "stage one is done" in err and not out
    code, _, err = run("--resume", batch_size=4)
    assert code == 1 and "stage one is done by another recipe: settings.batch_size was 2 and is 4" in err


def test_a_model_without_its_checkpoints_is_not_written_over(run, tmp_path):
    assert run()[0] == 0
    shutil.rmtree(tmp_path / "out" / "one" / "checkpoints")
    for words in ((), ("--resume",)):
        code, _, err = run(*words)
        assert code == 1 and "one/model is there already, and no checkpoint beside it to go on from" in err


def test_an_output_in_whose_way_a_file_is_is_refused_at_once(run, tmp_path):
    (tmp_path / "out").write_text("x")
    code, _, err = run()
    assert code == 1 and err.endswith("can be no folder; give another --output.\n") and err.count("\n") == 1
    assert (tmp_path / "out").read_text() == "x"


def test_a_run_that_learned_nothing_is_no_success(run, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "whole.png").read_bytes()[:-4000])
    (tmp_path / "a.jsonl").write_text(json.dumps({"image": "torn.png", "caption": "a cat"}) + "\n")
    code, _, err = run(sources={"a": {"path": str(tmp_path / "a.jsonl")}})
    assert code == 1 and "nothing was learned in 2 updates, since none of their rows could be used" in err
    assert not (tmp_path / "out" / "one" / "model").exists()
    code, _, err = run(valid={"a": {"path": str(tmp_path / "a.jsonl")}}, val_batches=1)
    assert code == 1 and "none of 2 held-out rows could be used; why stands above" in err


def test_what_is_wrong_all_over_is_told_in_one_line(run, run_main, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    for text, message in [
        ("", "recipe.yaml holds None, expected model and stages."),
        ("- a\n" * 1000, "…], expected model and stages."),
        ("model: mm1-tiny\nstages: {a: 1}", "recipe.stages is {'a': 1}, expected a list"),
        ("stages: []", "recipe lacks model."),
        (
            "{model: mm1-tiny, stages: [{batch-size: 1, batch_size: 2}]}",
            "'batch_size' stands twice, with - and",
        ),
    ]:
        recipe.write_text(text)
        code, _, err = run_main(main, "-c", recipe, "--output", tmp_path / "out")
        assert code == 1 and message in err and err.count("\n") == 1 and len(err) < 400, err
    for words, message in [
        ({"seed": 2**64}, "seed is 18446744073709551616, expected 0 to 2^64 - 1"),
        ({"cache_visual_tokens": 1e300}, "cache_visual_tokens is 1e+300, expected 0 to 2^31 MB"),
        ({"name": "a\0b"}, r"name is 'a\x00b', expected"),
        ({"name": "a" * 300}, "expected at most 255 bytes"),
        ({"mix": "mm7"}, "there is no mix 'mm7'; there are mm1, mm1.5"),
        ({"sources": {"a": None}}, "source a: source is None, expected keys and values"),
    ]:
        code, _, err = run(**words)
        assert code == 1 and message in err and err.count("\n") == 1, err
    assert not (tmp_path / "out").exists()


def test_a_dry_run_tells_and_leaves_nothing(run, tmp_path):
    code, out, _ = run("--dry-run", model={"preset": "mm1-3b", "tokenizer": "mm1-tiny"})
    assert code == 0 and "where N is 2,9" in out and "at most at once" in out
    assert not (tmp_path / "out").exists()


def test_json_lines_are_the_metrics(run, tmp_path):
    _, out, _ = run("--json")
    assert out == (tmp_path / "out" / "one" / "metrics.jsonl").read_text()


def test_bad_recipes_are_told_in_one_line(run, run_main, tmp_path):
    for words, message in [
        (
            {"lerning_rate": 1},
            "recipe.yaml: stage 1 (one): a stage has an unknown key 'lerning_rate'. Did you mean",
        ),
        (
            {"start": "zero"},
            "stage 'one' starts from 'zero', which names no earlier stage (there is none before it)",
        ),
        (
            {"sources": {"a": {"path": "x", "weight": 0.5}}},
            "the weights of the sources sum to 0.5, expected 1",
        ),
        (
            {"sources": {"a": {"path": "no.jsonl"}}},
            "stage one: source a: no.jsonl: there is no file no.jsonl",
        ),
        (
            {"sources": {"a": {"generator": "tiny:x"}}},
            "there is no generator 'tiny:x'; there are tiny:captions",
        ),
        ({"image": {"image_size": 4}}, "image_config.image_size is 4, smaller than one patch of 14"),
        (
            {"max_seq_length": 8},
            "no row of the first update of stage one can be used: tiny:",
        ),
    ]:
        code, _, err = run(**words)
        assert code == 1 and message in err, err
        assert err.startswith("mm1: ") and err.count("\n") == 1
    code, _, err = run("--stage", "two")
    assert code == 1 and "--stage two is not in the recipe. There are one." in err
    code, _, err = run_main(main, "-c", tmp_path / "none.yaml")
    assert code == 1 and "none.yaml cannot be read: No such file or directory" in err
    assert run_main(main)[0] == 2


def test_a_vocabulary_that_is_too_small_is_told(run):
    code, _, err = run(model={"preset": "mm1-tiny", "text_config": {"vocab_size": 300}})
    assert code == 1 and "tokens, but the model's vocabulary is 300; take the tokenizer that belongs" in err


def test_a_run_that_will_not_fit_is_refused_before_its_model_is_made(run, monkeypatch):
    monkeypatch.setattr("mm1_mlx.training.pretraining.stages.machine_memory", lambda: 10_000_000)
    monkeypatch.setattr(Stages, "begin", None)  # it is not asked for weights
    code, _, err = run()
    assert code == 1 and "this run needs about" in err and "try it with --force" in err
    monkeypatch.undo()
    assert run("--force")[0] == 0


def test_help_is_light():
    code = (
        "import sys; from mm1_mlx.pretrain import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'mlx.core', 'transformers', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=ROOT)
