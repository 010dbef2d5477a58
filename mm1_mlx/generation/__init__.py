"""From a prompt to text."""

from mm1_mlx.generation.batch import Answer, Request, batch_generate, stream_batch
from mm1_mlx.generation.stream import Piece, generate, stream_generate
from mm1_mlx.generation.timing import Timing

__all__ = [
    "Answer",
    "Piece",
    "Request",
    "Timing",
    "batch_generate",
    "generate",
    "stream_batch",
    "stream_generate",
]
