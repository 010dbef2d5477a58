"""The recipe that pre-trains in small is one that runs, here for an update or two of each stage."""

from pathlib import Path

import yaml

from mm1_mlx import load
from mm1_mlx.pretrain import main

RECIPE = Path(__file__).parents[2] / "examples" / "recipes" / "pretrain_tiny.yaml"
FEW = {"iters": 1, "batch_size": 2}


def test_every_stage_runs_and_leads_to_a_model(run_main, tmp_path):
    recipe = yaml.safe_load(RECIPE.read_text())
    names = [stage["name"] for stage in recipe["stages"]]
    for stage in recipe["stages"]:
        stage |= FEW | {"steps_per_eval": 1, "learning_rate": 1e-4}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    code, out, err = run_main(main, "-c", tmp_path / "recipe.yaml", "--output", tmp_path / "out")
    assert code == 0, err
    assert out.count("update 1: loss") == len(names) == 5
    model, _ = load(tmp_path / "out" / "chat" / "model")
    assert model.config.untrained == () and model.config.image_config.image_size == 168


def test_its_memory_is_foreseen_as_it_stands(run_main):
    code, out, err = run_main(main, "-c", RECIPE, "--dry-run")
    assert code == 0, err
    assert out.count("fits the") == 5
