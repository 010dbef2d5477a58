import hashlib
import json

import numpy as np
import pytest
from golden_weights import GOLDEN
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mm1_mlx.config import CLIP_MEAN, CLIP_STD, ImageConfig
from mm1_mlx.errors import PictureError
from mm1_mlx.inputs.picture import open_picture
from mm1_mlx.inputs.preprocess import normalize, pad_to_square, smart_resize, smart_resize_size
from mm1_mlx.inputs.sub_images import best_canvas, views

FOLDER = GOLDEN / "preprocess"
EXPECTED = np.load(FOLDER / "expected.npz")
SHA256 = json.loads((FOLDER / "sha256.json").read_text())
HALF = (0.5, 0.5, 0.5)


def config_of(recipe):
    """The ImageConfig that a golden name such as ``clip_shortest336_crop336_u8`` stands for."""
    clip = {"mean": CLIP_MEAN, "std": CLIP_STD, "alpha": "drop"}
    half = {"mean": HALF, "std": HALF, "alpha": "drop"}
    digits = [
        int("".join(c for c in part if c.isdigit()))
        for part in recipe.split("_")
        if any(map(str.isdigit, part))
    ]
    if recipe.startswith("clip_"):
        return ImageConfig(image_size=digits[0], resize="crop", **clip)
    if recipe.startswith(("squash", "honeybee")):
        return ImageConfig(image_size=digits[0], **clip)
    if recipe.startswith("siglip"):
        return ImageConfig(image_size=digits[0], **half)
    if recipe.startswith("hcx_"):
        return ImageConfig(image_size=digits[0], sub_images="anyres", max_sub_images=digits[1], **half)
    if recipe.startswith("pad_square_5windows"):
        return ImageConfig(
            image_size=int(recipe.split("windows")[1].split("_")[0]), sub_images="quadrants", **clip
        )
    return ImageConfig(image_size=56, **clip)


def test_preprocessing_equals_the_published_pipeline(subtests):
    for key in EXPECTED.files:
        with subtests.test(msg=key):
            name, recipe = key.split("__")
            config = config_of(recipe)
            picture = open_picture(FOLDER / f"{name}.png", alpha=config.alpha)
            expected = EXPECTED[key]
            if recipe == "rgb_u8":
                squares = [picture]
            elif recipe == "pad_square_u8":
                squares = [pad_to_square(picture, config)]
            else:
                squares = views(picture, config)
            if recipe.endswith("_u8"):
                ours = np.stack([np.asarray(s) for s in squares])
                ours = ours if "views" in recipe else ours[0]
                step = 1 if ours.shape == expected.shape else 5
                np.testing.assert_array_equal(ours[..., ::step, ::step, :], expected)
                assert hashlib.sha256(ours.tobytes()).hexdigest() == SHA256[key.replace("__", "/")]
            else:
                ours = normalize(squares, config).transpose(0, 3, 1, 2)
                ours = ours if "windows" in recipe else ours[0]
                step = 1 if ours.shape == expected.shape else 5
                np.testing.assert_allclose(ours[..., ::step, ::step], expected, rtol=0, atol=1e-5)


def test_a_wide_picture_gets_a_wide_canvas():
    config = ImageConfig(image_size=378, mean=HALF, std=HALF, sub_images="anyres", max_sub_images=9)
    assert best_canvas((900, 50), config) == (3 * 378, 378)


@pytest.mark.parametrize("resize, sub_images", [("pad", "none"), ("crop", "none"), ("squash", "quadrants")])
def test_a_thread_of_a_picture_is_refused_before_its_square_fills_the_memory(resize, sub_images):
    config = ImageConfig(image_size=378, mean=HALF, std=HALF, resize=resize, sub_images=sub_images)
    with pytest.raises(PictureError, match="1 x 2000000 pixels needs a canvas"):
        views(Image.new("RGB", (1, 2_000_000)), config)


KANANA = {"multiple": 28, "min_pixels": 56 * 56, "max_pixels": 14 * 14 * 4 * 1280}

SMART_SIZES = {  # by transformers' smart_resize for Qwen2-VL; thin pictures enlarged before
    **{(640, 480): (644, 476), (480, 640): (476, 644), (500, 333): (504, 336), (70, 70): (56, 56)},
    **{(1920, 1080): (1316, 728), (4032, 3024): (1148, 840), (8000, 6000): (1148, 840)},
    **{(9000, 45): (8988, 56), (5600, 28): (5600, 28), (30, 2500): (28, 2492), (98, 28): (112, 28)},
    **{(28, 28): (56, 56), (28, 56): (56, 84), (41, 43): (56, 84), (42, 42): (56, 56)},
    **{(1001, 1002): (980, 980), (1316, 756): (1316, 756), (1330, 770): (1316, 756)},
    **{(1, 1): (56, 56), (1, 200): (28, 5600), (27, 27): (56, 56), (20, 300): (28, 420)},
    **{(600, 5): (3360, 28), (13, 29): (56, 84)},
}


def test_smart_sizes_equal_the_published_rule(subtests):
    for size, expected in SMART_SIZES.items():
        with subtests.test(msg=str(size)):
            assert smart_resize_size(*size, **KANANA) == expected


@given(st.integers(1, 200), st.integers(1, 200), st.sampled_from([784, 10_000, 10**6]))
def test_smart_sizes_are_whole_multiples_at_any_limit(width, height, max_pixels):
    size = smart_resize_size(width, height, multiple=28, min_pixels=784, max_pixels=max_pixels)
    assert all(side > 0 and side % 28 == 0 for side in size)


def test_a_smart_size_never_shrinks_a_side_to_nothing():
    assert smart_resize_size(5600, 28, multiple=28, min_pixels=784, max_pixels=3136) == (784, 28)


def test_a_picture_200_times_as_long_as_wide_is_the_limit_of_smart_sizes():
    with pytest.raises(PictureError, match="2003 x 10 pixels: one side is more than 200 times the other"):
        smart_resize_size(2003, 10, **KANANA)


@pytest.mark.parametrize("size, steps", [((90, 50), [(84, 56)]), ((13, 29), [(28, 62), (56, 84)])])
def test_smart_resize_enlarges_a_thin_picture_before_the_last_resize(size, steps):
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    picture = expected = Image.fromarray(noise)
    for step in steps:
        expected = expected.resize(step, Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(np.asarray(smart_resize(picture, **KANANA)), np.asarray(expected))
