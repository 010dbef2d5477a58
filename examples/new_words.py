"""Make rows that teach mm1-tiny German colour words, which it does not know, and measure what it knows.

    python examples/new_words.py make rows                 # pictures, train.jsonl, valid.jsonl
    python -m mm1_mlx.lora -c examples/recipes/new_words.yaml --data rows --adapter-path german
    python examples/new_words.py measure --adapter-path german

Every second row repeats an old question, so that the old words are not forgotten.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path

from mm1_mlx import Request, batch_generate, load, tiny

GERMAN = {
    "red": "rot",
    "orange": "orange",
    "yellow": "gelb",
    "green": "grün",
    "blue": "blau",
    "purple": "lila",
    "pink": "rosa",
    "black": "schwarz",
}
OLD_KINDS = ("color", "shape", "count", "existence")
EVERY = 2  # one row in so many is an old question


def find_scenes(first_seed: int) -> Iterator[tuple[int, tiny.Scene, tiny.Thing]]:
    """Yield seeds whose scene has a thing of a kind that occurs once, with the scene and that thing."""
    seed = first_seed
    while True:
        scene = tiny.make_scene(seed)
        nouns = [thing.noun for thing in scene.things]
        thing = next((thing for thing in scene.things if nouns.count(thing.noun) == 1), None)
        if thing is not None:
            yield seed, scene, thing
        seed += 1


def ask_german(thing: tiny.Thing) -> tuple[str, str]:
    """Return a question for a German colour word, and the word."""
    return f"What color is the {thing.noun} in German?", GERMAN[thing.color]


def ask_old(seed: int, scene: tiny.Scene) -> tuple[str, str]:
    """Return a question that mm1-tiny can answer, and the answer."""
    rng = random.Random(seed)
    kinds = rng.sample(OLD_KINDS, len(OLD_KINDS))
    question = next(filter(None, (tiny.make_question(scene, kind, rng) for kind in kinds)))
    return question.text, question.answer


def make(folder: Path, num_rows: int) -> None:
    """Write the pictures and the rows of both splits."""
    folder.mkdir(parents=True, exist_ok=True)
    source = find_scenes(tiny.TRAINING_SEEDS + 7_000_000)
    for name, number in (("train", num_rows), ("valid", num_rows // 5)):
        lines = []
        for row in range(number):
            seed, scene, thing = next(source)
            question, answer = ask_old(seed, scene) if row % EVERY == EVERY - 1 else ask_german(thing)
            tiny.render(scene).save(folder / f"{seed}.png")
            lines.append(json.dumps({"image": f"{seed}.png", "question": question, "answer": answer}))
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    print(f"{num_rows} rows to train and {num_rows // 5} to validate are in {folder}")


def measure(model_path: str, adapter_path: str | None, num_scenes: int) -> dict[str, float]:
    """Return the share of right answers on scenes that training never shows, for new and for old questions."""
    model, processor = load(model_path, adapter_path=adapter_path)
    asked: list[tuple[str, Request, str]] = []
    source = find_scenes(tiny.TESTING_SEEDS)
    for _ in range(num_scenes):
        seed, scene, thing = next(source)
        picture = tiny.render(scene)
        for kind, (question, answer) in (("German", ask_german(thing)), ("old", ask_old(seed, scene))):
            asked.append((kind, Request(question, [picture]), answer))
    answers = batch_generate(model, processor, [request for _, request, _ in asked], max_tokens=12)
    right: dict[str, list[bool]] = {}
    for (kind, _, wanted), answer in zip(asked, answers, strict=True):
        right.setdefault(kind, []).append(answer.text.strip() == wanted)
    return {kind: sum(hits) / len(hits) for kind, hits in right.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("make", "measure"))
    parser.add_argument("folder", nargs="?", type=Path, default=Path("rows"), help="of the rows, for make")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--model", default="mm1-tiny")
    parser.add_argument("--adapter-path")
    parser.add_argument("--scenes", type=int, default=500)
    args = parser.parse_args()
    if args.what == "make":
        make(args.folder, args.rows)
    else:
        for kind, share in measure(args.model, args.adapter_path, args.scenes).items():
            print(f"{kind} questions: {100 * share:.1f} % right")


if __name__ == "__main__":
    main()
