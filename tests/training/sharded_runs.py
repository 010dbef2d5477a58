"""Runs to compare, of one process and of several: ``mlx.launch -n 2 python sharded_runs.py FOLDER CASE …``."""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten
from small_models import SMALL
from tuned_models import LLAMA, SPARSE, make, tuning

from mm1_mlx import Processor, load, tiny
from mm1_mlx.config import MlxLmDecoderConfig, MM1Config
from mm1_mlx.data.batches import Batches
from mm1_mlx.data.row_forms import Record, Turn
from mm1_mlx.errors import MM1Error
from mm1_mlx.model.decoder import Decoder
from mm1_mlx.training.distributed import in_step
from mm1_mlx.training.distributed.processes import Processes
from mm1_mlx.training.distributed.sharding import shard
from mm1_mlx.training.objective import objective
from mm1_mlx.training.options import RunOptions
from mm1_mlx.training.recipe import Recipe
from mm1_mlx.training.trainer import Trainer
from mm1_mlx.training.tuning_task import TuningTask
from mm1_mlx.tuning.adapters import prepare
from mm1_mlx.tuning.settings import PartTuning, Tuning
from mm1_mlx.vision.look import run_frozen_parts

FULL, LORA, DORA = PartTuning("full"), PartTuning("lora", rank=4), PartTuning("dora", rank=4)
ALL = Tuning(FULL, FULL, FULL)
TIED = replace(SMALL, text_config=replace(SMALL.text_config, tied_head=True))
TIED_LLAMA = replace(
    LLAMA, text_config=MlxLmDecoderConfig(LLAMA.text_config.values | {"tie_word_embeddings": True})
)
RECIPE = Recipe(iters=3, batch_size=6, learning_rate=1e-3, max_seq_length=64, vision_batch_size=1, shard=True)
OFTEN = RunOptions(steps_per_report=1, steps_per_eval=3, save_every=3, val_batches=-1)
ALONE = replace(
    RECIPE, pack=False
)  # routers are to spread the tokens of each sequence, so it must be the same one


@dataclass(frozen=True)
class Case:
    """The settings of a run."""

    tuning: Tuning
    config: MM1Config = SMALL
    recipe: Recipe = RECIPE
    options: RunOptions = OFTEN
    bits: int | None = None  # of the quantized model


def tune_all(**options):
    return Case(ALL, recipe=replace(RECIPE, **options))


CASES = {
    "lora": Case(tuning(decoder=LORA)),
    "lora of one layer": Case(tuning(decoder=replace(LORA, num_layers=1))),
    "dora": Case(tuning(decoder=DORA)),
    "full": Case(ALL),
    "qlora": Case(tuning(decoder=LORA), bits=4),
    "sparse lora": Case(tuning(decoder=LORA), SPARSE, ALONE),
    "sparse full": Case(ALL, SPARSE, replace(ALONE, optimizer="adafactor")),
    "llama lora": Case(tuning(decoder=LORA), LLAMA),
    "llama full": Case(ALL, TIED_LLAMA),
    "table and head": Case(tuning(decoder=replace(LORA, keys=("embed_tokens", "lm_head", "*.q_proj")))),
    "tied table": Case(tuning(decoder=replace(DORA, keys=("embed_tokens",))), TIED),
    "connector": Case(tuning(connector=FULL)),
    "eyes": Case(tuning(image_encoder=LORA, connector=LORA)),
    "checkpointed": tune_all(grad_checkpoint=True),
    "accumulated": tune_all(grad_accumulation_steps=2),
    "rates": tune_all(learning_rate_factors=(0.5, 1.0, 2.0), optimizer="adafactor"),
    "adafactor": tune_all(optimizer="adafactor", clip_norm=0.0),
    "lion": tune_all(optimizer="lion"),
    "sgd": tune_all(optimizer="sgd"),
}


def make_rows(number, first=0):
    """Make rows of different lengths, without a picture or with one or two: no two processes do the same work."""
    made = []
    for seed in range(first, first + number):
        pictures = tuple(
            tiny.render(tiny.make_scene(tiny.TRAINING_SEEDS + 8_400_000 + 2 * seed + n))
            for n in range((0, 1, 1, 2, 0)[seed % 5])
        )
        question = "<image>" * len(pictures) + "Welche Farbe?" * (seed % 3 + 1)
        turns = (Turn("user", question), Turn("assistant", "rot und blau" if seed % 2 else "blau"))
        made.append(Record(f"row {seed}", turns, None, pictures))
    return made


