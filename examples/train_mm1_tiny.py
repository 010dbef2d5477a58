"""Train mm1-tiny from nothing, in three stages, and write its model folder.

    python examples/train_mm1_tiny.py --run runs/tiny --output runs/mm1-tiny

or with two processes, each with MLX_RANK=0 or 1 and MLX_HOSTFILE naming a file that holds
[["127.0.0.1:5801"], ["127.0.0.1:5802"]]. On a CPU with two cores set OPENBLAS_NUM_THREADS=1 too, and start them
by hand: mlx.launch keeps a core busy of its own.

1. encoder: the image encoder learns what stands at each place of a picture (dense labels). A ViT that
   starts from nothing through a decoder stays on a plateau for long; MM1 too starts from a trained encoder.
2. words: each visual token learns to name the things whose centres lie in its region, with the decoder's own
   table of words; so visual tokens and words start in one space, as those of a CLIP encoder do.
3. joint: everything is unfrozen and learns to answer, as in MM1's pre-training.

Every scene and every order of scenes follows from --seed and the step, so a run that was stopped goes on
where it was: call it again with the same --run.
"""

import argparse
import itertools
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from mm1_mlx import MM1, preset, save, tiny

GRID = 9
WORLD = mx.distributed.init()


@dataclass
class Stage:
    name: str
    steps: int
    batch_size: int
    learning_rate: float
    trained: tuple[Callable, ...]  # the parts that are not frozen
    dense: float = 0.0  # share of the sequences that describe the picture place by place
    first_scene: int = 0  # seeds run on from stage to stage, so no scene comes twice


PARTS = (
    lambda trainer: trainer.model.image_encoder,
    lambda trainer: trainer.model.connector,
    lambda trainer: trainer.model.decoder,
)


class RegionHeads(nn.Module):
    """Linear readers of kind, colour and size from each patch feature."""

    def __init__(self, dims: int):
        super().__init__()
        labels = (tiny.KIND_LABELS, tiny.COLOR_LABELS, tiny.SIZE_LABELS)
        self.heads = [nn.Linear(dims, len(names)) for names in labels]

    def __call__(self, patch_features):
        return [head(patch_features) for head in self.heads]


def pixels_of(scenes, seeds):
    pictures = [np.asarray(tiny.render(s, jitter_seed=seed)) for s, seed in zip(scenes, seeds, strict=True)]
    return mx.array((np.stack(pictures).astype(np.float32) / 255 - 0.5) / 0.5)


def scenes_of(step, args, stage):
    """This process's scenes of one step, with their seeds."""
    share = stage.batch_size // WORLD.size()
    first = args.seed * 100_000_000 + stage.first_scene + step * stage.batch_size + WORLD.rank() * share
    seeds = range(tiny.TRAINING_SEEDS + first, tiny.TRAINING_SEEDS + first + share)
    return [tiny.make_scene(seed) for seed in seeds], list(seeds)


def region_batch(step, args, stage, _encode):
    scenes, seeds = scenes_of(step, args, stage)
    labels = np.stack([tiny.region_labels(scene, GRID) for scene in scenes])
    return pixels_of(scenes, seeds), mx.array(labels)


def region_loss(model, heads, pixels, labels):
    """Cross-entropy over patches; kind and size count where a thing stands, its presence everywhere."""
    logits = heads(model.image_encoder(pixels))
    present = labels[:, 0] > 0
    weight = mx.where(present, 1.0, 0.25)
    total = sum(
        (nn.losses.cross_entropy(out, labels[:, i]) * weight).sum() / weight.sum()
        for i, out in enumerate(logits)
    )
    right = [
        ((out.argmax(-1) == labels[:, i]) * present).sum() / present.sum() for i, out in enumerate(logits)
    ]
    return total, mx.stack(right)


