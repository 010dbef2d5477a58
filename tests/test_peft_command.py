"""An adapter goes to PEFT's layout and comes back, as people do it."""

import importlib
import json
from functools import partial

import numpy as np
import pytest
from tuned_models import compute_logits, make, save_adapter, tuning

from mm1_mlx import load, save
from mm1_mlx.checkpoint.hub import find_folder
from mm1_mlx.errors import CheckpointError
from mm1_mlx.tuning.settings import PartTuning

command = importlib.import_module("mm1_mlx.peft")


@pytest.fixture
def run(run_main):
    """Run in this process: exit code, stdout, stderr."""

    return partial(run_main, command.main)


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A model, an adapter of its decoder, and one of its connector too."""
    room = tmp_path_factory.mktemp("peft")
    save(make(), room / "model", companions=find_folder("mm1-tiny"))
    for name, parts in (("adapter", {}), ("both", {"connector": PartTuning("lora", rank=4)})):
        how = tuning(decoder=PartTuning("lora", rank=4), **parts)
        save_adapter(room / "model", room / name, how)
    return room


def test_an_adapter_that_went_to_peft_and_came_back_is_the_same(run, room, tmp_path):
    model = ("--model", room / "model")
    code, out, err = run(
        *("export", *model, "--adapter-path", room / "adapter"),
        *("--base-model", "someone/decoder", "--save-path", tmp_path / "theirs"),
    )
    assert (code, out) == (0, f"{tmp_path / 'theirs'}\n"), err
    config = json.loads((tmp_path / "theirs" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "someone/decoder" and config["peft_type"] == "LORA"
    code, out, err = run("import", tmp_path / "theirs", *model, "--save-path", tmp_path / "ours")
    assert (code, out) == (0, f"{tmp_path / 'ours'}\n"), err
    before, _ = load(room / "model", adapter_path=room / "adapter")
    after, _ = load(room / "model", adapter_path=tmp_path / "ours")
    np.testing.assert_array_equal(compute_logits(after), compute_logits(before))
    assert np.abs(compute_logits(after) - compute_logits(load(room / "model")[0])).max() > 1e-2


def test_other_parts_that_were_tuned_are_refused_or_left_out(run, room, tmp_path):
    asked = ("export", "--model", room / "model", "--adapter-path", room / "both", "--base-model", "x")
    code, _, err = run(*asked, "--save-path", tmp_path / "theirs")
    assert code == 1 and "the connector was tuned too" in err and "--decoder-only" in err
    assert not (tmp_path / "theirs").exists()
    code, _, err = run(*asked, "--save-path", tmp_path / "theirs", "--decoder-only")
    assert code == 0, err


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["export", "--base-model", "x"], 2, "there is nothing to export; give --adapter-path DIR."),
        (["export", "--adapter-path", "x"], 2, "--base-model"),
        (
            ["export", "--adapter-path", "x", "--base-model", "x", "--save-path", "."],
            1,
            "--save-path . exists",
        ),
        (["import", "none"], 1, "none has no adapter_config.json; give a folder of PEFT's."),
        (["import", "none", "--save-path", "."], 1, "--save-path . exists; choose another folder."),
        ([], 2, "WHAT"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(run, argv, code, words):
    found, _, err = run(*argv)
    assert found == code and words in err.splitlines()[-1], err
    assert "Traceback" not in err


def test_an_adapter_of_peft_beside_generate_is_refused_with_the_way_out(run, room, tmp_path):
    model = ("--model", room / "model")
    run(
        *("export", *model, "--adapter-path", room / "adapter"),
        *("--base-model", "x", "--save-path", tmp_path / "theirs"),
    )
    with pytest.raises(CheckpointError, match=r"python -m mm1_mlx\.peft import"):
        load(room / "model", adapter_path=tmp_path / "theirs")
