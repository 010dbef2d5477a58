"""Pictures to visual tokens, a few views at a time: memory does not grow with their number.

While the image encoder works on some views, a thread decodes, resizes and cuts those that come next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import mlx.core as mx
import numpy as np
from jaxtyping import Float

from mm1_mlx.errors import SamplingError
from mm1_mlx.inputs.inputs import Inputs, PreparedPicture
from mm1_mlx.inputs.preprocess import normalize
from mm1_mlx.machine import free_memory
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.vision.cache import VisionCache, entry_key
from mm1_mlx.vision.timing import Timing

T = TypeVar("T")

LARGEST_BATCH = 16  # views; more together are no faster
SHARE_OF_FREE_MEMORY = 0.25  # that encoding may take


def embed(
    model: MM1,
    inputs: Inputs,
    timing: Timing | None = None,
    *,
    vision_cache: VisionCache | None = None,
    vision_batch_size: int | None = None,
    start: int = 0,
    stop: int | None = None,
) -> Float[mx.array, "L D"]:
    """What the decoder reads of one prompt from position ``start`` to ``stop``, evaluated.

    Only pictures that reach in there and that ``vision_cache`` does not know are encoded.

    Raises:
        PictureError: a picture turns out to be damaged.
        SamplingError: ``vision_batch_size`` is below 1.
    """
    timing = timing or Timing()
    stop = len(inputs.input_ids) if stop is None else stop
    wanted = [
        n for n, places in enumerate(inputs.image_places) if places.stop > start and places.start < stop
    ]
    visual_tokens = tokens_of(model, inputs, wanted, timing, vision_cache, vision_batch_size)
    ids = inputs.input_ids[start:stop]
    with timing.phase("prefill"):
        if visual_tokens is not None:  # of a picture that straddles an end, the tokens inside
            first = inputs.image_places[wanted[0]].start
            is_image = inputs.input_ids[first:stop] == model.config.image_token_id
            before, inside = mx.sum(is_image[: max(start - first, 0)]).item(), mx.sum(is_image).item()
            visual_tokens = visual_tokens[before:inside]
        embeddings = model.embed_inputs(ids, visual_tokens=visual_tokens)
        mx.eval(embeddings)
    return embeddings


def tokens_of(
    model: MM1,
    inputs: Inputs,
    wanted: Sequence[int],
    timing: Timing,
    vision_cache: VisionCache | None = None,
    vision_batch_size: int | None = None,
) -> Float[mx.array, "K D"] | None:
    """The arranged visual tokens of the pictures numbered ``wanted``, or None where there is none."""
    pictures = [inputs.pictures[number] for number in wanted]
    found = arranged_tokens(model, pictures, timing, vision_cache, vision_batch_size)
    return mx.concatenate(found) if found else None


def arranged_tokens(
    model: MM1,
    pictures: Sequence[PreparedPicture],
    timing: Timing,
    vision_cache: VisionCache | None = None,
    vision_batch_size: int | None = None,
) -> list[Float[mx.array, "K D"]]:
    """The visual tokens of each picture as the decoder reads them. Equal pictures are encoded once."""
    digests = [picture.digest for picture in pictures]
    found: dict[str, mx.array | None] = dict.fromkeys(digests)
    if vision_cache is not None:
        found = {digest: vision_cache.get(entry_key(digest, model)) for digest in found}
    missing = {picture.digest: picture for picture in pictures if found[picture.digest] is None}
    made = encode(model, list(missing.values()), timing, vision_batch_size)
    for (digest, picture), tokens in zip(missing.items(), made, strict=True):
        found[digest] = arranged(model, picture, tokens)
        if vision_cache is not None:
            mx.eval(found[digest])
            vision_cache.put(entry_key(digest, model), found[digest])
    return [found[digest] for digest in digests]


def encode(
    model: MM1, pictures: Sequence[PreparedPicture], timing: Timing, batch_size: int | None = None
) -> list[Float[mx.array, "K D"]]:
    """The visual tokens of each picture as they come from the connector, evaluated.

    Args:
        batch_size: views encoded together; by default what free memory allows, ``LARGEST_BATCH`` at most.

    Raises:
        SamplingError: ``batch_size`` is below 1.
    """
    if batch_size is not None and batch_size < 1:
        raise SamplingError(f"--vision-batch-size is {batch_size}, expected at least 1.")
    at_once = model.config.connector_config.views_at_once
    most = batch_size or default_batch_size(model)
    timing.encoded_views += sum(picture.num_views for picture in pictures)
    batches = one_ahead(pixel_batches(pictures, max(most // at_once, 1) * at_once))
    done: list[mx.array] = []
    while True:
        with timing.phase("preprocess"):
            pixels = next(batches, None)
        if pixels is None:
            break
        with timing.phase("encoder"):
            pixels = mx.array(pixels)
            grid = model.image_encoder.grid(pixels)
            patches = model.image_encoder(pixels)
            del pixels
            mx.eval(patches)
        with timing.phase("connector"):
            done.append(model.connector(patches, grid).flatten(0, 1))
            del patches
            mx.eval(done[-1])
    mx.clear_cache()  # what the batches took is free for the decoder
    return each_picture(mx.concatenate(done), pictures) if done else []


def each_picture(
    made: Float[mx.array, "K D"], pictures: Sequence[PreparedPicture]
) -> list[Float[mx.array, "k D"]]:
    """What the connector made of all views of some pictures, picture by picture."""
    stops = np.cumsum([picture.layout.num_made for picture in pictures]).tolist()
    return [
        made[stop - picture.layout.num_made : stop] for picture, stop in zip(pictures, stops, strict=True)
    ]


def arranged(model: MM1, picture: PreparedPicture, made: Float[mx.array, "K D"]) -> Float[mx.array, "M D"]:
    """One picture's visual tokens as the decoder reads them."""
    order = picture.layout.order
    return made if order is None else model.arrange(made, mx.array(order))


def pixel_batches(pictures: Sequence[PreparedPicture], most: int) -> Iterator[Float[np.ndarray, "n H W 3"]]:
    """Normalised pixels of consecutive views of one size, at most ``most`` together; one picture is open at a time."""
    held, config = [], None
    for picture in pictures:
        for view in picture.views():
            if held and (view.size != held[0].size or len(held) == most):
                yield normalize(held, config)
                held = []
            held, config = [*held, view], picture.image_config
    if held:
        yield normalize(held, config)


def one_ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items; a thread makes the next one while the caller works on this one."""
    end = object()
    with ThreadPoolExecutor(1) as pool:
        upcoming = pool.submit(next, items, end)
        while (item := upcoming.result()) is not end:
            upcoming = pool.submit(next, items, end)
            yield item


def default_batch_size(model: MM1) -> int:
    """Views that are encoded within a share of the free memory, 1 to ``LARGEST_BATCH``."""
    fitting = SHARE_OF_FREE_MEMORY * free_memory() / view_bytes(model)
    return int(min(max(fitting, 1), LARGEST_BATCH))


def view_bytes(model: MM1) -> int:
    """About what the widest step of image encoder or connector holds for one view."""
    vision, connector = model.config.vision_config, model.config.connector_config
    image = model.config.image_config
    largest = max(image.max_pixels, image.image_size**2)
    patches = largest // vision.patch_size**2
    widest = max(
        6 * vision.hidden_dims + 2 * vision.feed_forward_dims,
        2 * vision.hidden_dims + 6 * connector.hidden_dims,
    )
    scores = vision.num_heads * patches if mx.default_device().type == mx.cpu else 0  # Metal's are fused
    return patches * (widest + 2 * scores) * model.image_encoder.dtype.size
