"""Tell where a picture is: in a ``data:`` URL, at a web address, on stdin or in a file; and read its bytes."""

from __future__ import annotations

import base64
import os
import re
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

from mm1_mlx.errors import PictureError
from mm1_mlx.settings import MAX_PICTURE_BYTES

Fetch = Callable[[str], bytes]  # returns the content at a web address


def is_data_url(source: str) -> bool:
    return source[:5].lower() == "data:"


def is_web_address(source: str) -> bool:
    return re.match(r"https?://", source, re.I) is not None


def is_path(source: str) -> bool:
    return not (is_data_url(source) or is_web_address(source))


def refuse_to_fetch(url: str) -> bytes:
    """Refuse a web address where nothing is downloaded.

    Raises:
        PictureError: always.
    """
    raise PictureError(f"{url} is a web address; download the picture and give its path.")


def to_path(source: str | os.PathLike[str]) -> Path:
    """Return the path that a person wrote, which may be a ``file://`` URL or begin with ``~``."""
    path = path_of_file_url(source) if isinstance(source, str) else None
    return Path(os.path.expanduser(source) if path is None else path)  # Path.expanduser refuses "~$draft.png"


def path_of_file_url(text: str) -> str | None:
    """Return the path of a ``file:`` URL of this computer, or None for other texts."""
    url = re.fullmatch(r"file:(?://(?:localhost)?)?(/(?!/).*)", text, re.S | re.I)
    return unquote(url[1], errors="surrogateescape") if url else None


def locate(source: str, folder: Path) -> str | Path:
    """Return where the picture of a row is: its path from the row's folder, or its URL as it is."""
    return folder / to_path(source) if is_path(source) else source


def read_source(
    source: str | os.PathLike[str] | bytes | bytearray | memoryview, fetch: Fetch
) -> tuple[bytes, str]:
    """Return the bytes of a picture, and what to call it in a message.

    Raises:
        PictureError: there is nothing that can be read, or it is larger than any picture.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source), "the picture"
    if source == "-":
        name = "the picture on stdin"
        return (_read_bounded(sys.stdin.buffer, name) if sys.stdin else b""), name
    if isinstance(source, str) and is_data_url(source):
        return _decode_data_url(source), "the data: URL"
    if isinstance(source, str) and is_web_address(source):
        return fetch(source), source
    if source == "":
        raise PictureError("the path of the picture is empty; give a picture file.")
    path = to_path(source)
    return _read_file(path), str(path)


def _read_file(path: Path) -> bytes:
    """Return the bytes of a regular file; a pipe or a device might never end."""
    try:
        # Without O_NONBLOCK, opening a pipe waits until somebody writes into it.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            kind = os.fstat(file.fileno()).st_mode
            if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
                raise PictureError(
                    f"{path} is no regular file; give a picture file, or - and the picture on stdin."
                )
            return _read_bounded(file, str(path))
    except FileNotFoundError:
        raise PictureError(f"there is no picture at {path}.") from None
    except IsADirectoryError:
        raise PictureError(f"{path} is a folder; give a picture file.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise PictureError(f"{path} cannot be read: {reason}.") from None


def _read_bounded(file: Any, name: str) -> bytes:
    data = file.read(MAX_PICTURE_BYTES + 1)
    if len(data) > MAX_PICTURE_BYTES:
        raise PictureError(
            f"{name} has more than {MAX_PICTURE_BYTES:,} bytes, the limit of a picture; shrink it."
        )
    return data


def _decode_data_url(url: str) -> bytes:
    """Return the bytes of a ``data:`` URL, in which letters may be capitals, and lines broken or escaped."""
    header, comma, body = url.partition(",")
    if not comma or not re.sub(r"\s", "", header).lower().endswith(";base64"):
        raise PictureError("a data: URL must look like data:image/png;base64,…")
    try:
        plain = re.sub(rb"[ \t\r\n\f]+", b"", unquote_to_bytes(body))
        return base64.b64decode(plain, validate=True)
    except ValueError as error:  # binascii.Error, or a lone surrogate
        raise PictureError(f"the data: URL is not valid base64 ({error}).") from None
