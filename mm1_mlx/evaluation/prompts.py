"""How worked examples and a query are written, and where an answer ends: the paper's way, OpenFlamingo's, or as chat.

Sources: MM1 (arXiv:2403.09611), its few-shot evaluation, as ``inputs.few_shot`` writes it; Awadalla et al.,
"OpenFlamingo" (arXiv:2308.01390) and its program, with a line's end in place of ``<|endofchunk|>``, a token that other
models lack.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mm1_mlx.errors import DataError
from mm1_mlx.evaluation.settings import Style
from mm1_mlx.evaluation.tasks.task import Item
from mm1_mlx.generation.request import Request
from mm1_mlx.inputs.few_shot import STOP, Kind, Shot, cut_at_stop, few_shot
from mm1_mlx.inputs.prompt import IMAGE, Message, escape

DESCRIBE = "Describe the picture."  # what a chat is asked to get a caption
OPENFLAMINGO_STOP: dict[Kind, tuple[str, ...]] = {
    "caption": ("\n", "Output"),
    "question": ("\n", "Question", "Answer", "Short", ", "),
}


@dataclass(frozen=True)
class Prompts:
    """One way to write prompts and to read answers."""

    write: Callable[
        [Sequence[Item], Item, str], Request
    ]  # takes examples, the query, and what stands after a picture in a chat
    cut: Callable[[str, Kind], str]  # finds the answer in what the model wrote
    gap: str  # what stands between a prompt and its answer


def find_kind(shots: Sequence[Item], query: Item) -> Kind:
    """Return what kind of answer the model has to write."""
    if query.question is None:
        return "caption"
    return "rationale" if shots and shots[0].rationale is not None else "question"


def _write_mm1(shots: Sequence[Item], query: Item, after_image: str) -> Request:
    asked = Shot(query.image, question=query.question and escape(query.question))
    few = few_shot([_make_shot(item) for item in shots], asked)
    return Request(few.text, few.images, None, "plain", STOP[few.kind], few.num_low_resolution)


def _make_shot(item: Item) -> Shot:
    if item.question is None:
        return Shot(item.image, caption=escape(item.example))
    return Shot(
        item.image,
        question=escape(item.question),
        answer=escape(item.example),
        rationale=item.rationale and escape(item.rationale),
    )


def _write_openflamingo(shots: Sequence[Item], query: Item, after_image: str) -> Request:
    _require_no_rationale(shots, "openflamingo")
    lines = [_ask_as_openflamingo(item) + escape(item.example) for item in shots]
    text = "\n".join([*lines, _ask_as_openflamingo(query)])
    images = [item.image for item in (*shots, query) if item.image is not None]
    low = sum(item.image is not None for item in shots)
    return Request(text, images, None, "plain", OPENFLAMINGO_STOP[find_kind((), query)], low)


def _ask_as_openflamingo(item: Item) -> str:
    place = "" if item.image is None else IMAGE
    if item.question is None:
        return f"{place}Output:"
    return f"{place}Question:{escape(item.question)} Short answer:"


def _cut_openflamingo(text: str, kind: Kind) -> str:
    for stop in OPENFLAMINGO_STOP[kind]:
        text = text.partition(stop)[0]
    return text.replace('"', "").strip() if kind == "caption" else text.strip()


def _write_chat(shots: Sequence[Item], query: Item, after_image: str) -> Request:
    _require_no_rationale(shots, "chat")
    messages: list[Message] = []
    for item in (*shots, query):
        place = "" if item.image is None else IMAGE + after_image
        asked = DESCRIBE if item.question is None else escape(item.question)
        messages.append({"role": "user", "content": place + asked})
        messages.append({"role": "assistant", "content": escape(item.example)})
    images = [item.image for item in (*shots, query) if item.image is not None]
    low = sum(item.image is not None for item in shots)
    return Request(messages[:-1], images, None, "chat", (), low)


def _cut_chat(text: str, kind: Kind) -> str:
    return re.sub(r"\s+", " ", text).strip()


def _require_no_rationale(shots: Sequence[Item], style: Style) -> None:
    if shots and shots[0].rationale is not None:
        raise DataError(f"the examples have rationales, which `prompts` {style} has no place for; take mm1.")


PROMPTS: dict[Style, Prompts] = {
    "mm1": Prompts(_write_mm1, cut_at_stop, " "),
    "openflamingo": Prompts(_write_openflamingo, _cut_openflamingo, ""),
    "chat": Prompts(_write_chat, _cut_chat, ""),
}
