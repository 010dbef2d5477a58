"""The table that mm1-tiny has to fill: its rows with their items and what is asked of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from mm1_mlx.tiny.conversing import SMALL_PRINT
from mm1_mlx.tiny.learning import named_trial, styled_trial
from mm1_mlx.tiny.looks import LOOKS
from mm1_mlx.tiny.stock import SHIPPED, Stock
from mm1_mlx.tiny.trials import (
    Trial,
    aloud_trial,
    asked_trial,
    compared_trial,
    counted_trial,
    outside_trial,
    third_style_trial,
)

Maker = Callable[[str, int, Stock], Trial]
NUM_TRIALS = 1000  # of each row, in the card
LOOKED_AT = ("color", "shape", "count_all", "existence")  # what is asked of dark, wide, tiny … pictures
FEW_KINDS = ("shapes", "any")
REWORDED = (
    "color",
    "shape",
    "existence",
    "size",
    "place",
    "relation",
    "relative",
    "symbol",
    "word",
    "caption",
    "count",
)
PRINT_PIXELS = 252  # of small print, so that sub-images show it twice as large


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    about: str
    make: Maker
    bound: float | None = None  # least share right that is asked for; None: compared or reported
    needs: str = ""  # "pictograms" or "third style": what must have been fetched


def _about_one(*kinds: str, looks: tuple[str, ...] = ("any",), held_out: bool = False) -> Maker:
    chosen = tuple(LOOKS[look] for look in looks)
    return partial(asked_trial, kinds=kinds, looks=chosen, held_out=held_out)


def _asked() -> dict[str, Row]:
    """Return the rows of one question each, in the usual wordings."""
    return {
        "color": Row("the colour of a thing", _about_one("color", looks=FEW_KINDS), 0.97),
        "shape": Row("the shape of a thing", _about_one("shape", looks=("shapes",)), 0.97),
        "existence": Row("is there a thing, known or unknown", _about_one("existence"), 0.97),
        "size": Row("the size of a thing", _about_one("size"), 0.97),
        "count": Row("how many things, 0 to 8", counted_trial, 0.93),
        "count-some": Row(
            "how many of a kind or colour", _about_one("count_some", looks=("counting",)), 0.90
        ),
        "place": Row("where a thing is, nine places", _about_one("place"), 0.92),
        "relation": Row("how two things lie to each other", _about_one("relation", "relative"), 0.92),
        "symbol": Row("letters and digits", _about_one("symbol", looks=("symbols", "any")), 0.95),
        "word": Row("words of one to five letters", _about_one("word", looks=("words",)), 0.85),
        "caption": Row("captions with every thing named right", _about_one("caption"), 0.85),
        "absent": Row("what is not there has no colour, size or place", _about_one("absent"), None),
        "compare": Row("two pictures compared", compared_trial, 0.85),
        "outside": Row("pictures from outside the world are refused", outside_trial, 0.90),
    }


def _reworded() -> dict[str, Row]:
    """Return the same in wordings that training never uses; they may be 4 points worse."""
    looks = {"color": FEW_KINDS, "shape": ("shapes",), "symbol": ("symbols", "any"), "word": ("words",)}
    rows = {}
    for kind in REWORDED:
        make = partial(counted_trial, held_out=True)
        if kind != "count":
            make = _about_one(kind, looks=looks.get(kind, ("any",)), held_out=True)
        rows[f"reworded-{kind}"] = Row(f"{kind}, in wordings that training never uses", make)
    return rows


def _looked_at() -> dict[str, Row]:
    """Return the same questions about pictures that differ in one way; they may be 5 points worse than plain ones."""
    looks = ("plain", "dark", "textured", "outlined", "wide", "tiny", "rotated")
    return {f"look-{look}": Row(f"{look} pictures", _about_one(*LOOKED_AT, looks=(look,))) for look in looks}


def _learnt() -> dict[str, Row]:
    """Return the rows of learning from shots."""
    rows = {}
    for ways, shots, bound in ((2, 2, 0.90), (4, 4, 0.70), (4, 8, 0.85)):
        about = f"invented names, {ways}-way, {shots} shots"
        make = partial(named_trial, ways=ways, shots=shots)
        rows[f"names-{ways}-way-{shots}-shots"] = Row(about, make, bound)
        for control in ("no shots", "shuffled"):
            name = f"names-{ways}-way-{shots}-shots-{control.replace(' ', '-')}"
            rows[name] = Row(f"{about}, {control}: chance", partial(make, control=control))
    for shots in (0, 4, 8):
        make = partial(styled_trial, shots=shots)
        rows[f"style-{shots}-shots"] = Row(f"a caption style that {shots} shots show, CIDEr-D", make)
    return rows


def _special() -> dict[str, Row]:
    name = _about_one("name", looks=("pictograms",))
    small = partial(asked_trial, kinds=("symbol",), looks=(SMALL_PRINT,), longest=PRINT_PIXELS)
    return {
        "pictogram": Row("the name of a pictogram of a trained class", name, 0.80, "pictograms"),
        "third-style": Row("the same, drawn in a style never seen", third_style_trial, None, "third style"),
        "aloud": Row("5 to 8 things counted aloud, 8 shots", partial(aloud_trial, rationale=True)),
        "not-aloud": Row("the same, without a rationale", partial(aloud_trial, rationale=False)),
        "small-print": Row(
            "letters and digits of 6 to 9 pixels in a view, with and without sub-images", small
        ),
    }


ROWS: dict[str, Row] = _asked() | _reworded() | _looked_at() | _special() | _learnt()


def trial(row: str, number: int, *, stock: Stock = SHIPPED) -> Trial:
    """Return an item of the table.

    Args:
        row: one of ``ROWS``.
        number: which of its items.
        stock: pictograms and fonts; without fetched ones, pictures show fewer kinds of thing.
    """
    return ROWS[row].make(row, number, stock)
