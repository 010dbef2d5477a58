"""The settings of how a picture becomes pixels: resizing, normalisation and sub-images."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from mm1_mlx.strict import Config

Alpha = Literal["white", "drop"]  # what transparent pixels become

SubImages = Literal["none", "static", "dynamic", "quadrants", "anyres"]  # how a large picture is cut
ONLY_FOR = {  # settings that only some ways of cutting use
    "canvases": ("anyres",),
    "unpad": ("anyres",),
    "min_sub_images": ("dynamic",),
    "position_tags": ("static", "dynamic"),
}


@dataclass(frozen=True)
class ImageConfig(Config):
    """All settings of how a picture becomes pixels."""

    image_size: int  # pixels, each side, of a view
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: Literal["squash", "crop", "pad", "smart"] = "squash"  # to a square: stretch, centre crop or pad
    alpha: Alpha = "white"  # "drop" keeps the published checkpoints' rule
    sub_images: SubImages = "none"
    min_sub_images: int = 1  # dynamic: crops in the grid, without the overview
    max_sub_images: int = 1
    position_tags: Literal["none", "index"] = "none"  # text before each sub-image: "(picture,row,column)"
    canvases: tuple[tuple[int, int], ...] = ()  # anyres: (rows, columns) to choose from; all if empty
    unpad: bool = (
        False  # anyres: drop visual tokens that are only padding, and end each row with a learned one
    )
    size_multiple: int = 0  # smart: the sides of the resized picture are multiples of this many pixels
    min_pixels: int = 0  # smart: fewest pixels of the resized picture
    max_pixels: int = 0  # smart: most pixels of the resized picture

    def __post_init__(self) -> None:
        self._require_positive("image_size", "max_sub_images")
        self._require(
            all(0 < r * c <= self.max_sub_images and r > 0 for r, c in self.canvases),
            f"canvases are {self.canvases}, expected rows and columns of at most {self.max_sub_images} sub-images.",
        )
        self._require(
            self.max_sub_images <= 1024, f"max_sub_images is {self.max_sub_images}, expected at most 1024."
        )
        self._check_sub_images()
        if self.resize == "smart":
            self._require_positive("size_multiple", "min_pixels", "max_pixels")
            self._require(self.sub_images == "none", "resize smart goes with sub_images none only.")
            self._require(
                self.min_pixels <= self.max_pixels,
                f"min_pixels is {self.min_pixels}, more than max_pixels {self.max_pixels}.",
            )
        self._require(self.image_size <= 16_384, f"image_size is {self.image_size}, expected at most 16384.")
        self._require(all(s > 0 for s in self.std), f"std is {self.std}, expected numbers above 0.")

    def _check_sub_images(self) -> None:
        """Refuse a setting that would have no effect, and a grid that is not possible."""
        defaults = {f.name: f.default for f in fields(self)}
        for name, rules in ONLY_FOR.items():
            self._require(
                self.sub_images in rules or getattr(self, name) == defaults[name],
                f"{name} is for sub_images {' and '.join(rules)} only.",
            )
        if self.sub_images == "dynamic":
            self._require_positive("min_sub_images")
            self._require(
                self.max_sub_images > 1, "sub_images dynamic needs max_sub_images above 1; MM1.5 has 9."
            )
            self._require(
                self.min_sub_images <= self.max_sub_images,
                f"min_sub_images is {self.min_sub_images}, more than max_sub_images {self.max_sub_images}.",
            )

    def changed(self, **changes: Any) -> ImageConfig:
        """Return a copy with ``changes``; settings that the new ``sub_images`` does not use get their defaults.

        Raises:
            ConfigError: a change is unknown, has the wrong type, or does not fit the other settings.
        """
        self._require(
            self.resize != "smart" or "image_size" not in changes,
            "image_size does nothing with resize smart: pictures keep their sides; set min_pixels and max_pixels.",
        )
        rule = changes.get("sub_images", self.sub_images)
        unused = {f.name: f.default for f in fields(self) if rule not in ONLY_FOR.get(f.name, (rule,))}
        return type(self).from_dict(self.to_dict() | unused | changes)