ROWS = {"train": make_rows(13), "valid": make_rows(5, 20)}


def make_processor(config):
    return Processor(load("mm1-tiny")[1].tokenizer, config)


def make_trainer(case, folder, data=ROWS, *, at=lambda trainer, line: None):
    """Return a trainer that has not begun, with the list of its reports; ``at`` is called with each."""
    lines = []
    model = make(case.config, bits=case.bits)
    task = TuningTask(model, make_processor(case.config), data, case.recipe, case.tuning)

    def report(line):
        lines.append(line)
        at(made, line)

    made = Trainer(task, case.options, folder, report=report)
    return made, lines


def run(case, folder):
    """Train and return what the run reports, and how much it holds in the end."""
    made, lines = make_trainer(case, folder)
    made.train()
    return {"lines": lines, "held": made.held_bytes}


def run_in_two_halves(case, folder):
    """Train in two halves, of which the second goes on where the first stopped; return what the second reports."""
    first, _ = make_trainer(
        case, folder, at=lambda trainer, line: trainer.stop("SIGTERM") if line["update"] == 1 else None
    )
    first.train()
    second, lines = make_trainer(case, folder)
    assert second.resume() and second.progress.update == 1
    second.train()
    return {"lines": lines, "held": second.held_bytes}


def compute_gradients(model, packed):
    """Return the gradients of one sequence, with all parts trained."""
    seen = run_frozen_parts(
        model, packed.pictures, trained=frozenset({"image_encoder", "connector", "decoder"})
    )
    _, found = nn.value_and_grad(model, objective)(model, packed, seen)
    return found


def make_sequences(number):
    """Return a sequence with two pictures, then some of other lengths with one or none."""
    batches = Batches(make_rows(number, 3), make_processor(SMALL), RECIPE, packing=False)
    return [packed for group in batches.read_in_order(number) for packed in group]


def save_sharded_gradients(folder):
    """Compute gradients, each process of its own sequence; the first one saves their sum."""
    processes = Processes()
    model, packed = make(SPARSE), make_sequences(processes.size)[processes.rank]
    prepare(model, ALL)
    shards = shard(model, processes)
    trained = frozenset({"image_encoder", "connector", "decoder"})
    seen = in_step.add_idle_views(model, run_frozen_parts(model, packed.pictures, trained=trained), processes)
    _, found = nn.value_and_grad(model, objective)(model, packed, seen)
    mx.eval(found)
    whole = {
        key: np.array(shards.whole(key, value))
        for key, value in dict(tree_flatten(shards.sum_gradients(found))).items()
    }
    if processes.rank == 0:
        np.savez(Path(folder) / "gradients.npz", **whole)


class ReachesAround(Decoder):
    """A decoder that reads the weights of its table directly."""

    def __call__(self, input_ids=None, cache=None, input_embeddings=None, **_):
        x = self.embed(input_ids) if input_embeddings is None else input_embeddings
        return x @ self.embed_tokens.weight.T


def collect_refusals(folder):
    """Return the messages of the runs that are refused."""
    rank = mx.distributed.init().rank()
    found = {}

    def refuse(name, action):
        try:
            action()
        except MM1Error as error:
            found[name] = str(error)

    case = CASES["full"]
    muon = replace(case, recipe=replace(RECIPE, optimizer="muon"))
    refuse("muon", lambda: make_trainer(muon, Path(folder) / "muon"))
    odd = replace(case, recipe=replace(RECIPE, batch_size=5))
    refuse("batch", lambda: make_trainer(odd, Path(folder) / "odd"))
    around, _ = make_trainer(Case(ALL, TIED), Path(folder) / "around")
    around.model.decoder.__class__ = ReachesAround
    refuse("around", around.train)
    apart, _ = make_trainer(case, Path(folder) / ("full" if rank == 0 else "elsewhere"))
    refuse("apart", lambda: (apart.resume(), apart.train()))
    return found


def main(folder, *names):
    folder, idle = Path(folder), []
    make_idle = in_step.idle_sequence
    in_step.idle_sequence = lambda: idle.append(1) or make_idle()
    found: dict[str, Any] = {name: run(CASES[name], folder / name) for name in names}
    found["idle sequences"] = len(idle)
    found["broken off"] = run_in_two_halves(CASES["adafactor"], folder / "broken off")
    found["refusals"] = collect_refusals(folder)
    save_sharded_gradients(folder)
    (folder / f"{mx.distributed.init().rank()}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
