"""Write few-shot prompts: worked examples, one a line, then the query, which the model has to continue.

    <image>Question: What shape is red? Short answer: circle
    <image>Question: What shape is blue? Short answer:

Source: MM1 (arXiv:2403.09611), its few-shot evaluation, and "Supervised Fine-Tuning" (chain of
thought, mixed resolution). The wording, the order and the stops are our choice where the paper is silent.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from mm1_mlx.arguments import require_type, require_types
from mm1_mlx.errors import PictureError, PromptError
from mm1_mlx.files.json_lines import read_json_lines, require_known
from mm1_mlx.inputs.picture import Source, open_picture
from mm1_mlx.inputs.prompt import IMAGE, num_places
from mm1_mlx.inputs.sources import is_data_url, is_web_address, to_path

Kind = Literal["caption", "question", "rationale"]

CAPTION, QUESTION, RATIONALE, ANSWER = "A photo of", "Question:", "Rationale:", "Short answer:"

# What ends an answer: our choice where the paper is silent. A rationale has sentences, so only a new line ends it.
STOP: dict[Kind, tuple[str, ...]] = {
    "caption": ("\n",),
    "question": ("\n", ".", ",", "Question"),
    "rationale": ("\n",),
}
IN_WORDS = {"caption": "a caption", "question": "a question", "rationale": "a question with a rationale"}


@dataclass(frozen=True)
class Shot:
    """A worked example, or the query; a query's own caption, rationale and answer are never shown to the model.

    White space around texts is removed.

    Raises:
        PromptError: a text cannot stand in a prompt, or two of them do not go together.
    """

    image: Source | None = None
    caption: str | None = None
    question: str | None = None  # None asks for a caption
    answer: str | None = None
    rationale: str | None = None  # the chain of thought, which stands before the answer

    def __post_init__(self) -> None:
        require_types(self, PromptError)
        for name in ("caption", "question", "answer", "rationale"):
            text = getattr(self, name)
            if text is None:
                continue
            object.__setattr__(self, name, text.strip())
            if not text.strip():
                raise PromptError(f"{name} is empty; write it, or leave it out.")
            if num_places(text):
                raise PromptError(f"{name} holds {IMAGE}; leave it out, the picture comes first by itself.")
            if name != "question" and "\n" in text.strip():
                raise PromptError(f"{name} holds a newline, which ends an answer; write it on one line.")
            if name != "caption" and self.caption is not None:
                raise PromptError(f"caption and {name} do not go together; keep one of them.")
            if name in ("answer", "rationale") and self.question is None:
                raise PromptError(f"{name} stands without a question; add the question.")

    @property
    def kind(self) -> Kind:
        """What the model has to write: a caption, an answer, or a rationale and then an answer."""
        if self.question is None:
            return "caption"
        return "question" if self.rationale is None else "rationale"


@dataclass(frozen=True)
class FewShotPrompt:
    """A plain prompt (no chat template) with its pictures in reading order."""

    text: str  # has ``<image>`` once for every picture
    images: list[Source]
    num_low_resolution: (
        int  # the shots' pictures, which come first; only the query's picture is cut into sub-images
    )
    kind: Kind  # for ``STOP`` and ``cut_at_stop``


def few_shot(shots: Sequence[Shot], query: Shot) -> FewShotPrompt:
    """Write ``shots`` and then ``query``, which asks for a rationale where the shots have one.

    Raises:
        PromptError: a shot is not worked out, or shots and query are not all captions or all questions.
    """
    require_type("shots", shots, Sequence[Shot], PromptError)
    require_type("query", query, Shot, PromptError)
    _check_shots(shots, [f"shot {number}" for number in range(1, len(shots) + 1)])
    kind = shots[0].kind if shots else "caption" if query.question is None else "question"
    if kind == "caption" and query.question is not None:
        raise PromptError("the query has a question but the shots are captions; leave the question out.")
    if kind != "caption" and query.question is None:
        raise PromptError("the query has no question but the shots are questions; add one.")
    lines = [f"{_write_question(shot, kind)} {_write_answer(shot)}" for shot in shots]
    images = [shot.image for shot in (*shots, query) if shot.image is not None]
    num_low_resolution = sum(shot.image is not None for shot in shots)
    return FewShotPrompt("\n".join([*lines, _write_question(query, kind)]), images, num_low_resolution, kind)


def cut_at_stop(text: str, kind: Kind) -> str:
    """Return the answer in the model's text: up to the first stop, and after the rationale if there is one."""
    text = _cut_before(STOP[kind], text)
    if kind == "rationale":
        text = _cut_before(STOP["question"], text.partition(ANSWER)[2])
    return text.strip()


