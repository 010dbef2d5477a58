"""What scenes take from outside: pictograms, by class and set, and fonts.

The package brings 40 pictograms of classes that no model trains on; training fetches whole sets (``fetching.py``)
into a folder, from which ``Stock.of_folder`` makes a larger stock.
"""

from __future__ import annotations

import csv
import io
import zipfile
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from mm1_mlx.errors import DataError
from mm1_mlx.tiny.colors import Paint

HOME = Path(__file__).with_name("pictograms")
TRAINING_SETS = ("noto", "twemoji", "fluent-emoji-flat")
THIRD_STYLE = "openmoji"  # never trained on
SIDE = 96  # pixels of a fetched pictogram

Split = Literal["named", "unnamed", "held-out"]


@dataclass(frozen=True)
class PictogramClass:
    """A kind of pictogram: a dog, however drawn."""

    code: str  # code points in hexadecimal, "1f415-200d-1f9ba"
    name: str  # one to three words
    split: Split
    form: Literal["count", "bare"]  # "a dog", or "bread" and "glasses", which take no article
    group: str  # "animal"


@cache
def pictogram_classes(split: Split | None = None) -> tuple[PictogramClass, ...]:
    """Return the pictogram classes of one split, or all of them where ``split`` is None."""
    with open(HOME / "classes.tsv", encoding="utf-8") as file:
        classes = tuple(map(_make_class, csv.DictReader(file, delimiter="\t")))
    return tuple(c for c in classes if split in (None, c.split))


@cache
def find_class(name: str) -> PictogramClass:
    """Return the pictogram class that has this name."""
    return next(c for c in pictogram_classes() if c.name == name)


@dataclass(frozen=True)
class Stock:
    """The pictogram sets and fonts that scenes may draw from."""

    folder: Path | None = None  # holds the fetched sets; None: use what the package brings
    sets: tuple[str, ...] = ("noto",)
    fonts: tuple[str, ...] = ()  # names of fonts in the folder

    @classmethod
    def of_folder(cls, folder: Path, sets: tuple[str, ...] = TRAINING_SETS) -> Stock:
        """Return the stock of a folder that ``fetching.fetch`` has filled.

        Raises:
            DataError: a set is missing there.
        """
        for name in sets:
            if not (folder / f"{name}.zip").is_file():
                raise DataError(
                    f"{folder} has no {name}.zip; fetch the pictograms first (mm1_mlx.tiny.fetching.fetch)."
                )
        fonts = folder / "fonts.zip"
        return cls(folder, sets, tuple(sorted(_read_members(fonts))) if fonts.is_file() else ())

    def classes(self, split: Split) -> tuple[PictogramClass, ...]:
        """Return the classes of ``split`` of which every set has a picture."""
        return _find_classes(self.folder, self.sets, split)

    def picture(self, set_name: str, code: str) -> Image.Image:
        """Return a pictogram as a square picture with transparency."""
        return _read_picture(self.folder, set_name, code)

    def paints(self, set_name: str, code: str) -> tuple[Paint, ...]:
        """Return the main paints of a pictogram: those of its opaque parts on a coarse grid."""
        return _read_paints(self.folder, set_name, code)

    def photographs(self, *, held_out: bool) -> tuple[Image.Image, ...]:
        """Return the folder's photographs: those for training, or those for tests if ``held_out``."""
        return _read_photographs(self.folder, held_out)

    def font(self, name: str) -> bytes:
        """Return the bytes of a font's file."""
        if self.folder is None:
            raise ValueError(f"the font {name} is in no folder: the package brings no fonts.")
        return _read_members(self.folder / "fonts.zip")[name]


SHIPPED = Stock()


def _make_class(row: dict[str, Any]) -> PictogramClass:
    return PictogramClass(**row)


@cache
def _find_classes(folder: Path | None, sets: tuple[str, ...], split: Split) -> tuple[PictogramClass, ...]:
    if folder is None:
        return tuple(c for c in pictogram_classes(split) if (HOME / f"{c.code}.png").is_file())
    codes = set.intersection(*(set(_read_members(folder / f"{name}.zip")) for name in sets))
    return tuple(c for c in pictogram_classes(split) if f"{c.code}.png" in codes)


@lru_cache(maxsize=4096)
def _read_picture(folder: Path | None, set_name: str, code: str) -> Image.Image:
    if folder is None:
        data = (HOME / f"{code}.png").read_bytes()
    else:
        data = _read_members(folder / f"{set_name}.zip")[f"{code}.png"]
    return Image.open(io.BytesIO(data)).convert("RGBA")


@cache
def _read_paints(folder: Path | None, set_name: str, code: str) -> tuple[Paint, ...]:
    coarse = _read_picture(folder, set_name, code).resize((8, 8), Image.Resampling.BOX)
    pixels = np.asarray(coarse).reshape(-1, 4).tolist()
    return tuple((red, green, blue) for red, green, blue, opacity in pixels if opacity > 128)


@cache
def _read_photographs(folder: Path | None, held_out: bool) -> tuple[Image.Image, ...]:
    if folder is None or not (folder / "photographs.zip").is_file():
        return ()
    part = "held-out/" if held_out else "training/"
    files = _read_members(folder / "photographs.zip")
    return tuple(Image.open(io.BytesIO(files[n])).convert("RGB") for n in sorted(files) if n.startswith(part))


@cache
def _read_members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}
