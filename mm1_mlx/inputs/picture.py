"""Open pictures safely, in all formats common on a Mac: with orientation, alpha, palettes, 16 bits, CMYK or HEIC."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from mm1_mlx.errors import PictureError
from mm1_mlx.image_config import Alpha
from mm1_mlx.settings import MAX_PICTURE_PIXELS

HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
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
PNG_ORIENTATION_MARKS = (b"eXIf", b"Raw profile type", b"adobe:ns:meta", b"com.adobe.xmp")

# Common formats; Pillow knows more, and some of those start other programs.
FORMATS = (
    "PNG",
    "JPEG",
    "MPO",
    "WEBP",
    "GIF",
    "TIFF",
    "BMP",
    "DIB",
    "HEIF",
    "AVIF",
    "JPEG2000",
    "PPM",
    "ICO",
)


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
            picture = _open_known_format(self.content, self.name)
            picture.load()
            return _convert_to_rgb(picture, alpha)


Source = str | Path | bytes | Image.Image | np.ndarray | Picture


def find_picture(source: Source, *, alpha: Alpha = "white", max_pixels: int = MAX_PICTURE_PIXELS) -> Picture:
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
            _check_size(source, name, max_pixels)
            source.load()
            picture = _convert_to_rgb(source, alpha)
        pixels = hashlib.sha256(repr(picture.size).encode() + picture.tobytes()).hexdigest()
        return Picture(picture, name, picture.size, pixels)
    data, name = _read_bytes(source)
    if not data:
        raise PictureError(f"{name} is empty (0 bytes); give a picture file.")
    _require_heic_support(data, name)
    with _explain_errors(name):
        picture = _open_known_format(data, name)
        _check_size(picture, name, max_pixels)
        on_its_side = _orientation(picture, data) in ON_ITS_SIDE
        width, height = picture.size
        size = (height, width) if on_its_side else (width, height)
    return Picture(data, name, size, hashlib.sha256(data).hexdigest())


def open_picture(
    source: Source, *, alpha: Alpha = "white", max_pixels: int = MAX_PICTURE_PIXELS
) -> Image.Image:
    """Return an upright RGB picture from a path, bytes, a ``data:`` URL, "-" (stdin), or a picture that is open
    already.

    Args:
        source: the picture or where it is; arrays are uint8 ``(H, W, 3)``.
        alpha: what transparent pixels become: "white", or with "drop" the colours stored under them, as in
            published preprocessing.
        max_pixels: larger pictures are refused before they are decoded.

    Raises:
        PictureError: there is no picture there, or it is damaged, too large, or of an unknown kind.
    """
    return find_picture(source, alpha=alpha, max_pixels=max_pixels).decode(alpha=alpha)


@contextmanager
def _explain_errors(name: str) -> Iterator[None]:
    """Raise whatever Pillow raises inside the block as a PictureError, with Pillow's own size limit turned off."""
    try:
        with _limit_off:
            yield
    except PictureError:
        raise
    except Exception as error:  # Pillow's decoders raise all kinds, such as struct.error
        raise PictureError(
            f"{name} is damaged or cut short ({error}); export or download it again."
        ) from None


def _open_known_format(data: bytes, name: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=_formats())
    except UnidentifiedImageError:
        start = data[:12].decode("utf-8", "replace").replace("\n", " ")
        raise PictureError(
            f"{name} is not a picture of a known kind (it starts with {start!r}); "
            "give PNG, JPEG, WebP, GIF, TIFF, BMP or HEIC."
        ) from None


def _orientation(picture: Image.Image, data: bytes) -> int | None:
    """Return the orientation that EXIF states.

        Pillow decodes a whole PNG to look for it, so a PNG whose bytes hold no mark of EXIF data is not searched.

    Pillow itself turns a TIFF, in some versions when it is opened and in others when it is decoded.
    """
    if picture.format == "TIFF":
        picture.load()
    if picture.format == "PNG" and not any(mark in data for mark in PNG_ORIENTATION_MARKS):
        return None
    return picture.getexif().get(ExifTags.Base.Orientation)


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


