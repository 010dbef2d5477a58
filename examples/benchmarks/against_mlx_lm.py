"""Text alone, here against mlx-lm: the CPU seconds of updates and of answers, as ratios, on the same decoder.

    python examples/benchmarks/against_mlx_lm.py                  # a random llama as wide as SmolLM2-135M, 6 layers
    python examples/benchmarks/against_mlx_lm.py --model FOLDER   # an MM1 with a decoder of mlx-lm's, as `convert
                                                                  # assemble` makes

The MM1's decoder is written as a folder of mlx-lm's, so both sides have the same weights and tokenizer. Then
``python -m mm1_mlx.lora`` and ``python -m mlx_lm.lora`` learn the same rows with LoRA on the same layers, the loss on
the answers alone; CPU seconds count from one update to another, so loading and first shapes stay outside. Answers are
greedy, after one that does not count. Sides take turns; a line is the median of the rounds, lowest and highest in
brackets. Threads that wait compute, too: set OPENBLAS_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
from llava_twins import Sizes, make_ours

from mm1_mlx import MM1Error, generate, load, tiny
from mm1_mlx.arrays import flatten
from mm1_mlx.config import MlxLmDecoderConfig
from mm1_mlx.data.records import open_data
from mm1_mlx.training.options import RunOptions
from mm1_mlx.training.recipe import Recipe
from mm1_mlx.training.trainer import Trainer
from mm1_mlx.training.tuning_task import TuningTask
from mm1_mlx.tuning.settings import PartTuning, Tuning

ROWS = 64
BATCH = 8  # rows an update
FIRST = 3  # updates that do not count
RATE = 1e-5  # mlx-lm's
FROZEN = Tuning(*[PartTuning("frozen")] * 3)
PROMPT = "Write a long story about a lighthouse keeper, a storm and a small boat."
WIDTH = 576  # of the random llama: that of SmolLM2-135M
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


def make_model(folder: Path, *, num_layers: int) -> None:
    """Write an MM1 with a random llama, and a small image encoder and connector."""
    companions = folder.with_name("tokenizer")
    companions.mkdir()
    tiny.train_tokenizer(companions, 500)
    sizes = Sizes(image_size=28, encoder_dims=64, decoder_dims=WIDTH, num_layers=num_layers)
    make_ours(folder, sizes, companions, num_visual_tokens=sizes.num_patches)


def write_decoder(ours: Path, theirs: Path) -> None:
    """Write the decoder of an MM1 folder as a folder that mlx-lm loads.

    Raises:
        MM1Error: the decoder is none of mlx-lm's.
    """
    model, _ = load(ours)
    config = model.config.text_config
    if not isinstance(config, MlxLmDecoderConfig):
        raise MM1Error(f"{ours} has a decoder of this package; give an MM1 whose decoder is one of mlx-lm's.")
    theirs.mkdir()
    mx.save_safetensors(
        str(theirs / "model.safetensors"), flatten(model.decoder.parameters()), {"format": "mlx"}
    )
    values = config.values | {"eos_token_id": model.config.eos_token_id}
    (theirs / "config.json").write_text(json.dumps(values), "utf-8")
    for file in ours.iterdir():
        if file.name.startswith(("tokenizer", "chat_template", "special_tokens", "vocab", "merges")):
            (theirs / file.name).write_bytes(file.read_bytes())


def write_rows(folder: Path) -> None:
    """Write questions with answers of 5 to 40 words."""
    folder.mkdir()
    rng, words = random.Random(0), PROMPT.lower().strip(".").replace(",", "").split()
    rows = []
    for _ in range(ROWS):
        asked, said = (" ".join(rng.choices(words, k=rng.randint(5, most))) for most in (20, 40))
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
        rows.append({"messages": turns})
    for name, number in (("train", ROWS), ("valid", BATCH)):
        text = "".join(f"{json.dumps(row)}\n" for row in rows[:number])
        (folder / f"{name}.jsonl").write_text(text, "utf-8")


def time_updates(side: str, model: Path, rows: Path, out: Path, updates: int) -> float:
    """Return the CPU seconds of an update, in a process of its own.

    Raises:
        MM1Error: the command failed.
    """
    here = [sys.executable, __file__, "--learn", side, "--model", model, "--rows", rows, "--output", out]
    return run_apart([*here, "--updates", updates])


def run_apart(command: Sequence[Any]) -> float:
    """Run one side in a process of its own, and return the number in its last line.

    Raises:
        MM1Error: the side failed.
    """
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=os.environ | OFFLINE)
    if done.returncode:
        raise MM1Error(f"the side of {command[3]} failed: {(done.stdout + done.stderr).strip()[-800:]}")
    return float(done.stdout.split()[-1])


class Stopwatch:
    """Notes the CPU seconds of this process when an update is reported; both sides' trainers take one as a reporter."""

    def __init__(self):
        self.times: list[float] = []

    def on_train_loss_report(self, info: dict[str, Any]) -> None:
        """Note an update."""
        self.times.append(time.process_time())

    def on_val_loss_report(self, info: dict[str, Any]) -> None:
        """Pass over a validation; none counts."""


