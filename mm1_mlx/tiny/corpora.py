"""The corpora of the tiny world: rows that follow from an index and a seed alone, with their pictures inside.

``CORPORA`` maps the name of each corpus to a function of (index, seed) that returns one training row, in a form of
``data/row_forms.py``: captions, interleaved documents and text as MM1 mixes them, and conversations for tuning.

Source: MM1 (arXiv:2403.09611), "Pre-training Data Ablation".
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from PIL import Image

from mm1_mlx.tiny.questions import KINDS, caption, make_question
from mm1_mlx.tiny.world import TRAINING_SEEDS, Scene, make_scene, render

Row = dict[str, Any]
Maker = Callable[[int, int], Row]


def caption_row(index: int, seed: int) -> Row:
    """A picture and its caption."""
    scene, picture = _scene_at(_rng(index, seed, "captions"))
    return {"image": picture, "caption": caption(scene)}


def document_row(index: int, seed: int) -> Row:
    """Two to eight pictures, each with a caption."""
    rng = _rng(index, seed, "documents")
    images: list[Image.Image | None] = []
    texts: list[str | None] = []
    for _ in range(rng.randint(2, 8)):
        scene, picture = _scene_at(rng)
        images += [picture, None]
        texts += [None, f" {caption(scene)}\n"]
    return {"images": images, "texts": texts}


def text_row(index: int, seed: int) -> Row:
    """Sentences about a scene that is not shown."""
    rng = _rng(index, seed, "text")
    scene = make_scene(_scene_seed(rng))
    questions = [make_question(scene, kind, rng) for kind in rng.sample(KINDS, 5)]
    lines = [caption(scene), *(f"{q.text} {q.answer}" for q in questions if q is not None)]
    return {"text": "\n".join(lines)}


def conversation_row(index: int, seed: int) -> Row:
    """Questions about one picture with their answers."""
    rng = _rng(index, seed, "conversations")
    scene, picture = _scene_at(rng)
    messages = []
    for kind in rng.sample(KINDS, 5):
        question = make_question(scene, kind, rng)
        if question is not None:
            content = [{"type": "text", "text": question.text}]
            messages.append(
                {"role": "user", "content": content if messages else [{"type": "image"}, *content]}
            )
            messages.append({"role": "assistant", "content": question.answer})
    return {"images": [picture], "messages": messages}


CORPORA: dict[str, Maker] = {
    "captions": caption_row,
    "documents": document_row,
    "text": text_row,
    "conversations": conversation_row,
}


def _rng(index: int, seed: int, corpus: str) -> random.Random:
    return random.Random(f"{corpus} {seed} {index}")


def _scene_seed(rng: random.Random) -> int:
    return TRAINING_SEEDS + rng.randrange(1 << 39)


def _scene_at(rng: random.Random) -> tuple[Scene, Image.Image]:
    seed = _scene_seed(rng)
    scene = make_scene(seed)
    return scene, render(scene, jitter_seed=seed)
