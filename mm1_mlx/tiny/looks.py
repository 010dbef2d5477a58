"""Ways a scene may look: how often each property occurs. Training uses one, each other one measures one property."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from mm1_mlx.tiny.backgrounds import TEXTURES
from mm1_mlx.tiny.shapes import SHAPES

Weights = Mapping[str, float]

TONES = {"white": 0.22, "light": 0.26, "coloured": 0.2, "middle": 0.08, "dark": 0.14, "black": 0.1}
PLAIN_TONES = {"white": 0.5, "light": 0.5}
DARK_TONES = {"dark": 0.6, "black": 0.4}
SHADED = {"plain": 0.5} | dict.fromkeys(TEXTURES[1:], 0.5 / 7)
TEXTURED = dict.fromkeys(("cloudy", "striped", "dotted", "checked", "grainy"), 1.0)
KINDS = dict.fromkeys(SHAPES, 1.0) | {"letter": 0.9, "digit": 0.7, "pictogram": 4.0}
SHAPES_ALONE: dict[str, float] = dict.fromkeys(SHAPES, 1.0)


@dataclass(frozen=True)
class Look:
    """How scenes are made. Weights are relative, shares lie between 0 and 1."""

    tones: Weights = field(default_factory=lambda: TONES)
    textures: Weights = field(default_factory=lambda: SHADED)
    kinds: Weights = field(default_factory=lambda: KINDS)
    numbers: tuple[int, ...] = (
        1,
        1,
        1,
        2,
        2,
        2,
        3,
        3,
        3,
        4,
        4,
        5,
        5,
        6,
        7,
        8,
    )  # numbers of things, each equally likely
    outlined: float = 0.22  # share of the shapes
    sizes: tuple[float, float] = (0.08, 0.9)  # of things, in shares of the longer side
    wide: float = 0.3  # share of the scenes that are not square
    least_aspect: float = 1.1  # longer by shorter side of those scenes
    upright: float = 0.35  # share of those scenes that are higher than wide
    turned: float = 0.45  # share of the shapes that stand at any angle
    overlapping: float = 0.2  # share of the scenes in which things may overlap, by a third at most
    alike: float = 0.3  # share of the scenes with few kinds and colours, for counting
    finished: float = 0.3  # share of the scenes that get each of blur, noise, JPEG and other light


ANY = Look()
PLAIN = Look(
    tones=PLAIN_TONES, textures={"plain": 1.0}, kinds=KINDS | {"pictogram": 0.0}, outlined=0.0, sizes=(0.14, 0.6),
    wide=0.0, turned=0.0, overlapping=0.0, finished=0.0,
)  # fmt: skip
SHAPES_ONLY = replace(ANY, kinds=SHAPES_ALONE)
LOOKS = {
    "any": ANY,
    "plain": PLAIN,
    "shapes": SHAPES_ONLY,
    "dark": replace(PLAIN, tones=DARK_TONES),
    "textured": replace(PLAIN, tones=TONES, textures=TEXTURED),
    "outlined": replace(PLAIN, outlined=1.0, kinds=SHAPES_ALONE),
    "wide": replace(PLAIN, wide=1.0, least_aspect=2.0, sizes=(0.09, 0.6)),
    "tiny": replace(PLAIN, sizes=(0.08, 0.12), kinds=SHAPES_ALONE),
    "rotated": replace(PLAIN, turned=1.0, kinds=SHAPES_ALONE),
    "pictograms": replace(ANY, kinds={"pictogram": 1.0}),
    "symbols": replace(ANY, kinds={"letter": 1.0, "digit": 1.0}),
    "counting": replace(ANY, alike=0.85, numbers=(1, 2, 3, 4, 5, 6, 7, 8), kinds=KINDS | {"pictogram": 2.0}),
    "words": replace(ANY, kinds={"word": 1.0}, numbers=(1, 1, 1, 2), upright=0.0),
}
