"""What the recipes say of the memory they take is what a dry run says today, and it fits the Mac that they are for."""

import re
from pathlib import Path

import pytest
import yaml

from mm1_mlx.lora import main

RECIPES = sorted((Path(__file__).parents[2] / "examples" / "recipes").glob("*gb.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_takes_what_it_says_and_fits(run_main, recipe):
    code, out, err = run_main(main, "-c", recipe, "--dry-run")
    assert code == 0, err
    last = out.splitlines()[-1]
    text = recipe.read_text()
    said = float(re.search(r"at most ([\d.]+) GB at once", " ".join(text.split()).replace("# ", ""))[1])
    assert said == pytest.approx(float(re.search(r"at once +([\d.]+) GB: fits", last)[1]), abs=0.06)
    assert yaml.safe_load(text)["memory"] == int(re.search(r"_(\d+)gb", recipe.stem)[1])


def test_there_is_a_recipe_for_3b_and_7b_on_each_mac():
    found = {tuple(re.search(r"(\d+)b_(\d+)gb", path.stem).groups()) for path in RECIPES}
    assert found == {(size, memory) for size in ("3", "7") for memory in ("16", "32", "64")}
