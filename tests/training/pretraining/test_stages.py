"""Stages: what each decides and leaves, in which order they run, and how they go on."""

import json
from dataclasses import replace

import numpy as np
import pytest
from mlx.utils import tree_flatten
from PIL import Image
from recipes import CAPTIONS, GENERATORS, TOWER, stages_of

from mm1_mlx import load
from mm1_mlx.data.sources import SourceSettings
from mm1_mlx.errors import ConfigError, DataError, TrainingError
from mm1_mlx.training.session import Session, run_task

ONE_PART = {"train": ["connector"]}


def run(stages, name, *, session=None, stop=None):
    """Run one stage; ``stop`` ends it after so many updates, as a signal would."""
    stage = stages.recipe.find_stage(name)
    task = stages.prepare(stage).task
    trainer = run_task(stopping(task, stop), stage.options, stages.folder_of(stage), session or Session())
    return trainer, lines(stages.folder_of(stage))


def stopping(task, update):
    if update is not None:
        updates = task.updates
        task.updates = lambda first, last: updates(first, min(last, update))
    return task


def lines(folder):
    path = folder / "metrics.jsonl"  # written with the first report
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def weights(folder):
    return {key: np.array(value) for key, value in tree_flatten(load(folder)[0].parameters())}


def changed(one, other):
    """The parts of which something differs."""
    return {key.partition(".")[0] for key in one if not np.array_equal(one[key], other[key])}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """All stages of the recipe, run."""
    stages = stages_of(tmp_path_factory.mktemp("whole"))
    for stage in stages.recipe.stages:
        run(stages, stage.name)
    return stages


def result(stages, name):
    return stages.result(stages.recipe.find_stage(name))


def test_a_stage_leaves_a_whole_model_from_which_the_next_one_starts(whole):
    encoder, mixed, sft = (weights(result(whole, name)) for name in ("encoder", "mixed", "sft"))
    start = dict(tree_flatten(whole.begin(whole.recipe.stages[0]).model.parameters()))
    start = {key: np.array(value) for key, value in start.items()}
    assert changed(start, encoder) == {"image_encoder"}
    assert changed(encoder, mixed) == changed(mixed, sft) == {"image_encoder", "connector", "decoder"}
    assert load(result(whole, "encoder"))[0].config.untrained == ("connector", "decoder")
    assert load(result(whole, "sft"))[0].config.untrained == ()
    card = (result(whole, "sft") / "README.md").read_text()
    assert "instruction tuning, begun with what stage `mixed` left" in card and "not Apple's MM1" in card


def test_realised_shares_are_reported(whole):
    found = [line["mixture"] for line in lines(whole.folder / "mixed") if "mixture" in line]
    assert len(found) == 3
    for mixture in found:
        assert set(mixture) == {"captions", "interleaved", "text"}
        for what in ("rows", "tokens", "pictures"):
            assert sum(source[what] for source in mixture.values()) == pytest.approx(1)
        assert mixture["text"]["pictures"] == mixture["text"]["damaged"] == 0
    rows = np.mean([mixture["captions"]["rows"] for mixture in found])
    assert rows == pytest.approx(0.45, abs=0.2)


def test_contrastive_learning_reports_pairs_and_scale(whole):
    found = lines(whole.folder / "encoder")
    assert all(0 <= line.get("pairs_right", 0) <= 1 and 10 < line["scale"] <= 100 for line in found)


def test_parts_that_a_stage_does_not_name_stay_and_are_saved(whole, tmp_path):
    stages = replace(stages_of(tmp_path, {}, ONE_PART | {"start": str(result(whole, "encoder"))}))
    run(stages, "mixed")
    assert changed(weights(result(whole, "encoder")), weights(result(stages, "mixed"))) == {"connector"}
    assert load(result(stages, "mixed"))[0].config.untrained == ("decoder",)


def test_a_stage_may_look_closer(whole, tmp_path):
    start = str(result(whole, "encoder"))
    stages = stages_of(tmp_path, {}, {"start": start, "image": {"image_size": 168}, "iters": 1})
    run(stages, "mixed")
    model, processor = load(result(stages, "mixed"))
    assert model.config.image_config.image_size == 168 and processor.config.patch_grid == (12, 12)


