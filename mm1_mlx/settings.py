"""What a user can set at run time, with defaults and ranges.

``--help`` imports this file, so it imports nothing slow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mm1_mlx.arguments import require_types
from mm1_mlx.errors import SamplingError

Template = Literal["chat", "plain"]  # how a prompt is written: in the chat template, or as it is
How = Literal["frozen", "lora", "dora", "full"]  # how a part of a model is trained

EMBEDDED_MODEL = "mm1-tiny"
DTYPES = ("float16", "bfloat16", "float32")
BITS = (2, 3, 4, 5, 6, 8)  # numbers of bits to which MLX can pack weights and KV caches
PackingMode = Literal["affine", "mxfp4", "mxfp8", "nvfp4"]  # how MLX packs weights
MAX_TOKENS = 256  # tokens of one answer
BATCH_SIZE = 8  # answers written together
PREFILL_STEP_SIZE = 2048  # prompt tokens processed at once
VISION_CACHE_MB = 256  # MB of visual tokens to keep, in memory and as much again on disk
ADAPTER_RANK, ADAPTER_SCALE = 8, 20.0  # of LoRA and DoRA
MAX_PICTURE_PIXELS = 150_000_000  # three times a phone's largest picture; more may be a decompression bomb
MAX_PICTURE_SIDE = 65_535  # pixels, as of a JPEG; the work of a longer line is out of all proportion
MAX_PICTURE_BYTES = 2_000_000_000  # of a file; as much as the largest picture takes uncompressed


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; temperature 0 takes the most likely one.

    Raises:
        SamplingError: a value is out of range.
    """

    temp: float = 0.0
    top_p: float = 1.0
    min_p: float = 0.0
    top_k: int = 0
    seed: int | None = None

    def __post_init__(self) -> None:
        require_types(self, SamplingError)
        if self.temp != 0 and not 0.01 <= self.temp <= 10:
            raise SamplingError(f"`temp` is {self.temp}, expected 0 (greedy) or 0.01 to 10.")
        if not 0 < self.top_p <= 1:
            raise SamplingError(f"`top_p` is {self.top_p}, expected more than 0 and at most 1.")
        if not 0 <= self.min_p <= 1:
            raise SamplingError(f"`min_p` is {self.min_p}, expected 0 to 1.")
        if self.top_k < 0:
            raise SamplingError(f"`top_k` is {self.top_k}, expected 0 (off) or more.")
        if self.seed is not None and not 0 <= self.seed < 2**64:
            raise SamplingError(f"`seed` is {self.seed}, expected 0 to 2^64 - 1.")
