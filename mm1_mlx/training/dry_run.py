"""What a run would take of a machine's memory, told before it begins; nothing is computed, no weight is read."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from mm1_mlx.errors import TrainingError
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.training.estimate import Need
from mm1_mlx.training.packing import Packed
from mm1_mlx.training.row_forms import Record, Turn
from mm1_mlx.training.settings import TrainingSettings

WORDS = 64  # in the question, and in the answer, of an assumed row
PICTURE = (1024, 768)  # pixels
LARGE_MAC = 36 * 2**30  # bytes; from there on macOS lets the GPU have three quarters, else two thirds


def assumed_rows(number: int) -> list[Record]:
    """Rows for a run that has none yet: a picture, a question and an answer of middling length."""
    picture, text = Image.new("RGB", PICTURE, "gray"), " ".join(["red"] * WORDS)
    turns = (Turn("user", f"<image>{text}"), Turn("assistant", text))
    return [Record(f"assumed row {place}", turns, None, (picture,)) for place in range(number)]


def memory_of_mac(gigabytes: float) -> int:
    """Bytes that MLX may use of a Mac sold with so many, by macOS's default for the GPU."""
    size = gigabytes * 2**30
    return int(size * (3 / 4 if size >= LARGE_MAC else 2 / 3))


def kept_bytes(model: MM1, sequences: Sequence[Packed], *, num_rows: int | None, most: int) -> int:
    """Of the visual tokens of all pictures, ``most`` at the most.

    Args:
        model: that makes them.
        sequences: of an update, which the other rows are like.
        num_rows: in all; None: unknown, and many.
        most: bytes.
    """
    if num_rows is None:
        return most
    tokens = sum(picture.layout.num_visual_tokens for packed in sequences for picture in packed.pictures)
    size = model.config.text_config.hidden_dims * model.image_encoder.dtype.size
    return min(most, num_rows * tokens * size // max(sum(len(packed.names) for packed in sequences), 1))


def told(need: Need, there: int, settings: TrainingSettings) -> list[str]:
    """The memory, line by line, and whether it fits what is there."""
    names = {
        "weights": need.weights,
        "adapters": need.adapters,
        "optimizer": need.optimizer,
        "gradients": need.gradients,
        "activations": need.activations,
        "  with --grad-checkpoint": need.checkpointed,
        "pictures": need.pictures,
        "visual tokens kept": need.kept,
        "the update": need.updating,
    }
    total = need.total(grad_checkpoint=settings.grad_checkpoint)
    verdict = "fits" if total <= there else "does not fit"
    lines = [f"{name:<24} {value / 1e9:8.3f} GB" for name, value in names.items()]
    return [
        *lines,
        f"{'at most at once':<24} {total / 1e9:8.3f} GB: {verdict} the {there / 1e9:.1f} GB there",
    ]


def require_room(need: Need, there: int, settings: TrainingSettings) -> None:
    """Refuse a run that will not fit.

    Raises:
        TrainingError: says what to lower.
    """
    total = need.total(grad_checkpoint=settings.grad_checkpoint)
    if total > there:
        checkpoint = "" if settings.grad_checkpoint else "give --grad-checkpoint, "
        activations = need.checkpointed if settings.grad_checkpoint else need.activations
        raise TrainingError(
            f"this run needs about {total / 1e9:.1f} GB (weights {need.weights / 1e9:.1f}, activations "
            f"{activations / 1e9:.1f}, optimizer {need.optimizer / 1e9:.1f}), but there are {there / 1e9:.1f} GB; "
            f"{checkpoint}lower --max-seq-length, train fewer parts or layers, or try it with --force."
        )
