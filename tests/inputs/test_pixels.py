"""Pixels of every depth, against an independent reader."""

import io
import itertools
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image
from test_picture import WHITE, encode, opened, png_chunk, png_with

from mm1_mlx.errors import PictureError
from mm1_mlx.inputs.picture import find_picture, open_picture

tifffile = pytest.importorskip("tifffile")
PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 4), np.uint8)
PIXELS[0, :2] = [0, 255, 0, 255], [255, 0, 255, 0]
GREY, RGB = PIXELS[..., 0], PIXELS[..., :3]
GREY_RGB = np.stack([GREY] * 3, axis=-1)
DEEP = PIXELS.astype(np.uint16) * 257
ALPHA = PIXELS[..., 3:] / 255
OVER_WHITE = np.rint(RGB * ALPHA + 255 * (1 - ALPHA))
BLACK_IS_0, WHITE_IS_0 = {"photometric": "minisblack"}, {"photometric": "miniswhite"}
IN_RGB = {"photometric": "rgb"}
IN_PLANES = {"photometric": "rgb", "planarconfig": "separate"}
WITH_ALPHA = {"photometric": "rgb", "extrasamples": ["unassalpha"]}


def planes(array):
    return np.moveaxis(array, -1, 0)


TIFFS = {  # values, how they are written, and the right pixels
    "8 bits": (GREY, BLACK_IS_0, GREY_RGB),
    "8 bits, 0 is white": (255 - GREY, WHITE_IS_0, GREY_RGB),
    "8 bits, signed": ((GREY // 2).astype(np.int8), BLACK_IS_0, GREY_RGB // 2 * 2.008),
    "16 bits": (DEEP[..., 0], BLACK_IS_0, GREY_RGB),
    "16 bits, signed": (GREY.astype(np.int16) * 128, BLACK_IS_0, GREY_RGB),
    "32 bits": (DEEP[..., 0].astype(np.int32) * 32768, BLACK_IS_0, GREY_RGB),
    "32 bits that hold 16": (DEEP[..., 0].astype(np.int32), BLACK_IS_0, GREY_RGB),
    "32 bits that hold 8": (GREY.astype(np.int32), BLACK_IS_0, GREY_RGB),
    "32 bits that hold 18": (GREY.astype(np.int32) * 1000, BLACK_IS_0, GREY_RGB),
    "float to 1": ((GREY / 255).astype(np.float32), BLACK_IS_0, GREY_RGB),
    "float to 1, 0 is white": ((1 - GREY / 255).astype(np.float32), WHITE_IS_0, GREY_RGB),
    "float to 255": (GREY.astype(np.float32), BLACK_IS_0, GREY_RGB),
    "float to 65535": (DEEP[..., 0].astype(np.float32), BLACK_IS_0, GREY_RGB),
    "RGB": (RGB, IN_RGB, RGB),
    "RGB in planes": (planes(RGB), IN_PLANES, RGB),
    "RGB of 16 bits": (DEEP[..., :3], IN_RGB, RGB),
    "RGB of 16 bits in planes": (planes(DEEP[..., :3]), IN_PLANES, RGB),
    "RGBA": (PIXELS, WITH_ALPHA, OVER_WHITE),
    "RGBA in planes": (planes(PIXELS), IN_PLANES | WITH_ALPHA, OVER_WHITE),
    "RGBA of 16 bits": (DEEP, WITH_ALPHA, OVER_WHITE),
}


def tiff(array, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, array, metadata=None, **options)
    return file.getvalue()


def test_tiffs_of_every_depth_have_the_right_pixels(subtests):
    ways = [(order, packed) for order in "<>" for packed in (None, "zlib")]
    for (name, (values, options, expected)), (order, packed) in itertools.product(TIFFS.items(), ways):
        with subtests.test(msg=f"{name}, byte order {order}, {packed}"):
            data = tiff(values, byteorder=order, compression=packed, tile=(16, 16), **options)
            np.testing.assert_array_equal(tifffile.imread(io.BytesIO(data)).squeeze(), values)
            np.testing.assert_allclose(opened(data).astype(int), expected, atol=1)


def test_0_is_white_in_16_bits():
    data = tiff(65535 - DEEP[..., 0], byteorder="<", **WHITE_IS_0)
    np.testing.assert_array_equal(opened(data), GREY_RGB)


def test_12_bits_of_a_tiff_reach_white():
    data = tiff(np.zeros((1, 4), np.uint16), byteorder="<", **BLACK_IS_0)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        offset, bits = file.pages[0].dataoffsets[0], file.pages[0].tags["BitsPerSample"].valueoffset
    packed = bytearray(data)
    packed[bits : bits + 2] = struct.pack("<H", 12)
    packed[offset : offset + 6] = bytes.fromhex("000800FFF010")
    np.testing.assert_array_equal(opened(bytes(packed))[0, :, 0], [0, 128, 255, 1])


@pytest.mark.parametrize("values", [[np.nan], [np.inf, -np.inf], [1.02], [-0.5], [300.0], [-3.4e38]])
def test_a_few_floats_out_of_range_leave_the_others_as_they_are(values):
    floats = (GREY / 255).astype(np.float32)
    floats[10, : len(values)] = values
    expected = GREY_RGB.copy()
    expected[10, : len(values)] = [[255 * (value > 0)] * 3 for value in values]
    np.testing.assert_allclose(opened(tiff(floats, **BLACK_IS_0)).astype(int), expected, atol=1)


def test_floats_with_highlights_are_not_black():
    floats = (GREY / 255).astype(np.float32)
    floats[:5] *= 40
    np.testing.assert_allclose(opened(tiff(floats, **BLACK_IS_0))[5:].astype(int), GREY_RGB[5:], atol=1)


def test_a_picture_without_a_number_is_black():
    assert not opened(tiff(np.full((3, 4), np.nan, np.float32), **BLACK_IS_0)).any()


def test_a_dark_picture_of_16_bits_stays_dark():
    dark = np.full((2, 3), 200, np.uint16)
    for data in (encode(dark), encode(dark, "PPM"), tiff(dark, **BLACK_IS_0)):
        assert opened(data).max() == 1


NOT_READ = {
    "3 x 32 bits (RGB, floating point)": (RGB.astype(np.float32), IN_RGB),
    "1 x 64 bits (grey, floating point)": (GREY.astype(np.float64), BLACK_IS_0),
    "2 x 16 bits (grey, whole numbers)": (
        DEEP[..., :2],
        {"photometric": "minisblack", "extrasamples": ["unassalpha"], "planarconfig": "contig"},
    ),
    "1 x 16 bits (grey, 0 is white, whole numbers)": (DEEP[..., 0], WHITE_IS_0 | {"byteorder": ">"}),
    "3 x 8 bits (RGB, signed numbers)": (RGB.astype(np.int8), IN_RGB),
    "4 x 16 bits (RGB, whole numbers, in planes)": (planes(DEEP), IN_PLANES | WITH_ALPHA),
}


def test_a_tiff_that_is_not_read_is_refused_by_its_kind(subtests):
    for kind, (values, options) in NOT_READ.items():
        with subtests.test(msg=kind):
            for packed in (None, "zlib"):
                with pytest.raises(PictureError) as error:
                    find_picture(tiff(values, compression=packed, **options))
                assert str(error.value) == (
                    f"the picture is a TIFF of {kind}, which is not read; "
                    "save it as PNG, JPEG or TIFF of 8 or 16 bits a sample."
                )


def png(array, colours, depth, *chunks):
    """A PNG of rows that are packed already."""
    rows = b"".join(b"\0" + row.tobytes() for row in array)
    header = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], depth, colours, 0, 0, 0)
    made = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in made)


