"""A run: it learns, it stops well, and it goes on as if it had never stopped."""

import gc
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from functools import partial

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from small_models import SMALL

from mm1_mlx import MM1, Processor, tiny
from mm1_mlx.data.packing import RowsApart
from mm1_mlx.data.row_forms import Record, Turn
from mm1_mlx.errors import CheckpointError, DataError, MM1Error, TrainingError
from mm1_mlx.training import run_folder as state
from mm1_mlx.training.checkpointing import checkpoint_layers
from mm1_mlx.training.options import RunOptions
from mm1_mlx.training.recipe import Recipe
from mm1_mlx.training.run_folder import RunFolder
from mm1_mlx.training.trainer import Trainer
from mm1_mlx.training.tuning_task import TuningTask
from mm1_mlx.tuning.settings import PartTuning, Tuning
from mm1_mlx.vision.cache import VisionCache

FROZEN = PartTuning(how="frozen")
LORA = Tuning(FROZEN, FROZEN, PartTuning(how="lora", rank=4, scale=8.0))
DROPOUT = Tuning(FROZEN, FROZEN, PartTuning(how="lora", rank=4, scale=8.0, dropout=0.2))
FULL = Tuning(*[PartTuning(how="full")] * 3)
CONNECTOR = Tuning(FROZEN, PartTuning(how="full"), FROZEN)
QUICK = Recipe(iters=6, batch_size=4, learning_rate=1e-3, max_seq_length=256)
OFTEN = RunOptions(steps_per_report=1, steps_per_eval=3, save_every=2)
EACH = replace(OFTEN, save_every=1)


def rows_of(number, first=0):
    rows = []
    for seed in range(first, first + number):
        picture = tiny.render(tiny.make_scene(tiny.TRAINING_SEEDS + 8_000_000 + seed))
        answer = "rot" if seed % 2 else "blau"
        turns = (Turn("user", "<image>Welche Farbe?"), Turn("assistant", answer))
        rows.append(Record(f"row {seed}", turns, None, (picture,)))
    return rows


ROWS = rows_of(10)


@pytest.fixture
def make(mm1_tiny, tmp_path):
    """A trainer of a small model with random weights."""

    def make(
        recipe=QUICK,
        tuning=LORA,
        options=OFTEN,
        *,
        rows=None,
        folder=tmp_path / "run",
        config=SMALL,
        vision_cache=None,
        at=lambda trainer, line: None,
    ):
        mx.random.seed(5)
        model = MM1(config)
        mx.eval(model.parameters())
        processor = Processor(mm1_tiny[1].tokenizer, config)
        rows = {"train": ROWS, "valid": ROWS[:4]} if rows is None else rows
        task = TuningTask(model, processor, rows, recipe, tuning, vision_cache=vision_cache)
        lines = []

        def report(line):
            lines.append(line)
            at(trainer, line)

        trainer = Trainer(task, options, folder, report=report)
        trainer.lines = lines
        return trainer

    return make


def stopping(update):
    """What a run does with its reports to leave after an update."""
    return lambda trainer, line: (
        trainer.stop("SIGTERM") if line.get("loss") and line["update"] == update else None
    )


def losses(trainer):
    return [line["loss"] for line in trainer.lines if "loss" in line]


def weights(trainer):
    return {name: np.array(value) for name, value in tree_flatten(trainer.model.trainable_parameters())}


def test_after_a_lost_process_no_launcher_ends_this_one_before_it_says_why(make, request):
    for number in (signal.SIGTERM, signal.SIGINT):
        request.addfinalizer(partial(signal.signal, number, signal.getsignal(number)))
    before = signal.getsignal(signal.SIGINT)

    def lose(trainer, line):
        raise RuntimeError("[ring] Too many send/recv errors.")

    with pytest.raises(TrainingError, match="has left"):
        make(at=lose).train()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.slow
