"""Check a model folder stage by stage against a reference run, and write_report the report in the folder."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mm1_mlx.arrays import name_dtype, to_number
from mm1_mlx.checkpoint.card import replace_parity
from mm1_mlx.checkpoint.load import read_model
from mm1_mlx.errors import CheckpointError
from mm1_mlx.files.writing import new_file
from mm1_mlx.inputs.layout import layout
from mm1_mlx.inputs.picture import open_picture
from mm1_mlx.inputs.preprocess import normalize
from mm1_mlx.inputs.sub_images import views
from mm1_mlx.model.mlx_lm_parts import create_attention_mask
from mm1_mlx.model.mm1 import MM1

from .divergence import divergence, kl_divergence
from .hub import find_source, public_name
from .reference import Reference, place_pictures, read_reference
from .stages import image_stages
from .torch_reference import torch_reference

PARITY = "parity.json"
TOLERANCES = {  # float32, largest absolute difference
    "views_u8": 0.0,
    "pixel_values": 1e-5,
    "windows_pixel_values": 1e-5,
    "vision": 1e-4,
    "connector": 5e-5,
    "ctt": 5e-5,
    "ori": 5e-5,
    "image_features": 5e-5,
    "lm": 2e-4,
    "greedy": 0.0,
}
SIGLIP_TOLERANCE = 5e-5  # small enough to distinguish its GELU from CLIP's


@dataclass(frozen=True)
class Row:
    """One stage: how far the model's values are from the reference's."""

    stage: str
    max_abs: float
    max_rel: float | None  # relative to the largest value of the reference
    tolerance: float | None  # None: reported, not judged

    @property
    def passed(self) -> bool:
        return self.tolerance is None or self.max_abs <= self.tolerance


@dataclass
class Report:
    """All stages that were compared, and the names of those that were not."""

    reference: str
    dtype: str
    rows: list[Row] = field(default_factory=list)
    not_compared: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool | None:
        """Whether all stages are within their tolerances; None where none has a tolerance."""
        if all(row.tolerance is None for row in self.rows):
            return None
        return all(row.passed for row in self.rows)

    def add(self, stage: str, ours: mx.array, theirs: mx.array, tolerance: float | None) -> None:
        """Add the differences between two arrays."""
        found, expected = np.array(ours.astype(mx.float32)), np.array(theirs.astype(mx.float32))
        difference = float(np.abs(found - expected).max(initial=0.0))
        if not np.isfinite(found).all():
            difference = float("inf")
        largest = float(np.abs(expected).max(initial=0.0))
        self.rows.append(Row(stage, difference, difference / largest if largest else difference, tolerance))

    def tell(self, name: str, value: float, tolerance: float | None = None) -> None:
        """Add a number that is not a difference between two arrays."""
        self.rows.append(Row(name, value, None, tolerance))

    def to_dict(self) -> dict[str, Any]:
        stages = [
            {key: value if _is_json(value) else None for key, value in asdict(row).items()}
            | {"passed": row.passed}
            for row in self.rows
        ]
        return {"reference": self.reference, "dtype": self.dtype, "stages": stages, "passed": self.passed}

    def table(self) -> str:
        """Return a table with one line for each stage."""
        width = max((len(row.stage) for row in self.rows), default=5)
        lines = [f"{'stage':<{width}}  largest difference  relative    tolerance"]
        for row in self.rows:
            judged = "reported" if row.tolerance is None else f"{row.tolerance:<9.0e}"
            verdict = "" if row.passed else "  FAILED"
            relative = "" if row.max_rel is None else f"{row.max_rel:.1e}"
            lines.append(f"{row.stage:<{width}}  {row.max_abs:<18.1e}  {relative:<10}  {judged}{verdict}")
        if self.not_compared:
            lines.append(f"not compared: {', '.join(self.not_compared)}")
        return "\n".join(lines)

    def require_passed(self) -> None:
        """Raise an error if a stage is outside its tolerance.

        Raises:
            CheckpointError: a stage is, or none was compared.
        """
        if not self.rows:
            raise CheckpointError("the reference holds no stage that this model has.")
        failed = [row.stage for row in self.rows if not row.passed]
        if failed:
            raise CheckpointError(
                f"{len(failed)} of {len(self.rows)} stages differ, the first at {failed[0]}."
            )


def _is_json(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def check(
    folder: str | Path,
    *,
    reference: str | Path | None = None,
    torch_source: str | None = None,
    original: str | Path | None = None,
    num_questions: int = 64,
    dtype: str | mx.Dtype = "float32",
) -> Report:
    """Compare a model folder with one of three references.

    Args:
        folder: the model folder, or a hub id.
        reference: a safetensors file of a reference run.
        torch_source: the PyTorch checkpoint, whose encoder and decoder are run for comparison.
        original: a folder of the same model: Kullback-Leibler divergence and top-1 agreement on questions.
        num_questions: number of questions of the tiny world, for ``original``.
        dtype: the type to compute in.

    Raises:
        MM1Error: the folder or the reference cannot be read, or they are not of one model.
    """
    dtype = name_dtype(dtype) or "float32"
    model, processor = read_model(folder, dtype=dtype)
    if original is not None:
        report = Report(f"{public_name(original)}, {num_questions} questions of the tiny world", dtype)
        other, _ = read_model(original, dtype=dtype)
        found = divergence(model, other, processor, num_questions)
        report.tell("KL divergence, mean (nats)", found.mean)
        report.tell("KL divergence, largest (nats)", found.largest)
        report.tell("top-1 disagreement (share of tokens)", found.disagreement)
    else:
        if torch_source is not None:
            run, name = (
                torch_reference(find_source(torch_source), model),
                f"PyTorch, {public_name(torch_source)}",
            )
        elif reference is not None:
            path = Path(reference)
            run, name = read_reference(path, model), path.name
        else:
            raise ValueError("give reference, torch_source or original.")
        report = Report(name, dtype)
        judged = dtype == "float32" and model.config.quantization is None
        _compare(report, model, run, judged)
    return report


def write_report(report: Report, folder: Path) -> None:
    """Write the report into the folder: ``parity.json``, and the last section of its card.

    Raises:
        CheckpointError: the folder cannot be written to.
    """
    text = json.dumps(report.to_dict(), indent=2) + "\n"
    try:
        with new_file(folder / PARITY) as temporary:
            temporary.write_text(text, encoding="utf-8")
        replace_parity(folder / "README.md", report.to_dict())
    except OSError as error:
        raise CheckpointError(f"{error.filename} cannot be written: {error.strerror}.") from None


def _compare(report: Report, model: MM1, run: Reference, judged: bool) -> None:
    """Compare every stage that both have; in other types than float32, only the decoder's answers are informative."""
    for stage, ours, theirs in _pairs(model, run, report):
        if ours.shape != theirs.shape:
            raise CheckpointError(
                f"{stage} is {ours.shape} here and {theirs.shape} in the reference: it was made for another model."
            )
        if stage.startswith("lm.logits"):
            _compare_answers(report, stage, ours, theirs, judged)
        if judged:
            report.add(stage, ours, theirs, _tolerance(stage, model))


