"""Pre-train mm1-tiny's image encoder and connector on dense labels: what stands at each place of a picture.

A ViT that starts from nothing behind a decoder stays on a plateau for long; MM1, too, starts from a trained encoder
("Model Architecture Ablations"). Two tasks do so. ``encoder``: patches give kind, colour and size of what covers
them, and the mean over a thing's patches its kind; at first for one large thing in a small picture, which costs a fifth
and leaves the plateau several times sooner. ``words``: each visual token names, in the decoder's own table of words,
what has its centre in the token's region.

    python -m mm1_mlx.tiny.dense_start encoder --recipe examples/mm1_tiny/text.yaml --output runs/mm1-tiny/encoder
    python -m mm1_mlx.tiny.dense_start words --recipe examples/mm1_tiny/pictures.yaml --output runs/mm1-tiny/words

Scenes follow from --seed and the update, so a run that was stopped goes on where it was with --resume.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mm1_mlx.arrays import flatten, load_tensors
from mm1_mlx.checkpoint.save import save
from mm1_mlx.errors import CheckpointError
from mm1_mlx.files.tensor_files import save_tensors
from mm1_mlx.files.writing import new_file
from mm1_mlx.image_config import ImageConfig
from mm1_mlx.inputs.preprocess import normalize, to_square
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.tiny.corpora import open_full_stock
from mm1_mlx.tiny.dense import COLOR_LABELS, KIND_LABELS, SIZE_LABELS, dense_labels, dense_words, whole_labels
from mm1_mlx.tiny.drawing import draw_scene
from mm1_mlx.tiny.looks import LOOKS, Look
from mm1_mlx.tiny.making import make_scene
from mm1_mlx.tiny.scene import Scene
from mm1_mlx.tiny.scene_batch import SceneBatch
from mm1_mlx.tiny.world import SEED_BITS
from mm1_mlx.training.options import RunOptions
from mm1_mlx.training.pretraining.beginning import Beginning, begin
from mm1_mlx.training.pretraining.recipe import read_recipe
from mm1_mlx.training.recipe import Recipe
from mm1_mlx.training.session import Session, run_task
from mm1_mlx.training.task import Task
from mm1_mlx.tuning.adapters import untrained_parts

LABELS = (KIND_LABELS, COLOR_LABELS, SIZE_LABELS)
SHOWN = {"any": 5.0, "pictograms": 3.0, "symbols": 1.0, "words": 0.5, "shapes": 1.0, "counting": 1.0}
UNNAMED = 0.25  # share of the updates that show classes whose names no other stage uses
ALONE_PIXELS = 56  # of the picture of one large thing
LEARNED = "learned.safetensors"  # encoder and heads, or encoder and connector, as a run leaves them
EMPTY_WEIGHT = 0.25  # of a patch that nothing covers, beside one that something does


class RegionHeads(nn.Module):
    """Linear heads that read kind, colour and size from each patch feature, and the kind from a thing's mean."""

    def __init__(self, dims: int):
        super().__init__()
        self.patches = [nn.Linear(dims, len(names)) for names in LABELS]
        self.whole = nn.Linear(dims, len(KIND_LABELS))


class Learner(nn.Module):
    """A model and the heads by which its image encoder learns, as one tree."""

    def __init__(self, model: MM1):
        super().__init__()
        self.model, self.heads = model, RegionHeads(model.config.vision_config.hidden_dims)


