"""An estimate of the memory that a run needs, made before it begins, without computing or reading any weight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import mlx.core as mx
from PIL import Image

from mm1_mlx.data.batches import Batches
from mm1_mlx.data.packing import Packed, can_pack
from mm1_mlx.data.records import Records, Split
from mm1_mlx.data.row_forms import Record, Turn
from mm1_mlx.errors import DataError, TrainingError
from mm1_mlx.inputs.processor import Processor
from mm1_mlx.machine import machine_memory
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.sizing.need import Need
from mm1_mlx.sizing.training import estimate_training
from mm1_mlx.training.objective import loss_sum
from mm1_mlx.training.optimizer import clip_gradients, make_optimizer
from mm1_mlx.training.placeholders import encoding_bytes, make_placeholders
from mm1_mlx.training.recipe import Recipe
from mm1_mlx.tuning.adapters import prepare, trained_counts, trained_parts
from mm1_mlx.tuning.settings import Tuning
from mm1_mlx.vision.look import FrozenOutput

WORDS = 64  # in the question of an assumed row, and as many in its answer
PICTURE = (1024, 768)  # pixels
LARGE_MAC = 36  # GB; with at least as much, macOS lets the GPU have three quarters of it, else two thirds


def dry_run(
    model: MM1,
    processor: Processor,
    rows: Mapping[Split, Records],
    settings: Recipe,
    tuning: Tuning,
    *,
    keep: int = 0,
    mac: float | None = None,
) -> Iterator[str]:
    """Yield lines that say what would be trained and how much memory the first update would need.

    Args:
        model: as it was loaded; it is prepared for training here.
        processor: from ``load``, together with the model.
        rows: training rows by the name of their split. Without any, typical rows are assumed.
        settings: the recipe of the run.
        tuning: which parts learn, and how.
        keep: how many bytes of visual tokens may be kept.
        mac: memory in GB of the Mac that would run it; None means this machine.

    Raises:
        DataError: no row of the first update can be used.
        MM1Error: the model cannot be tuned in this way.
    """
    prepare(model, tuning)
    train = rows.get("train") or assume_rows(settings.rows_per_update)
    yield from (f"{split}: {len(found):,} row{'s' * (len(found) != 1)}" for split, found in rows.items())
    if not rows:
        width, height = PICTURE
        yield (
            f"assumed: {len(train):,} rows of a picture ({width} x {height} pixels), a question and an answer of "
            f"{WORDS} short words each"
        )
    yield from describe_learning(model)
    batches = Batches(train, processor, settings, packing=settings.pack and can_pack(model))
    sequences = batches.peek(0)
    if not sequences:
        raise DataError("no row of the first update can be used; --check-data DIR says why.")
    longest = max(len(packed.ids) for packed in sequences)
    yield f"sequences of an update: {len(sequences):,}, of at most {longest:,} tokens"
    if settings.shard:
        yield "what --shard spreads over processes is told as one process without it would hold it"
    need = estimate_need(model, sequences, settings, keep=keep, num_rows=len(train) if rows else None)
    if mac is not None:
        share = "three quarters" if mac >= LARGE_MAC else "two thirds"
        yield f"a Mac of {mac:g} GB lets its GPU have {share}, {memory_of_mac(mac) / 1e9:.1f} GB"
    yield from describe_need(need, machine_memory() if mac is None else memory_of_mac(mac), settings)


def describe_learning(model: MM1) -> list[str]:
    """Return a line for each part of a prepared model, with the number of its parameters that learn."""
    counts = trained_counts(model).items()
    return [f"{part}: {trained:,} of {total:,} parameters learn" for part, (trained, total) in counts]


def assume_rows(number: int) -> list[Record]:
    """Make rows for a run that has none yet, each of a picture, a question and an answer of medium length."""
    picture, text = Image.new("RGB", PICTURE, "gray"), " ".join(["red"] * WORDS)
    turns = (Turn("user", f"<image>{text}"), Turn("assistant", text))
    return [Record(f"assumed row {place}", turns, None, (picture,)) for place in range(number)]


def memory_of_mac(gigabytes: float) -> int:
    """Return how many bytes macOS lets the GPU of a Mac use by default, from the Mac's memory in GB."""
    return int(gigabytes * 2**30 * (3 / 4 if gigabytes >= LARGE_MAC else 2 / 3))


def estimate_need(
    model: MM1,
    sequences: Sequence[Packed],
    settings: Recipe,
    *,
    keep: int = 0,
    num_rows: int | None = None,
) -> Need:
    """Estimate the memory that training a prepared model needs, from the longest sequence of an update.

    Args:
        model: prepared for training; only its sizes count.
        sequences: the packed sequences of one update.
        settings: the recipe of the run.
        keep: how many bytes of visual tokens may be kept.
        num_rows: number of all training rows; None means unknown and large.

    Raises:
        TrainingError: the decoder has an operation that MLX does not show.
    """
    largest = max(sequences, key=lambda packed: len(packed.ids))
    need = estimate_training(
        model,
        lambda model, pictures: loss_sum(model, largest, FrozenOutput(**pictures)),
        vars(make_placeholders(model, largest, settings.vision_batch_size)),
        optimizer=make_optimizer(settings),
        clip=lambda gradients: clip_gradients(gradients, settings.clip_norm, mx.array(1.0)),
        several=len(sequences) > 1,
        pictures=encoding_bytes(model, largest, settings.vision_batch_size),
    )
    if not keep or trained_parts(model) & {"image_encoder", "connector"}:
        return need
    return replace(need, kept=estimate_kept_bytes(model, sequences, num_rows=num_rows, most=keep))


def estimate_kept_bytes(model: MM1, sequences: Sequence[Packed], *, num_rows: int | None, most: int) -> int:
    """Estimate the bytes of the visual tokens of all pictures, up to ``most``.

    Args:
        model: the model that makes the visual tokens.
        sequences: those of one update; all other rows are assumed to be like them.
        num_rows: number of all training rows; None means unknown and large.
        most: the largest result, in bytes.
    """
    if num_rows is None:
        return most
    tokens = sum(picture.layout.num_visual_tokens for packed in sequences for picture in packed.pictures)
    size = model.config.text_config.hidden_dims * model.image_encoder.dtype.size
    return min(most, num_rows * tokens * size // max(sum(len(packed.names) for packed in sequences), 1))


def describe_need(need: Need, there: int, settings: Recipe) -> list[str]:
    """Return lines that list the memory a run needs, the last of which says whether it fits into ``there`` bytes."""
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


def require_memory(need: Need, there: int, settings: Recipe) -> None:
    """Refuse a run that does not fit into ``there`` bytes of memory.

    Raises:
        TrainingError: the run needs more; the message says what to lower.
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
