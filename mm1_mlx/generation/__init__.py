"""From a prompt to text."""

from mm1_mlx.generation.stream import Piece, generate, stream_generate
from mm1_mlx.generation.timing import Timing

__all__ = ["Piece", "Timing", "generate", "stream_generate"]
