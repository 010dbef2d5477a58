"""A KV cache that records its content, so that what two prompts share at their beginning is read only once.

Pictures are compared by their content. Their ids in the prompt are the same for every picture, so comparing ids would
let a prompt be answered with another picture.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from mm1_mlx.errors import PromptError
from mm1_mlx.generation.caches import make_cache
from mm1_mlx.generation.prompt_file import Places, SavedPrompt
from mm1_mlx.inputs.content import content_of, shared_length
from mm1_mlx.inputs.inputs import Inputs
from mm1_mlx.model.mlx_lm_parts import can_trim_prompt_cache, trim_prompt_cache
from mm1_mlx.model.mm1 import MM1


class Prefix:
    """A KV cache for one growing sequence, with a record of its content.

    Args:
        model: from ``load``.
        kv_bits: number of bits to pack the cache to.
        max_kv_size: keep only this many positions, of which the oldest is overwritten.

    Raises:
        SamplingError: mlx-lm has no such cache for this decoder.
    """

    def __init__(self, model: MM1, *, kv_bits: int | None = None, max_kv_size: int | None = None):
        self._model = model
        self.kv_bits, self.max_kv_size = kv_bits, max_kv_size
        self.clear()

    def __len__(self) -> int:
        return len(self.content)

    def clear(self) -> None:
        """Empty the cache."""
        self.cache: list[Any] = make_cache(self._model, max_kv_size=self.max_kv_size, kv_bits=self.kv_bits)
        self.content: list[int] = []
        self.pictures: list[Places] = []

    def keep_shared(self, content: list[int]) -> int:
        """Drop everything after the shared beginning with ``content``, and return how many positions are left.

        At least the last position of ``content`` is never kept, since reading it gives the next token.
        """
        shared = shared_length(self.content, content[:-1])
        surplus = len(self.content) - shared
        if surplus and not can_trim_prompt_cache(self.cache):
            self.clear()
            return 0
        if surplus:
            trim_prompt_cache(self.cache, surplus)
        self._hold(self.content[:shared])
        return shared

    def extend(self, content: list[int], inputs: Inputs) -> None:
        """Record what has been read into the cache: as much of ``content`` as the cache holds.

        Args:
            content: the prompt and the tokens written after it.
            inputs: the prompt, with its pictures.
        """
        held = next((int(c.offset) for c in self.cache if hasattr(c, "offset")), len(content))
        found = zip(inputs.image_places, inputs.digests, strict=True)
        self.pictures = [(places.start, places.stop, digest) for places, digest in found]
        self._hold(content[:held])

    def _hold(self, content: list[int]) -> None:
        self.content = content
        self.pictures = [picture for picture in self.pictures if picture[1] <= len(content)]

    def fork(self) -> Prefix:
        """Return a copy with the same content, which then grows independently."""
        forked = copy.copy(self)
        forked.cache = copy.deepcopy(self.cache)
        forked.content, forked.pictures = list(self.content), list(self.pictures)
        return forked

    def save(self, path: Path) -> None:
        """Write the cache to a file, completely or not at all, so that another process can load it.

        Raises:
            CheckpointError: the file cannot be written, or something else has its name.
        """
        SavedPrompt(self.cache, self.content, self.pictures, self.kv_bits).write(path, self._model)

    @classmethod
    def load(cls, path: Path, model: MM1) -> Prefix:
        """Read a cache that ``save`` wrote for the same model.

        Raises:
            CheckpointError: the file cannot be read, is damaged, or another model wrote it.
        """
        saved = SavedPrompt.read(path, model)
        loaded = cls(model, kv_bits=saved.kv_bits)
        loaded.cache, loaded.content, loaded.pictures = saved.cache, saved.content, saved.pictures
        return loaded

    def require_start_of(self, inputs: Inputs) -> None:
        """Refuse a prompt that shares nothing with the content, or has another picture in the same place.

        Raises:
            PromptError: the prompt cannot use the cache; the message says what differs.
        """
        content = content_of(inputs, self._model.config.image_token_id)
        shared = shared_length(self.content, content)
        theirs = dict(zip((places.start for places in inputs.image_places), inputs.digests, strict=True))
        for number, (start, stop, digest) in enumerate(self.pictures, 1):
            if start <= shared < stop and theirs.get(start, digest) != digest:
                raise PromptError(
                    f"the saved prompt cache holds another picture {number} (or one cut another way) than the "
                    f"prompt: {digest[:12]} there, {theirs[start][:12]} here; give the same picture, or make it again."
                )
        if not shared:
            raise PromptError(
                "the prompt begins otherwise than the saved prompt cache, so that nothing of it can be used; give "
                "the same system message and pictures, or make it again."
            )
