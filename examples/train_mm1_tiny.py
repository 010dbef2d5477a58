"""Train mm1-tiny from random weights, in three stages, and write its model folder.

    python examples/train_mm1_tiny.py --run runs/tiny --output runs/mm1-tiny

or with two processes, each with MLX_RANK=0 or 1 and MLX_HOSTFILE naming a file that holds
[["127.0.0.1:5801"], ["127.0.0.1:5802"]]. On a CPU with two cores set OPENBLAS_NUM_THREADS=1 too, and start them
by hand: mlx.launch keeps a core busy of its own.

1. encoder: the image encoder learns what stands at each place of a picture (dense labels). A ViT that
   starts from random weights behind a decoder stays on a plateau for long; MM1 too starts from a trained encoder.
2. words: each visual token learns to name the things whose centres lie in its region, with the decoder's own
   table of words; so visual tokens and words start in one space, as those of a CLIP encoder do.
3. joint: everything is unfrozen and learns to answer, as in MM1's pre-training.

Every scene and every order of scenes follows from --seed and the step, so a run that was stopped goes on
where it was: call it again with the same --run, where each stage has a folder with checkpoints and metrics.jsonl.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mm1_mlx import MM1, Recipe, RunOptions, Task, Trainer, preset, save, tiny

GRID = 9
WORLD = mx.distributed.init()


class RegionHeads(nn.Module):
    """Linear heads that read kind, colour and size from each patch feature."""

    def __init__(self, dims: int):
        super().__init__()
        labels = (tiny.KIND_LABELS, tiny.COLOR_LABELS, tiny.SIZE_LABELS)
        self.heads = [nn.Linear(dims, len(names)) for names in labels]

    def __call__(self, patch_features):
        return [head(patch_features) for head in self.heads]


class Everything(nn.Module):
    """Model and heads as one tree, for the stage that trains both."""

    def __init__(self):
        super().__init__()
        self.model = MM1(preset("mm1-tiny"))
        self.heads = RegionHeads(self.model.config.vision_config.hidden_dims)


class Stage(Task):
    """A task on scenes that are made at their step. A subclass defines ``batch`` and ``means``."""

    def __init__(self, everything, recipe, *, first_scene, encode, max_ids):
        super().__init__(everything, recipe)
        self.first_scene, self.encode, self.max_ids = first_scene, encode, max_ids

    def batch(self, scenes, seeds):
        """Return the arrays of a step, pixels first."""
        raise NotImplementedError

    def means(self, everything, *arrays):
        """Return the loss and the other measures, as means over the batch."""
        raise NotImplementedError

    @property
    def run(self):
        return {"first_scene": self.first_scene, "max_ids": self.max_ids}

    def updates(self, first, stop):
        share = self.recipe.batch_size // WORLD.size()
        for step in range(first, stop):
            start = self.first_scene + step * self.recipe.batch_size + WORLD.rank() * share
            start += tiny.TRAINING_SEEDS + self.recipe.seed * 100_000_000
            seeds = range(start, start + share)
            yield [tiny.SceneBatch(self.batch([tiny.make_scene(seed) for seed in seeds], seeds), share)]

    def loss(self, model, batch, seen):
        """Return the measures summed over the batch, because the trainer divides by the scenes of all processes."""
        means = [batch.num_learned * mean for mean in self.means(model, *batch.arrays)]
        return means[0], tuple(means)


class EncoderStage(Stage):
    measures = ("loss", "kinds right", "colors right", "sizes right")

    def batch(self, scenes, seeds):
        labels = np.stack([tiny.region_labels(scene, GRID) for scene in scenes])
        return draw_pixels(scenes, seeds), mx.array(labels)

    def means(self, everything, *arrays):
        """Return the cross-entropy over patches, weighted less where no thing is, and the shares that are right."""
        pixels, labels = arrays
        logits = everything.heads(everything.model.image_encoder(pixels))
        present = labels[:, 0] > 0
        weight = mx.where(present, 1.0, 0.25)
        total = sum(
            (nn.losses.cross_entropy(out, labels[:, i]) * weight).sum() / weight.sum()
            for i, out in enumerate(logits)
        )
        right = [
            ((out.argmax(-1) == labels[:, i]) * present).sum() / present.sum() for i, out in enumerate(logits)
        ]
        return [total, *right]


class WordsStage(Stage):
    measures = ("loss", "words right")

    def batch(self, scenes, seeds):
        """Return the pixels and, for each visual token, a target over the vocabulary: the words of its region."""
        whole = preset("mm1-tiny")
        config, num_places = whole.connector_config, whole.connector_config.num_tokens(*whole.patch_grid)
        targets = np.zeros((len(scenes), num_places, tiny.VOCAB_SIZE), np.float32)
        empty = np.zeros(targets.shape[:2], dtype=bool)
        for i, scene in enumerate(scenes):
            for cell, words in enumerate(tiny.region_words(scene, config.side)):
                empty[i, cell] = "nothing" in words
                for word in words:
                    for ids in (
                        self.encode(word),
                        self.encode(" " + word),
                    ):  # at the beginning of an answer, and inside it
                        if len(ids) == 1:
                            targets[i, cell, ids[0]] = 1
        targets /= targets.sum(axis=-1, keepdims=True)
        return draw_pixels(scenes, seeds), mx.array(targets), mx.array(empty)

    def means(self, everything, *arrays):
        """Return the cross-entropy of the visual tokens, read by the decoder's head, and the share that is right."""
        (pixels, targets, empty), model = arrays, everything.model
        visual = model.decoder.norm(model.encode_images(pixels))
        logits = model.decoder.embed_tokens.as_linear(visual)
        losses = -(targets * (logits - mx.logsumexp(logits, axis=-1, keepdims=True))).sum(axis=-1)
        weight = mx.where(empty, 0.3, 1.0)
        right = mx.take_along_axis(targets, logits.argmax(-1, keepdims=True), axis=-1).squeeze(-1) > 0
        shown = mx.where(empty, 0.0, 1.0)
        return [(losses * weight).sum() / weight.sum(), (right * shown).sum() / shown.sum()]