def test_a_transparent_colour_of_16_bits_is_white_and_its_neighbours_are_not():
    key, near = (0x1234, 0x5678, 0x9ABC), (0x1234, 0x5678, 0x9ABD)
    values = np.array([[key, near]], ">u2")
    data = png(values, 2, 16, (b"tRNS", struct.pack(">3H", *key)))
    np.testing.assert_array_equal(opened(data), [[WHITE, (0x12, 0x56, 0x9A)]])
    np.testing.assert_array_equal(opened(data, alpha="drop"), [[(0x12, 0x56, 0x9A)] * 2])
    small = png(np.array([[(1, 2, 3), (300, 2, 3)]], ">u2"), 2, 16, (b"tRNS", struct.pack(">3H", 1, 2, 3)))
    np.testing.assert_array_equal(opened(small), [[WHITE, (1, 0, 0)]])


def test_a_transparent_shade_of_16_bits_is_white_and_its_neighbour_is_not():
    data = png(np.array([[1000, 1001]], ">u2"), 0, 16, (b"tRNS", struct.pack(">H", 1000)))
    np.testing.assert_array_equal(opened(data)[0, :, 0], [255, 4])
    np.testing.assert_array_equal(opened(Image.open(io.BytesIO(data)))[0, :, 0], [255, 4])


def test_a_transparent_shade_of_few_bits_is_white():
    for depth, scale in ((2, 85), (4, 17)):
        count = 8 // depth
        shades = sum(shade << 8 - depth * (shade + 1) for shade in range(count))
        data = png(np.array([[shades]], np.uint8), 0, depth, (b"tRNS", b"\0\1"))
        data = data.replace(struct.pack(">II", 1, 1), struct.pack(">II", count, 1), 1)
        header = data.index(b"IHDR")
        data = (
            data[: header + 17]
            + struct.pack(">I", zlib.crc32(data[header : header + 17]))
            + data[header + 21 :]
        )
        expected = [255 if shade == 1 else shade * scale for shade in range(count)]
        np.testing.assert_array_equal(opened(data)[0, :, 0], expected)


