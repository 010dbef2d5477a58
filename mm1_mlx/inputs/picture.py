"""Open pictures safely, in all formats common on a Mac: with orientation, alpha, palettes, 16 bits, CMYK or HEIC."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import struct
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from mm1_mlx.errors import PictureError, printable
from mm1_mlx.image_config import Alpha
from mm1_mlx.inputs.file_kinds import Opened, open_file, say_why
from mm1_mlx.inputs.pixels import to_8_bits
from mm1_mlx.inputs.png import SIGNATURE, low_bytes
from mm1_mlx.inputs.sources import Fetch, read_source, refuse_to_fetch
from mm1_mlx.settings import MAX_PICTURE_PIXELS, MAX_PICTURE_SIDE
from mm1_mlx.strict import shown

TURNS: dict[Any, Image.Transpose] = {  # by EXIF orientation; 1 is upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ON_ITS_SIDE = (5, 6, 7, 8)
BYTES_OF_A_PIXEL, BYTES_OF_JPEG_2000 = (
    12,
    25,
)  # at most, while a picture is decoded; OpenJPEG takes four a sample, twice
ICO = b"\0\0\1\0"
LOG = logging.getLogger("mm1_mlx")  # prints to stderr, unless an application sets it up otherwise


@dataclass(frozen=True)
class Picture:
    """A picture that was found and measured but not decoded, because its file is much smaller than its pixels."""

    content: bytes | Image.Image  # a file's bytes, or upright RGB pixels that were open already
    name: str  # what messages call it
    size: tuple[int, int]  # width and height in pixels, upright
    sha256: str  # digest of the whole file, or of the pixels

    def decode(self, *, alpha: Alpha = "white") -> Image.Image:
        """Return upright RGB pixels; arguments and errors are those of ``open_picture``."""
        if isinstance(self.content, Image.Image):
            return self.content
        with _explain_errors(self.name):
            opened = open_file(self.content, self.name)
            low = low_bytes(opened.data) if alpha == "white" and _has_deep_key(opened) else None
            turn = TURNS.get(_orientation(opened.picture) if opened.has_orientation else None)
            opened.decode()
            picture = to_8_bits(opened.picture, alpha, low=low)
            del opened, low  # they take more memory than the result
            return _finish(picture, turn)


Source = str | os.PathLike[str] | bytes | Image.Image | np.ndarray | Picture


def find_picture(
    source: Source,
    *,
    alpha: Alpha = "white",
    max_pixels: int = MAX_PICTURE_PIXELS,
    fetch: Fetch = refuse_to_fetch,
) -> Picture:
    """Measure a picture without decoding it; arguments and errors are those of ``open_picture``.

    Damage after the header shows only when the picture is decoded.
    """
    name = "the picture"
    if isinstance(source, Picture):
        return source
    if isinstance(source, np.ndarray):
        source = _convert_array(source)
    if isinstance(source, Image.Image):
        with _explain_errors(name):
            _check_size(source.size, name, max_pixels)
            turn = TURNS.get(_orientation(source))
            source.load()
            picture = _finish(to_8_bits(source, alpha), turn)
        pixels = hashlib.sha256(repr(picture.size).encode() + picture.tobytes()).hexdigest()
        return Picture(picture, name, picture.size, pixels)
    if not isinstance(source, str | os.PathLike | bytes | bytearray | memoryview):
        raise PictureError(
            f"the picture is {shown(source)}, expected a path, bytes, a data: URL, a PIL image or an array."
        )
    data, name = read_source(source, fetch)
    if not data:
        raise PictureError(f"{name} is empty (0 bytes); give a picture file.")
    with _explain_errors(name):
        size = _measure(data, name, max_pixels)
    return Picture(data, name, size, hashlib.sha256(data).hexdigest())


def require_list(images: Any) -> None:
    """Refuse what is no list of pictures, such as the path of one.

    Raises:
        PictureError: the message says what was given.
    """
    if isinstance(images, str | bytes) or not isinstance(images, Sequence):
        raise PictureError(f"`images` is {shown(images)}, expected a list of pictures, such as [picture].")


def open_picture(
    source: Source,
    *,
    alpha: Alpha = "white",
    max_pixels: int = MAX_PICTURE_PIXELS,
    fetch: Fetch = refuse_to_fetch,
) -> Image.Image:
    """Return an upright RGB picture from a path, bytes, a ``data:`` or ``file://`` URL, "-" (stdin), or a picture that
    is open already.

    Args:
        source: the picture or where it is; arrays are uint8 ``(H, W, 3)``.
        alpha: what transparent pixels become: "white", or with "drop" the colours stored under them, as in
            published preprocessing.
        max_pixels: larger pictures are refused before they are decoded.
        fetch: function that returns the content at a web address; by default web addresses are refused.

    Raises:
        PictureError: there is no picture there, or it is damaged, too large, or of an unknown kind.
    """
    return find_picture(source, alpha=alpha, max_pixels=max_pixels, fetch=fetch).decode(alpha=alpha)


def _measure(data: bytes, name: str, max_pixels: int) -> tuple[int, int]:
    """Return the upright size of a picture file, after checking it."""
    if data.startswith(ICO):  # Pillow decodes its largest picture at once, and its directory may say less
        for found in re.finditer(re.escape(SIGNATURE) + rb"....IHDR(.{8})", data, re.S):
            _check_size(struct.unpack(">II", found[1]), name, max_pixels)
    opened = open_file(data, name)
    _check_size(opened.picture.size, name, max_pixels)
    if opened.picture.format == "JPEG2000":
        _check_heavy(opened.picture.size, name, max_pixels)
    if opened.num_frames > 1:
        _say_that_the_first_frame_is_read(name)
    orientation = _orientation(opened.picture) if opened.has_orientation else None
    width, height = opened.picture.size
    return (height, width) if orientation in ON_ITS_SIDE else (width, height)


_several_frames_said = threading.Event()


def _say_that_the_first_frame_is_read(name: str) -> None:
    """Say of the first such picture of the process, for all of them, that its other frames count for nothing."""
    if not _several_frames_said.is_set():
        _several_frames_said.set()
        LOG.warning(
            "%s has several frames or pages; of such pictures, only the first is read.", printable(name)
        )


@contextmanager
def _explain_errors(name: str) -> Iterator[None]:
    """Raise whatever Pillow raises inside the block as a PictureError, with Pillow's own size limit turned off."""
    try:
        with _limit_off:
            yield
    except PictureError:
        raise
    except Exception as error:  # Pillow's decoders raise all kinds, such as struct.error
        raise PictureError(say_why(error, name)) from None


