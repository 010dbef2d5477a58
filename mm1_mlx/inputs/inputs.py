"""The processor's output for one prompt; pixels are made only when they are needed, picture by picture."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import mlx.core as mx
import numpy as np
from jaxtyping import Float, Integer
from PIL import Image

from mm1_mlx.config import ImageConfig
from mm1_mlx.inputs.layout import Layout
from mm1_mlx.inputs.picture import Picture
from mm1_mlx.inputs.preprocess import normalize
from mm1_mlx.inputs.sub_images import rule, views


@dataclass(frozen=True)
class PreparedPicture:
    """One picture of a prompt that was measured and given a place in the sequence, but not decoded yet."""

    picture: Picture
    layout: Layout
    num_views: int
    image_config: ImageConfig  # how it is cut
    num_images: int  # pictures in the prompt, on which dynamic splitting depends
    max_pixels: int
    made_views: tuple[Image.Image, ...] | None = None  # its views, where they were made ahead

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the picture's bytes and of how its views are made of them."""
        made = _describe_views(self.image_config, self.num_images)
        return hashlib.sha256(f"{self.picture.sha256} {made}".encode()).hexdigest()

    def views(self) -> list[Image.Image]:
        """Return the views that the encoder reads; they are decoded, resized and cut at each call, unless made ahead.

        Raises:
            PictureError: the picture is damaged, or too long and thin for the model's way of resizing.
        """
        if self.made_views is not None:
            return list(self.made_views)
        picture = self.picture.decode(alpha=self.image_config.alpha)
        return views(picture, self.image_config, num_images=self.num_images, max_pixels=self.max_pixels)

    def open_views(self) -> PreparedPicture:
        """Return a copy that holds its views in memory, made now in this thread; errors are those of ``views``."""
        return replace(self, made_views=tuple(self.views()))


@lru_cache
def _describe_views(image_config: ImageConfig, num_images: int) -> str:
    """Return how views are made, in JSON; cached, because a prompt with shots asks for it many times."""
    made = image_config.to_dict() | {"rule": rule(image_config, num_images=num_images)}
    return json.dumps(made, sort_keys=True)


@dataclass(frozen=True)
class Inputs:
    """One prompt, ready for the model."""

    input_ids: Integer[mx.array, "L"]  # with image_token_id once for every visual token
    image_places: list[range]  # the positions that each picture takes
    num_visual_tokens: int
    pictures: tuple[PreparedPicture, ...]
    image_config: ImageConfig  # that of the model

    @property
    def layouts(self) -> tuple[Layout, ...]:
        return tuple(picture.layout for picture in self.pictures)

    @property
    def num_views(self) -> tuple[int, ...]:
        return tuple(picture.num_views for picture in self.pictures)

    @property
    def digests(self) -> tuple[str, ...]:
        """The digest of each picture, equal where the file and the way to cut it are equal."""
        return tuple(picture.digest for picture in self.pictures)

    @cached_property
    def pixel_values(self) -> Float[mx.array, "N H W 3"] | list[mx.array]:
        """Normalised pixels of all views in reading order, made at once; a list where views differ in size.

        Raises:
            PictureError: a picture is damaged.
        """
        config = self.image_config
        cut = [view for picture in self.pictures for view in picture.views()]
        if config.resize == "smart":
            return [mx.array(np.ascontiguousarray(normalize([view], config)[0])) for view in cut]
        if not cut:
            return mx.zeros((0, config.image_size, config.image_size, 3))
        return mx.array(np.ascontiguousarray(normalize(cut, config)))

    @property
    def token_order(self) -> Integer[mx.array, "M"] | None:
        """The order of all visual tokens; None where the connector's own order is kept."""
        if all(found.order is None for found in self.layouts):
            return None
        order: list[int] = []
        made = 0
        for found in self.layouts:
            own = range(found.num_made) if found.order is None else found.order
            order += [number if number < 0 else made + number for number in own]
            made += found.num_made
        return mx.array(order, dtype=mx.int32)
