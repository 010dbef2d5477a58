import base64
import contextlib
import hashlib
import io
import struct
import sys
import zlib
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mm1_mlx.errors import PictureError
from mm1_mlx.inputs.picture import find_picture, open_picture

# 3 x 2 blocks of 16 pixels, all different, so that every turn and mirroring shows
BLOCKS = [[(255, 0, 0), (0, 255, 0), (0, 0, 255)], [(255, 255, 0), (0, 0, 0), (255, 255, 255)]]
SCENE = np.array(BLOCKS, np.uint8).repeat(16, axis=0).repeat(16, axis=1)
RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)
ORIENTATION = 0x0112


def encode(picture, kind="PNG", **options):
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def opened(source, **options):
    picture = open_picture(source, **options)
    assert picture.mode == "RGB"
    return np.asarray(picture)


def exif_of(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def png_chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_claiming(width, height):
    """A small PNG whose header names any size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = png_chunk(b"IDAT", zlib.compress(bytes(64)))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + body + png_chunk(b"IEND", b"")


def noise(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


PNG = encode(SCENE)


# Kinds of file and of source


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "WEBP", "GIF"])
def test_a_lossless_file_opens_with_its_own_colours(tmp_path, kind):
    path = tmp_path / f"scene.{kind.lower()}"
    path.write_bytes(encode(SCENE, kind, **({"lossless": True} if kind == "WEBP" else {})))
    np.testing.assert_array_equal(opened(path), SCENE)


def test_a_jpeg_opens(tmp_path):
    path = tmp_path / "scene.jpg"
    path.write_bytes(encode(SCENE, "JPEG", quality=95, subsampling=0))
    np.testing.assert_allclose(opened(path).astype(int), SCENE, atol=8)


def test_a_file_is_known_by_its_bytes_and_not_by_its_name(tmp_path):
    path = tmp_path / "scene.jpg"
    path.write_bytes(PNG)
    np.testing.assert_array_equal(opened(path), SCENE)


def test_an_animated_gif_gives_its_first_frame():
    later = [Image.fromarray(SCENE[::-1]), Image.fromarray(SCENE[:, ::-1])]
    data = encode(SCENE, "GIF", save_all=True, append_images=later)
    np.testing.assert_array_equal(opened(data), SCENE)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_may_be_text_or_a_path(tmp_path, kind):
    path = tmp_path / "scène 1.png"
    path.write_bytes(PNG)
    np.testing.assert_array_equal(opened(kind(path)), SCENE)


def test_a_tilde_stands_for_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "scene.png").write_bytes(PNG)
    np.testing.assert_array_equal(opened("~/scene.png"), SCENE)


def test_a_file_whose_name_starts_with_a_tilde_opens(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("~$scene.png").write_bytes(PNG)
    np.testing.assert_array_equal(opened("~$scene.png"), SCENE)


def test_bytes_are_a_picture():
    np.testing.assert_array_equal(opened(PNG), SCENE)


def test_a_data_url_is_a_picture():
    url = "data:image/png;base64," + base64.b64encode(PNG).decode()
    np.testing.assert_array_equal(opened(url), SCENE)


def test_a_dash_reads_the_picture_from_stdin(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(PNG)))
    np.testing.assert_array_equal(opened("-"), SCENE)


def test_a_pil_image_is_a_picture():
    np.testing.assert_array_equal(opened(Image.fromarray(SCENE)), SCENE)


def test_a_uint8_array_is_a_picture():
    np.testing.assert_array_equal(opened(SCENE), SCENE)


# Orientation


def stored_as(upright, orientation):
    """How a camera writes ``upright``: EXIF names the sides where its first row and first column belong."""
    turned = upright.swapaxes(0, 1)
    return {
        1: upright,  # top, left
        2: upright[:, ::-1],  # top, right
        3: upright[::-1, ::-1],  # bottom, right
        4: upright[::-1],  # bottom, left
        5: turned,  # left, top
        6: turned[::-1],  # right, top
        7: turned[::-1, ::-1],  # right, bottom
        8: turned[:, ::-1],  # left, bottom
    }[orientation]


def test_every_exif_orientation_comes_out_upright(subtests):
    for kind, orientation in product(["JPEG", "PNG", "TIFF", "WEBP"], range(1, 9)):
        with subtests.test(msg=f"{kind}, orientation {orientation}"):
            options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
            stored = np.ascontiguousarray(stored_as(SCENE, orientation))
            data = encode(stored, kind, exif=exif_of(orientation), **options)
            np.testing.assert_allclose(opened(data).astype(int), SCENE, atol=8 if kind == "JPEG" else 0)


def test_a_pil_image_comes_out_upright():
    data = encode(np.ascontiguousarray(stored_as(SCENE, 6)), exif=exif_of(6))
    np.testing.assert_array_equal(opened(Image.open(io.BytesIO(data))), SCENE)


def test_an_exif_tag_of_a_wrong_type_does_not_spoil_the_picture():
    exif = exif_of(6)
    exif[0x010E] = "desc"
    data = encode(np.ascontiguousarray(stored_as(SCENE, 6)), "JPEG", exif=exif)
    data = data.replace(b"\x01\x0e\x00\x02", b"\x02\x0e\x00\x02")  # text under a tag that holds integers
    assert opened(data).shape == SCENE.shape


# Transparency


def palette_picture():
    """Three pixels: red, green, blue."""
    picture = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "L").convert("P")
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    picture.putdata([0, 1, 2])
    return picture


RGBA = np.array([[(255, 0, 0, 0), (0, 0, 0, 51), (0, 0, 255, 255)]], np.uint8)
GREY_ALPHA = np.array([[(0, 0), (0, 51), (10, 255)]], np.uint8)
TRANSPARENT = {
    "RGBA": (encode(RGBA), [WHITE, (204, 204, 204), BLUE]),
    "RGBA WebP": (encode(RGBA, "WEBP", lossless=True, exact=True), [WHITE, (204, 204, 204), BLUE]),
    "grey and alpha": (encode(GREY_ALPHA), [WHITE, (204, 204, 204), (10, 10, 10)]),
    "palette, one colour": (encode(palette_picture(), transparency=1), [RED, WHITE, BLUE]),
    "palette, alpha of each": (
        encode(palette_picture(), transparency=bytes([0, 255, 51])),
        [WHITE, (0, 255, 0), (204, 204, 255)],
    ),
    "GIF": (encode(palette_picture(), "GIF", transparency=1), [RED, WHITE, BLUE]),
    "RGB, one colour": (
        encode(np.array([[RED, (0, 255, 0), BLUE]], np.uint8), transparency=(0, 255, 0)),
        [RED, WHITE, BLUE],
    ),
    "grey, one shade": (
        encode(np.array([[0, 7, 200]], np.uint8), transparency=7),
        [(0, 0, 0), WHITE, (200, 200, 200)],
    ),
    "1 bit, one shade": (
        encode(Image.fromarray(np.array([[0, 255, 0]], np.uint8)).convert("1"), transparency=0),
        [WHITE, WHITE, WHITE],
    ),
}


@pytest.mark.parametrize("name", TRANSPARENT)
def test_transparent_pixels_are_laid_over_white(name):
    data, expected = TRANSPARENT[name]
    np.testing.assert_array_equal(opened(data), [expected])


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")  # of Pillow's convert
@pytest.mark.parametrize("name", TRANSPARENT)
def test_dropped_alpha_shows_the_colours_that_pillow_shows(name):
    data, _ = TRANSPARENT[name]
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(opened(data, alpha="drop"), expected)


def test_a_transparent_pil_image_is_laid_over_white():
    np.testing.assert_array_equal(opened(Image.fromarray(RGBA))[0, 0], WHITE)


# Other kinds of pixels


def test_grey_becomes_equal_red_green_and_blue():
    grey = np.array([[0, 1, 128, 255]], np.uint8)
    np.testing.assert_array_equal(opened(encode(grey)), np.stack([grey] * 3, axis=-1))


def test_a_palette_becomes_its_colours():
    np.testing.assert_array_equal(opened(encode(palette_picture())), [[RED, (0, 255, 0), BLUE]])


def test_one_bit_becomes_black_and_white():
    picture = Image.fromarray(np.array([[0, 255, 255, 0]], np.uint8)).convert("1")
    np.testing.assert_array_equal(opened(encode(picture))[0, :, 0], [0, 255, 255, 0])


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_16_bit_grey_keeps_its_range(kind, byte_order):
    values = np.array([[0, 257, 32768, 65535]], np.uint16)
    data = encode(values.astype(f"{byte_order}u2"), kind)
    np.testing.assert_array_equal(opened(data)[0], [[v] * 3 for v in (0, 1, 128, 255)])


def test_16_bit_grey_in_32_bit_integers_keeps_its_range():
    data = encode(np.array([[0, 257, 32768, 65535]], np.int32), "TIFF")
    np.testing.assert_array_equal(opened(data)[0, :, 0], [0, 1, 128, 255])


def test_float_grey_from_0_to_1_keeps_its_range():
    data = encode(np.array([[0, 0.2, 1]], np.float32), "TIFF")
    np.testing.assert_array_equal(opened(data)[0, :, 0], [0, 51, 255])


def test_cmyk_ink_becomes_light():
    ink = np.array([[(0, 255, 255, 0), (255, 255, 0, 0), (0, 0, 0, 0), (0, 0, 0, 255)]], np.uint8)
    data = encode(Image.fromarray(ink, "CMYK"), "TIFF")
    np.testing.assert_array_equal(opened(data), [[RED, BLUE, WHITE, (0, 0, 0)]])


def test_a_cmyk_jpeg_is_not_inverted():
    data = encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    np.testing.assert_allclose(opened(data).astype(int), np.full((16, 16, 3), RED), atol=8)


# HEIC


def test_heic_without_its_reader_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    path = tmp_path / "IMG_0001.HEIC"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    with pytest.raises(PictureError, match=r"IMG_0001.HEIC is a HEIC picture; run: pip install pillow-heif"):
        open_picture(path)


def heic(array, **options):
    pillow_heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(array)).save(file, format="HEIF", quality=95, **options)
    return file.getvalue()


def test_heic_opens():
    np.testing.assert_allclose(opened(heic(SCENE))[8::16, 8::16].astype(int), BLOCKS, atol=16)


def test_heic_comes_out_upright():
    data = heic(np.ascontiguousarray(stored_as(SCENE, 6)), exif=exif_of(6).tobytes())
    np.testing.assert_allclose(opened(data)[8::16, 8::16].astype(int), BLOCKS, atol=16)


def test_heic_cut_short_is_refused():
    data = heic(SCENE)
    with pytest.raises(PictureError):
        open_picture(data[: len(data) * 2 // 3])


# What is refused


def test_a_missing_file_is_named(tmp_path):
    path = tmp_path / "cat.png"
    with pytest.raises(PictureError) as error:
        open_picture(path)
    assert str(error.value) == f"there is no picture at {path}."


def test_a_folder_is_named(tmp_path):
    with pytest.raises(PictureError) as error:
        open_picture(tmp_path)
    assert str(error.value) == f"{tmp_path} is a folder; give a picture file."


def test_a_path_that_no_file_can_have_is_refused():
    with pytest.raises(PictureError, match="cannot be read"):
        open_picture("cat\0.png")


def test_an_empty_file_is_named(tmp_path):
    path = tmp_path / "cat.png"
    path.touch()
    with pytest.raises(PictureError) as error:
        open_picture(path)
    assert str(error.value) == f"{path} is empty (0 bytes); give a picture file."


def test_empty_stdin_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    with pytest.raises(PictureError, match="the picture on stdin is empty"):
        open_picture("-")


def test_text_named_png_is_refused_with_its_first_words(tmp_path):
    path = tmp_path / "cat.png"
    path.write_text("Dear cat,\nhow are you?")
    with pytest.raises(PictureError) as error:
        open_picture(path)
    assert str(error.value) == (
        f"{path} is not a picture of a known kind (it starts with 'Dear cat, ho'); "
        "give PNG, JPEG, WebP, GIF, TIFF, BMP or HEIC."
    )


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_a_file_cut_in_half_is_damaged(tmp_path, kind):
    path = tmp_path / "cat"
    data = encode(noise(0, 60, 40, 3), kind)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(PictureError, match=r"cat is (damaged or cut short|not a picture of a known kind)"):
        open_picture(path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_the_message_about_a_damaged_file_says_what_to_do(tmp_path, kind):
    path = tmp_path / "cat"
    data = encode(noise(0, 60, 40, 3), kind)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(PictureError) as error:
        open_picture(path)
    assert str(error.value).startswith(f"{path} is damaged or cut short (")
    assert str(error.value).endswith("); export or download it again.")


@pytest.mark.parametrize("kind", ["DDS", "EPS", "TGA"])
def test_kinds_that_nobody_asks_about_are_left_to_no_decoder(kind):
    with pytest.raises(PictureError, match="not a picture of a known kind"):
        open_picture(encode(SCENE, kind))


def test_a_pil_image_of_a_damaged_file_is_refused():
    data = encode(noise(0, 60, 40, 3))
    with pytest.raises(PictureError, match="damaged or cut short"):
        open_picture(Image.open(io.BytesIO(data[: len(data) // 2])))


def test_a_picture_over_the_limit_is_refused_with_the_numbers_and_the_flag(tmp_path):
    path = tmp_path / "cat.png"
    path.write_bytes(encode(np.zeros((40, 50, 3), np.uint8)))
    with pytest.raises(PictureError) as error:
        open_picture(path, max_pixels=1999)
    assert str(error.value) == (
        f"{path} has 50 x 40 = 2,000 pixels, more than the limit of 1,999; "
        "shrink it, or raise `max_pixels` if you trust it."
    )


def test_a_picture_at_the_limit_opens():
    assert opened(PNG, max_pixels=48 * 32).shape == SCENE.shape


def test_a_small_file_claiming_a_huge_size_is_refused_before_it_is_decoded():
    with pytest.raises(PictureError, match=r"60000 x 50000 = 3,000,000,000 pixels.*limit of 150,000,000"):
        open_picture(png_claiming(60_000, 50_000))


def test_the_limit_holds_for_a_pil_image():
    with pytest.raises(PictureError, match=r"48 x 32 = 1,536 pixels.*limit of 1,535"):
        open_picture(Image.open(io.BytesIO(PNG)), max_pixels=1535)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_web_address_is_refused(scheme):
    with pytest.raises(PictureError) as error:
        open_picture(f"{scheme}://example.org/cat.png")
    assert str(error.value) == (
        f"{scheme}://example.org/cat.png is a web address; download the picture and give its path."
    )


@pytest.mark.parametrize("url", ["data:image/png,abc", "data:image/png;base64", "data:,"])
def test_a_data_url_without_base64_is_refused(url):
    with pytest.raises(PictureError, match="must look like data:image/png;base64,…"):
        open_picture(url)


@pytest.mark.parametrize("body", ["@@@@", "abc", "…"])
def test_a_data_url_with_wrong_base64_is_refused(body):
    with pytest.raises(PictureError, match="the data: URL is not valid base64"):
        open_picture("data:image/png;base64," + body)


def test_an_empty_data_url_is_refused():
    with pytest.raises(PictureError, match=r"the data: URL is empty \(0 bytes\)"):
        open_picture("data:image/png;base64,")


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)]
)
def test_an_array_that_is_not_uint8_rgb_is_refused_with_its_type_and_shape(array):
    with pytest.raises(PictureError) as error:
        open_picture(array)
    assert str(error.value) == f"the array is {array.dtype} {array.shape}, expected uint8 (H, W, 3)."


def test_an_array_without_pixels_is_refused():
    with pytest.raises(PictureError, match="3 x 0 pixels"):
        open_picture(np.zeros((0, 3, 3), np.uint8))


# Pillow's own limit, and whatever else a file may hold


def test_pillows_own_limit_does_not_count_and_stays_as_it_was(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert opened(PNG).shape == SCENE.shape
    assert Image.MAX_IMAGE_PIXELS == 10


def test_pillows_own_limit_stays_as_it_was_after_a_refusal(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    for data in (b"no picture", PNG[:100], png_claiming(60_000, 50_000)):
        with pytest.raises(PictureError):
            open_picture(data)
        assert Image.MAX_IMAGE_PIXELS == 10


def opens_or_is_refused(data):
    with contextlib.suppress(PictureError):
        assert open_picture(data, max_pixels=1_000_000).mode == "RGB"


@settings(max_examples=200)
@given(cut=st.integers(0, len(PNG)), tail=st.binary(max_size=40))
def test_a_png_cut_and_continued_with_anything_opens_or_is_refused(cut, tail):
    opens_or_is_refused(PNG[:cut] + tail)


@settings(max_examples=200)
@given(tail=st.binary(max_size=400))
def test_a_png_with_anything_after_its_end_opens(tail):
    np.testing.assert_array_equal(opened(PNG + tail), SCENE)


SMALL = {kind: encode(noise(1, 6, 9, 3), kind, exif=exif_of(6)) for kind in ("JPEG", "TIFF", "WEBP")}


@pytest.mark.parametrize("kind", SMALL)
@settings(max_examples=100)
@given(data=st.data())
def test_a_file_with_wrong_bytes_opens_or_is_refused(kind, data):
    wrong = bytearray(SMALL[kind])
    places = st.dictionaries(st.integers(0, len(wrong) - 1), st.integers(0, 255), min_size=1, max_size=4)
    for place, value in data.draw(places).items():
        wrong[place] = value
    opens_or_is_refused(bytes(wrong))


# Measured without decoding


def png_with(*chunks):
    """The scene with chunks behind its pixels, as some programs write EXIF."""
    end = PNG.index(b"IEND") - 4
    return PNG[:end] + b"".join(png_chunk(kind, body) for kind, body in chunks) + PNG[end:]


def test_the_upright_size_is_known_from_the_header(subtests):
    for kind, orientation in product(["JPEG", "PNG", "WEBP", "TIFF"], [None, *range(1, 9)]):
        with subtests.test(msg=f"{kind}, orientation {orientation}"):
            options = {} if orientation is None else {"exif": exif_of(orientation)}
            data = encode(SCENE, kind, **options)
            assert find_picture(data).size == open_picture(data).size


def test_an_orientation_behind_the_pixels_of_a_png_counts():
    data = png_with((b"eXIf", exif_of(6).tobytes().removeprefix(b"Exif\x00\x00")))
    assert find_picture(data).size == open_picture(data).size == (32, 48)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_picture_is_measured_where_its_pixels_are_missing(kind):
    data = encode(noise(0, 200, 300, 3), kind)
    found = find_picture(data[: len(data) // 2])
    assert found.size == (300, 200)
    with pytest.raises(PictureError, match="damaged or cut short"):
        found.decode()


def test_the_hash_is_of_the_whole_file(tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "b.png").write_bytes(PNG)
    (tmp_path / "c.png").write_bytes(PNG + b"\0")
    first, second, other = (find_picture(tmp_path / name).sha256 for name in ("a.png", "b.png", "c.png"))
    assert first == second == hashlib.sha256(PNG).hexdigest() != other


def test_arrays_of_one_content_and_another_shape_differ():
    flat = np.zeros((2, 8, 3), np.uint8)
    assert find_picture(flat).sha256 != find_picture(flat.reshape(4, 4, 3)).sha256


def test_what_was_found_is_found_again():
    found = find_picture(PNG)
    assert find_picture(found) is found
    np.testing.assert_array_equal(opened(found), SCENE)
