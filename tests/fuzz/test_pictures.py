"""Damaged pictures: each opens or is refused in words, in little time and memory."""

import io
import struct
import time
import zlib
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import EXTREMES, examples, mutate
from PIL import Image

from mm1_mlx.errors import PictureError
from mm1_mlx.inputs.picture import find_picture, open_picture

MOST_PIXELS = 1_000_000
MOST_SECONDS = 5  # of the processor, for one picture

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 17, 4), np.uint8)


def encode(array, kind, mode=None, **options):
    file = io.BytesIO()
    picture = Image.fromarray(array)
    (picture if mode is None else picture.convert(mode)).save(file, kind, **options)
    return file.getvalue()


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


RGB, GREY = PIXELS[..., :3].copy(), PIXELS[..., 0].copy()
FRAMES = [Image.fromarray(255 - RGB)]
SEEDS = {
    "PNG": encode(PIXELS, "PNG", exif=turned()),
    "PNG of 16 bits": encode(GREY.astype(np.uint16) * 257, "PNG"),
    "PNG of frames": encode(RGB, "PNG", save_all=True, append_images=FRAMES),
    "JPEG": encode(RGB, "JPEG", exif=turned()),
    "JPEG in CMYK, progressive": encode(RGB, "JPEG", "CMYK", progressive=True),
    "TIFF": encode(RGB, "TIFF", exif=turned()),
    "TIFF, packed": encode(PIXELS, "TIFF", compression="tiff_adobe_deflate"),
    "TIFF of floats": encode((GREY / 255).astype(np.float32), "TIFF", compression="tiff_lzw"),
    "TIFF of pages": encode(RGB, "TIFF", save_all=True, append_images=FRAMES),
    "GIF": encode(RGB, "GIF", save_all=True, append_images=FRAMES),
    "WebP": encode(RGB, "WEBP", exif=turned()),
    "WebP of frames": encode(PIXELS, "WEBP", save_all=True, append_images=[Image.fromarray(255 - PIXELS)]),
    "BMP": encode(PIXELS, "BMP"),
    "ICO": encode(PIXELS, "ICO", sizes=[(12, 12)]),
    "PPM": encode(GREY.astype(np.uint16), "PPM"),
}


def opens_or_is_refused(data):
    """Open a picture, and check its pixels, or the words with which it is refused."""
    start = time.process_time()
    try:
        found = find_picture(data, max_pixels=MOST_PIXELS)
        picture = open_picture(data, max_pixels=MOST_PIXELS)
        assert picture.mode == "RGB" and picture.size == found.size
    except PictureError as error:
        assert len(str(error)) < 600
    assert time.process_time() - start < MOST_SECONDS


@pytest.mark.parametrize("kind", SEEDS)
def test_a_damaged_picture_opens_or_is_refused(kind):
    opens_or_is_refused(SEEDS[kind])
    rng = Random(kind)
    for number in range(examples(120)):
        data = mutate(SEEDS[kind], rng)
        try:
            opens_or_is_refused(data)
        except BaseException as error:
            error.add_note(f"example {number} of {kind}: {data.hex()}")
            raise


def chunks_of(png):
    at = 8
    while at < len(png):
        length = int.from_bytes(png[at : at + 4])
        yield png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        at += 12 + length


def png_of(chunks):
    made = b"\x89PNG\r\n\x1a\n"
    for kind, body in chunks:
        made += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return made


EXTRA = [
    *(
        (kind, body)
        for kind in (b"tRNS", b"PLTE", b"eXIf", b"iCCP", b"zTXt", b"acTL")
        for body in (b"", bytes(9))
    ),
    (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n4\nffff")),
    (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<tiff:Orientation>6"),
    (b"IHDR", struct.pack(">IIBBBBB", 70_000, 70_000, 16, 6, 0, 0, 1)),
]


@settings(max_examples=examples(60))
@given(data=st.data(), kind=st.sampled_from(["PNG", "PNG of 16 bits", "PNG of frames"]))
def test_a_png_of_sound_chunks_in_any_order_opens_or_is_refused(data, kind):
    chunks = data.draw(
        st.permutations([*chunks_of(SEEDS[kind]), *data.draw(st.lists(st.sampled_from(EXTRA), max_size=3))])
    )
    first = data.draw(st.booleans())
    chunks = sorted(chunks, key=lambda chunk: chunk[0] != b"IHDR") if first else chunks
    opens_or_is_refused(png_of(chunks))


@settings(max_examples=examples(60))
@given(data=st.data(), kind=st.sampled_from([kind for kind in SEEDS if kind.startswith("TIFF")]))
def test_a_tiff_with_a_wrong_tag_opens_or_is_refused(data, kind):
    tiff = bytearray(SEEDS[kind])
    start = int.from_bytes(tiff[4:8], "little")
    count = int.from_bytes(tiff[start : start + 2], "little")
    for _ in range(data.draw(st.integers(1, 3))):
        entry = start + 2 + 12 * data.draw(st.integers(0, count - 1))
        offset, size = data.draw(st.sampled_from([(2, 2), (4, 4), (8, 4), (8, 2)]))
        number = data.draw(st.sampled_from(EXTREMES) | st.integers(0, 64)) & (1 << 8 * size) - 1
        tiff[entry + offset : entry + offset + size] = number.to_bytes(size, "little")
    opens_or_is_refused(bytes(tiff))