def _tolerance(stage: str, model: MM1) -> float:
    part = re.sub(r"_\d+$", "", stage.partition(".")[0])
    siglip = part == "vision" and model.config.vision_config.patch_bias
    return SIGLIP_TOLERANCE if siglip else TOLERANCES[part]


def _compare_answers(report: Report, stage: str, ours: mx.array, theirs: mx.array, judged: bool) -> None:
    """Report how often the likeliest token differs, and how far the distributions are apart."""
    differ = to_number(mx.mean(mx.argmax(ours, -1) != mx.argmax(theirs, -1)))
    report.tell(f"{stage.replace('logits', 'top1')} disagreement (share)", differ, 0.0 if judged else None)
    if not judged:
        kl = kl_divergence(theirs, ours)
        report.tell(f"{stage.replace('logits', 'kl')}, mean (nats)", to_number(mx.mean(kl)))


def _pairs(model: MM1, run: Reference, report: Report) -> Iterator[tuple[str, mx.array, mx.array]]:
    """Yield stage, our value and the reference's: pixels, image encoder and connector, then the decoder."""
    waiting = dict(run.stages)

    def paired(stage: str, ours: mx.array) -> Iterator[tuple[str, mx.array, mx.array]]:
        if stage in waiting:
            yield stage, ours, waiting.pop(stage)

    orders = _orders(model, run)
    for number, pixels in enumerate(run.pictures):
        source = run.folder / f"image_{number}.png" if run.folder else None
        if source is not None and source.exists():
            picture = open_picture(source, alpha=model.config.image_config.alpha)
            cut = views(picture, model.config.image_config)
            yield from paired(f"views_u8_{number}", mx.array(np.stack([np.asarray(view) for view in cut])))
            yield f"pixel_values_{number}", mx.array(normalize(cut, model.config.image_config)), pixels
    for stage, ours in image_stages(model, mx.concatenate(run.pictures)):
        yield from paired(stage, ours)

    features = []
    for number, (pixels, order) in enumerate(zip(run.pictures, orders, strict=True)):
        features.append(model.arrange(model.encode_images(pixels).flatten(0, 1), order))
        yield from paired(f"image_features_{number}", features[-1])
    used = 0
    for suffix, ids in run.prompts.items():
        lengths = [len(tokens) for tokens in features[used:]]
        ids, count = place_pictures(ids, model.config.image_token_id, lengths)
        visual = mx.concatenate(features[used : used + count]) if count else None
        used += count
        embeddings = model.embed_inputs(mx.array(ids), visual_tokens=visual)
        yield from paired(f"lm.inputs_embeds{suffix}", embeddings)
        if f"lm.hidden_1{suffix}" in waiting and model.config.text_config.model_type == "llama":
            yield from paired(f"lm.hidden_1{suffix}", _first_layer(model, embeddings))
        if f"lm.logits{suffix}" in waiting:
            yield from paired(f"lm.logits{suffix}", model(None, input_embeddings=embeddings[None])[0])
        if f"greedy{suffix}" in waiting:
            length = len(waiting[f"greedy{suffix}"])
            yield from paired(f"greedy{suffix}", _greedy(model, ids, embeddings, length))
    report.not_compared = sorted(waiting)


def _orders(model: MM1, run: Reference) -> list[list[int] | None]:
    """Return the order of each picture's visual tokens, computed from its size where that matters."""
    if run.sizes is None:
        return [None] * len(run.pictures)
    return [layout(size, model.config).order for size in run.sizes]


def _first_layer(model: MM1, embeddings: mx.array) -> mx.array:
    """Return the output of the first layer of mlx-lm's Llama for a prompt."""
    x = embeddings[None]
    return model.layers[0](x, create_attention_mask(x, None))[0]


def _greedy(model: MM1, ids: list[int], embeddings: mx.array, length: int) -> mx.array:
    """Return the likeliest tokens, generated one by one with the KV cache."""
    from mlx_lm.generate import generate_step

    mx.eval(embeddings)
    steps = generate_step(mx.array(ids), model, max_tokens=length, input_embeddings=embeddings)
    return mx.array([token for token, _ in steps])