@pytest.mark.parametrize("tuning", [LORA, FULL, CONNECTOR], ids=["lora", "full", "connector"])
def test_a_run_learns_its_rows(make, tuning):
    trainer = make(replace(QUICK, iters=30, learning_rate=3e-3), tuning)
    trainer.train()
    found = losses(trainer)
    assert np.mean(found[-4:]) < 0.85 * found[0]


def test_the_first_loss_is_that_of_the_untouched_model(make):
    trainer = make(replace(QUICK, iters=1, batch_size=10))
    trainer.train()
    full = make(replace(QUICK, iters=1, batch_size=10), FULL)
    full.train()
    assert losses(trainer)[0] == pytest.approx(losses(full)[0], rel=1e-6)


def test_a_sparse_decoder_reports_the_loss_of_its_routers_apart(make):
    sparse = replace(SMALL, text_config=replace(SMALL.text_config, num_experts=4, sparse_every=1))
    trainer = make(replace(QUICK, iters=2), FULL, config=sparse)
    trainer.train()
    assert all(0.01 < line["router_loss"] < 0.05 for line in trainer.lines if "loss" in line)
    dense = make(replace(QUICK, iters=1), FULL)
    dense.train()
    assert not any("router_loss" in line for line in dense.lines)


@pytest.mark.parametrize("split", [(8, 1), (4, 2), (2, 4)])
def test_accumulation_changes_nothing(make, tmp_path, split):
    size, steps = split
    settings = replace(QUICK, iters=3, batch_size=size, grad_accumulation_steps=steps)
    trainer = make(settings, folder=tmp_path / "split")
    trainer.train()
    whole = make(replace(QUICK, iters=3, batch_size=8), folder=tmp_path / "whole")
    whole.train()
    np.testing.assert_allclose(losses(trainer), losses(whole), rtol=1e-5)
    theirs = weights(whole)
    for name, value in weights(trainer).items():
        np.testing.assert_allclose(value, theirs[name], atol=1e-5, err_msg=name)


def test_one_row_a_sequence_learns_the_same(make, tmp_path):
    packed = make(folder=tmp_path / "packed")
    packed.train()
    alone = make(replace(QUICK, pack=False), folder=tmp_path / "alone")
    alone.train()
    np.testing.assert_allclose(losses(packed), losses(alone), rtol=2e-4)


@pytest.mark.parametrize("tuning", [FULL, DROPOUT], ids=["full", "lora with dropout"])
def test_gradient_checkpointing_learns_the_same(make, tmp_path, tuning):
    plain = make(tuning=tuning, folder=tmp_path / "plain")
    plain.train()
    checkpointed = make(replace(QUICK, grad_checkpoint=True), tuning, folder=tmp_path / "checkpointed")
    checkpointed.train()
    np.testing.assert_allclose(losses(plain), losses(checkpointed), rtol=1e-5)


def test_gradient_checkpointing_leaves_the_layers_as_they_were(make):
    model = make().model
    classes = [type(layer) for layer in model.layers]
    with checkpoint_layers(model):
        assert [type(layer) for layer in model.layers] != classes
    assert [type(layer) for layer in model.layers] == classes


def test_gradient_checkpointing_takes_less_memory(make, tmp_path):
    deep = replace(SMALL, text_config=replace(SMALL.text_config, num_layers=16))
    peaks = []
    for on in (False, True):
        settings = replace(QUICK, iters=2, batch_size=10, max_seq_length=512, grad_checkpoint=on)
        trainer = make(settings, FULL, config=deep, folder=tmp_path / str(on), rows={"train": ROWS})
        gc.collect()  # models of other runs would go during this one
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        trainer.train()
        peaks.append(mx.get_peak_memory() - before)
    assert peaks[1] < 0.8 * peaks[0]


def test_cached_visual_tokens_learn_the_same(make, tmp_path):
    plain = make(folder=tmp_path / "plain")
    plain.train()
    cache = VisionCache()
    cached = make(folder=tmp_path / "cached", vision_cache=cache)
    cached.train()
    np.testing.assert_allclose(losses(plain), losses(cached), rtol=1e-5)
    assert cache.misses == len(ROWS)