def _formats() -> list[str]:
    """Return those of ``FORMATS`` that this Pillow can read."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _read_bytes(source: str | Path | bytes) -> tuple[bytes, str]:
    """Return the bytes of a picture, and what to call it in a message."""
    if isinstance(source, bytes):
        return source, "the picture"
    if source == "-":
        return sys.stdin.buffer.read() if sys.stdin else b"", "the picture on stdin"
    if isinstance(source, str) and source.startswith("data:"):
        return _decode_data_url(source), "the data: URL"
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        raise PictureError(f"{source} is a web address; download the picture and give its path.")
    path = source
    try:
        path = Path(os.path.expanduser(source))  # Path.expanduser refuses "~$draft.png"
        return path.read_bytes(), str(path)
    except FileNotFoundError:
        raise PictureError(f"there is no picture at {path}.") from None
    except IsADirectoryError:
        raise PictureError(f"{path} is a folder; give a picture file.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise PictureError(f"{path} cannot be read: {reason}.") from None


def _decode_data_url(url: str) -> bytes:
    header, comma, body = url.partition(",")
    if not comma or not header.endswith(";base64"):
        raise PictureError("a data: URL must look like data:image/png;base64,…")
    try:
        return base64.b64decode(body, validate=True)
    except ValueError as error:  # binascii.Error, or a character outside ASCII
        raise PictureError(f"the data: URL is not valid base64 ({error}).") from None


def _require_heic_support(data: bytes, name: str) -> None:
    if data[4:8] != b"ftyp" or data[8:12] not in HEIC_BRANDS:
        return
    try:
        import pillow_heif
    except ImportError:
        raise PictureError(
            f"{name} is a HEIC picture; run: pip install pillow-heif, or export it as JPEG."
        ) from None
    pillow_heif.register_heif_opener()


def _check_size(picture: Image.Image, name: str, max_pixels: int) -> None:
    width, height = picture.size
    if not width * height:
        raise PictureError(f"{name} has {width} x {height} pixels; give one that shows something.")
    if width * height > max_pixels:
        raise PictureError(
            f"{name} has {width} x {height} = {width * height:,} pixels, more than the limit of "
            f"{max_pixels:,}; shrink it, or raise `max_pixels` if you trust it."
        )


def _convert_array(array: np.ndarray) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] != 3:
        raise PictureError(f"the array is {array.dtype} {array.shape}, expected uint8 (H, W, 3).")
    return Image.fromarray(array)


def _convert_to_rgb(picture: Image.Image, alpha: Alpha) -> Image.Image:
    picture = _turn_upright(picture)
    if picture.mode.startswith("I") or picture.mode == "F":
        picture = _convert_to_8_bit(picture)
    if alpha == "white" and picture.has_transparency_data:
        picture = picture.convert("RGBA")
        canvas = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(canvas, picture)
    return picture if picture.mode == "RGB" else picture.convert("RGB")  # converting RGB to RGB would copy it


def _turn_upright(picture: Image.Image) -> Image.Image:
    """Turn a picture as EXIF says.

    Pillow's ``exif_transpose`` also rewrites the EXIF data, and fails on tags of a wrong type.
    """
    turn = TURNS.get(picture.getexif().get(ExifTags.Base.Orientation))
    return picture if turn is None else picture.transpose(turn)


def _convert_to_8_bit(picture: Image.Image) -> Image.Image:
    """Convert 16-bit grey, and integer or float grey that holds it, to 8 bits; Pillow's own ``convert`` clips."""
    values = np.asarray(picture).astype(np.float64)
    top = 1.0 if picture.mode == "F" and values.max(initial=0) <= 1 else 65535.0
    if picture.mode in ("I", "F") and top != 1.0 and values.max(initial=0) <= 255:
        top = 255.0
    return Image.fromarray(np.rint(np.clip(values / top, 0, 1) * 255).astype(np.uint8))