def choose_shots(shots: Sequence[Shot], num_shots: int, seed: int | None) -> list[Shot]:
    """Return ``num_shots`` of ``shots``: the first ones in an order that only ``seed`` decides, or in the given order.

    So the 4 shots of a seed are the first 4 of its 8 shots.

    Raises:
        PromptError: there are fewer shots.
    """
    if not 0 <= num_shots <= len(shots):
        raise PromptError(
            f"{num_shots} shots were asked for, but there are {len(shots)}; ask for 0 to {len(shots)}."
        )
    order = list(shots)
    if seed is not None:
        random.Random(seed).shuffle(order)
    return order[:num_shots]


def read_shots(path: str | Path) -> list[Shot]:
    """Read shots from a JSON-lines file, with one object a line that has the fields of ``Shot``.

    A picture is a path relative to the file, or a ``data:`` URL. Blank lines are skipped.

    Raises:
        PromptError: the file or one of its lines cannot be used; the message names line and field.
    """
    path = Path(os.path.expanduser(path))
    lines = read_json_lines(path, holds="shots")
    shots = []
    for number, values in lines.items():
        try:
            shots.append(_parse_shot(values, path.parent))
        except PromptError as error:
            raise PromptError(f"{path}, line {number}: {error}") from None
    _check_shots(shots, [f"{path}, line {number}" for number in lines])
    return shots


def _write_question(shot: Shot, kind: Kind) -> str:
    """Return the part of a line that comes before the model's own text."""
    place = "" if shot.image is None else IMAGE
    if kind == "caption":
        return place + CAPTION
    return f"{place}{QUESTION} {shot.question} {RATIONALE if kind == 'rationale' else ANSWER}"


def _write_answer(shot: Shot) -> str:
    """Return the part of a line that the model would have to write."""
    if shot.caption is not None:
        return shot.caption
    return f"{shot.answer}" if shot.rationale is None else f"{shot.rationale} {ANSWER} {shot.answer}"


def _cut_before(stops: Iterable[str], text: str) -> str:
    """Return ``text`` up to the first of ``stops``."""
    return re.split("|".join(map(re.escape, stops)), text, maxsplit=1)[0]


def _check_shots(shots: Sequence[Shot], names: Iterable[str]) -> None:
    """Refuse shots that are not worked out, or not all of one kind."""
    names = list(names)
    for name, shot in zip(names, shots, strict=True):
        if shot.caption is None and shot.question is None:
            raise PromptError(f"{name}: there is neither caption nor question; add one of them.")
        if shot.question is not None and shot.answer is None:
            raise PromptError(f"{name}: the question has no answer; add it.")
        if shot.kind != shots[0].kind:
            own, first = IN_WORDS[shot.kind], IN_WORDS[shots[0].kind]
            raise PromptError(f"{name}: this is {own} but {names[0]} is {first}; shots are of one kind.")


def _parse_shot(values: dict[str, Any], folder: Path) -> Shot:
    require_known(values, [field.name for field in fields(Shot)])
    for key, value in values.items():
        if not isinstance(value, str | None):
            raise PromptError(f"{key} is {value!r}, expected text.")
    texts = {key: value for key, value in values.items() if key != "image"}
    return Shot(image=_find_image(values.get("image"), folder), **texts)


def _find_image(source: Any, folder: Path) -> str | Path | None:
    """Return where a picture is; a file is opened later, but a ``data:`` URL is checked here, because it has no name."""
    if source is None:
        return None
    if is_data_url(source):
        try:
            open_picture(source)
        except PictureError as error:
            raise PromptError(f"image: {error}") from None
        return source
    if is_web_address(source):
        raise PromptError(f"image is the web address {source}; download the picture and give its path.")
    path = folder / to_path(source)
    if not source.strip() or not os.path.isfile(path):
        raise PromptError(
            f"image is {source!r}, but there is no such file in {folder}; give a path from there."
        )
    return path
