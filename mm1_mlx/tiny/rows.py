"""The table by which mm1-tiny is measured: its rows, their items, and the least score that each asks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from mm1_mlx.tiny.conversing import SMALL_PRINT
from mm1_mlx.tiny.learning import make_naming_trial, make_styling_trial
from mm1_mlx.tiny.looks import LOOKS
from mm1_mlx.tiny.stock import SHIPPED, Stock
from mm1_mlx.tiny.trials import (
    Trial,
    make_aloud_trial,
    make_comparing_trial,
    make_counting_trial,
    make_outside_trial,
    make_question_trial,
    make_third_style_trial,
)

TrialMaker = Callable[[str, int, Stock], Trial]
NUM_TRIALS = 1000  # of each row, in the card
LOOKED_AT = (
    "color",
    "shape",
    "count_all",
    "existence",
)  # the kinds of questions about dark, wide, tiny … pictures
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
PRINT_PIXELS = 252  # the side of pictures with small print, so that sub-images show it twice as large


@dataclass(frozen=True)
class TableRow:
    """One row of the table."""

    about: str
    make: TrialMaker
    bound: float | None = None  # the least share of right answers that is asked for; None: only reported
    needs: str = ""  # "pictograms" or "third style": what must have been fetched


def _ask_about_one(*kinds: str, looks: tuple[str, ...] = ("any",), held_out: bool = False) -> TrialMaker:
    chosen = tuple(LOOKS[look] for look in looks)
    return partial(make_question_trial, kinds=kinds, looks=chosen, held_out=held_out)


def _make_asked_rows() -> dict[str, TableRow]:
    """Return the rows that ask one kind of question each, in the usual wordings."""
    return {
        "color": TableRow("the colour of a thing", _ask_about_one("color", looks=FEW_KINDS), 0.97),
        "shape": TableRow("the shape of a thing", _ask_about_one("shape", looks=("shapes",)), 0.97),
        "existence": TableRow("is there a thing, known or unknown", _ask_about_one("existence"), 0.97),
        "size": TableRow("the size of a thing", _ask_about_one("size"), 0.97),
        "count": TableRow("how many things, 0 to 8", make_counting_trial, 0.93),
        "count-some": TableRow(
            "how many of a kind or colour", _ask_about_one("count_some", looks=("counting",)), 0.90
        ),
        "place": TableRow("where a thing is, nine places", _ask_about_one("place"), 0.92),
        "relation": TableRow(
            "how two things lie to each other", _ask_about_one("relation", "relative"), 0.92
        ),
        "symbol": TableRow("letters and digits", _ask_about_one("symbol", looks=("symbols", "any")), 0.95),
        "word": TableRow("words of one to five letters", _ask_about_one("word", looks=("words",)), 0.85),
        "caption": TableRow("captions with every thing named right", _ask_about_one("caption"), 0.85),
        "absent": TableRow("what is not there has no colour, size or place", _ask_about_one("absent"), None),
        "compare": TableRow("two pictures compared", make_comparing_trial, 0.85),
        "outside": TableRow("pictures from outside the world are refused", make_outside_trial, 0.90),
    }


def _make_reworded_rows() -> dict[str, TableRow]:
    """Return rows of the same questions in wordings that training never uses; they may be 4 points worse."""
    looks = {"color": FEW_KINDS, "shape": ("shapes",), "symbol": ("symbols", "any"), "word": ("words",)}
    rows = {}
    for kind in REWORDED:
        make = partial(make_counting_trial, held_out=True)
        if kind != "count":
            make = _ask_about_one(kind, looks=looks.get(kind, ("any",)), held_out=True)
        rows[f"reworded-{kind}"] = TableRow(f"{kind}, in wordings that training never uses", make)
    return rows


def _make_look_rows() -> dict[str, TableRow]:
    """Return rows of the same questions about pictures of one look each; they may be 5 points worse than plain ones."""
    looks = ("plain", "dark", "textured", "outlined", "wide", "tiny", "rotated")
    return {
        f"look-{look}": TableRow(f"{look} pictures", _ask_about_one(*LOOKED_AT, looks=(look,)))
        for look in looks
    }


def _make_learning_rows() -> dict[str, TableRow]:
    """Return the rows that measure learning from shots."""
    rows = {}
    for ways, shots, bound in ((2, 2, 0.90), (4, 4, 0.70), (4, 8, 0.85)):
        about = f"invented names, {ways}-way, {shots} shots"
        make = partial(make_naming_trial, ways=ways, shots=shots)
        rows[f"names-{ways}-way-{shots}-shots"] = TableRow(about, make, bound)
        for control in ("no shots", "shuffled"):
            name = f"names-{ways}-way-{shots}-shots-{control.replace(' ', '-')}"
            rows[name] = TableRow(f"{about}, {control}: chance", partial(make, control=control))
    for shots in (0, 4, 8):
        make = partial(make_styling_trial, shots=shots)
        rows[f"style-{shots}-shots"] = TableRow(f"a caption style that {shots} shots show, CIDEr-D", make)
    return rows


def _make_special_rows() -> dict[str, TableRow]:
    name = _ask_about_one("name", looks=("pictograms",))
    small = partial(make_question_trial, kinds=("symbol",), looks=(SMALL_PRINT,), longest=PRINT_PIXELS)
    return {
        "pictogram": TableRow("the name of a pictogram of a trained class", name, 0.80, "pictograms"),
        "third-style": TableRow(
            "the same, drawn in a style never seen", make_third_style_trial, None, "third style"
        ),
        "aloud": TableRow("5 to 8 things counted aloud, 8 shots", partial(make_aloud_trial, rationale=True)),
        "not-aloud": TableRow("the same, without a rationale", partial(make_aloud_trial, rationale=False)),
        "small-print": TableRow(
            "letters and digits of 6 to 9 pixels in a view, with and without sub-images", small
        ),
    }


ROWS: dict[str, TableRow] = (
    _make_asked_rows()
    | _make_reworded_rows()
    | _make_look_rows()
    | _make_special_rows()
    | _make_learning_rows()
)


def make_trial(row: str, number: int, *, stock: Stock = SHIPPED) -> Trial:
    """Make an item of the table.

    Args:
        row: name of the row, one of ``ROWS``.
        number: number of the item in its row.
        stock: pictograms and fonts; without fetched ones, pictures show fewer kinds of things.
    """
    return ROWS[row].make(row, number, stock)
