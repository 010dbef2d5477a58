"""Measure what quantization costs: how far a model's answers are from the original's, on the tiny world's questions."""

from __future__ import annotations

import random
from dataclasses import dataclass

import mlx.core as mx

from mm1_mlx import tiny
from mm1_mlx.arrays import to_number
from mm1_mlx.errors import CheckpointError
from mm1_mlx.inputs.processor import Inputs, Processor
from mm1_mlx.model.mm1 import MM1


@dataclass(frozen=True)
class Divergence:
    """How far two models are apart, over all tokens of all answers."""

    mean: float  # Kullback-Leibler divergence from the original, nats
    largest: float
    disagreement: float  # share of tokens where the likeliest differs
    num_tokens: int


def divergence(model: MM1, original: MM1, processor: Processor, num_questions: int) -> Divergence:
    """Compare the next-token distributions of two models at the answers to ``num_questions`` questions.

    Each question is about a rendered scene of its own, and both models read the true answer.

    Raises:
        CheckpointError: the two do not share a vocabulary.
    """
    sizes = model.config.text_config.vocab_size, original.config.text_config.vocab_size
    if sizes[0] != sizes[1]:
        raise CheckpointError(
            f"the vocabularies have {sizes[0]} and {sizes[1]} tokens: these are two models."
        )
    if num_questions < 1:
        raise CheckpointError(f"`num_questions` is {num_questions}, expected at least 1.")
    divergences, differ = [], []
    for number in range(num_questions):
        scene = tiny.make_scene(tiny.TESTING_SEEDS + number)
        question = _make_question(scene, random.Random(number))
        inputs = processor(question.text, [tiny.render(scene)])
        answer = processor.tokenizer.encode(question.answer, add_special_tokens=False)
        ids = mx.concatenate([inputs.input_ids, mx.array(answer, dtype=mx.int32)])[None]
        theirs, ours = (_answer_logits(m, ids, inputs, len(answer)) for m in (original, model))
        divergences.append(kl_divergence(theirs, ours))
        differ.append(mx.argmax(theirs, axis=-1) != mx.argmax(ours, axis=-1))
        mx.eval(divergences[-1], differ[-1])
    every = mx.concatenate(divergences)
    share = to_number(mx.mean(mx.concatenate(differ)))
    return Divergence(to_number(mx.mean(every)), to_number(mx.max(every)), share, len(every))


def _make_question(scene: tiny.Scene, rng: random.Random) -> tiny.Question:
    """Return a random question that the scene allows."""
    while True:
        question = tiny.make_question(scene, rng.choice(list(tiny.KINDS)), rng)
        if question is not None:
            return question


def _answer_logits(model: MM1, ids: mx.array, inputs: Inputs, length: int) -> mx.array:
    """Return the logits of the answer's tokens and of the token after them."""
    return model(ids, inputs.pixel_values, token_order=inputs.token_order)[0, -length - 1 :]


def kl_divergence(theirs: mx.array, ours: mx.array) -> mx.array:
    """Return the Kullback-Leibler divergence of two models' next tokens from ``theirs``, in nats; both are given as
    logits.
    """
    theirs, ours = theirs.astype(mx.float32), ours.astype(mx.float32)
    p, q = (logits - mx.logsumexp(logits, axis=-1, keepdims=True) for logits in (theirs, ours))
    return mx.sum(mx.exp(p) * (p - q), axis=-1)
