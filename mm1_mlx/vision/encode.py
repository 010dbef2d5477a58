"""Encode pictures as visual tokens, a few views at a time, so that memory does not grow with their number.

While the image encoder works on some views, a thread decodes, resizes and cuts the next ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

import mlx.core as mx
import numpy as np
from jaxtyping import Float
from PIL import Image

from mm1_mlx.arrays import flatten
from mm1_mlx.errors import PictureError, PromptError, SamplingError
from mm1_mlx.inputs.inputs import Inputs, PreparedPicture
from mm1_mlx.inputs.preprocess import normalize
from mm1_mlx.machine import free_memory
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.vision.cache import VisionCache, entry_key
from mm1_mlx.vision.clock import Clock

T = TypeVar("T")

LARGEST_BATCH = 16  # views, or pictures; larger batches are no faster
SHARE_OF_FREE_MEMORY = 0.25  # limit for encoding


def embed(
    model: MM1,
    inputs: Inputs,
    clock: Clock | None = None,
    *,
    vision_cache: VisionCache | None = None,
    vision_batch_size: int | None = None,
    start: int = 0,
    stop: int | None = None,
) -> Float[mx.array, "L D"]:
    """Return what the decoder reads of one prompt from position ``start`` to ``stop``, evaluated.

    Only pictures that overlap this range and are not in ``vision_cache`` are encoded.

    Raises:
        PictureError: a picture turns out to be damaged.
        PromptError: the ids do not have a place for every visual token.
        SamplingError: ``vision_batch_size`` is below 1.
    """
    clock = clock or Clock()
    stop = len(inputs.input_ids) if stop is None else stop
    is_visual = np.array(inputs.input_ids) == model.config.image_token_id
    _require_places(int(is_visual.sum()), sum(layout.num_visual_tokens for layout in inputs.layouts))
    places = inputs.image_places
    wanted = [n for n in range(len(places)) if places[n].stop > start and places[n].start < stop]
    found = visual_tokens_of(
        model, [inputs.pictures[n] for n in wanted], clock, cache=vision_cache, batch_size=vision_batch_size
    )
    visual_tokens = None
    with clock.phase("prefill"):
        if found:  # a picture may be partly outside the range: keep only its tokens inside
            first = places[wanted[0]].start
            before, inside = is_visual[first : max(start, first)].sum(), is_visual[first:stop].sum()
            visual_tokens = mx.concatenate(found)[int(before) : int(inside)]
        embeddings = model.embed_inputs(inputs.input_ids[start:stop], visual_tokens=visual_tokens)
        mx.eval(embeddings)
    return embeddings


def visual_tokens_of(
    model: MM1,
    pictures: Sequence[PreparedPicture],
    clock: Clock | None = None,
    *,
    cache: VisionCache | None = None,
    batch_size: int | None = None,
) -> list[Float[mx.array, "K D"]]:
    """Return the visual tokens of each picture as the decoder reads them; equal pictures are encoded once.

    The connector makes tokens view by view. The decoder may read those of all views row by row of the whole picture,
    without those that only pad it: ``layout.order`` says which, in which order.
    """
    different = {picture.digest: picture for picture in pictures}
    found = {} if cache is None else _look_up(model, different, cache)
    missing = {digest: picture for digest, picture in different.items() if digest not in found}
    made = encode(model, list(missing.values()), clock, batch_size=batch_size) if missing else []
    for (digest, picture), tokens in zip(missing.items(), made, strict=True):
        found[digest] = model.arrange(tokens, picture.layout.order)
        if cache is not None:
            mx.eval(found[digest])
            cache.put(entry_key(digest, model), found[digest])
    return [found[picture.digest] for picture in pictures]


def _look_up(model: MM1, pictures: Mapping[str, PreparedPicture], cache: VisionCache) -> dict[str, mx.array]:
    """Return the visual tokens that ``cache`` has, by the digests of their pictures."""
    parameters = flatten([model.image_encoder.parameters(), model.connector.parameters()])
    dtypes = {value.dtype for value in parameters.values() if mx.issubdtype(value.dtype, mx.floating)}
    dtypes |= {mx.float32} if len(dtypes) > 1 else set()  # which float16 and bfloat16 together give
    width, found = model.config.connector_config.output_dims, {}
    for digest, picture in pictures.items():
        tokens = cache.get(entry_key(digest, model), (picture.layout.num_visual_tokens, width), dtypes)
        if tokens is not None:
            found[digest] = tokens
    return found


def encode_ahead(
    model: MM1,
    pictures: Sequence[PreparedPicture],
    cache: VisionCache,
    *,
    batch_size: int | None = None,
) -> None:
    """Fill ``cache`` with pictures' visual tokens, many encoded together, up to its limit.

    A damaged picture ends this without an error; using that picture later raises one.
    """
    width = model.config.connector_config.output_dims * model.image_encoder.dtype.size
    ahead: dict[str, PreparedPicture] = {}
    num_bytes = 0
    for picture in pictures:
        if picture.digest not in ahead:
            ahead[picture.digest] = picture
            num_bytes += picture.layout.num_visual_tokens * width
        if num_bytes > cache.max_bytes:
            ahead.popitem()
            break
    waiting = list(ahead.values())
    with suppress(PictureError):
        for start in range(0, len(waiting), LARGEST_BATCH):
            together = waiting[start : start + LARGEST_BATCH]
            visual_tokens_of(model, together, cache=cache, batch_size=batch_size)


def encode(
    model: MM1,
    pictures: Sequence[PreparedPicture],
    clock: Clock | None = None,
    *,
    batch_size: int | None = None,
) -> list[Float[mx.array, "K D"]]:
    """Return the visual tokens of each picture as the connector makes them, view by view, evaluated.

    Args:
        model: the model whose image encoder and connector are used.
        pictures: in reading order.
        clock: measures the phases.
        batch_size: views encoded together; by default as many as free memory allows, at most ``LARGEST_BATCH``, but
            at least one group of views that the connector reads together.

    Raises:
        PictureError: a picture turns out to be damaged.
        SamplingError: ``batch_size`` is below 1.
    """
    max_views = round_to_groups(model, default_batch_size(model) if batch_size is None else batch_size)
    done = encode_batches(model, prefetch(pixel_batches(pictures, max_views)), clock or Clock())
    mx.clear_cache()  # frees the batches' memory for the decoder
    return split_by_picture(mx.concatenate(done), pictures) if done else []


def encode_batches(
    model: MM1,
    batches: Iterator[Float[np.ndarray, "n H W 3"]] | Iterator[Float[mx.array, "n H W 3"]],
    clock: Clock,
) -> list[Float[mx.array, "k D"]]:
    """Return the visual tokens of each batch of views, evaluated one batch after the other."""
    done: list[mx.array] = []
    while True:
        with clock.phase("preprocess"):
            pixels = next(batches, None)
        if pixels is None:
            return done
        clock.encoded_views += len(pixels)
        with clock.phase("encoder"):
            features, grid = model.patch_features(mx.array(pixels))
            mx.eval(features)
        with clock.phase("connector"):
            done.append(model.connector(features, grid).flatten(0, 1))
            del features
            mx.eval(done[-1])


def split_by_picture(
    made: Float[mx.array, "K D"], pictures: Sequence[PreparedPicture]
) -> list[Float[mx.array, "k D"]]:
    """Split what the connector made of all views of some pictures into the visual tokens of each picture.

    Raises:
        PromptError: the pictures were prepared for another model.
    """
    stops = np.cumsum([picture.layout.num_made for picture in pictures]).tolist()
    if stops[-1] != len(made):
        raise PromptError(
            f"the pictures were prepared for {stops[-1]} visual tokens, but this model makes {len(made)} of them; "
            "prepare them with its own processor."
        )
    return [
        made[stop - picture.layout.num_made : stop] for picture, stop in zip(pictures, stops, strict=True)
    ]


def _require_places(places: int, visual_tokens: int) -> None:
    if places != visual_tokens:
        raise PromptError(
            f"the input ids have {places} places for visual tokens, but the pictures give {visual_tokens}."
        )


def pixel_batches(
    pictures: Sequence[PreparedPicture], max_views: int
) -> Iterator[Float[np.ndarray, "n H W 3"]]:
    """Yield pixels of consecutive views of one size, at most ``max_views`` together; pictures are opened one by one."""
    if not pictures:
        return
    held: list[Image.Image] = []
    config = pictures[0].image_config  # of the view that was opened last
    for picture in pictures:
        for view in picture.views():
            if held and (view.size != held[0].size or len(held) == max_views):
                yield normalize(held, config)
                held = []
            held, config = [*held, view], picture.image_config
    if held:
        yield normalize(held, config)


class _End:
    """Mark that an iterator has no more items."""


def prefetch(items: Iterator[T]) -> Iterator[T]:
    """Yield the same items, while a thread makes the next one during the caller's work on this one."""
    end = _End()
    with ThreadPoolExecutor(1) as pool:
        upcoming = pool.submit(next, items, end)
        while not isinstance(item := upcoming.result(), _End):
            upcoming = pool.submit(next, items, end)
            yield item


