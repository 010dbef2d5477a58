import hashlib
import os

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

from mm1_mlx import tiny
from mm1_mlx.errors import CheckpointError
from mm1_mlx.files.identity import vision_identity
from mm1_mlx.files.tensor_files import save_tensors
from mm1_mlx.generation import stream_generate
from mm1_mlx.generation.timing import Timing
from mm1_mlx.vision.cache import VisionCache, entry_key
from mm1_mlx.vision.encode import embed

QUESTION = "What color is it?"


@pytest.fixture(scope="module")
def pictures():
    return [tiny.render(tiny.make_scene(tiny.TESTING_SEEDS + seed)) for seed in range(3)]


def get(cache, key):
    """The entry, if it is 4 tokens of 8 numbers."""
    return cache.get(key, (4, 8), {mx.float32})


def digest(tokens):
    return hashlib.sha256(bytes(memoryview(tokens))).hexdigest()


def last(pieces):
    return list(pieces)[-1]


def test_a_picture_seen_before_is_not_encoded_again(mm1_tiny, pictures):
    cache = VisionCache()
    first = last(stream_generate(*mm1_tiny, QUESTION, images=pictures[:1], vision_cache=cache, max_tokens=2))
    second = last(stream_generate(*mm1_tiny, QUESTION, images=pictures[:1], vision_cache=cache, max_tokens=2))
    assert (first.timing.encoded_views, second.timing.encoded_views) == (1, 0)
    assert (cache.hits, cache.misses) == (1, 1)


def test_cached_embeddings_equal_uncached_ones(mm1_tiny, pictures):
    model, processor = mm1_tiny
    inputs = processor("<image><image>Compare.", pictures[:2])
    cache = VisionCache()
    embed(model, processor("Look.", pictures[1:2]), vision_cache=cache)  # one of the two is known
    timing = Timing()
    found = embed(model, inputs, timing, vision_cache=cache)
    assert timing.encoded_views == 1
    # Matrix products of other sizes may add in another order.
    assert mx.allclose(found, embed(model, inputs), rtol=0, atol=1e-5)


def test_two_pictures_of_one_size_share_no_entry(mm1_tiny, pictures):
    model, processor = mm1_tiny
    digests = [processor("Look.", [picture]).digests[0] for picture in pictures]
    assert len({entry_key(digest, model) for digest in digests}) == 3


def test_one_picture_under_two_names_shares_an_entry(mm1_tiny, pictures, tmp_path):
    _, processor = mm1_tiny
    for name in ("a.png", "b.png"):
        pictures[0].save(tmp_path / name)
    digests = {processor("Look.", [tmp_path / name]).digests for name in ("a.png", "b.png")}
    assert len(digests) == 1


def test_one_changed_pixel_is_another_picture(mm1_tiny, pictures):
    _, processor = mm1_tiny
    changed = np.array(pictures[0])
    changed[60, 60, 0] ^= 1
    digests = {processor("Look.", [picture]).digests for picture in (pictures[0], Image.fromarray(changed))}
    assert len(digests) == 2


def test_other_weights_are_another_model(mm1_tiny, tiny_folder):
    import mm1_mlx

    model, _ = mm1_mlx.load(tiny_folder)
    assert vision_identity(model) == vision_identity(mm1_tiny[0])
    other, _ = mm1_mlx.load(tiny_folder)
    other.connector.readout[0].weight[3, 5] = other.connector.readout[0].weight[3, 5] + 1e-3
    assert vision_identity(other) != vision_identity(model)


def test_the_least_recently_used_goes_first_and_the_bound_holds():
    tokens = mx.zeros((4, 8))
    cache = VisionCache(max_bytes=2 * tokens.nbytes)
    cache.put("a", tokens)
    cache.put("b", tokens)
    assert get(cache, "a") is not None
    cache.put("c", tokens)
    assert cache.nbytes == 2 * tokens.nbytes
    assert get(cache, "b") is None and get(cache, "a") is not None and get(cache, "c") is not None