class JointStage(Stage):
    measures = ("loss", "tokens right")
    dense = 0.15  # share of the sequences that describe the picture place by place

    def batch(self, scenes, seeds):
        """Return the pixels, sequences padded to one length, and which of their ids are learned."""
        rows, pictured, pictured_seeds = [], [], []
        for scene, seed in zip(scenes, seeds, strict=True):
            row = tiny.make_sequence(
                scene, self.encode, random.Random(~seed), max_ids=self.max_ids, dense=self.dense
            )
            pictured += row.scenes
            pictured_seeds += [seed] * len(row.scenes)
            rows.append(row)
        config = preset("mm1-tiny")
        visual = config.connector_config.num_tokens(*config.patch_grid)
        length = max(len(row.ids) + (visual - 1) * len(row.scenes) for row in rows)
        ids = np.full((len(rows), length), tiny.PAD_ID, dtype=np.int32)
        supervised = np.zeros((len(rows), length), dtype=bool)
        for i, row in enumerate(rows):
            repeats = [visual if t == tiny.IMAGE_ID else 1 for t in row.ids]
            ids[i, : sum(repeats)] = np.repeat(row.ids, repeats)
            supervised[i, : sum(repeats)] = np.repeat(row.supervised, repeats)
        return draw_pixels(pictured, pictured_seeds), mx.array(ids), mx.array(supervised)

    def means(self, everything, *arrays):
        """Return the next-token loss on the answers, end of turn included, and the share that is right."""
        pixels, ids, supervised = arrays
        logits = everything.model(ids, pixel_values=pixels)[:, :-1]
        weight = supervised[:, 1:].astype(mx.float32)
        losses = nn.losses.cross_entropy(logits, ids[:, 1:])
        right = ((logits.argmax(-1) == ids[:, 1:]) * weight).sum() / weight.sum()
        return [(losses * weight).sum() / weight.sum(), right]