def learn(side: str, model: Path, rows: Path, out: Path, updates: int) -> float:
    """Learn the rows with one side; return the CPU seconds of an update after the first ones."""
    watch, iters = Stopwatch(), FIRST + updates + 1  # before the last one, mlx-lm validates
    if side == "ours":
        learn_ours(model, rows, out, iters, watch)
    else:
        learn_theirs(model, rows, out, iters, watch)
    return (watch.times[FIRST + updates - 1] - watch.times[FIRST - 1]) / updates


def learn_ours(folder: Path, rows: Path, out: Path, iters: int, watch: Stopwatch) -> None:
    """Train as ``python -m mm1_mlx.lora`` does."""
    model, processor = load(folder)
    adapters = PartTuning("lora", rank=8, scale=20.0)  # mlx-lm's
    recipe = Recipe(iters=iters, batch_size=BATCH, learning_rate=RATE, optimizer="adam", schedule="constant")
    task = TuningTask(model, processor, open_data(str(rows)), recipe, replace(FROZEN, decoder=adapters))
    options = RunOptions(steps_per_report=1, steps_per_eval=10 * iters, save_every=10 * iters)
    Trainer(task, options, out, report=watch.on_train_loss_report).train()


def learn_theirs(model: Path, rows: Path, out: Path, iters: int, watch: Stopwatch) -> None:
    """Train as ``python -m mlx_lm.lora`` does."""
    lora: Any = import_module("mlx_lm.lora")
    settings = {
        "model": str(model), "data": str(rows), "adapter_path": str(out), "iters": iters, "train": True,
        "batch_size": BATCH, "num_layers": -1, "steps_per_report": 1, "steps_per_eval": 10 * iters,
        "val_batches": 1, "mask_prompt": True, "learning_rate": RATE,
    }  # fmt: skip
    args = SimpleNamespace(**lora.CONFIG_DEFAULTS | settings)
    decoder, tokenizer = lora.load(args.model)
    train_rows, valid_rows, _ = lora.load_dataset(args, tokenizer)
    lora.train_model(args, decoder, train_rows, valid_rows, watch)


def time_answer(side: str, model: Path, tokens: int) -> float:
    """Return the CPU seconds of a token of an answer, in a process of its own."""
    return run_apart([sys.executable, __file__, "--answer", side, "--model", model, "--tokens", tokens])


def answer(side: str, folder: Path, tokens: int) -> float:
    """Answer twice; return the CPU seconds of a token of the second answer."""
    if side == "ours":
        model, processor = load(folder)
        tokenizer = processor.tokenizer

        def write() -> str:
            return generate(model, processor, PROMPT, max_tokens=tokens)
    else:
        import mlx_lm

        theirs, wrapped = mlx_lm.load(str(folder))[:2]
        asked = wrapped.apply_chat_template([{"role": "user", "content": PROMPT}], add_generation_prompt=True)
        tokenizer = wrapped

        def write() -> str:
            return mlx_lm.generate(theirs, wrapped, asked, max_tokens=tokens)

    write()
    start = time.process_time()
    text = write()
    return (time.process_time() - start) / max(len(tokenizer.encode(text)), 1)


def measure(args: argparse.Namespace, folder: Path) -> None:
    """Run both sides in turn, and print the two ratios."""
    ours, theirs, rows = args.model or folder / "ours", folder / "theirs", folder / "rows"
    if args.model is None:
        make_model(ours, num_layers=args.layers)
    write_decoder(ours, theirs)
    write_rows(rows)
    sides: dict[str, Path] = {"ours": ours, "mlx-lm's": theirs}
    found: dict[str, dict[str, list[float]]] = {"update": {}, "token": {}}
    for repeat in range(args.repeats):
        for side, model in list(sides.items())[:: 1 if repeat % 2 == 0 else -1]:
            out = folder / f"{repeat} {side}"
            found["update"].setdefault(side, []).append(time_updates(side, model, rows, out, args.updates))
            found["token"].setdefault(side, []).append(time_answer(side, model, args.tokens))
            print(f"{repeat + 1}: {side} measured", file=sys.stderr)
    for what, by_side in found.items():
        ratios = [one / other for one, other in zip(by_side["ours"], by_side["mlx-lm's"], strict=True)]
        cells = [f"{side} {median(values):.4f} s" for side, values in by_side.items()]
        print(f"{what}: {', '.join(cells)}; ratio {median(ratios):.3f} ({min(ratios):.3f}–{max(ratios):.3f})")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="an MM1 folder whose decoder is one of mlx-lm's")
    parser.add_argument("--layers", type=int, default=6, help="of the random decoder")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--updates", type=int, default=20, help=f"that count, of {BATCH} rows each")
    parser.add_argument("--tokens", type=int, default=100, help="of an answer")
    for own in ("--answer", "--learn", "--rows", "--output"):  # of one side, in a process of its own
        parser.add_argument(own, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    try:
        if args.answer:
            print(answer(args.answer, args.model, args.tokens))
            return 0
        if args.learn:
            print(learn(args.learn, args.model, Path(args.rows), Path(args.output), args.updates))
            return 0
        with tempfile.TemporaryDirectory() as folder:
            measure(args, Path(folder))
    except MM1Error as error:
        print(f"mm1: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