def test_an_entry_larger_than_the_bound_is_not_kept():
    cache = VisionCache(max_bytes=10)
    cache.put("a", mx.zeros((4, 8)))
    assert cache.nbytes == 0


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
def test_entries_on_disk_outlive_the_cache(tmp_path, dtype):
    tokens = mx.random.normal((4, 8)).astype(dtype)
    VisionCache(folder=tmp_path).put("a", tokens)
    found = VisionCache(folder=tmp_path).get("a", (4, 8), {dtype})
    assert found.dtype == dtype and mx.array_equal(found, tokens)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_damaged_entry_is_dropped_and_said(tmp_path, capsys, damage):
    cache = VisionCache(folder=tmp_path)
    cache.put("a", mx.random.normal((4, 8)))
    path = tmp_path / "a.safetensors"
    data = bytearray(path.read_bytes())
    data = data[:-5] if damage == "cut" else data[:-1] + bytes([data[-1] ^ 1])
    path.write_bytes(data)
    assert get(VisionCache(folder=tmp_path), "a") is None
    assert "a.safetensors cannot be used" in capsys.readouterr().err
    assert not path.exists()


def test_an_entry_of_another_form_is_dropped_and_said(tmp_path, capsys, subtests):
    good = mx.random.normal((4, 8))
    bad = mx.where(mx.arange(8) == 3, mx.nan, good)
    wrong = [good[:, :7], good[:3], good[0], good[0, 0], good[None], good.astype(mx.float16), bad]
    wrong += [mx.ones((4, 8), dtype) for dtype in (mx.bool_, mx.int32)]
    path = tmp_path / "a.safetensors"
    for tokens in map(mx.contiguous, wrong):
        with subtests.test(f"{tokens.shape} {tokens.dtype}"):
            save_tensors(path, {"tokens": tokens}, metadata={"sha256": digest(tokens)})
            assert get(VisionCache(folder=tmp_path), "a") is None
            assert "a.safetensors cannot be used" in capsys.readouterr().err
            assert not path.exists()
    save_tensors(path, {"tokens": good}, metadata={"sha256": digest(good)})
    assert mx.array_equal(get(VisionCache(folder=tmp_path), "a"), good)


def test_a_wrong_entry_is_made_anew(mm1_tiny, pictures, tmp_path, capsys):
    model, processor = mm1_tiny
    inputs = processor("Look.", pictures[:1])
    right = embed(model, inputs, vision_cache=VisionCache(folder=tmp_path))
    (path,) = tmp_path.iterdir()
    path.unlink()
    VisionCache(folder=tmp_path).put(path.stem, mx.zeros((16, 7)))
    assert mx.array_equal(embed(model, inputs, vision_cache=VisionCache(folder=tmp_path)), right)
    assert "(16, 7) mlx.core.float32, expected (16, " in capsys.readouterr().err
    again = VisionCache(folder=tmp_path)
    assert mx.array_equal(embed(model, inputs, vision_cache=again), right) and again.hits == 1


def test_a_pipe_among_the_entries_is_refused(tmp_path):
    os.mkfifo(tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="is no regular file"):
        get(VisionCache(folder=tmp_path), "a")


def test_a_full_disk_is_told_with_the_entry(tmp_path, small_files):
    cache = VisionCache(folder=tmp_path)
    with small_files(100), pytest.raises(OSError) as caught:
        cache.put("a", mx.zeros((4, 8)))
    assert caught.value.filename == str(tmp_path / "a.safetensors") and list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_goes(tmp_path):
    (tmp_path / ".mm1-0123456789ab.b.safetensors").touch()
    VisionCache(folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_disk_is_bounded_too(tmp_path):
    tokens = mx.zeros((64, 64))
    cache = VisionCache(max_bytes=3 * tokens.nbytes, folder=tmp_path)
    for name in "abcdef":
        cache.put(name, tokens)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 3 * tokens.nbytes
    assert (tmp_path / "f.safetensors").exists()