# Going on


@pytest.mark.parametrize("tuning", [DROPOUT, FULL], ids=["lora with dropout", "full"])
@pytest.mark.parametrize("optimizer", ["adamw", "adafactor", "lion", "muon"])
def test_a_run_that_goes_on_is_the_run_that_never_stopped(make, tmp_path, tuning, optimizer):
    settings = replace(QUICK, optimizer=optimizer, schedule="cosine_decay", warmup=2)
    whole = make(settings, tuning, folder=tmp_path / "whole")
    whole.train()
    part = make(settings, tuning, folder=tmp_path / "part", at=stopping(3))
    part.train()
    assert part.progress.update == 3
    rest = make(settings, tuning, folder=tmp_path / "part")
    assert rest.resume()
    rest.train()
    assert losses(rest) == losses(whole)[3:]
    theirs = weights(whole)
    assert all(np.array_equal(value, theirs[name]) for name, value in weights(rest).items())


TIMES = ("updates_per_second", "tokens_per_second", "pictures_per_second", "data_wait", "peak_memory")


def reports(folder):
    """The lines of a run without what depends on the machine."""
    lines = RunFolder(folder).lines()
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


@pytest.mark.parametrize("save_every", [1, 2])
def test_reports_go_on_where_a_run_was_stopped_between_two(make, tmp_path, save_every):
    options = replace(OFTEN, steps_per_report=4, steps_per_eval=100, save_every=save_every)
    make(options=options, folder=tmp_path / "whole").train()
    part = make(options=options, folder=tmp_path / "part")
    part.task.updates = lambda first, last, updates=part.task.updates: updates(first, min(last, 3))
    part.train()  # to update 3, or killed after it: the last checkpoint is of 2
    rest = make(options=options, folder=tmp_path / "part")
    assert rest.resume() and rest.progress.update == (3 if save_every == 1 else 2)
    rest.train()
    assert [line["update"] for line in reports(tmp_path / "whole")] == [0, 4, 6, 6]
    assert reports(tmp_path / "part") == reports(tmp_path / "whole")


def test_a_checkpoint_that_was_changed_is_refused(make, tmp_path, subtests):
    make(replace(QUICK, iters=2)).train()
    path = RunFolder(tmp_path / "run").newest()
    progress = json.loads((path / "progress.json").read_text())
    tally = progress["since_report"]
    for name, text in (
        *(("progress.json", text) for text in ("", "{", "{}", "[]", "null", "3")),
        *(("progress.json", json.dumps(progress | {key: value})) for key, value in (
            ("update", 1), ("update", "2"), ("update", True), ("learned_tokens", -1), ("learned_tokens", None),
            ("best_val_loss", "x"), ("best_update", 3), ("best_update", None), ("more", 1), ("since_report", []),
            ("since_report", tally | {"measured": ["x"]}), ("since_report", tally | {"measured": [1.0] * 5}),
        )),
        *(("run.json", text) for text in ("", "{", "{}", "[]", '{"settings": 3}')),
    ):  # fmt: skip
        with subtests.test(f"{name} {text}"):
            sound = (path / name).read_text()
            (path / name).write_text(text)
            with pytest.raises(
                CheckpointError, match=r"(?s)is damaged .*; delete it to go on from an older one"
            ):
                make(replace(QUICK, iters=2)).resume()
            (path / name).write_text(sound)
    (path / "run.json").rename(tmp_path / "run.json")
    with pytest.raises(CheckpointError, match=r"00000002 is damaged"):
        make(replace(QUICK, iters=2)).resume()
    (tmp_path / "run.json").rename(path / "run.json")
    arrays = dict(mx.load(str(path / "optimizer.safetensors")))
    mx.eval(arrays)  # before the file is written over
    for changed in (
        {key: value for key, value in arrays.items() if not key.endswith(".m")},
        arrays | {key: value[..., :1] for key, value in arrays.items() if key.endswith(".v")},
    ):
        mx.save_safetensors(str(path / "optimizer.safetensors"), changed)
        with pytest.raises(CheckpointError, match="is of another optimizer"):
            make(replace(QUICK, iters=2)).resume()