def draw_pixels(scenes, seeds):
    pictures = [np.asarray(tiny.render(s, jitter_seed=seed)) for s, seed in zip(scenes, seeds, strict=True)]
    return mx.array((np.stack(pictures).astype(np.float32) / 255 - 0.5) / 0.5)


def train(name, stage, trained, args):
    """Train the modules of a stage, with all others frozen."""
    stage.model.freeze()
    for module in trained:
        module.unfreeze()
    iters = stage.recipe.iters

    def report(line):
        shares = ", ".join(f"{measure} {line.get(measure, 0):.4f}" for measure in stage.measures)
        print(
            f"{name} {line['update']}/{iters}: {shares}, {line['pictures_per_second']:.0f} pictures/s",
            flush=True,
        )

    options = RunOptions(steps_per_report=args.steps_per_report, save_every=args.save_every)
    trainer = Trainer(stage, options, args.run / name, report=report)
    if trainer.resume():
        print(f"{name}: goes on at step {trainer.progress.update}", flush=True)
    trainer.train()
    if trainer.stopped_by:
        raise SystemExit(f"{name}: stopped after step {trainer.progress.update}; call again to go on.")


def make_recipe(steps, batch_size, learning_rate, seed):
    return Recipe(
        iters=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        schedule="cosine_decay",
        warmup=min(200, steps // 10),
        final_rate=0.1,
        betas=(0.9, 0.95),
        weight_decay=0.05,
        seed=seed,
    )


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, default=Path("runs/tiny"), help="where checkpoints are kept")
    parser.add_argument("--output", type=Path, required=True, help="the model folder to write")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--encoder-steps", type=int, default=2400)
    parser.add_argument("--words-steps", type=int, default=1000)
    parser.add_argument("--joint-steps", type=int, default=3200)
    parser.add_argument(
        "--max-ids", type=int, default=150, help="token ids of a sequence, a picture counted as one"
    )
    parser.add_argument("--steps-per-report", type=int, default=20)
    parser.add_argument("--save-every", type=int, default=100)
    args = parser.parse_args()
    if not 0 <= args.seed < tiny.TESTING_SEEDS // 100_000_000 - 1:
        parser.error("--seed must be 0 to 10994: later ones reach the scenes that the tests measure on")
    return args


def load_text_encoder(run):
    """Return the tokenizer's encode function, after training the tokenizer if it is not there yet."""
    from tokenizers import Tokenizer

    run.mkdir(parents=True, exist_ok=True)
    if WORLD.rank() == 0 and not (run / "tokenizer.json").exists():
        tiny.train_tokenizer(run)
    mx.eval(mx.distributed.all_sum(mx.zeros(1)))  # wait for the tokenizer
    tokenizer = Tokenizer.from_file(str(run / "tokenizer.json"))
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def main():
    args = parse_arguments()
    encode = load_text_encoder(args.run)
    mx.random.seed(args.seed)
    everything = Everything()
    model = everything.model
    words = (model.image_encoder, model.connector, model.decoder.embed_tokens)
    stages = {
        "encoder": (EncoderStage, (model.image_encoder, everything.heads), args.encoder_steps, 32, 1e-3),
        "words": (WordsStage, words, args.words_steps, 32, 1e-3),
        "joint": (JointStage, (model,), args.joint_steps, 16, 8e-4),
    }
    started, scenes = time.time(), 0
    for name, (kind, trained, steps, batch_size, rate) in stages.items():
        recipe = make_recipe(steps, batch_size, rate, args.seed)
        stage = kind(everything, recipe, first_scene=scenes, encode=encode, max_ids=args.max_ids)
        train(name, stage, trained, args)
        scenes += steps * batch_size  # seeds run on from stage to stage, so no scene comes twice
    print(f"{scenes} scenes, {(time.time() - started) / 60:.1f} minutes")
    if WORLD.rank() == 0:
        save(model, args.output, companions=args.run, dtype=mx.float16)


if __name__ == "__main__":
    main()
