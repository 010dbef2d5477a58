"""Generation of text from prompts: one at a time, in batches, in conversations, and the scoring of given texts."""

from mm1_mlx.generation.answering import Piece
from mm1_mlx.generation.batch import Answer, batch_generate, stream_batch
from mm1_mlx.generation.decoding import Decoding
from mm1_mlx.generation.engine import Engine, Event
from mm1_mlx.generation.likelihood import Likelihood
from mm1_mlx.generation.request import Request
from mm1_mlx.generation.stream import generate, stream_generate
from mm1_mlx.generation.timing import Timing

__all__ = [
    "Answer",
    "Decoding",
    "Engine",
    "Event",
    "Likelihood",
    "Piece",
    "Request",
    "Timing",
    "batch_generate",
    "generate",
    "stream_batch",
    "stream_generate",
]