def test_an_alpha_of_zeros_alone_counts_in_a_png_and_not_in_a_bmp():
    pixels = np.dstack([RGB, np.zeros((20, 30), np.uint8)])
    np.testing.assert_array_equal(opened(encode(pixels, "BMP")), RGB)
    assert (opened(encode(pixels)) == 255).all()


def test_large_or_damaged_extras_of_a_png_leave_its_pixels_alone(subtests):
    large = zlib.compress(bytes(3 << 20))
    wrong_checksum = png_chunk(b"tEXt", b"Comment\0cat")[:-1] + b"?"
    extras = {
        "colour profile": png_with((b"iCCP", b"profile\0\0" + large)),
        "packed text": png_with((b"zTXt", b"Comment\0\0" + large)),
        "packed XMP": png_with((b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + large)),
        "packed EXIF": png_with((b"zTXt", b"Raw profile type exif\0\0" + large)),
        "EXIF": png_with((b"eXIf", b"garbage-not-tiff")),
        "EXIF cut short": png_with((b"eXIf", b"II*\0\x08\0")),
        "hexadecimal EXIF": png_with((b"tEXt", b"Raw profile type exif\0\nexif\n  9\nno hexadecimal")),
    }
    scene = opened(png_with())
    for name, data in extras.items():
        with subtests.test(msg=name):
            moved = data.index(b"IDAT") - 4
            start, end = data.index(b"IEND") - 4, len(png_with()) - 12
            extra = data[end:start]
            before = data[:moved] + extra + data[moved:end] + data[start:]
            for variant in (data, before):
                np.testing.assert_array_equal(opened(variant), scene)
    at = png_with().index(b"IDAT") - 4
    with subtests.test(msg="checksum"):
        np.testing.assert_array_equal(opened(png_with()[:at] + wrong_checksum + png_with()[at:]), scene)


def test_other_files_are_refused_by_what_they_are(subtests):
    files = {
        b"%PDF-1.7": "a PDF",
        b"8BPS\0\1": "a Photoshop document",
        b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>': "an SVG drawing",
        b"<!DOCTYPE html><html>": "a web page",
        b"\0\0\0\x18ftypisom\0\0\0\0mp41": "a video",
        b"\xff\x0a\0\0": "a JPEG XL picture",
    }
    for data, kind in files.items():
        with (
            subtests.test(msg=kind),
            pytest.raises(PictureError, match=f"^the picture is {kind}, which is not read; "),
        ):
            open_picture(data)


def test_a_file_of_a_brand_that_avif_and_heic_share_is_opened_as_avif():
    Image.init()
    if "AVIF" not in Image.SAVE:
        pytest.skip("this Pillow has no AVIF")
    data = encode(Image.new("RGB", (64, 64), (0, 128, 0)), "AVIF")
    assert data[8:12] == b"avif" and b"avif" in data[16:32]
    data = data[:8] + b"mif1" + data[12:]
    np.testing.assert_allclose(opened(data)[0, 0].astype(int), [0, 128, 0], atol=4)


@pytest.mark.slow
def test_decoding_takes_less_than_12_bytes_a_pixel(tmp_path):
    side = 3000
    grey = np.zeros((side, side), np.uint16)
    grey[::7] = 40000
    row = b"\0" + bytes(6 * side)
    header = struct.pack(">IIBBBBB", side, side, 16, 2, 0, 0, 0)
    key = [(b"IHDR", header), (b"tRNS", bytes(6)), (b"IDAT", zlib.compress(row * side, 1)), (b"IEND", b"")]
    files = {
        "16 bits": encode(grey, compress_level=1),
        "floats": tiff((grey / 65535).astype(np.float32), **BLACK_IS_0),
        "RGBA": encode(np.zeros((side, side, 4), np.uint8), compress_level=1),
        "WebP": encode(np.zeros((side, side, 3), np.uint8), "WEBP", method=0),
        "WebP with alpha": encode(np.zeros((side, side, 4), np.uint8), "WEBP", method=0),
        "AVIF with alpha": encode(np.zeros((side, side, 4), np.uint8), "AVIF", speed=10),
        "RGB of 16 bits with a key": b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in key),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        code = (
            "import resource, sys; from mm1_mlx.inputs.picture import open_picture\n"
            "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "before = peak(); open_picture(sys.argv[1]); print(peak() - before)"
        )
        command = [sys.executable, "-c", code, str(tmp_path / name)]
        used = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        used *= 1 if sys.platform == "darwin" else 1024
        assert used < 12 * side**2 + 30_000_000, name


def test_a_jpeg_2000_that_would_take_more_memory_than_any_other_picture_is_refused():
    data = encode(RGB, "JPEG2000")
    assert find_picture(data, max_pixels=1250).size == (30, 20)
    with pytest.raises(PictureError, match=r"JPEG 2000 takes up to 25 bytes .* its limit is 599"):
        find_picture(data, max_pixels=1249)
