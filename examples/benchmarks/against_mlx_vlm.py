"""Tuning here against tuning with mlx_vlm: the same random LLaVA, the same rows, one table.

    python3 -m venv vlm && vlm/bin/pip install mlx-vlm          # on Linux also "mlx[cpu]"
    python examples/benchmarks/against_mlx_vlm.py --their-python vlm/bin/python --json numbers.json

Each side runs its own command with its own defaults: ``python -m mm1_mlx.lora`` and ``python -m mlx_vlm.train`` (in
earlier versions ``mlx_vlm.lora``), in float32. Image encoder and decoder have the same weights. LLaVA hands every patch
to the decoder, MM1 a fixed, smaller number of visual tokens, so ours runs both ways: every patch compares the engines,
the C-Abstractor compares the models. A run sees all rows once, unmeasured, then goes on for ``--iters`` rows that
count: start-up, first shapes and the first look at each picture stay outside. Runs take turns, in reverse order every
second time; a cell is the median of the repeats, lowest and highest in brackets. Seconds are what each side reports of
its updates and their data; CPU seconds are the process's over the same rows, and move less where other programs run
(with OPENBLAS_NUM_THREADS=1: waiting threads compute, too).

Two things about mlx_vlm (0.7.10) that the numbers need: its LLaVA cannot read a picture with the transformers that it
asks for, so ``mlx_vlm_side.py`` drops one option on the way, and changes nothing else; and it takes one row at a time
only, so that its larger batches are accumulated.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import mlx.core as mx
from llava_twins import Sizes, count_tokens, make_ours, make_rows, make_theirs
from timed_runs import BATCH, RUNS, SIDE, spawn, train

from mm1_mlx import MM1Error, tiny

INSTALL = (
    'make an environment of its own with it (python3 -m venv vlm && vlm/bin/pip install mlx-vlm "mlx[cpu]"; on a Mac '
    "mlx-vlm alone) and give --their-python vlm/bin/python."
)


def make_all(folder: Path, sizes: Sizes, num_rows: int) -> None:
    """Make the rows and the three model folders."""
    companions = folder / "tokenizer"
    companions.mkdir(parents=True)
    tiny.train_tokenizer(companions, 500)
    make_rows(folder / "rows", num_rows)
    twin = make_ours(folder / "every", sizes, companions, num_visual_tokens=sizes.num_patches)
    make_theirs(folder / "theirs", sizes, companions, twin)
    make_ours(folder / "pooled", sizes, companions, num_visual_tokens=sizes.num_pooled, twin=twin)


def write_table(results: dict[str, list[dict[str, Any]]], sizes: Sizes, text_tokens: float) -> str:
    """Write the table: a line for each run, with its speed against the first run of the same round."""
    visual = {"theirs": sizes.num_patches, "every": sizes.num_patches, "pooled": sizes.num_pooled}
    heads = ["run", "rows an update", "visual tokens a row", "rows/s", "of mlx_vlm's rows/s", "text tokens/s"]
    heads += ["all tokens/s", "CPU s a row", "of mlx_vlm's CPU s", "padding", "MLX's peak, GB", "process, GB"]
    lines = [heads, ["---"] * len(heads)]
    base = results[RUNS[0].name]
    for run in RUNS:
        if run.name not in results:
            continue
        found = results[run.name]
        rate = median(numbers["rows_per_second"] for numbers in found)
        lines.append(
            [
                run.name if run.theirs else f"mm1_mlx, {run.name}",
                str(run.rows),
                str(visual[run.model]),
                summarise([numbers["rows_per_second"] for numbers in found]),
                summarise(compute_ratios(found, base, "rows_per_second")),
                f"{rate * text_tokens:.0f}",
                f"{rate * (text_tokens + visual[run.model]):.0f}",
                summarise([numbers["cpu_seconds_per_row"] for numbers in found]),
                summarise(compute_ratios(found, base, "cpu_seconds_per_row")),
                f"{100 * median(numbers['padding'] for numbers in found):.0f} %",
                f"{median(numbers['mlx_gb'] for numbers in found):.2f}",
                f"{median(numbers['process_gb'] for numbers in found):.2f}",
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def compute_ratios(found: list[dict[str, Any]], base: list[dict[str, Any]], key: str) -> list[float | None]:
    """Return the ratio of ``key`` between two runs, round by round."""
    pairs = zip(found, base, strict=True)
    return [None if one[key] is None else one[key] / other[key] for one, other in pairs]


def summarise(values: Sequence[float | None]) -> str:
    """Return the median with the lowest and the highest value, or a dash where a value is missing."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return "–"
    return f"{median(known):.2f} ({min(known):.2f}–{max(known):.2f})"


