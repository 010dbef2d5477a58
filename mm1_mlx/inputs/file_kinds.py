"""Open a picture file by what its bytes say, and refuse what is not read by what it is."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass

from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from mm1_mlx.errors import PictureError
from mm1_mlx.inputs.png import SIGNATURE, tidy_png

# Common formats; Pillow knows more, and some of those start other programs.
FORMATS = (
    *("PNG", "JPEG", "MPO", "WEBP", "GIF", "TIFF", "BMP", "DIB", "HEIF", "AVIF", "JPEG2000", "PPM", "ICO"),
)
HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
AVIF_BRANDS = {b"avif", b"avis"}
READ = (  # how files begin that Pillow reads
    (SIGNATURE, "PNG"),
    (rb"\xff\xd8\xff", "JPEG"),
    (rb"GIF8[79]a", "GIF"),
    (rb"RIFF....WEBP", "WebP"),
    (rb"II[*+]\0|MM\0\*", "TIFF"),
    (rb"BM", "BMP"),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "JPEG 2000"),
    (rb"\0\0\x01\0", "ICO"),
    (rb"....ftyp(?:avi[fs]|mif1|msf1|he[iv][cmsx])", "HEIC or AVIF"),
)
NOT_READ = (  # how other files begin that people take for pictures, or that look like them
    (rb"%PDF-", "a PDF"),
    (rb"8BPS", "a Photoshop document"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "a JPEG XL picture"),
    (rb"II\xbc", "a JPEG XR picture"),
    (rb"MM\0\+", "a BigTIFF with the high byte first"),
    (rb"\x76\x2f\x31\x01", "an OpenEXR picture"),
    (rb"#\?R", "a Radiance HDR picture"),
    (rb"P7\n", "a PAM picture"),
    (rb"PF\s", "a PFM picture in colours"),
    (rb"\xd7\xcd\xc6\x9a|\x01\0\x09\0", "a Windows metafile"),
    (rb"....ftyp(?:crx )", "a raw picture of a camera"),
    (rb"FUJIFILMCCD-RAW|IIRO|IIU\0", "a raw picture of a camera"),
    (rb"....ftyp|\x1aE\xdf\xa3", "a video"),
    (
        rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml.{0,400})?(?:<!--.{0,400})?(?:<!DOCTYPE svg.{0,400})?<svg",
        "an SVG drawing",
    ),
    (rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype html|html|head|body)", "a web page"),
    (rb"PK\x03\x04", "a ZIP archive"),
    (rb"\x1f\x8b", "a gzip archive"),
)
TIFF_FORMATS = {1: "whole numbers", 2: "signed numbers", 3: "floating point", 5: "complex", 6: "complex"}
TIFF_COLOURS = {
    **{0: "grey, 0 is white", 1: "grey", 2: "RGB", 3: "palette", 4: "mask", 5: "CMYK", 6: "YCbCr"},
    **{8: "CIELAB", 9: "ICCLAB", 10: "ITULAB", 32803: "a camera's sensor", 34892: "a camera's sensor"},
}
NOT_SUPPORTED = re.compile(
    r"not (yet )?supported|unsupported|unrecognized|unknown|conversion from|cannot (read|handle)", re.I
)
ADVICE = "save it as PNG, JPEG or TIFF of 8 or 16 bits a sample"


@dataclass(frozen=True)
class Opened:
    """A picture file that was opened, but not decoded."""

    picture: ImageFile.ImageFile
    data: bytes  # a PNG without what is not needed
    has_orientation: bool  # perhaps
    num_frames: int  # 2 stands for any larger number

    def decode(self) -> None:
        """Decode the picture; what the decoder holds, twice the picture for WebP, goes before Pillow makes its own."""

        def free_decoder() -> None:
            vars(self.picture)["_decoder"] = None
            type(self.picture).load_prepare(self.picture)

        if "_decoder" in vars(self.picture):
            vars(self.picture)["load_prepare"] = free_decoder  # Pillow calls it when all is decoded
        self.picture.load()


def open_file(data: bytes, name: str) -> Opened:
    """Open a picture from the bytes of its file.

    Raises:
        PictureError: it is no picture, of a kind that is not read, or so damaged that it has no size.
    """
    has_orientation, num_frames = True, None
    if data.startswith(SIGNATURE):
        tidied = tidy_png(data)
        if tidied.of_iphone:
            raise PictureError(
                f"{name} is a PNG in Apple's CgBI variant for apps, which is not read; {ADVICE}."
            )
        data, has_orientation, num_frames = tidied.data, tidied.has_orientation, tidied.num_frames
    try:
        picture = Image.open(io.BytesIO(data), formats=_formats(data, name))
    except UnidentifiedImageError:
        raise PictureError(_say_what_it_is(data, name)) from None
    assert isinstance(picture, ImageFile.ImageFile)
    if data.startswith(SIGNATURE):
        _spread_key(picture)
    if picture.format == "TIFF":
        _correct_tiff(picture, data, name)
    return Opened(
        picture, data, has_orientation, _count_frames(picture) if num_frames is None else num_frames
    )


def say_why(error: Exception, name: str) -> str:
    """Return the message for an error of Pillow's: a kind that is not read, or damage."""
    if isinstance(error, MemoryError):
        return f"{name} does not fit into memory; shrink it."
    if NOT_SUPPORTED.search(str(error)):
        return f"{name} holds pixels of a kind that is not read ({error}); {ADVICE}."
    return f"{name} is damaged or cut short ({error}); export or download it again."