def word_batch(step, args, stage, encode):
    """For each visual token a target over the vocabulary: the words of its region, alike likely."""
    scenes, seeds = scenes_of(step, args, stage)
    config = preset("mm1-tiny")
    targets = np.zeros((len(scenes), config.connector_config.num_visual_tokens, tiny.VOCAB_SIZE), np.float32)
    empty = np.zeros(targets.shape[:2], dtype=bool)
    for i, scene in enumerate(scenes):
        for cell, words in enumerate(tiny.region_words(scene, config.connector_config.side)):
            empty[i, cell] = "nothing" in words
            for word in words:
                for ids in (encode(word), encode(" " + word)):  # at the start of an answer, and within
                    if len(ids) == 1:
                        targets[i, cell, ids[0]] = 1
    targets /= targets.sum(axis=-1, keepdims=True)
    return pixels_of(scenes, seeds), mx.array(targets), mx.array(empty)


def word_loss(model, _heads, pixels, targets, empty):
    """Each visual token, read by the decoder's head as it is, names what its region shows."""
    visual = model.decoder.norm(model.encode_images(pixels))
    logits = model.decoder.embed_tokens.as_linear(visual)
    losses = -(targets * (logits - mx.logsumexp(logits, axis=-1, keepdims=True))).sum(axis=-1)
    weight = mx.where(empty, 0.3, 1.0)
    right = mx.take_along_axis(targets, logits.argmax(-1, keepdims=True), axis=-1).squeeze(-1) > 0
    shown = mx.where(empty, 0.0, 1.0)
    return (losses * weight).sum() / weight.sum(), ((right * shown).sum() / shown.sum())[None]


def language_batch(step, args, stage, encode):
    """Sequences padded to one length, with the number of each position's visual token or -1."""
    scenes, seeds = scenes_of(step, args, stage)
    rows, pictured, pictured_seeds = [], [], []
    for scene, seed in zip(scenes, seeds, strict=True):
        sequence = tiny.make_sequence(
            scene, encode, random.Random(~seed), max_ids=args.max_ids, dense=stage.dense
        )
        pictured += sequence.scenes
        pictured_seeds += [seed] * len(sequence.scenes)
        rows.append(sequence)
    config = preset("mm1-tiny")
    visual = config.connector_config.num_tokens(*config.patch_grid)
    length = max(len(row.ids) + (visual - 1) * len(row.scenes) for row in rows)
    ids = np.full((len(rows), length), tiny.PAD_ID, dtype=np.int32)
    supervised = np.zeros((len(rows), length), dtype=bool)
    for i, row in enumerate(rows):
        expanded = np.repeat(row.ids, [visual if t == tiny.IMAGE_ID else 1 for t in row.ids])
        ids[i, : len(expanded)] = expanded
        supervised[i, : len(expanded)] = np.repeat(
            row.supervised, [visual if t == tiny.IMAGE_ID else 1 for t in row.ids]
        )
    return pixels_of(pictured, pictured_seeds), mx.array(ids), mx.array(supervised)


def language_loss(model, _heads, pixels, ids, supervised):
    """Next-token loss on the answers, end of turn included."""
    logits = model(ids, pixel_values=pixels)[:, :-1]
    weight = supervised[:, 1:].astype(mx.float32)
    losses = nn.losses.cross_entropy(logits, ids[:, 1:])
    right = ((logits.argmax(-1) == ids[:, 1:]) * weight).sum() / weight.sum()
    return (losses * weight).sum() / weight.sum(), right[None]


def learning_rate(step, stage):
    """Warm-up, then cosine to a tenth."""
    warmup = min(200, stage.steps // 10)
    if step < warmup:
        return stage.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, stage.steps - warmup)
    return stage.learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * progress)))


class Trainer(nn.Module):
    """Model and heads as one tree, so that one optimizer and one file hold all that is trained."""

    def __init__(self):
        super().__init__()
        self.model = MM1(preset("mm1-tiny"))
        self.heads = RegionHeads(self.model.config.vision_config.hidden_dims)