def list_differences(checked: dict[str, Any], theirs: Path, ours: Path, learned_tokens: float) -> list[str]:
    """List what differs between both sides, from the files in the folders of their runs."""
    default = checked["defaults"]
    run = json.loads(next(ours.glob("checkpoints/*/run.json")).read_text("utf-8"))
    settings, lora = run["settings"], run["tuning"]["decoder"]
    adapter = json.loads((theirs / "adapter_config.json").read_text("utf-8"))["lora_parameters"]
    linears = ", ".join(sorted({key.split(".")[-1] for key in adapter["keys"]}))
    their_size, our_size = (
        sum(value.size for value in read_adapter(folder).values()) for folder in (theirs, ours)
    )
    pairs = {
        "what learns": (
            f"LoRA of rank {adapter['rank']}, scale {adapter['scale']:g} on the decoder's {linears}: "
            f"{their_size:,} parameters",
            f"{lora['how']} of rank {lora['rank']}, scale {lora['scale']:g} on all linears of the decoder's layers: "
            f"{our_size:,} parameters",
        ),
        "optimizer": (
            f"{default['optimizer']} at {default['learning_rate']:g} throughout, gradients not clipped",
            f"{settings['optimizer']} from {settings['learning_rate']:g}, {settings['schedule']}, gradients clipped to "
            f"norm {settings['clip_norm']:g}",
        ),
        "rows an update, by default": (
            f"{default['batch_size']}; two at once fail ({checked['batch_of_two']})",
            f"{BATCH}",
        ),
        "sequences": (
            f"one row each, padded to multiples of {default['pad_to_multiple']}",
            "several rows share one, unless --no-pack",
        ),
        "the loss is about": (
            f"every token but the first: {checked['learned']} of the first row's {checked['row_tokens']}, of them "
            f"{checked['learned_image_places']} places of the picture",
            f"the answer and its end, {learned_tokens:.0f} tokens of a row in the mean",
        ),
        "when a row's last token changes, logits before it": (
            f"move by up to {100 * checked['moved']:.2g} % of the largest, for there is no causal mask "
            f"({100 * checked['moved_without_mask']:.2g} % if no padding mask takes its place): the loss is not that of a "
            "language model",
            "stay; every run tries that before its first update",
        ),
        "pictures": ("encoded in every update", "encoded in every update; once with --cache-visual-tokens"),
        "connector": ("two linears and GELU", "two linears and SiLU, or the C-Abstractor's convolutions too"),
    }
    lines = [f"{what}: mlx_vlm {one}; mm1_mlx {other}." for what, (one, other) in pairs.items()]
    if checked["unchanged"]:
        lines.append(
            f"mlx_vlm as it is reads no picture ({checked['unchanged']}); that option is dropped here."
        )
    versions = ", ".join(f"{name} {number}" for name, number in checked["versions"].items())
    return [*lines, f"mlx_vlm's side: {versions}; mm1_mlx's: mlx {version('mlx')}."]


def read_adapter(folder: Path) -> dict[str, mx.array]:
    """Read the weights of an adapter folder."""
    weights = mx.load(str(folder / "adapters.safetensors"))
    if not isinstance(weights, dict):
        raise MM1Error(f"{folder}/adapters.safetensors does not hold named arrays.")
    return weights


def measure(args: argparse.Namespace, folder: Path) -> None:
    """Make rows and models, check both sides, run all runs and print the table."""
    encoder_dims, decoder_dims = args.widths
    sizes = Sizes(args.image_size, encoder_dims, decoder_dims, args.layers)
    make_all(folder, sizes, args.rows)
    check = spawn((args.their_python, SIDE, "check", folder / "theirs", folder / "rows"), folder / "check")
    checked, results = json.loads(check.output), {}
    for repeat in range(args.repeats):
        for run in RUNS if repeat % 2 == 0 else RUNS[::-1]:
            out = folder / str(repeat) / run.name
            numbers = train(run, folder, out, args.their_python, args.rows, args.iters or args.rows)
            results.setdefault(run.name, []).append(numbers)
            print(f"{repeat + 1}: {run.name}, {numbers['rows_per_second']:.2f} rows/s", file=sys.stderr)
    text, learned = count_tokens(folder / "rows", folder / "tokenizer")
    ours = next(run for run in RUNS if not run.theirs)
    lines = list_differences(checked, folder / "0" / RUNS[0].name, folder / "0" / ours.name, learned)
    print(write_table(results, sizes, text), "\nWhat differs:", *(f"- {line}" for line in lines), sep="\n")
    if args.json:
        found = {"sizes": asdict(sizes), "rows": args.rows, "checked": checked, "differences": lines}
        args.json.write_text(json.dumps(found | {"results": results}, indent=2) + "\n", "utf-8")


def require_mlx_vlm(python: str) -> None:
    """Refuse a Python without mlx_vlm's tuning.

    Raises:
        MM1Error: mlx_vlm is missing; the message says how to install it.
    """
    try:
        done = subprocess.run([python, "-c", "import mlx_vlm.train"], capture_output=True, text=True)
        reason = (done.stderr.strip().splitlines() or [""])[-1] if done.returncode else ""
    except OSError as error:
        reason = f"it cannot be run: {error.strerror}"
    if reason:
        raise MM1Error(f"{python} has no mlx_vlm.train ({reason}); {INSTALL}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--their-python", default=sys.executable, help="that has mlx_vlm")
    parser.add_argument("--rows", type=int, default=32, help="of the data")
    parser.add_argument(
        "--iters", type=int, help="rows that count, after a pass over all; default: one more pass"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--image-size", type=int, default=168, help="pixels, each side")
    parser.add_argument("--widths", type=int, nargs=2, default=(384, 512), metavar=("ENCODER", "DECODER"))
    parser.add_argument("--layers", type=int, default=6, help="of encoder and of decoder")
    parser.add_argument("--json", type=Path, help="file for all numbers")
    args = parser.parse_args(argv)
    try:
        require_mlx_vlm(args.their_python)
        with tempfile.TemporaryDirectory() as folder:
            measure(args, Path(folder))
    except MM1Error as error:
        print(f"mm1: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
