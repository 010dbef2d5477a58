"""Take out of a PNG what is not needed to show it, so that no damage or size of it spoils the picture.

A PNG is a signature, then chunks: length, kind, body and checksum. Pillow refuses a picture for the sake of a large
colour profile, of a broken EXIF entry or of a wrong checksum anywhere.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image, ImageFile

SIGNATURE = b"\x89PNG\r\n\x1a\n"
ORIENTATION_KEYS = (
    b"Raw profile type exif\0",
    b"Raw profile type APP1\0",
    b"XML:com.adobe.xmp\0",
)  # of texts
LONGEST_TEXT = 1 << 20  # bytes, unpacked, that Pillow reads
TIFF_STARTS = (b"II*\0", b"MM\0*")  # EXIF is a TIFF


@dataclass(frozen=True)
class Chunk:
    kind: bytes
    whole: memoryview  # with length and checksum, as in the file

    @property
    def body(self) -> bytes:
        return bytes(self.whole[8:-4])

    @property
    def sound(self) -> bool:
        """Whether the checksum fits."""
        return zlib.crc32(self.whole[4:-4]) == int.from_bytes(self.whole[-4:])


@dataclass(frozen=True)
class Tidied:
    """A PNG without what is not needed to show it."""

    data: bytes
    has_orientation: bool  # perhaps: there is EXIF or XMP
    num_frames: int
    of_iphone: bool  # in Apple's own variant, which other programs cannot read


def tidy_png(data: bytes) -> Tidied:
    """Return a PNG with the chunks that its pixels and its orientation need, the latter before the pixels.

    A chunk that can be spared counts only if its checksum fits, as in libpng; what follows the end is dropped.
    """
    before, pixels, orientation = [], [], []
    num_frames, of_iphone, end = 1, False, len(SIGNATURE)
    for chunk in _chunks(data):
        end += len(chunk.whole)
        if chunk.kind == b"acTL" and chunk.sound and len(chunk.body) == 8:
            num_frames = int.from_bytes(chunk.body[:4])
        elif chunk.kind == b"CgBI":
            of_iphone = True
        elif chunk.kind in (b"IDAT", b"IEND"):
            pixels.append(chunk.whole)
        elif chunk.kind[:1].isupper() or (chunk.kind == b"tRNS" and chunk.sound):
            (pixels if pixels else before).append(chunk.whole)
        elif chunk.sound and _tells_orientation(chunk):
            orientation.append(chunk.whole)
        if chunk.kind == b"IEND":
            end = len(data)
    rest = data[end:]  # a chunk cut short: Pillow decides whether enough pixels are there
    tidied = SIGNATURE + b"".join([*before, *orientation, *pixels]) + rest
    return Tidied(tidied, bool(orientation), num_frames, of_iphone)


def _chunks(data: bytes) -> Iterator[Chunk]:
    """Yield the whole chunks up to the end of the picture."""
    view, at, kind = memoryview(data), len(SIGNATURE), b""
    while at + 12 <= len(data) and kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data) or not kind.isalpha():
            return
        yield Chunk(kind, view[at:end])
        at = end


def _tells_orientation(chunk: Chunk) -> bool:
    """Tell whether a chunk holds EXIF or XMP that Pillow reads."""
    if chunk.kind == b"eXIf":
        return chunk.body.removeprefix(b"Exif\0\0").startswith(TIFF_STARTS)
    if chunk.kind not in (b"tEXt", b"zTXt", b"iTXt") or not chunk.body.startswith(ORIENTATION_KEYS):
        return False
    _, _, text = chunk.body.partition(b"\0")
    if chunk.kind == b"iTXt":  # packed or not, how, language, translated key
        packed, text = text[:1] == b"\1", text[2:].split(b"\0", 2)[-1]
    else:
        packed, text = chunk.kind == b"zTXt", text[chunk.kind == b"zTXt" :]
    if not packed:
        return len(text) <= LONGEST_TEXT
    unpacking = zlib.decompressobj()
    try:
        unpacking.decompress(text, LONGEST_TEXT)
    except zlib.error:
        return False
    return not unpacking.unconsumed_tail


def low_bytes(data: bytes) -> Image.Image:
    """Return the second byte of each sample of a PNG with 16 bits in red, green and blue; Pillow keeps the first."""
    picture = Image.open(io.BytesIO(data), formats=["PNG"])
    assert isinstance(picture, ImageFile.ImageFile)
    picture.tile = [
        tile._replace(args="RGB;16L") for tile in picture.tile
    ]  # as if stored the other way round
    picture.load()
    return picture