def test_a_run_made_ready_while_another_one_ended_does_not_begin(make):
    late = make()
    make(replace(QUICK, iters=1)).train()
    with pytest.raises(TrainingError, match=r"another run has left .*00000001 meanwhile"):
        late.train()


def test_rates_of_their_own_for_parts_go_on_too(make, tmp_path):
    settings = replace(QUICK, learning_rate_factors=(0.1, 1.0, 0.5))
    whole = make(settings, FULL, folder=tmp_path / "whole")
    whole.train()
    half = make(settings, FULL, folder=tmp_path / "half", at=stopping(2))
    half.train()
    rest = make(settings, FULL, folder=tmp_path / "half")
    assert rest.resume()
    rest.train()
    assert losses(rest) == losses(whole)[2:]


def test_a_part_with_a_rate_of_0_stays_as_it_was(make):
    trainer = make(replace(QUICK, learning_rate_factors=(0.0, 1.0, 1.0)), FULL)
    before = weights(trainer)
    trainer.train()
    after = weights(trainer)
    same = {name for name, value in after.items() if np.array_equal(value, before[name])}
    assert {name for name in after if name.startswith("image_encoder.")} <= same
    assert not {name for name in after if name.startswith("connector.readout")} <= same


def interrupted(trainer, line):
    if line["update"] == 3:
        raise KeyboardInterrupt


