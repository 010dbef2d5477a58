import hashlib
import json

import numpy as np
import pytest
from golden_weights import GOLDEN
from PIL import Image

from mm1_mlx.config import CLIP_MEAN, CLIP_STD, ImageConfig
from mm1_mlx.errors import PictureError
from mm1_mlx.inputs.picture import open_picture
from mm1_mlx.inputs.preprocess import normalize, pad_to_square
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


@pytest.mark.parametrize("key", EXPECTED.files)
def test_preprocessing_equals_the_published_pipeline(key):
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
    assert best_canvas((900, 50), 378, 9) == (3 * 378, 378)


@pytest.mark.parametrize("resize, sub_images", [("pad", "none"), ("crop", "none"), ("squash", "quadrants")])
def test_a_thread_of_a_picture_is_refused_before_its_square_fills_the_memory(resize, sub_images):
    config = ImageConfig(image_size=378, mean=HALF, std=HALF, resize=resize, sub_images=sub_images)
    with pytest.raises(PictureError, match="1 x 2000000 pixels needs a canvas"):
        views(Image.new("RGB", (1, 2_000_000)), config)
