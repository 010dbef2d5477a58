"""Read WebDataset's tar shards, in which members that share a name up to the first dot are one row.

A shard is read through once, to find its members; a row is then read from its position. ``a.jpg`` with ``a.txt`` is a
picture and its caption. ``a.json`` holds a row of any form; in it the rest of a member's name, such as ``"jpg"`` or
``"0.jpg"``, stands for that member's picture.
"""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mm1_mlx.data.row_forms import Record, read_row
from mm1_mlx.errors import DataError, PromptError
from mm1_mlx.files.json_lines import parse_object

PICTURES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
TEXTS = ("txt", "caption")

Members = dict[str, tuple[int, int]]  # position and size in bytes, by the rest of the name


@dataclass(frozen=True)
class TarShard:
    """The rows of a tar shard."""

    path: Path
    rows: list[tuple[str, Members]]  # key and members, in the shard's order

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Record:
        key, members = self.rows[index]
        name = f"{self.path}, {key}"
        try:
            values = self._read_values(members, name)
            return read_row(values, name=name, folder=None)
        except OSError as error:
            raise DataError(f"{name} cannot be read: {error.strerror}; put the file back.") from None

    def _read_values(self, members: Members, name: str) -> dict[str, Any]:
        """Return a row as its members give it."""
        with self.path.open("rb") as file:

            def read(suffix: str) -> bytes:
                place, size = members[suffix]
                file.seek(place)
                found = file.read(size)
                if len(found) < size:
                    raise DataError(f"{name}.{suffix} is cut off; fetch the shard again.")
                return found

            pictures = {suffix: {"bytes": read(suffix)} for suffix in members if _kind(suffix) in PICTURES}
            text = next((suffix for suffix in members if _kind(suffix) in TEXTS), None)
            if "json" in members:
                values = _insert_members(_parse_member(read("json"), name), pictures)
                if text is None or {"caption", "texts", "messages", "conversations", "question"} & set(
                    values
                ):
                    return (
                        values
                        if "image" in values or "images" in values
                        else values | _list_pictures(pictures)
                    )
            elif text is None or not pictures:
                lacking = "caption (.txt) or row (.json)" if text is None else "picture"
                raise DataError(
                    f"{name} has no {lacking} beside {', '.join(members)}; add it, or leave it out."
                )
            return {"caption": _decode_text(read(text), name)} | _list_pictures(pictures)


def open_tar(path: Path) -> TarShard:
    """Find the rows of a shard.

    Raises:
        DataError: the file is not an uncompressed tar file, is cut off, or holds no rows.
    """
    rows: dict[str, Members] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                folder, _, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                if member.isfile() and stem and suffix:
                    key = f"{folder}/{stem}" if folder else stem
                    rows.setdefault(key, {})[suffix.lower()] = (member.offset_data, member.size)
            end = tar.offset
        with path.open("rb") as file:  # tarfile does not notice that a shard is cut off
            file.seek(end)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("unexpected end of data")
    except (OSError, tarfile.TarError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"{path} cannot be read as a tar shard ({reason}); fetch it again, uncompressed (.tar)."
        ) from None
    if not rows:
        raise DataError(f"{path} holds no rows; expected members such as 0001.jpg and 0001.txt.")
    return TarShard(path, list(rows.items()))


def _kind(suffix: str) -> str:
    return suffix.rpartition(".")[2]


def _list_pictures(pictures: dict[str, Any]) -> dict[str, Any]:
    """Return pictures that no text names, in the order of the shard."""
    return {"images": list(pictures.values())} if pictures else {}


def _insert_members(values: dict[str, Any], pictures: dict[str, Any]) -> dict[str, Any]:
    """Replace the names of members by the members."""

    def picture(value: Any) -> Any:
        return pictures.get(value.lower(), value) if isinstance(value, str) else value

    for key in ("image", "images"):
        if key in values:
            found = values[key]
            values[key] = [picture(entry) for entry in found] if isinstance(found, list) else picture(found)
    return values


def _parse_member(data: bytes, name: str) -> dict[str, Any]:
    try:
        values = parse_object(_decode_text(data, name))
    except PromptError as error:
        raise DataError(f"{name}.json: {error}") from None
    return {key: value for key, value in values.items() if value is not None}


def _decode_text(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: this is not UTF-8 ({error.reason}); save the text as UTF-8.") from None