def _formats(data: bytes, name: str) -> list[str]:
    """Return those of ``FORMATS`` that this Pillow can read and that the file may be of."""
    Image.init()
    if data[4:8] == b"ftyp":
        return _heic_or_avif(data, name)
    return [name for name in FORMATS if name in Image.OPEN]


def _heic_or_avif(data: bytes, name: str) -> list[str]:
    """Return the format of a file of boxes: brands that stand for both kinds leave it to the compatible ones."""
    size = int.from_bytes(data[:4])
    brands = {data[8:12], *(data[at : at + 4] for at in range(16, min(size, 4096), 4))}
    if brands & AVIF_BRANDS:
        if "AVIF" not in Image.OPEN:
            raise PictureError(
                f"{name} is an AVIF picture, which this Pillow cannot read; export it as JPEG."
            )
        return ["AVIF"]
    if not brands & HEIC_BRANDS:
        return []
    try:
        import pillow_heif
    except ImportError:
        raise PictureError(
            f"{name} is a HEIC picture; run: pip install pillow-heif, or export it as JPEG."
        ) from None
    pillow_heif.register_heif_opener()
    return ["HEIF"]


def _say_what_it_is(data: bytes, name: str) -> str:
    """Return the message for bytes that cannot be opened."""
    for start, kind in READ:
        if re.match(start, data[:64], re.S):
            if kind == "TIFF" and (found := _describe_tiff(data)):
                return f"{name} is a TIFF of {found}, which is not read; {ADVICE}."
            return f"{name} is damaged or cut short (its {kind} header cannot be read); export or download it again."
    for start, kind in NOT_READ:
        if re.match(start, data[:1600], re.S | re.I):
            return f"{name} is {kind}, which is not read; {ADVICE}."
    start = data[:12].decode("utf-8", "replace").replace("\n", " ")
    return (
        f"{name} is not a picture of a known kind (it starts with {start!r}); "
        "give PNG, JPEG, WebP, GIF, TIFF, BMP or HEIC."
    )


def _tiff_tags(data: bytes) -> TiffImagePlugin.ImageFileDirectory_v2:
    """Return the tags of a TIFF's first page; errors are Pillow's."""
    file = io.BytesIO(data)
    tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(16 if data[2:4] in (b"+\0", b"\0+") else 8))
    file.seek(tags.next)
    tags.load(file)
    return tags


def _describe_tiff(data: bytes) -> str | None:
    """Return the kind of pixels of a TIFF in words, or None where its tags cannot be read."""
    try:
        tags = _tiff_tags(data)
        bits = tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,))
        colours, format = tags[TiffImagePlugin.PHOTOMETRIC_INTERPRETATION], tags.get(339, (1,))[0]
        packed, layout = tags.get(TiffImagePlugin.COMPRESSION, 1), tags.get(284, 1)
        count = tags.get(TiffImagePlugin.SAMPLESPERPIXEL, len(bits))
    except Exception:
        return None
    parts = [
        f"{count} x {max(bits)} bits ({TIFF_COLOURS.get(colours, f'colour space {colours}')}",
        TIFF_FORMATS.get(format, f"sample format {format}"),
        *([f"compression {packed}"] if packed not in TiffImagePlugin.COMPRESSION_INFO else []),
        *(["in planes"] if layout == 2 else []),
    ]
    return ", ".join(parts) + ")"


def _correct_tiff(picture: ImageFile.ImageFile, data: bytes, name: str) -> None:
    """Have Pillow read what it would take for something else.

    It takes uncompressed planes of 16 bits for planes of 8, and what libtiff has unpacked for numbers in the file's
    order of bytes, though libtiff has put them into that of the machine.
    """
    tags = _tiff_tags(data)
    in_planes = tags.get(TiffImagePlugin.PLANAR_CONFIGURATION, 1) == 2
    if in_planes and tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,))[0] == 16 and len(picture.getbands()) > 1:
        if picture.mode != "RGB":
            raise PictureError(f"{name} is a TIFF of {_describe_tiff(data)}, which is not read; {ADVICE}.")
        modes = {plane: f"{plane};16{'L' if data[:2] == b'II' else 'B'}" for plane in "RGB"}
        _change_raw_modes(picture, "raw", modes)
    native = {"F;32BF": "F;32NF", "I;32BS": "I;32NS", "I;16BS": "I;16NS"}
    _change_raw_modes(picture, "libtiff", native)


def _change_raw_modes(picture: ImageFile.ImageFile, codec: str, modes: dict[str, str]) -> None:
    """Replace the names of the layouts that a codec is told to read."""
    picture.tile = [
        tile._replace(args=(modes.get(tile.args[0], tile.args[0]), *tile.args[1:]))
        if tile.codec_name == codec and isinstance(tile.args, tuple)
        else tile
        for tile in picture.tile
    ]


def _spread_key(picture: ImageFile.ImageFile) -> None:
    """Scale the transparent shade of a PNG of 2 or 4 bits as Pillow scales its pixels."""
    scale = {"L;2": 85, "L;4": 17}.get(str(picture.tile[0].args) if picture.tile else "")
    if scale and isinstance(picture.info.get("transparency"), int):
        picture.info["transparency"] *= scale


def _count_frames(picture: ImageFile.ImageFile) -> int:
    """Return 2 if more frames or pages follow the first. Other pictures in a JPEG or ICO are no frames."""
    if picture.format not in ("GIF", "TIFF", "WEBP", "AVIF"):
        return 1
    try:
        return 2 if getattr(picture, "is_animated", False) else 1
    except Exception:  # the second frame is damaged
        return 1
