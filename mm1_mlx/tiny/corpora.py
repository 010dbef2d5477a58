"""The corpora of the tiny world: rows that follow from an index and a seed alone, with their pictures inside.

``CORPORA`` maps the name of each corpus to a function of (index, seed) that returns one training row, in a form of
``data/row_forms.py``: captions, interleaved documents and text as MM1 mixes them, and conversations for tuning. Each
kind of document and text is a corpus of its own too, for a curriculum. The corpora use what the package brings; those
whose name begins with "all-" also use the pictograms, fonts and photographs that ``fetching.fetch`` has put into a
folder.

Source: MM1 (arXiv:2403.09611), "Pre-training Data Ablation".
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from mm1_mlx.tiny.captioning import ALT_TEXT, CLEAN, pick_style, write_in_style
from mm1_mlx.tiny.conversing import LARGER, SMALL_PRINT, hold_conversation
from mm1_mlx.tiny.documents import RULES, write_document, write_names
from mm1_mlx.tiny.drawing import draw_scene
from mm1_mlx.tiny.looks import ANY, LOOKS
from mm1_mlx.tiny.making import make_empty_scene, make_scene
from mm1_mlx.tiny.outside import draw_outside_picture
from mm1_mlx.tiny.scene import Scene
from mm1_mlx.tiny.stock import SHIPPED, Stock
from mm1_mlx.tiny.telling import NOTHING, OUTSIDE, detailed_caption
from mm1_mlx.tiny.texts import TEXTS, write_text
from mm1_mlx.tiny.world import SEED_BITS

Row = dict[str, Any]
Corpus = Callable[[int, int], Row]

BRIDGED_ROWS = 100_000  # the row of "bridge" from which on no caption stands before a name
FOLDER_VARIABLE = "MM1_TINY_STOCK"  # the folder that holds the fetched pictograms
FOLDER = "~/.cache/mm1_mlx/tiny"


def find_stock_folder() -> Path:
    """Return the folder of fetched pictograms: the one in the variable MM1_TINY_STOCK, or the usual one."""
    return Path(os.environ.get(FOLDER_VARIABLE) or FOLDER).expanduser()


@cache
def open_full_stock() -> Stock:
    """Return the stock of all fetched pictograms, fonts and photographs.

    Raises:
        DataError: nothing was fetched.
    """
    return Stock.of_folder(find_stock_folder())


def make_caption_row(rng: random.Random, index: int, stock: Stock) -> Row:
    """Make a picture with its caption in one of many styles; few are empty or from outside the tiny world."""
    choice = rng.random()
    if choice < 0.02:
        picture = draw_outside_picture(rng.getrandbits(SEED_BITS), stock=stock)
        return {"image": picture, "caption": OUTSIDE}
    scene = _make_captioned_scene(rng, stock)
    longest = 126 if rng.random() < 0.85 else rng.choice(LARGER)
    picture = draw_scene(scene, longest, stock=stock)
    return {"image": picture, "caption": _write_caption(scene, rng)}


def _make_captioned_scene(rng: random.Random, stock: Stock) -> Scene:
    if rng.random() < 0.02:
        return make_empty_scene(rng.getrandbits(SEED_BITS))
    look = rng.choices(
        (ANY, LOOKS["pictograms"], LOOKS["symbols"], LOOKS["words"], LOOKS["counting"], SMALL_PRINT),
        (60, 12, 8, 8, 10, 2),
    )[0]
    return make_scene(rng.getrandbits(SEED_BITS), look, stock=stock)


def _write_caption(scene: Scene, rng: random.Random) -> str:
    """Write a caption: half of them are clean, the rest as varied as on the web."""
    choice = rng.random()
    if not scene.things:
        return NOTHING
    if choice < 0.5:
        return write_in_style(scene, CLEAN)
    if choice < 0.7:
        return write_in_style(scene, rng.choice(ALT_TEXT))
    return detailed_caption(scene) if choice < 0.8 else write_in_style(scene, pick_style(rng))


def make_document_row(rng: random.Random, index: int, stock: Stock) -> Row:
    """Make a document of two to sixteen pictures and text, which follows one of the rules of ``documents.py``."""
    return write_document(rng, stock).row()


def make_bridge_row(rng: random.Random, index: int, stock: Stock) -> Row:
    """Make a document of pictures with invented names; as the index grows, fewer have a caption before the name."""
    return write_names(rng, stock, captioned=max(0.0, 1 - index / BRIDGED_ROWS)).row()


def make_text_row(rng: random.Random, index: int, stock: Stock) -> Row:
    """Make a text without pictures."""
    return {"text": write_text(rng, stock)}


def make_conversation_row(rng: random.Random, index: int, stock: Stock) -> Row:
    """Make a conversation: questions about pictures, questions without a picture, or shots."""
    return hold_conversation(rng, stock).row()


RowMaker = Callable[[random.Random, int, Stock], Row]
MAKERS: dict[str, RowMaker] = {
    "captions": make_caption_row,
    "documents": make_document_row,
    "text": make_text_row,
    "conversations": make_conversation_row,
    "bridge": make_bridge_row,
    **{
        f"documents-{name}": lambda rng, index, stock, r=rule: r.write(rng, stock).row()
        for name, rule in RULES.items()
    },
    **{
        f"text-{name}": lambda rng, index, stock, k=kind: {"text": k.write(rng, stock)}
        for name, kind in TEXTS.items()
    },
}


def corpora(stock: Callable[[], Stock] = lambda: SHIPPED, prefix: str = "") -> dict[str, Corpus]:
    """Return the corpora by name, each as a function that makes its rows from a stock.

    Args:
        stock: returns the stock; it is called when the first row is made.
        prefix: stands before each name.
    """
    return {f"{prefix}{name}": _bind_maker(name, make, stock) for name, make in MAKERS.items()}


def _bind_maker(name: str, make: RowMaker, stock: Callable[[], Stock]) -> Corpus:
    def row(index: int, seed: int) -> Row:
        return make(random.Random(f"{name} {seed} {index}"), index, stock())

    return row


CORPORA: dict[str, Corpus] = corpora() | corpora(open_full_stock, "all-")