@pytest.mark.parametrize("name", ["encoder", "mixed", "sft"])
def test_a_stage_that_goes_on_is_the_one_that_never_stopped(whole, tmp_path, name):
    start = {"encoder": None, "mixed": "encoder", "sft": "mixed"}[name]
    start = {} if start is None else {"start": str(result(whole, start))}
    changes = [start if name == other else {} for other in ("encoder", "mixed", "sft")]
    stages = stages_of(tmp_path, *changes)
    run(stages, name, stop=1)
    assert not stages.is_done(stages.recipe.find_stage(name))
    _, found = run(stages, name, session=Session(resume=True))
    expected = lines(whole.folder / name)
    for what in ("loss", "mixture", "learning_rate"):
        assert [line[what] for line in found] == [line[what] for line in expected]
    theirs = weights(result(whole, name))
    assert changed(weights(result(stages, name)), theirs) == set()


def test_shares_go_on_where_a_stage_was_stopped_between_two_reports(whole, tmp_path):
    seldom = {"start": str(result(whole, "encoder")), "steps_per_report": 3}
    for folder, stop in (("whole", None), ("part", 2)):
        run(stages_of(tmp_path / folder, {}, seldom), "mixed", stop=stop)
    _, found = run(stages_of(tmp_path / "part", {}, seldom), "mixed", session=Session(resume=True))
    expected = lines(tmp_path / "whole" / "mixed")
    assert len(found) == len(expected) == 1
    for what in ("loss", "mixture", "learning_rate", "padding"):
        assert found[0][what] == expected[0][what]


def test_a_later_stage_waits_for_the_earlier_one(tmp_path):
    stages = stages_of(tmp_path)
    with pytest.raises(
        TrainingError, match="stage encoder, from which mixed starts, has not begun; run that one first"
    ):
        run(stages, "mixed")
    run(stages, "encoder", stop=2)
    with pytest.raises(TrainingError, match="has made 2 of its 3 updates"):
        run(stages, "mixed")


def test_what_was_done_with_other_settings_is_not_done(whole):
    stage = whole.recipe.stages[0]
    assert whole.is_done(stage)
    other = stages_of(whole.folder, {"batch_size": 16, "learning_rate": 1e-3})
    with pytest.raises(
        TrainingError, match=r"stage encoder is done by another recipe: settings.batch_size was 8 and is 16"
    ):
        other.is_done(other.recipe.stages[0])
    more = stages_of(whole.folder, {"iters": 5})
    assert not more.is_done(more.recipe.stages[0])


@pytest.mark.parametrize(
    "changes, words",
    [
        (({}, {"train": ["decoder"]}), "mixed .*stage.parts was"),
        (({}, {"image": {"image_size": 98}}), "mixed .*image_config.image_size was 126 and is 98"),
        (({}, {"sources": CAPTIONS}), "mixed .*stage.weights.captions was 0.45 and is 1.0"),
        (
            ({}, {}, {"sources": {"conversations": {"generator": "tiny:captions"}}}),
            "sft .*stage.sources.conversations.generator was 'tiny:conversations' and is 'tiny:captions'",
        ),
        (({}, {"start": "mm1-tiny"}), "mixed .*it began with other weights"),
    ],
)
def test_what_another_recipe_has_done_is_not_taken_for_done(whole, changes, words):
    other = stages_of(whole.folder, *changes)
    with pytest.raises(TrainingError, match=f"stage {words}"):
        [other.is_done(stage) for stage in other.recipe.stages]


def test_a_run_goes_on_to_more_updates_with_the_warm_up_it_began_with(tmp_path):
    run(stages_of(tmp_path), "encoder", stop=1)
    more = stages_of(tmp_path, {"iters": 60})
    trainer, _ = run(more, "encoder", session=Session(resume=True), stop=2)
    assert trainer.progress.update == 2 and trainer.recipe.warmup == 0
    trainer, _ = run(more, "encoder", session=Session(resume=True), stop=3)
    assert trainer.progress.update == 3
    with pytest.raises(TrainingError, match=r"settings.iters was 60 and is 50"):
        run(stages_of(tmp_path, {"iters": 50}), "encoder", session=Session(resume=True))
    anew = stages_of(tmp_path / "anew", {"iters": 60})
    assert anew.prepare(anew.recipe.stages[0]).task.recipe.warmup == 1


def test_a_source_may_move_but_be_no_other(tmp_path):
    run(stages_of(tmp_path), "encoder", stop=1)
    other = stages_of(tmp_path, sources={"captions": {"generator": "mine"}})
    other = replace(other, generators={"mine": GENERATORS["tiny:captions"]})
    with pytest.raises(TrainingError, match=r"stage.sources.captions.generator was 'tiny:captions'"):
        run(other, "encoder", session=Session(resume=True))
    here, there = (SourceSettings(path=path, weight=0.5) for path in ("a/x.tar", "b/x.tar"))
    assert here.identity() == there.identity()