def round_to_groups(model: MM1, batch_size: int) -> int:
    """Return ``batch_size``, rounded down to whole groups of views that the connector reads together, at least one
    group.

    Raises:
        SamplingError: ``batch_size`` is below 1.
    """
    if batch_size < 1:
        raise SamplingError(f"`vision_batch_size` is {batch_size}, expected at least 1.")
    at_once = model.config.connector_config.views_at_once
    return max(batch_size // at_once, 1) * at_once


def default_batch_size(model: MM1) -> int:
    """Return how many views can be encoded within a share of the free memory: 1 to ``LARGEST_BATCH``."""
    fitting = SHARE_OF_FREE_MEMORY * free_memory() / view_bytes(model)
    return int(min(max(fitting, 1), LARGEST_BATCH))


def view_bytes(model: MM1) -> int:
    """Return about how many bytes the largest step of image encoder or connector takes for one view."""
    vision, connector = model.config.vision_config, model.config.connector_config
    image = model.config.image_config
    largest = max(image.max_pixels, image.image_size**2)
    patches = largest // vision.patch_size**2
    widest = max(  # arrays that are alive together: six of the layer's width and two of its feed-forward (3 if gated), or so
        6 * vision.hidden_dims + (3 if vision.gated else 2) * vision.feed_forward_dims,
        2 * vision.hidden_dims + 6 * connector.hidden_dims,
    )
    on_cpu = mx.default_device().type == mx.cpu
    scores = vision.num_heads * patches if on_cpu else 0  # of attention; a GPU's kernels do not store them
    return patches * (widest + 2 * scores) * model.image_encoder.dtype.size