def run_stage(trainer, stage, args, encode):
    make_batch, loss_function = {
        "encoder": (region_batch, region_loss),
        "words": (word_batch, word_loss),
    }.get(stage.name, (language_batch, language_loss))
    trainer.freeze()
    for part in stage.trained:
        part(trainer).unfreeze()
    optimizer = optim.AdamW(learning_rate=stage.learning_rate, betas=[0.9, 0.95], weight_decay=0.05)
    start = load_state(args.run, stage, trainer, optimizer)
    loss_and_grad = nn.value_and_grad(
        trainer, lambda *batch: loss_function(trainer.model, trainer.heads, *batch)
    )
    report, began = [], time.perf_counter()
    for step in range(start, stage.steps):
        (loss, right), grads = loss_and_grad(*make_batch(step, args, stage, encode))
        grads = nn.average_gradients(grads)
        grads, _ = optim.clip_grad_norm(grads, 1.0)
        optimizer.learning_rate = learning_rate(step, stage)
        optimizer.update(trainer, grads)
        mx.eval(trainer.parameters(), optimizer.state, loss, right)
        report.append([loss.item(), *right.tolist()])
        if not math.isfinite(report[-1][0]):
            raise SystemExit(f"step {step} of {stage.name}: the loss is not finite; lower the learning rate.")
        if (step + 1) % args.steps_per_report == 0 or step + 1 == stage.steps:
            numbers = " ".join(f"{v:.4f}" for v in np.mean(report, axis=0))
            rate_of = len(report) * stage.batch_size / (time.perf_counter() - began)
            if WORLD.rank() == 0:
                print(
                    f"{stage.name} {step + 1}/{stage.steps}: loss and shares right {numbers}, {rate_of:.0f} pictures/s",
                    flush=True,
                )
            report, began = [], time.perf_counter()
        if (step + 1) % args.save_every == 0 or step + 1 == stage.steps:
            save_state(args.run, stage, step + 1, trainer, optimizer)


def save_state(run, stage, step, trainer, optimizer):
    """Weights, optimizer and position, in one file that appears whole."""
    if WORLD.rank():
        return
    arrays = {f"weights.{k}": v for k, v in tree_flatten(trainer.parameters())}
    arrays |= {f"optimizer.{k}": v for k, v in tree_flatten(optimizer.state)}
    partial = run / "partial.safetensors"
    mx.save_safetensors(str(partial), arrays, {"stage": stage.name, "step": str(step)})
    partial.rename(run / f"{stage.name}.safetensors")


def load_state(run, stage, trainer, optimizer):
    path = run / f"{stage.name}.safetensors"
    if not path.exists():
        return 0
    arrays, metadata = mx.load(str(path), return_metadata=True)
    weights = {k.removeprefix("weights."): v for k, v in arrays.items() if k.startswith("weights.")}
    trainer.load_weights(list(weights.items()), strict=True)
    state = [(k.removeprefix("optimizer."), v) for k, v in arrays.items() if k.startswith("optimizer.")]
    optimizer.state = tree_unflatten(state)
    print(f"{stage.name}: goes on at step {metadata['step']}", flush=True)
    return int(metadata["step"])


def main():
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

    from tokenizers import Tokenizer

    args.run.mkdir(parents=True, exist_ok=True)
    if WORLD.rank() == 0 and not (args.run / "tokenizer.json").exists():
        tiny.train_tokenizer(args.run)
    mx.eval(mx.distributed.all_sum(mx.zeros(1)))  # wait for the tokenizer
    tokenizer = Tokenizer.from_file(str(args.run / "tokenizer.json"))

    def encode(text):
        return tokenizer.encode(text, add_special_tokens=False).ids

    mx.random.seed(args.seed)
    trainer = Trainer()
    encoder, connector, _ = PARTS
    words = (encoder, connector, lambda trainer: trainer.model.decoder.embed_tokens)
    stages = [
        Stage("encoder", args.encoder_steps, 32, 1.0e-3, (encoder, lambda trainer: trainer.heads)),
        Stage("words", args.words_steps, 32, 1.0e-3, words),
        Stage("joint", args.joint_steps, 16, 8e-4, PARTS, dense=0.15),
    ]
    for before, stage in itertools.pairwise(stages):
        stage.first_scene = before.first_scene + before.steps * before.batch_size
    started = time.time()
    for stage in stages:
        run_stage(trainer, stage, args, encode)
    scenes = sum(stage.steps * stage.batch_size for stage in stages)
    print(f"{scenes} scenes, {(time.time() - started) / 60:.1f} minutes")
    if WORLD.rank() == 0:
        save(trainer.model, args.output, companions=args.run, dtype=mx.float16)


if __name__ == "__main__":
    main()
