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
from typing import Literal

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
    """Return the classes of one split, or all."""
    with open(HOME / "classes.tsv", encoding="utf-8") as file:
        classes = tuple(PictogramClass(**row) for row in csv.DictReader(file, delimiter="\t"))
    return tuple(c for c in classes if split in (None, c.split))


@cache
def class_named(name: str) -> PictogramClass:
    """Return the class of a name."""
    return next(c for c in pictogram_classes() if c.name == name)


@dataclass(frozen=True)
class Stock:
    """The pictogram sets and fonts that scenes may draw from."""

    folder: Path | None = None  # of fetched sets; None: what the package brings
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
        return cls(folder, sets, tuple(sorted(_members(fonts))) if fonts.is_file() else ())

    def classes(self, split: Split) -> tuple[PictogramClass, ...]:
        """Return the classes of ``split`` of which every set has a picture."""
        return _classes_there(self.folder, self.sets, split)

    def picture(self, set_name: str, code: str) -> Image.Image:
        """Return a pictogram with its transparency, square."""
        return _picture(self.folder, set_name, code)

    def paints(self, set_name: str, code: str) -> tuple[Paint, ...]:
        """Return what a pictogram looks like from afar: the paints of its opaque parts on a coarse grid."""
        return _paints(self.folder, set_name, code)

    def photographs(self, *, held_out: bool) -> tuple[Image.Image, ...]:
        """Return the folder's photographs, those for training or the others."""
        return _photographs(self.folder, held_out)

    def font(self, name: str) -> bytes:
        """Return the file of a font."""
        return _members(self.folder / "fonts.zip")[name]


SHIPPED = Stock()


@cache
def _classes_there(folder: Path | None, sets: tuple[str, ...], split: Split) -> tuple[PictogramClass, ...]:
    if folder is None:
        return tuple(c for c in pictogram_classes(split) if (HOME / f"{c.code}.png").is_file())
    codes = set.intersection(*(set(_members(folder / f"{name}.zip")) for name in sets))
    return tuple(c for c in pictogram_classes(split) if f"{c.code}.png" in codes)


@lru_cache(maxsize=4096)
def _picture(folder: Path | None, set_name: str, code: str) -> Image.Image:
    if folder is None:
        data = (HOME / f"{code}.png").read_bytes()
    else:
        data = _members(folder / f"{set_name}.zip")[f"{code}.png"]
    return Image.open(io.BytesIO(data)).convert("RGBA")


@cache
def _paints(folder: Path | None, set_name: str, code: str) -> tuple[Paint, ...]:
    coarse = _picture(folder, set_name, code).resize((8, 8), Image.Resampling.BOX)
    pixels = np.asarray(coarse).reshape(-1, 4).tolist()
    return tuple((red, green, blue) for red, green, blue, opacity in pixels if opacity > 128)


@cache
def _photographs(folder: Path | None, held_out: bool) -> tuple[Image.Image, ...]:
    if folder is None or not (folder / "photographs.zip").is_file():
        return ()
    part = "held-out/" if held_out else "training/"
    files = _members(folder / "photographs.zip")
    return tuple(Image.open(io.BytesIO(files[n])).convert("RGB") for n in sorted(files) if n.startswith(part))


@cache
def _members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}
