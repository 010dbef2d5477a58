"""What a run would take of a machine's memory, told before it begins; nothing is computed, no weight is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import mlx.core as mx
from PIL import Image

from mm1_mlx.data.batches import Batches
from mm1_mlx.data.packing import Packed, can_pack
from mm1_mlx.data.records import Records
from mm1_mlx.data.row_forms import Record, Turn
from mm1_mlx.errors import DataError, TrainingError
from mm1_mlx.inputs.processor import Processor
from mm1_mlx.machine import machine_memory
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.sizing.need import Need
from mm1_mlx.sizing.training import training_need
from mm1_mlx.training.objective import loss_sum
from mm1_mlx.training.optimizer import clipped, make_optimizer
from mm1_mlx.training.placeholders import encoding_bytes, unseen
from mm1_mlx.training.recipe import Recipe
from mm1_mlx.tuning.adapters import prepare, trained_counts, trained_parts
from mm1_mlx.tuning.settings import Tuning
from mm1_mlx.vision.look import FrozenOutput

WORDS = 64  # in the question, and in the answer, of an assumed row
PICTURE = (1024, 768)  # pixels
LARGE_MAC = 36  # GB; from there on macOS lets the GPU have three quarters, else two thirds


def dry_run(
    model: MM1,
    processor: Processor,
    rows: Mapping[str, Records],
    settings: Recipe,
    tuning: Tuning,
    *,
    keep: int = 0,
    mac: float | None = None,
) -> Iterator[str]:
    """What would be trained, and the memory it takes by the rows of the first update, line by line.

    Args:
        model: untouched; it is prepared.
        processor: the model's.
        rows: by split; none: some are assumed.
        settings: of the run.
        tuning: which parts learn, and how.
        keep: bytes of visual tokens to keep at most.
        mac: GB of the Mac that would run it; None: this machine.

    Raises:
        DataError: no row of the first update can be used.
        MM1Error: the model cannot be tuned so.
    """
    prepare(model, tuning)
    train = rows.get("train") or assumed_rows(settings.rows_per_update)
    yield from (f"{split}: {len(found):,} row{'s' * (len(found) != 1)}" for split, found in rows.items())
    if not rows:
        width, height = PICTURE
        yield (
            f"assumed: {len(train):,} rows of a picture ({width} x {height} pixels), a question and an answer of "
            f"{WORDS} short words each"
        )
    yield from learning(model)
    batches = Batches(train, processor, settings, packing=settings.pack and can_pack(model))
    sequences = batches.peek(0)
    if not sequences:
        raise DataError("no row of the first update can be used; --check-data DIR says why.")
    longest = max(len(packed.ids) for packed in sequences)
    yield f"sequences of an update: {len(sequences):,}, of at most {longest:,} tokens"
    if settings.shard:
        yield "what --shard spreads over processes is told as one process without it would hold it"
    need = foreseen(model, sequences, settings, keep=keep, num_rows=len(train) if rows else None)
    if mac is not None:
        share = "three quarters" if mac >= LARGE_MAC else "two thirds"
        yield f"a Mac of {mac:g} GB lets its GPU have {share}, {memory_of_mac(mac) / 1e9:.1f} GB"
    yield from told(need, machine_memory() if mac is None else memory_of_mac(mac), settings)


def learning(model: MM1) -> list[str]:
    """How much of each part of a prepared model learns."""
    counts = trained_counts(model).items()
    return [f"{part}: {trained:,} of {total:,} parameters learn" for part, (trained, total) in counts]


def assumed_rows(number: int) -> list[Record]:
    """Rows for a run that has none yet: a picture, a question and an answer of middling length."""
    picture, text = Image.new("RGB", PICTURE, "gray"), " ".join(["red"] * WORDS)
    turns = (Turn("user", f"<image>{text}"), Turn("assistant", text))
    return [Record(f"assumed row {place}", turns, None, (picture,)) for place in range(number)]


def memory_of_mac(gigabytes: float) -> int:
    """Bytes that MLX may use of a Mac sold with so many, by macOS's default for the GPU."""
    return int(gigabytes * 2**30 * (3 / 4 if gigabytes >= LARGE_MAC else 2 / 3))


def foreseen(
    model: MM1,
    sequences: Sequence[Packed],
    settings: Recipe,
    *,
    keep: int = 0,
    num_rows: int | None = None,
) -> Need:
    """Return what training a prepared model takes, by the largest of an update's sequences.

    Args:
        keep: bytes of visual tokens to keep at most.
        num_rows: in all; None: unknown, and many.

    Raises:
        TrainingError: the decoder has an operation that MLX does not show.
    """
    largest = max(sequences, key=lambda packed: len(packed.ids))
    need = training_need(
        model,
        lambda model, pictures: loss_sum(model, largest, FrozenOutput(**pictures)),
        vars(unseen(model, largest, settings.vision_batch_size)),
        optimizer=make_optimizer(settings),
        clip=lambda gradients: clipped(gradients, settings.clip_norm, mx.array(1.0)),
        several=len(sequences) > 1,
        pictures=encoding_bytes(model, largest, settings.vision_batch_size),
    )
    if not keep or trained_parts(model) & {"image_encoder", "connector"}:
        return need
    return replace(need, kept=kept_bytes(model, sequences, num_rows=num_rows, most=keep))


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


def told(need: Need, there: int, settings: Recipe) -> list[str]:
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


def require_room(need: Need, there: int, settings: Recipe) -> None:
    """Refuse a run that will not fit.

    Raises:
        TrainingError: says what to lower.
    """
    total = need.total(grad_checkpoint=settings.grad_checkpoint)
    if total > there:
        checkpoint = "" if settings.grad_checkpoint else "give `grad_checkpoint`, "
        activations = need.checkpointed if settings.grad_checkpoint else need.activations
        raise TrainingError(
            f"this run needs about {total / 1e9:.1f} GB (weights {need.weights / 1e9:.1f}, activations "
            f"{activations / 1e9:.1f}, optimizer {need.optimizer / 1e9:.1f}), but there are {there / 1e9:.1f} GB; "
            f"{checkpoint}lower `max_seq_length`, train fewer parts or layers, or try it with `force`."
        )
