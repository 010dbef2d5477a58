"""Visual tokens made before they are asked for."""

import numpy as np
import pytest

from mm1_mlx import VisionCache, tiny
from mm1_mlx.vision.cache import entry_key
from mm1_mlx.vision.encode import encode_ahead, visual_tokens_of

ONE = 16 * 256 * 4  # bytes of one picture's


@pytest.fixture(scope="module")
def pictures(mm1_tiny):
    drawn = [tiny.render(tiny.make_scene(seed)) for seed in range(5)]
    return [mm1_tiny[1]("x", [picture]).pictures[0] for picture in drawn]


def test_what_was_made_ahead_is_what_would_be_made(mm1_tiny, pictures):
    cache = VisionCache()
    encode_ahead(mm1_tiny[0], [*pictures, pictures[0]], cache)
    assert cache.nbytes == 5 * ONE
    for picture in pictures:
        (alone,) = visual_tokens_of(mm1_tiny[0], [picture])
        ahead = cache.get(entry_key(picture.digest, mm1_tiny[0]), alone.shape, {alone.dtype})
        np.testing.assert_allclose(np.array(ahead), np.array(alone), atol=1e-5)


@pytest.mark.parametrize(("max_bytes", "made"), [(0, 0), (3 * ONE, 3), (3 * ONE - 1, 2)])
def test_no_more_is_made_than_the_cache_holds(mm1_tiny, pictures, max_bytes, made):
    cache = VisionCache(max_bytes)
    encode_ahead(mm1_tiny[0], pictures, cache)
    assert (cache.misses, cache.nbytes) == (made, made * ONE)


def test_a_damaged_picture_is_left_to_whoever_needs_it(mm1_tiny, pictures, picture):
    damaged = mm1_tiny[1]("x", [picture.read_bytes()[:90]]).pictures[0]
    cache = VisionCache()
    encode_ahead(mm1_tiny[0], [damaged, *pictures], cache)
    assert cache.nbytes == 0