class DenseTask(Task):
    """Learns from scenes that follow from the recipe's seed and an update's number.

    Args:
        beginning: the model to begin with.
        recipe: the recipe of the run.
        alone: number of updates with pictures of one large thing, before those with scenes.
    """

    keeps_frozen = True

    def __init__(self, beginning: Beginning, recipe: Recipe, *, alone: int = 0):
        super().__init__(Learner(beginning.model), recipe)
        self._beginning, self._alone, self._stock = beginning, alone, open_full_stock()
        self.model.freeze()

    @property
    def run(self) -> dict[str, str | int]:
        """The settings of the run besides its recipe."""
        return {"task": type(self).__name__, "alone": self._alone}

    def begin_with(self, file: Path) -> None:
        """Take the weights that an earlier run of this task has learned, all of which there must be.

        Raises:
            CheckpointError: the file has other tensors than this task learns, or of other shapes.
        """
        (found, _), wanted = load_tensors(file), flatten(self.model.trainable_parameters())
        if {name: value.shape for name, value in found.items()} != {
            name: value.shape for name, value in wanted.items()
        }:
            raise CheckpointError(
                f"{file} holds other weights than {type(self).__name__} learns; give those of its run."
            )
        learned = [(name, value.astype(wanted[name].dtype)) for name, value in found.items()]
        self.model.load_weights(learned, strict=False)

    def updates(self, first: int, stop: int) -> Iterator[list[SceneBatch]]:
        """Yield the scenes of each update."""
        for update in range(first, stop):
            yield [self.batch(update)]

    def batch(self, update: int) -> SceneBatch:
        """Make the scenes of an update with their labels."""
        rng = random.Random(f"{type(self).__name__} {self.recipe.seed} {update}")
        looks = rng.choices(tuple(SHOWN), tuple(SHOWN.values()), k=self.recipe.batch_size)
        split = "unnamed" if rng.random() < UNNAMED else "named"
        config, look_of = self._beginning.model.config.image_config, LOOKS.__getitem__
        if update < self._alone:
            config, look_of = replace(config, image_size=ALONE_PIXELS), pick_lone_look
        scenes = [
            make_scene(rng.getrandbits(SEED_BITS), look_of(look), stock=self._stock, split=split)
            for look in looks
        ]
        return SceneBatch((self._pixels(scenes, config), *self.labels(scenes, config)), len(scenes))

    def _pixels(self, scenes: list[Scene], config: ImageConfig) -> mx.array:
        size = config.image_size
        drawn = [draw_scene(scene, size, stock=self._stock) for scene in scenes]
        return mx.array(normalize([to_square(picture, size, config) for picture in drawn], config))

    def labels(self, scenes: list[Scene], config: ImageConfig) -> tuple[mx.array, ...]:
        """Return what is to be learned about each scene."""
        raise NotImplementedError

    def means(self, learner: Learner, *arrays: mx.array) -> list[mx.array]:
        """Return the loss and the other measures, as means over the scenes."""
        raise NotImplementedError

    def loss(self, model: Learner, batch: SceneBatch, seen: None) -> tuple[mx.array, tuple[mx.array, ...]]:
        """Return the measures summed over the scenes, because the trainer takes means."""
        sums = [batch.num_learned * mean for mean in self.means(model, *batch.arrays)]
        return sums[0], tuple(sums)

    def save(self, folder: Path, weights: Mapping[str, mx.array]) -> None:
        """Write the model folder, without the heads; and all that learned in half its bits, for ``--weights``."""
        model = self._beginning.model
        model.config = replace(model.config, untrained=untrained_parts(model))
        save(model, folder / "model", companions=self._beginning.companions, overwrite=True)
        with new_file(folder / LEARNED) as file:
            learned = flatten(self.model.trainable_parameters())
            save_tensors(file, {name: value.astype(mx.float16) for name, value in learned.items()})


class EncoderTask(DenseTask):
    """Trains patches to give kind, colour and size of what covers them, and their mean over a thing its kind."""

    measures = ("loss", "kinds right", "colors right", "sizes right", "things right")

    def __init__(self, beginning: Beginning, recipe: Recipe, *, alone: int = 0):
        super().__init__(beginning, recipe, alone=alone)
        self.model.model.image_encoder.unfreeze()
        self.model.heads.unfreeze()

    def labels(self, scenes: list[Scene], config: ImageConfig) -> tuple[mx.array, ...]:
        """Return labels of shape (N, 3, patches); shares (N, things, patches) and kinds (N, things) of whole things."""
        side = config.image_size // self._beginning.model.config.vision_config.patch_size
        shares, kinds = zip(*(whole_labels(scene, side) for scene in scenes), strict=True)
        labels = (
            np.stack([dense_labels(scene, side) for scene in scenes]),
            np.stack(shares),
            np.stack(kinds),
        )
        return tuple(map(mx.array, labels))

    def means(self, learner: Learner, *arrays: mx.array) -> list[mx.array]:
        """Return the cross-entropy over patches and over things, and the shares that are right."""
        pixels, labels, shares, kinds = arrays
        features = learner.model.image_encoder(pixels)
        logits = [head(features) for head in learner.heads.patches]
        whole = learner.heads.whole(shares @ features)
        there, present = kinds > 0, labels[:, 0] > 0
        weight = mx.where(present, 1.0, EMPTY_WEIGHT)
        total = _mean(nn.losses.cross_entropy(whole, kinds), there)
        total += sum(
            _mean(nn.losses.cross_entropy(out, labels[:, i]), weight) for i, out in enumerate(logits)
        )
        right = [_mean(out.argmax(-1) == labels[:, i], present) for i, out in enumerate(logits)]
        return [total, *right, _mean(whole.argmax(-1) == kinds, there)]


