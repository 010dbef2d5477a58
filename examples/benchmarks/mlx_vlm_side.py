"""What ``against_mlx_vlm.py`` runs in the Python that has mlx_vlm; it imports nothing of mm1_mlx.

python mlx_vlm_side.py train …          # mlx_vlm.train with these flags
python mlx_vlm_side.py check MODEL DATA # its defaults, and what its training call sees, as JSON
"""

# mlx_vlm is not installed where types are checked.
# pyright: reportMissingImports=false

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_vlm import load, train
from mlx_vlm.models.llava.processing_llava import LlavaProcessor
from mlx_vlm.trainer.common.callbacks import TrainingCallback
from mlx_vlm.trainer.datasets.loading import load as load_rows
from mlx_vlm.trainer.vlm.sft.dataset import VisionDataset
from mlx_vlm.trainer.vlm.sft.runtime import collate_vlm_batch, forward_vlm_logits, vlm_sft_loss


def drop_padding() -> None:
    """Make LlavaProcessor no longer give the tokenizer's ``padding`` to the image processor, the one change here.

    transformers since 5.4 refuses the option there (Blaizzy/mlx-vlm#870), so that no LLaVA can read a picture. A
    row is tokenised by itself, and there is nothing to pad.
    """
    original = LlavaProcessor.__call__

    def call(self, images=None, text=None, *, padding=False, **options):
        return original(self, images, text, **options)

    LlavaProcessor.__call__ = call


class Lines(TrainingCallback):
    """A callback that writes every report as a line of a file."""

    def __init__(self, path: Path):
        self._path = path

    def on_train_loss_report(self, train_info: dict[str, Any]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(train_info) + "\n")


def tune(argv: list[str]) -> None:
    """Train as ``python -m mlx_vlm.train`` does."""
    args, settings = train.parse_args(argv)
    train.run(args, settings, Lines(Path(settings.adapter_file).with_name("metrics.jsonl")))


def check(model_path: str, data: str) -> dict[str, Any]:
    """Return the defaults of mlx_vlm.train, whether its logits depend on later tokens, and what its loss covers."""
    args, settings = train.parse_args(["--model", model_path, "--data", data])
    model, processor = load(model_path)
    dataset = VisionDataset(load_rows(data)["train"], model.config, processor, config=settings)
    unchanged = describe_failure(lambda: dataset[0])
    if unchanged:
        drop_padding()

    def batch_of(number: int) -> dict[str, Any]:
        rows = [dataset[row] for row in range(number)]
        limits = {"pad_to_multiple": settings.pad_to_multiple, "pad_token_id": settings.pad_token_id}
        return collate_vlm_batch(rows, settings.max_seq_length, **limits)

    batch = batch_of(1)
    ids, mask = batch["input_ids"][:, :-1], batch["attention_mask"][:, :-1]
    _, metrics = vlm_sft_loss(model, batch, train_on_completions=settings.train_on_completions)
    places = (batch["input_ids"][:, 1:] == model.config.image_token_index).sum().item()
    return {
        "versions": {name: version(name) for name in ("mlx-vlm", "mlx", "transformers")},
        "defaults": vars(args) | asdict(settings) | {"model": None, "data": None},
        "unchanged": unchanged,
        "moved": measure_movement(model, ids, mask, batch),
        "moved_without_mask": measure_movement(model, ids, None, batch),
        "row_tokens": batch["attention_mask"].sum().item(),
        "learned": metrics["num_tokens"].item(),
        "learned_image_places": 0 if settings.train_on_completions else places,
        "batch_of_two": describe_failure(lambda: mx.eval(vlm_sft_loss(model, batch_of(2))[0])),
    }


def measure_movement(model: Any, ids: mx.array, mask: mx.array | None, batch: dict[str, Any]) -> float:
    """Return how far the logits before one of the last tokens move when it changes, in shares of the largest logit."""
    last = int(batch["attention_mask"].sum().item()) - 2  # the last token is not always read
    other = mx.array(ids)
    other[0, last] = (other[0, last] + 7) % model.config.text_config.vocab_size
    plain, changed = (forward_vlm_logits(model, x, mask, batch)[0, :last] for x in (ids, other))
    return np.array(mx.abs(plain - changed).max() / mx.abs(plain).max()).item()


def describe_failure(attempt: Callable[[], Any]) -> str:
    """Return the first cause of the error that ``attempt`` raises, or "" where it raises none."""
    try:
        attempt()
    except Exception as error:
        cause: BaseException = error
        while (earlier := cause.__cause__ or cause.__context__) is not None:
            cause = earlier
        return f"{type(cause).__name__}: {cause}"
    return ""


if __name__ == "__main__":
    if sys.argv[1] == "train":
        drop_padding()
        tune(sys.argv[2:])
    else:
        with contextlib.redirect_stdout(sys.stderr):
            found = check(*sys.argv[2:])
        print(json.dumps(found, default=str))
