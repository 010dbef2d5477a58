"""An interleaved document while it is written: pictures and texts in reading order."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from mm1_mlx.inputs.prompt import IMAGE


@dataclass
class Page:
    """The pieces of a document in reading order."""

    pieces: list[Image.Image | str] = field(default_factory=list)

    def add(self, picture: Image.Image | None, text: str) -> None:
        """Append a picture, where there is one, and then a text."""
        if picture is not None:
            self.pieces.append(picture)
        if self.pieces and isinstance(self.pieces[-1], str):
            self.pieces[-1] += text
        elif text:
            self.pieces.append(text)

    @property
    def pictures(self) -> list[Image.Image]:
        """The pictures in their order."""
        return [piece for piece in self.pieces if not isinstance(piece, str)]

    @property
    def text(self) -> str:
        """The whole text, with ``<image>`` for each picture."""
        return "".join(piece if isinstance(piece, str) else IMAGE for piece in self.pieces)

    def row(self) -> dict[str, Any]:
        """Return the document as an interleaved row."""
        return {
            "images": [None if isinstance(piece, str) else piece for piece in self.pieces],
            "texts": [piece if isinstance(piece, str) else None for piece in self.pieces],
        }