class WordsTask(DenseTask):
    """Trains each visual token to name, in the decoder's table of words, what has its centre in its region."""

    measures = ("loss", "words right")

    def __init__(self, beginning: Beginning, recipe: Recipe, *, alone: int = 0):
        super().__init__(beginning, recipe, alone=alone)
        self.model.model.image_encoder.unfreeze()
        self.model.model.connector.unfreeze()
        self._ids: dict[str, list[int]] = {}

    def labels(self, scenes: list[Scene], config: ImageConfig) -> tuple[mx.array, ...]:
        """Return targets of shape (N, visual tokens, vocabulary), and which tokens' regions are empty."""
        whole = self._beginning.model.config
        places = whole.connector_config.num_tokens(*whole.patch_grid)
        targets = np.zeros((len(scenes), places, whole.text_config.vocab_size), np.float32)
        empty = np.zeros((len(scenes), places), bool)
        for number, scene in enumerate(scenes):
            for place, words in enumerate(dense_words(scene, math.isqrt(places))):
                empty[number, place] = words == ["nothing"]
                targets[number, place, [i for word in words for i in self._ids_of(word)]] = 1
        return mx.array(targets / np.maximum(targets.sum(-1, keepdims=True), 1)), mx.array(empty)

    def _ids_of(self, word: str) -> list[int]:
        """Return the tokens of a word, alone and after a blank, where it is one token."""
        if word not in self._ids:
            encode = self._beginning.processor.tokenizer.encode
            found = [encode(text, add_special_tokens=False) for text in (word, f" {word}")]
            self._ids[word] = [ids[0] for ids in found if len(ids) == 1]
        return self._ids[word]

    def means(self, learner: Learner, *arrays: mx.array) -> list[mx.array]:
        """Return the cross-entropy of the visual tokens, read by the decoder's head, and the share that is right."""
        (pixels, targets, empty), decoder = arrays, learner.model.decoder
        logits = decoder.embed_tokens.as_linear(decoder.norm(learner.model.encode_images(pixels)))
        losses = -(targets * (logits - mx.logsumexp(logits, axis=-1, keepdims=True))).sum(axis=-1)
        right = mx.take_along_axis(targets, logits.argmax(-1, keepdims=True), axis=-1).squeeze(-1) > 0
        return [_mean(losses, mx.where(empty, EMPTY_WEIGHT, 1.0)), _mean(right, ~empty)]


TASKS = {"encoder": EncoderTask, "words": WordsTask}


def pick_lone_look(look: str) -> Look:
    """Return a look that shows one large thing."""
    return replace(LOOKS[look], sizes=(0.45, 0.95), numbers=(1,), finished=0.15, wide=0.0)


def sine_positions(side: int, dims: int) -> mx.array:
    """Return positions of shape (side², dims) from which a short training learns sooner than from noise.

    Source: Beyer et al., "Better plain ViT baselines for ImageNet-1k" (arXiv:2205.01580).
    """
    places = np.indices((side, side)).reshape(2, -1, 1)
    waves = places / 100.0 ** (np.arange(dims // 4) / (dims // 4))
    return mx.array(
        np.concatenate([wave(axis) for axis in waves for wave in (np.sin, np.cos)], 1) / 2
    ).astype(mx.float32)


def _mean(values: mx.array, weights: mx.array) -> mx.array:
    return (values * weights).sum() / mx.maximum(weights.sum(), 1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--recipe", type=Path, required=True, help="a recipe file that describes the model")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument(
        "--weights", type=Path, help=f"the {LEARNED} of an earlier run of the same task, to begin with"
    )
    parser.add_argument("--iters", type=int, default=5000)
    parser.add_argument(
        "--alone", type=int, default=0, help="updates with pictures of one large thing, first"
    )
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps-per-report", type=int, default=50)
    parser.add_argument("--save-every", type=int, default=250)
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    recipe = Recipe(
        iters=args.iters,
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        schedule="cosine_decay",
        warmup=args.iters // 50,
        final_rate=0.1,
        betas=(0.9, 0.95),
        weight_decay=0.05,
        seed=args.seed,
    )
    beginning = begin(read_recipe(args.recipe).model, seed=args.seed, dtype="float32")
    encoder = beginning.model.image_encoder
    if "image_encoder" in beginning.model.config.untrained:
        encoder.position_embedding = sine_positions(encoder.config.grid_side, encoder.config.hidden_dims)
    task = TASKS[args.task](beginning, recipe, alone=args.alone)
    if args.weights is not None:
        task.begin_with(args.weights)
    options = RunOptions(steps_per_report=args.steps_per_report, save_every=args.save_every)
    run_task(task, options, args.output, Session(False, "", "mm1-tiny", {}, args.resume))


if __name__ == "__main__":
    main()
