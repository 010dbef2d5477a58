"""What a checkpoint says of its run, and which other runs may go on from it."""

import json
from dataclasses import replace

import pytest

from mm1_mlx.errors import CheckpointError, MM1Error, TrainingError
from mm1_mlx.training.options import RunOptions
from mm1_mlx.training.recipe import Recipe
from mm1_mlx.training.run import Run
from mm1_mlx.training.run_folder import RunFolder, read_run
from mm1_mlx.training.session import require_fresh

RUN = Run(Recipe(iters=20, seed=3), RunOptions(keep=1), {"tuning": {"decoder": "lora"}, "rows": 10})
FIRST = {  # the settings of the first version that wrote any, by its names
    "settings": {
        "iters": 30,
        "batch_size": 2,
        "grad_accumulation_steps": 1,
        "learning_rate": 0.001,
        "learning_rate_factors": [1.0, 0.5, 1.0],
        "schedule": "cosine_decay",
        "warmup": 2,
        "optimizer": "adamw",
        "weight_decay": 0.0,
        "clip_norm": 1.0,
        "max_seq_length": 256,
        "pack": True,
        "truncate": False,
        "skip_bad": False,
        "train_on_prompt": False,
        "grad_checkpoint": False,
        "vision_batch_size": None,
        "val_batches": -1,
        "steps_per_report": 2,
        "steps_per_eval": 10,
        "save_every": 5,
        "keep": 3,
        "seed": 4,
    },
    "tuning": {"decoder": "lora"},
    "rows": 10,
}


def test_a_run_is_read_as_it_was_written():
    assert Run.from_dict(json.loads(json.dumps(RUN.to_dict()))) == RUN


def test_what_is_watched_otherwise_is_the_same_run():
    assert (
        RUN.differences(replace(RUN, options=RunOptions(steps_per_report=7, cache_visual_tokens=5.0))) == []
    )


def test_a_run_may_go_on_to_more_updates_but_not_to_fewer():
    assert RUN.differences(replace(RUN, recipe=replace(RUN.recipe, iters=40))) == []
    fewer = replace(RUN, recipe=replace(RUN.recipe, iters=10))
    assert RUN.differences(fewer) == ["settings.iters was 20 and is 10"]


def test_every_difference_is_named():
    other = Run(replace(RUN.recipe, seed=1), RUN.options, {"tuning": {"decoder": "full"}, "rows": 12})
    assert RUN.differences(other) == [
        "settings.seed was 3 and is 1",
        "tuning.decoder was 'lora' and is 'full'",
        "rows was 10 and is 12",
    ]


def test_a_run_of_the_first_version_is_read_and_its_missing_settings_are_the_defaults():
    run = Run.from_dict(FIRST)
    assert run.options == RunOptions(
        val_batches=-1, steps_per_report=2, steps_per_eval=10, save_every=5, keep=3
    )
    assert (run.recipe.iters, run.recipe.learning_rate_factors, run.recipe.seed) == (30, (1.0, 0.5, 1.0), 4)
    assert (run.recipe.shard, run.recipe.final_rate) == (False, 0.0)
    assert run.differences(Run(run.recipe, RunOptions(), run.task)) == []


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"settings": {"itres": 3}}', '{"settings": {"iters": 0}}']
)
def test_a_damaged_run_is_refused(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(CheckpointError, match="is damaged"):
        read_run(tmp_path)


def test_a_report_torn_by_a_crash_is_left_out(tmp_path):
    folder = RunFolder(tmp_path)
    for update in range(1, 5):
        folder.add_line({"update": update, "loss": 1.5})
    with folder.metrics.open("a") as file:
        file.write('[4]\n{"loss": 1.5}\n{"update": 5, "lo')
    folder.forget_after(3)
    assert folder.lines() == [{"update": update, "loss": 1.5} for update in (1, 2, 3)]
    assert folder.metrics.read_text().endswith('"loss": 1.5}\n')


def test_a_line_that_is_no_report_is_left_out(tmp_path):
    sound = {"update": 1, "loss": 1.5}
    wrong = [{"update": True}, {"update": 1.0}, {"update": 1, "loss": "x"}, {"update": 1, "val_loss": None}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in (*wrong, sound)))
    assert RunFolder(tmp_path).lines() == [sound]


def test_two_runs_do_not_write_to_one_folder(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with (
        folder.lock(),
        pytest.raises(TrainingError, match=r"another process is writing to .*run; let it end"),
    ):
        folder.lock().__enter__()
    torn = tmp_path / "run" / "checkpoints" / ".00000100-abcdefgh"
    torn.mkdir(parents=True)
    left = [folder.path / "checkpoints" / ".00000100.mm1-new", folder.best / ".adapter_config.json.mm1-new"]
    for path in left:
        path.mkdir(parents=True)
    mine = folder.path / ".notes"
    mine.touch()
    with folder.lock():
        assert not any(path.exists() for path in (torn, *left)) and mine.exists()


def test_what_cannot_be_written_is_told_with_the_way_on(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(
        TrainingError, match=r"metrics.jsonl cannot be written.*make room and go on with `resume`"
    ):
        RunFolder(tmp_path).add_line({"update": 1})


def test_other_weights_are_told_without_their_digests():
    was, now = (replace(RUN, task={"base": base}) for base in ("1234", "5678"))
    assert was.differences(now) == ["it began with other weights"]


@pytest.mark.parametrize("name", ["loss.png", "checkpoints", "best"])
def test_a_file_that_stands_in_the_way_is_refused_before_the_run(name, tmp_path):
    (tmp_path / name).write_text("mine")
    with pytest.raises(MM1Error, match=name):
        require_fresh(tmp_path, resume=False)
    assert (tmp_path / name).read_text() == "mine"