def _orientation(picture: Image.Image) -> int | None:
    """Return the orientation that EXIF states, or None where it cannot be read.

    Pillow itself turns a TIFF, in some versions when it is opened and in others when it is decoded.
    """
    if picture.format == "TIFF":
        picture.load()
    try:
        return picture.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # a picture is no worse for broken EXIF
        return None


def _finish(picture: Image.Image, turn: Image.Transpose | None) -> Image.Image:
    """Return a picture of 8 bits upright and in RGB."""
    picture = picture if turn is None else picture.transpose(turn)
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _has_deep_key(opened: Opened) -> bool:
    """Tell whether one colour of 16 bits a sample is transparent, of which Pillow keeps 8."""
    picture = opened.picture
    deep = bool(picture.tile) and picture.tile[0].args == "RGB;16B"
    return deep and isinstance(picture.info.get("transparency"), tuple)


class _LimitOff:
    """A context manager that turns off Pillow's own size limit and warnings; our limit is checked before decoding.

    They are settings of the whole process: the first of several threads turns them off, and the last one on again.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._undo = threading.Lock(), 0, ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._undo.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
                self._undo.callback(setattr, Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
                Image.MAX_IMAGE_PIXELS = None

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._undo.close()


_limit_off = _LimitOff()


def _check_size(size: tuple[int, int], name: str, max_pixels: int) -> None:
    width, height = size
    if not width * height:
        raise PictureError(f"{name} has {width} x {height} pixels; give one that shows something.")
    if width * height > max_pixels:
        raise PictureError(
            f"{name} has {width} x {height} = {width * height:,} pixels, more than the limit of "
            f"{max_pixels:,}; shrink it, or raise `max_pixels` if you trust it."
        )
    if max(size) > MAX_PICTURE_SIDE:
        raise PictureError(
            f"{name} has {width} x {height} pixels, and the longest side that is read has {MAX_PICTURE_SIDE:,}; "
            "cut it into pieces."
        )


def _check_heavy(size: tuple[int, int], name: str, max_pixels: int) -> None:
    """Refuse a JPEG 2000 for which its decoder would take more memory than the largest picture of another format."""
    width, height = size
    limit = max_pixels * BYTES_OF_A_PIXEL // BYTES_OF_JPEG_2000
    if width * height > limit:
        raise PictureError(
            f"{name} has {width} x {height} = {width * height:,} pixels, and a JPEG 2000 takes up to "
            f"{BYTES_OF_JPEG_2000} bytes of memory for each, so its limit is {limit:,}; save it as PNG or JPEG, or shrink it."
        )


def _convert_array(array: np.ndarray) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] != 3:
        raise PictureError(f"the array is {array.dtype} {array.shape}, expected uint8 (H, W, 3).")
    return Image.fromarray(array)