def test_a_run_of_other_rows_does_not_go_on(tmp_path):
    run(stages_of(tmp_path), "encoder", stop=1)
    other = stages_of(tmp_path, {"contrastive": TOWER | {"loss": "siglip"}})
    with pytest.raises(TrainingError, match=r"stage.contrastive.loss was 'clip' and is 'siglip'"):
        run(other, "encoder", session=Session(resume=True))


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["clip", "siglip"])
def test_pairs_come_together(tmp_path, loss):
    hues = np.linspace(0, 255, 16, dtype=int)
    for number, hue in enumerate(hues):
        Image.new("HSV", (32, 32), (int(hue), 255, 255)).convert("RGB").save(tmp_path / f"{number}.png")
    rows = [{"image": f"{number}.png", "caption": f"picture {number}"} for number in range(len(hues))]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    change = {
        "iters": 30,
        "learning_rate": 3e-3,
        "batch_size": len(rows),
        "contrastive": TOWER | {"loss": loss},
        "sources": {"captions": {"path": str(tmp_path / "pairs.jsonl")}},
        "save_every": 30,
    }
    _, found = run(stages_of(tmp_path, change), "encoder")
    losses = [line["loss"] for line in found]
    assert np.mean(losses[-10:]) < 0.8 * losses[0]
    if loss == "clip":
        assert np.mean(losses[-10:]) < 0.8 * np.log(len(rows))  # that of guessing


def test_chunks_change_nothing(tmp_path):
    found = []
    for size in (3, 8):
        stages = stages_of(tmp_path / str(size), {"contrastive": TOWER | {"chunk_size": size}})
        found.append([line["loss"] for line in run(stages, "encoder")[1]])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@pytest.mark.slow
def test_held_out_rows_are_measured_and_the_best_model_kept(tmp_path):
    valid = {"valid": CAPTIONS, "val_batches": 2, "steps_per_eval": 1}
    stages = stages_of(tmp_path, valid, valid | {"start": "mm1-tiny"})
    for name in ("encoder", "mixed"):
        _, found = run(stages, name)
        measured = [line for line in found if "val_loss" in line]
        assert [line["update"] for line in measured] == [0, 1, 2, 3]
        assert {line["val_rows"] for line in measured} == {16 if name == "encoder" else 8}
    assert load(tmp_path / "encoder" / "best" / "model")


def test_a_row_that_is_no_caption_is_left_out_of_contrastive_learning(tmp_path):
    sources = {"captions": {"generator": "tiny:text"}}
    with pytest.raises(
        DataError, match=r"no row of the first update of stage encoder.*of the form text, but a contrastive"
    ):
        run(stages_of(tmp_path, {"sources": sources}), "encoder")
    with pytest.raises(DataError, match="stage encoder: source captions: there is no generator 'tiny:cap'"):
        run(stages_of(tmp_path, {"sources": {"captions": {"generator": "tiny:cap"}}}), "encoder")


def test_what_was_decided_is_told_with_its_reason(tmp_path):
    stages = stages_of(tmp_path, {}, {"weight_decay": 0.5, "start": "mm1-tiny"})
    notes = stages.prepare(stages.recipe.find_stage("mixed")).notes
    assert "learning_rate 0.00111: MM1's exp(-0.4214 ln N - 0.5535), where N is 2,754,816" in "\n".join(notes)
    assert any(
        note.startswith("weight_decay 0.5: the recipe's; else 0.1, MM1's 0.1 x rate") for note in notes
    )
    assert "source captions: 45 % of the rows, without an end" in notes


def test_nothing_is_computed_to_foresee(tmp_path):
    stages = stages_of(tmp_path, {}, {"image": {"image_size": 252}})
    for stage in stages.recipe.stages:
        found = "\n".join(stages.foresee(stage))
        assert f"stage {stage.name}: " in found and "at most at once" in found
        assert ("text tower and readouts, let go of at the end" in found) == (stage.name == "encoder")
        assert ("exp(-0.4214 ln N - 0.5535)" in found) == (stage.name == "mixed")
    assert not any(tmp_path.iterdir())


def test_pictures_of_many_sizes_are_refused(tmp_path):
    stages = stages_of(tmp_path, {"image": {"resize": "smart"}})
    with pytest.raises(ConfigError, match="size_multiple"):
        run(stages, "encoder")