def test_metrics_of_updates_that_are_done_again_stand_once(make, tmp_path):
    part = make(folder=tmp_path / "part", at=interrupted)
    with pytest.raises(KeyboardInterrupt):
        part.train()
    rest = make(folder=tmp_path / "part")
    assert rest.resume() and rest.progress.update == 2
    rest.train()
    lines = [json.loads(line) for line in (tmp_path / "part" / "metrics.jsonl").read_text().splitlines()]
    assert [line["update"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]


def test_metrics_of_a_run_that_left_no_checkpoint_are_gone_when_the_next_one_begins(make, tmp_path):
    rarely = replace(OFTEN, save_every=100)
    with pytest.raises(KeyboardInterrupt):
        make(options=rarely, at=interrupted).train()
    assert [line["update"] for line in RunFolder(tmp_path / "run").lines() if "loss" in line] == [1, 2, 3]
    make(options=rarely).train()
    lines = RunFolder(tmp_path / "run").lines()
    assert [line["update"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert sum(line["update"] == 0 for line in lines) == 1


def test_another_run_cannot_go_on_and_says_what_differs(make):
    make(replace(QUICK, iters=2)).train()
    other = make(replace(QUICK, iters=2, learning_rate=2e-3, seed=1))
    with pytest.raises(
        TrainingError, match=r"settings.seed was 0 and is 1; settings.learning_rate was 0.001 and is 0.002"
    ):
        other.resume()


def test_a_run_may_be_watched_otherwise_and_go_on_for_longer(make):
    make(replace(QUICK, iters=2)).train()
    longer = make(replace(QUICK, iters=4), options=RunOptions(steps_per_report=2, val_batches=1))
    assert longer.resume()
    longer.train()
    assert [line["update"] for line in longer.lines if "loss" in line] == [4]


OLD = {  # what run.json said of QUICK and LORA before recipe and options were apart, and before shard
    "settings": {
        "iters": 6,
        "batch_size": 4,
        "grad_accumulation_steps": 1,
        "learning_rate": 0.001,
        "learning_rate_factors": [1.0, 1.0, 1.0],
        "schedule": "constant",
        "warmup": 0,
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
        "val_batches": 25,
        "steps_per_report": 7,
        "steps_per_eval": 9,
        "save_every": 1,
        "keep": 1,
        "seed": 0,
    },
    "tuning": {
        part: {"how": how, "rank": rank, "scale": scale, "dropout": 0.0, "keys": [], "num_layers": -1}
        for part, how, rank, scale in (
            ("image_encoder", "frozen", 8, 20.0),
            ("connector", "frozen", 8, 20.0),
            ("decoder", "lora", 4, 8.0),
        )
    },
    "rows": 10,
    "processes": 1,
}


def test_a_run_saved_by_an_earlier_version_goes_on(make, tmp_path):
    whole = make(folder=tmp_path / "whole")
    whole.train()
    part = make(folder=tmp_path / "part", at=stopping(3))
    part.train()
    path = RunFolder(tmp_path / "part").newest() / "run.json"
    path.write_text(json.dumps(OLD | {"base": json.loads(path.read_text())["base"]}))
    rest = make(folder=tmp_path / "part")
    assert rest.resume()
    rest.train()
    assert losses(rest) == losses(whole)[3:]


def test_a_damaged_checkpoint_is_refused(make, tmp_path):
    make(replace(QUICK, iters=2)).train()
    path = RunFolder(tmp_path / "run").newest() / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(MM1Error, match="is damaged"):
        make(replace(QUICK, iters=2)).resume()


def test_the_last_checkpoints_are_kept(make, tmp_path):
    make(options=replace(EACH, keep=3)).train()
    assert [path.name for path in RunFolder(tmp_path / "run").checkpoints()] == [
        "00000004",
        "00000005",
        "00000006",
    ]


def test_a_full_disk_leaves_the_last_good_checkpoint(make, tmp_path, monkeypatch):
    trainer = make()
    write, calls = state.write_tensors, []

    def full(*args):
        calls.append(args)
        if len(calls) > 3:
            raise OSError("No space left on device")
        return write(*args)

    monkeypatch.setattr(state, "write_tensors", full)
    with pytest.raises(MM1Error, match=r"cannot be written"):
        trainer.train()
    monkeypatch.undo()
    assert make().resume()


KILLED = """
import os, sys
from pathlib import Path
sys.path[:0] = {paths!r}
import mlx.core as mx
from test_trainer import EACH, LORA, QUICK, ROWS
from small_models import SMALL
from mm1_mlx import MM1, Processor, load
from mm1_mlx.training import run_folder as state, step as s, trainer as t
from mm1_mlx.training.tuning_task import TuningTask
processor = load("mm1-tiny")[1]
mx.random.seed(5)
model = MM1(SMALL)
mx.eval(model.parameters())
{fault}
task = TuningTask(model, Processor(processor.tokenizer, SMALL), {{"train": ROWS}}, QUICK, LORA)
run = t.Trainer(task, EACH, Path({folder!r}))
run.resume()
run.train()
"""
IN_A_STEP = "clip = s.clip_gradients\ns.clip_gradients = lambda *a: os.kill(os.getpid(), 9) if run.progress.update == 3 else clip(*a)"
IN_A_SAVE = (
    "save = state.write_tensors\nstate.write_tensors = lambda p, *a: "
    "os.kill(os.getpid(), 9) if '00000004' in str(p) and 'optimizer' in str(p) else save(p, *a)"
)


@pytest.mark.slow
@pytest.mark.parametrize("fault", [IN_A_STEP, IN_A_SAVE], ids=["in a step", "in a save"])
def test_a_killed_run_goes_on_as_if_it_had_never_stopped(make, tmp_path, fault):
    folder = tmp_path / "killed"
    paths = [os.path.dirname(__file__), os.path.dirname(os.path.dirname(__file__))]
    script = KILLED.format(paths=paths, fault=fault, folder=str(folder))
    assert subprocess.run([sys.executable, "-c", script]).returncode == -signal.SIGKILL
    rows = {"train": ROWS}
    rest = make(options=EACH, rows=rows, folder=folder)
    assert rest.resume() and rest.progress.update == 3
    rest.train()
    assert not list(folder.rglob(".*"))
    whole = make(options=EACH, rows=rows, folder=tmp_path / "whole")
    whole.train()
    assert losses(rest) == losses(whole)[3:]
    theirs = weights(whole)
    assert all(np.array_equal(value, theirs[name]) for name, value in weights(rest).items())


# What goes wrong


def test_a_loss_that_is_no_number_stops_the_run_and_names_its_rows(make, tmp_path):
    def break_it(trainer, line):
        if line.get("loss") and line["update"] == 2:
            trainer.model.update({"decoder": {"norm": {"weight": mx.full((64,), float("nan"))}}})

    trainer = make(options=EACH, at=break_it)
    with pytest.raises(
        TrainingError, match=r"update 3: the loss is nan .*row \d, row \d.*run/checkpoints/00000002"
    ):
        trainer.train()


def test_a_wrong_mask_stops_the_run_before_its_first_update(make, monkeypatch):
    monkeypatch.setattr(RowsApart, "make_mask", lambda self, length, **_: mx.ones((length, length), mx.bool_))
    trainer = make()
    with pytest.raises(TrainingError, match="looks where it must not"):
        trainer.train()
    assert trainer.progress.update == 0


BAD = Record("bad row", (Turn("user", "<image>?"), Turn("assistant", "x")), None, (b"no picture",))


def test_a_row_that_cannot_be_used_stops_the_run(make):
    with pytest.raises(DataError, match=r"bad row: .*not a picture.*`check_data` .*`skip_bad`"):
        make(rows={"train": [*ROWS, BAD]}, recipe=replace(QUICK, batch_size=11)).train()


def test_a_row_that_cannot_be_used_is_left_out_where_asked_for(make, tmp_path, capsys):
    trainer = make(replace(QUICK, batch_size=11, iters=2, skip_bad=True), rows={"train": [*ROWS, BAD]})
    trainer.train()
    assert len(trainer.task.batches.left_out) == 2 and "left out: bad row" in capsys.readouterr().err
    clean = make(replace(QUICK, batch_size=10, iters=1), folder=tmp_path / "clean")
    clean.train()
    assert losses(trainer)[0] == pytest.approx(losses(clean)[0], rel=1e-5)


@pytest.mark.parametrize("split", ["train", "valid"])
def test_no_thread_outlives_a_run_that_fails(make, split):
    before = threading.active_count()
    rows = {"train": ROWS, "valid": ROWS} | {split: [*ROWS, BAD]}
    with pytest.raises(DataError, match="bad row"):
        make(rows=rows).train()
    with pytest.raises(KeyboardInterrupt):
        make(at=interrupted).train()
    assert threading.active_count() == before


def test_an_update_of_rows_left_out_alone_is_passed_over(make):
    recipe = replace(QUICK, batch_size=1, iters=2, skip_bad=True)
    trainer = make(recipe, rows={"train": [BAD, ROWS[0]]})
    trainer.train()
    assert trainer.progress.update == 2 and trainer.progress.learned_tokens > 0
    with pytest.raises(TrainingError, match="nothing was learned in 2 updates"):
        make(recipe, rows={"train": [BAD]}).train()


def test_a_batch_larger_than_the_data_takes_rows_again(make):
    trainer = make(replace(QUICK, batch_size=16, iters=1), rows={"train": ROWS[:3]})
    trainer.train()
    assert trainer.progress.update == 1


def test_nothing_to_train_is_refused(make):
    with pytest.raises(TrainingError, match="no part of the model is trained"):
        make(tuning=Tuning(FROZEN, FROZEN, FROZEN))


# Validation


def test_validation_measures_the_rows_and_keeps_the_best(make, tmp_path):
    trainer = make(replace(QUICK, iters=9, learning_rate=3e-3))
    trainer.train()
    found = [line for line in trainer.lines if "val_loss" in line]
    assert [line["update"] for line in found] == [0, 3, 6, 9]
    best = min(found, key=lambda line: line["val_loss"])
    assert trainer.progress.best_update == best["update"] > 0
    assert (tmp_path / "run" / "best" / "adapters.safetensors").exists()
