"""What two prompts share at their start is read once: a KV cache that knows what it holds.

Pictures count by their content. Placeholder ids are the same for every picture, so a cache that compared ids
would answer about someone else's.
"""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import Any

import mlx.core as mx

from mm1_mlx.errors import CheckpointError
from mm1_mlx.inputs.processor import Inputs
from mm1_mlx.model.mlx_lm_parts import (
    can_trim_prompt_cache,
    load_prompt_cache,
    make_prompt_cache,
    save_prompt_cache,
    trim_prompt_cache,
)
from mm1_mlx.model.mm1 import MM1


def content_of(inputs: Inputs, image_token_id: int) -> list[int]:
    """A prompt as numbers that are equal where its content is: token ids, and below 0 for visual tokens.

    A visual token's number is made of its picture's digest and its place in the picture.
    """
    content = inputs.input_ids.tolist()
    for places, digest in zip(inputs.image_places, inputs.digests, strict=True):
        for number, position in enumerate(places):
            if content[position] == image_token_id:
                hashed = hashlib.sha256(f"{digest} {number}".encode()).digest()
                content[position] = -1 - int.from_bytes(hashed[:7], "big")
    return content


class Prefix:
    """A KV cache for one sequence that grows, and the content it holds."""

    def __init__(self, model: MM1):
        self._model = model
        self.cache: list[Any] = make_prompt_cache(model.decoder)
        self.content: list[int] = []

    def __len__(self) -> int:
        return len(self.content)

    def keep_shared(self, content: list[int]) -> int:
        """Drop what does not begin ``content``; returns how many positions are held, always fewer than it has."""
        shared = 0
        for ours, theirs in zip(self.content, content[:-1], strict=False):
            if ours != theirs:
                break
            shared += 1
        surplus = len(self.content) - shared
        if surplus and not can_trim_prompt_cache(self.cache):
            self.cache, self.content = make_prompt_cache(self._model.decoder), []
            return 0
        if surplus:
            trim_prompt_cache(self.cache, surplus)
        self.content = self.content[:shared]
        return shared

    def extend(self, content: list[int]) -> None:
        """Say what was read into the cache since: as much of ``content`` as it holds."""
        held = next((int(c.offset) for c in self.cache if hasattr(c, "offset")), len(content))
        self.content = content[:held]

    def fork(self) -> Prefix:
        """Another cache that begins with the same content; the two grow apart."""
        forked = copy.copy(self)
        forked.cache = copy.deepcopy(self.cache)
        forked.content = list(self.content)
        return forked

    def save(self, path: Path, identity: str) -> None:
        """Write the cache for another process; ``identity`` is the model's."""
        metadata = {"identity": identity, "content": " ".join(map(str, self.content))}
        save_prompt_cache(str(path), self.cache, metadata)

    @classmethod
    def load(cls, path: Path, model: MM1, identity: str) -> Prefix:
        """Read a cache that ``save`` wrote for the same model.

        Raises:
            CheckpointError: it cannot be read, or another model made it.
        """
        try:
            cache, metadata = load_prompt_cache(str(path), return_metadata=True)
            content = [int(number) for number in metadata["content"].split()]
        except (RuntimeError, ValueError, KeyError, OSError) as error:
            raise CheckpointError(f"{path} is no saved prompt cache ({error}).") from None
        if metadata.get("identity") != identity:
            raise CheckpointError(f"{path} was made by another model or other weights; make it again.")
        loaded = cls(model)
        loaded.cache, loaded.content = cache, content
        mx.eval([c.state for c in cache])
        return loaded
