"""The time that the phases of one answer take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from mm1_mlx.vision.clock import Clock


@dataclass
class Timing(Clock):
    """Seconds of each phase, token counts, and the peak of MLX's memory in bytes."""

    preprocess: float = 0.0  # open, resize and normalise the pictures; tokenise
    encoder: float = 0.0
    connector: float = 0.0
    prefill: float = 0.0  # embeddings and the decoder's pass over the prompt, first token included
    first_token: float = 0.0  # from the call to the first token
    decode: float = 0.0  # from the first token to the last
    prompt_tokens: int = 0
    visual_tokens: int = 0
    encoded_views: int = 0  # views that the image encoder read; the tokens of the others were kept
    prefilled_tokens: int = 0  # prompt tokens that the decoder read; the others were in its cache
    generation_tokens: int = 0
    peak_memory: int = 0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the block's wall time to the phase ``name``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, name, getattr(self, name) + time.perf_counter() - start)

    @property
    def prompt_rate(self) -> float:
        """Prompt tokens read per second, with the time of image encoder and connector."""
        return self.prompt_tokens / max(self.encoder + self.connector + self.prefill, 1e-9)

    @property
    def generation_rate(self) -> float:
        """Tokens written per second after the first token; 0 if there is only one."""
        return (self.generation_tokens - 1) / self.decode if self.generation_tokens > 1 else 0.0

    def to_dict(self) -> dict[str, float]:
        """Return all times and counts, and the rates, by name."""
        return asdict(self) | {
            "prompt_tokens_per_second": self.prompt_rate,
            "generation_tokens_per_second": self.generation_rate,
        }
