"""Questions of the tiny world as tasks of an evaluation: ``tiny-color`` and its like, made from seeds."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import overload

from mm1_mlx.evaluation.tasks.task import Item, Split, Task
from mm1_mlx.tiny.questions import Question, caption, make_question
from mm1_mlx.tiny.world import (
    COLORS,
    DIGITS,
    LETTERS,
    PLACES,
    RADII,
    SHAPES,
    TESTING_SEEDS,
    TRAINING_SEEDS,
    Scene,
    make_scene,
    render,
)

NUM_ITEMS: dict[Split, int] = {"queries": 1000, "support": 128}
FIRST_SEEDS: dict[Split, int] = {"queries": TESTING_SEEDS, "support": TRAINING_SEEDS}
YES_OR_NO = ("yes", "no")
CHOICES: dict[str, tuple[str, ...]] = {
    "color": tuple(COLORS),
    "shape": SHAPES,
    "count": tuple(map(str, range(6))),
    "existence": YES_OR_NO,
    "size": tuple(RADII),
    "place": PLACES,
    "relation": YES_OR_NO,
    "symbol": (*LETTERS, *DIGITS),
    "check": YES_OR_NO,
}


@dataclass(frozen=True)
class TinyItems(Sequence[Item]):
    """Items about scenes, each made when it is first needed; queries and examples use different seeds."""

    kind: str  # of ``CHOICES``, or "caption"
    split: Split

    def __len__(self) -> int:
        return NUM_ITEMS[self.split]

    @overload
    def __getitem__(self, index: int) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...

    def __getitem__(self, index: int | slice) -> Item | Sequence[Item]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        for seed in count(FIRST_SEEDS[self.split] + index, len(self)):
            scene = make_scene(seed)
            if self.kind == "caption":
                return Item(str(index), _draw_png(scene), (caption(scene),))
            question = make_question(scene, self.kind, random.Random(f"{self.kind} {seed}"))
            if question is not None and question.answer in CHOICES[self.kind]:
                return self._make_item(index, scene, question)
        raise AssertionError("seeds do not end")

    def _make_item(self, index: int, scene: Scene, question: Question) -> Item:
        answers = (question.answer,)
        return Item(str(index), _draw_png(scene), answers, question.text, choices=CHOICES[self.kind])


def tiny_tasks() -> dict[str, Task]:
    """Return the tasks of the tiny world by name."""
    kinds = {kind: f"questions about the tiny world: {kind}" for kind in CHOICES}
    kinds |= {"caption": "captions of the tiny world"}
    tasks = [
        Task(
            f"tiny-{kind}",
            f"tiny-{kind}",
            about,
            partial(_make_items, kind),
            max_tokens=64 if kind == "caption" else 8,
        )
        for kind, about in kinds.items()
    ]
    return {task.name: task for task in tasks}


def _make_items(kind: str, data: str | None, split: Split) -> TinyItems:
    return TinyItems(kind, split)


def _draw_png(scene: Scene) -> bytes:
    file = io.BytesIO()
    render(scene).save(file, "PNG", compress_level=1)
    return file.getvalue()
