"""The corpora of the tiny world: rows that follow from an index and a seed alone, with their pictures inside.

``CORPORA`` maps the name of each corpus to a function of (index, seed) that returns one training row, in a form of
``data/row_forms.py``: captions, interleaved documents and text as MM1 mixes them, and conversations for tuning. Parts of
them stand by themselves for a curriculum. They draw from what the package brings; those whose name begins with "all-" draw
from the pictograms, fonts and photographs too that ``fetching.fetch`` has put into a folder.

Source: MM1 (arXiv:2403.09611), "Pre-training Data Ablation".
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from mm1_mlx.tiny.captioning import ALT_TEXT, CLEAN, pick_style, styled
from mm1_mlx.tiny.conversing import LARGER, SMALL_PRINT, hold_conversation
from mm1_mlx.tiny.documents import RULES, SEED_BITS, naming, write_document
from mm1_mlx.tiny.drawing import draw_scene
from mm1_mlx.tiny.looks import ANY, LOOKS
from mm1_mlx.tiny.making import empty_scene, make_scene
from mm1_mlx.tiny.outside import outside_picture
from mm1_mlx.tiny.scene import Scene
from mm1_mlx.tiny.stock import SHIPPED, Stock
from mm1_mlx.tiny.telling import NOTHING, OUTSIDE, detailed_caption
from mm1_mlx.tiny.texts import TEXTS, write_text

Row = dict[str, Any]
Maker = Callable[[int, int], Row]

BRIDGED_ROWS = 100_000  # rows of "bridge" until no caption stands before a name any more
FOLDER_VARIABLE = "MM1_TINY_STOCK"  # where pictograms were fetched to
FOLDER = "~/.cache/mm1_mlx/tiny"


def stock_folder() -> Path:
    """Return the folder of fetched pictograms: that of the environment variable MM1_TINY_STOCK, or the usual one."""
    return Path(os.environ.get(FOLDER_VARIABLE) or FOLDER).expanduser()


@cache
def full_stock() -> Stock:
    """Return everything that was fetched.

    Raises:
        DataError: nothing was.
    """
    return Stock.of_folder(stock_folder())


def caption_row(rng: random.Random, index: int, stock: Stock) -> Row:
    """A picture and its caption, in one of many styles; now and then empty, or from outside the world."""
    choice = rng.random()
    if choice < 0.02:
        picture = outside_picture(rng.getrandbits(SEED_BITS), stock=stock)
        return {"image": picture, "caption": OUTSIDE}
    scene = _captioned_scene(rng, stock)
    longest = 126 if rng.random() < 0.85 else rng.choice(LARGER)
    picture = draw_scene(scene, longest, stock=stock)
    return {"image": picture, "caption": _caption(scene, rng)}


def _captioned_scene(rng: random.Random, stock: Stock) -> Scene:
    if rng.random() < 0.02:
        return empty_scene(rng.getrandbits(SEED_BITS))
    look = rng.choices(
        (ANY, LOOKS["pictograms"], LOOKS["symbols"], LOOKS["words"], LOOKS["counting"], SMALL_PRINT),
        (60, 12, 8, 8, 10, 2),
    )[0]
    return make_scene(rng.getrandbits(SEED_BITS), look, stock=stock)


def _caption(scene: Scene, rng: random.Random) -> str:
    """Half clean, the rest as the web writes: alt texts, places, any style."""
    choice = rng.random()
    if not scene.things:
        return NOTHING
    if choice < 0.5:
        return styled(scene, CLEAN)
    if choice < 0.7:
        return styled(scene, rng.choice(ALT_TEXT))
    return detailed_caption(scene) if choice < 0.8 else styled(scene, pick_style(rng))


def document_row(rng: random.Random, index: int, stock: Stock) -> Row:
    """Two to sixteen pictures with text between them, under one of the rules of ``documents.py``."""
    return write_document(rng, stock).row()


def bridge_row(rng: random.Random, index: int, stock: Stock) -> Row:
    """Pictures with invented names; fewer and fewer have a caption before the name as the index grows."""
    return naming(rng, stock, captioned=max(0.0, 1 - index / BRIDGED_ROWS)).row()


def text_row(rng: random.Random, index: int, stock: Stock) -> Row:
    """Text without pictures."""
    return {"text": write_text(rng, stock)}


def conversation_row(rng: random.Random, index: int, stock: Stock) -> Row:
    """Questions about pictures, about none, and shots."""
    return hold_conversation(rng, stock).row()


RowMaker = Callable[[random.Random, int, Stock], Row]
MAKERS: dict[str, RowMaker] = {
    "captions": caption_row,
    "documents": document_row,
    "text": text_row,
    "conversations": conversation_row,
    "bridge": bridge_row,
    **{
        f"documents-{name}": lambda rng, index, stock, r=rule: r.write(rng, stock).row()
        for name, rule in RULES.items()
    },
    **{
        f"text-{name}": lambda rng, index, stock, k=kind: {"text": k.write(rng, stock)}
        for name, kind in TEXTS.items()
    },
}


def corpora(stock: Callable[[], Stock] = lambda: SHIPPED, prefix: str = "") -> dict[str, Maker]:
    """Return the corpora that draw from a stock.

    Args:
        stock: tells which; it is called when the first row is made.
        prefix: of their names.
    """
    return {f"{prefix}{name}": _maker(name, make, stock) for name, make in MAKERS.items()}


def _maker(name: str, make: RowMaker, stock: Callable[[], Stock]) -> Maker:
    def row(index: int, seed: int) -> Row:
        return make(random.Random(f"{name} {seed} {index}"), index, stock())

    return row


CORPORA: dict[str, Maker] = corpora() | corpora(full_stock, "all-")
