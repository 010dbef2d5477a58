"""RICES: worked examples whose pictures are most like the query's, as the model's own image encoder compares them.

Source: Yang et al., "An Empirical Study of GPT-3 for Few-Shot Knowledge-Based VQA" (arXiv:2109.05014), as OpenFlamingo
uses it, with the mean of the patch features in place of CLIP's embedding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import mlx.core as mx
import numpy as np
from jaxtyping import Float

from mm1_mlx.errors import PictureError
from mm1_mlx.evaluation.shots import decode_picture
from mm1_mlx.evaluation.tasks.task import Item
from mm1_mlx.inputs.picture import Source
from mm1_mlx.inputs.processor import Processor
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.vision.encode import LARGEST_BATCH, pixel_batches, prefetch


class Likeness:
    """The order of a support set's items by likeness to a picture; items without pictures come last.

    Args:
        model: its image encoder compares the pictures.
        processor: from ``load``, with the model.
        items: the support set; each of its pictures is encoded once, when this is made.
        batch_size: views encoded together.
        skip_damaged: leave out pictures that cannot be opened, in place of an error.

    Raises:
        PictureError: one of the pictures is damaged.
    """

    def __init__(
        self,
        model: MM1,
        processor: Processor,
        items: Sequence[Item],
        *,
        batch_size: int | None = None,
        skip_damaged: bool = False,
    ):
        self._model, self._batch_size = model, batch_size or LARGEST_BATCH
        one_view = model.config.connector_config.views_at_once == 1
        self._processor = processor.with_image_config(sub_images="none") if one_view else processor
        pictures = {index: item.image for index, item in enumerate(items) if item.image is not None}
        if skip_damaged:
            pictures = {index: image for index, image in pictures.items() if _can_open(items[index])}
        self._pictured = list(pictures)
        self._without_picture = [index for index, item in enumerate(items) if item.image is None]
        self._features = self._measure_directions(list(pictures.values()))

    def __call__(self, picture: Source) -> Iterator[int]:
        """Yield the numbers of the items, the most like first; equally like ones stay in their order."""
        (own,) = self._measure_directions([picture])
        order = np.argsort(-(self._features @ own), kind="stable")
        yield from (self._pictured[place] for place in order.tolist())
        yield from self._without_picture

    def _measure_directions(self, pictures: Sequence[Source]) -> Float[np.ndarray, "n E"]:
        """Return the mean patch features of each picture, scaled to length 1."""
        id = self._model.config.image_token_id
        prepared = [self._processor.assemble([id], [picture]).pictures[0] for picture in pictures]
        means = [np.zeros((0, self._model.config.vision_config.hidden_dims), np.float32)]
        for pixels in prefetch(pixel_batches(prepared, self._batch_size)):
            features, _ = self._model.patch_features(mx.array(pixels))
            means.append(np.array(features.astype(mx.float32).mean(axis=1)))
        views = iter(np.concatenate(means))
        summed = [sum(next(views) for _ in range(picture.num_views)) for picture in prepared]
        found = np.stack(summed) if summed else means[0]
        return found / np.maximum(np.linalg.norm(found, axis=-1, keepdims=True), 1e-12)


def _can_open(item: Item) -> bool:
    try:
        decode_picture(item)
    except PictureError:
        return False
    return True
