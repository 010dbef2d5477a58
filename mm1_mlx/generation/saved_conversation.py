"""The file of a saved conversation: JSON with its messages and the paths of its pictures."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mm1_mlx.errors import CheckpointError, ConfigError, PictureError, PromptError
from mm1_mlx.files.json_files import parse_json
from mm1_mlx.files.writing import new_file, require_file
from mm1_mlx.inputs.picture import Picture
from mm1_mlx.inputs.sources import is_data_url
from mm1_mlx.strict import Config

VERSION = 1


@dataclass(frozen=True)
class SavedMessage(Config):
    """The text of one turn, with ``<image>`` in the places of pictures."""

    role: Literal["user", "assistant"]
    content: str


@dataclass(frozen=True)
class SavedPicture(Config):
    """The path of a picture with the SHA-256 of its file, or the picture itself."""

    path: str | None = None  # absolute
    sha256: str | None = None
    data: str | None = None  # a data: URL

    def __post_init__(self) -> None:
        has_file = os.path.isabs(self.path or "") and self.sha256 is not None and self.data is None
        has_data = (self.path, self.sha256) == (None, None) and is_data_url(self.data or "")
        self._require(has_file or has_data, "expected an absolute path and sha256, or a data: URL as data.")

    @classmethod
    def from_picture(cls, picture: Picture, path: Path | None) -> SavedPicture:
        """Make an entry with the picture's path if the file is unchanged, or else with the picture itself."""
        try:
            in_file = path is not None and path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError:
            in_file = None
        if in_file == picture.sha256:
            return cls(path=str(path), sha256=picture.sha256)
        if not isinstance(picture.content, bytes):
            raise ValueError(f"{picture.name} was given as pixels, not as a file, so it cannot be saved.")
        return cls(data="data:;base64," + base64.b64encode(picture.content).decode())

    def require_same(self, picture: Picture) -> None:
        """Refuse a picture that is not the one that was saved.

        Raises:
            PictureError: the file has changed.
        """
        if self.sha256 is not None and self.sha256 != picture.sha256:
            raise PictureError(
                f"{self.path} is another picture than the conversation was about: its SHA-256 begins with "
                f"{picture.sha256[:12]}, expected {self.sha256[:12]}; put the old picture back."
            )


@dataclass(frozen=True)
class SavedConversation(Config):
    """The contents of the file."""

    version: int
    model: str
    system: str | None
    messages: tuple[SavedMessage, ...]
    pictures: tuple[SavedPicture, ...]  # in reading order, then those attached to the next question

    @classmethod
    def read(cls, path: Path) -> SavedConversation:
        """Read a conversation that ``write`` wrote.

        Raises:
            CheckpointError: the file does not exist, or is no saved conversation of this version.
        """
        values = parse_json(path, f"there is no saved conversation at {path}.")
        version = values.get("version") if isinstance(values, dict) else None
        if type(version) is int and version != VERSION:
            raise CheckpointError(
                f"{path} has version {version}, expected {VERSION}; use the mm1_mlx that saved it."
            )
        try:
            return cls.from_dict(values)
        except ConfigError as error:
            raise CheckpointError(f"{path} is no saved conversation: {error}") from None

    def write(self, path: Path) -> None:
        """Write the file, completely or not at all; only an older conversation is overwritten.

        Raises:
            CheckpointError: a pipe, a socket or a device has this name.
            PromptError: another kind of file has this name, or the file cannot be written.
        """
        require_file(path)
        if os.path.lexists(path):
            try:
                self.read(path)
            except CheckpointError:
                raise PromptError(
                    f"{path} is there already and is no saved conversation; give another name."
                ) from None
        try:
            with new_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
                json.dump(self.to_dict(), file, indent=1)
        except OSError as error:
            raise PromptError(
                f"{path} cannot be written: {error.strerror}; give a file in a folder of yours."
            ) from None
