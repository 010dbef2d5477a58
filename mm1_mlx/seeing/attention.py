"""The attention that each word of an answer paid to the picture."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from jaxtyping import Float
from PIL import Image

from mm1_mlx.errors import ConfigError, PromptError
from mm1_mlx.generation.stream import stream_generate
from mm1_mlx.inputs.inputs import Inputs
from mm1_mlx.inputs.processor import Processor
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.settings import MAX_TOKENS
from mm1_mlx.vision.encode import embed


@dataclass(frozen=True)
class Word:
    """A word of an answer, and the attention that it paid to the picture."""

    number: int  # from 1
    text: str
    paid: Float[np.ndarray, "M"]  # each visual token's share of its attention, in reading order


@dataclass(frozen=True)
class Attended:
    """An answer, and the attention that its words paid to the picture."""

    words: list[Word]
    num_layers: int  # of the decoder, that attend
    layer: int | None  # the one that is shown, from 1; None means the mean of all

    @property
    def text(self) -> str:
        """The answer."""
        return " ".join(word.text for word in self.words)

    @property
    def source(self) -> str:
        """Where the attention was measured, in words."""
        if self.layer is None:
            return f"the mean of all heads and {self.num_layers} layers of the decoder"
        return f"layer {self.layer} of {self.num_layers} of the decoder, the mean of its heads"


def answer_with_attention(
    model: MM1,
    processor: Processor,
    picture: Image.Image,
    prompt: str,
    *,
    max_tokens: int = MAX_TOKENS,
    layer: int | None = None,
) -> Attended:
    """Answer a question greedily, and return the words with their attention, averaged over heads and layers.

    Args:
        model: from ``load``.
        processor: from ``load``.
        picture: the picture that the question is about.
        prompt: the question.
        max_tokens: the longest answer, in tokens.
        layer: take one layer instead of the average: its number from 1 among the layers that attend.

    Raises:
        MM1Error: the prompt does not fit, the answer is empty, there is no such layer, or the connector's visual
            tokens have no place on the picture.
    """
    if model.config.connector_config.type == "attention_pool":
        raise ConfigError(
            "an attention_pool's visual tokens stand for no place of the picture; see: show tokens."
        )
    inputs = processor(prompt, [picture])
    pieces = list(stream_generate(model, processor, inputs, max_tokens=max_tokens))
    answer = [piece.token for piece in pieces][: -1 if pieces[-1].finish_reason == "stop" else None]
    words = split_words(processor.tokenizer, answer)
    if not words:
        raise PromptError("the model answers with nothing; ask something else.")
    attention = compute_attention(model, inputs, answer)
    num_layers = len(attention)
    if layer is not None:
        require_number("--layer", layer, len(attention), "layers that attend")
        attention = attention[layer - 1 : layer]
    is_visual = np.array(inputs.input_ids == model.config.image_token_id)
    paid = attention.mean(axis=0)[:, : len(is_visual)][:, is_visual]
    found = [Word(number, text, paid[tokens].mean(axis=0)) for number, (text, tokens) in enumerate(words, 1)]
    return Attended(found, num_layers, layer)


def name_layers(layer: int | None) -> str:
    """Return in words whose attention is shown: that of one layer, or the average."""
    return "mean of all layers" if layer is None else f"layer {layer}"


def split_words(tokenizer: Any, answer: list[int]) -> list[tuple[str, list[int]]]:
    """Split an answer into words, each with the numbers of its tokens; tokens of only white space belong to none."""
    text = tokenizer.decode(answer)
    prefixes = [tokenizer.decode(answer[: n + 1]) for n in range(len(answer))]
    ends = [len(prefix.rstrip("\N{REPLACEMENT CHARACTER}")) for prefix in prefixes[:-1]] + [len(text)]
    spans = list(zip([0, *ends[:-1]], ends, strict=True))
    for n in reversed(range(len(spans) - 1)):
        if spans[n][0] == spans[n][1]:  # the token begins a character that a later token completes
            spans[n] = (spans[n][0], spans[n + 1][1])
    found = []
    for match in re.finditer(r"\S+", text):
        start, stop = match.span()
        found.append((match.group(), [n for n, (a, b) in enumerate(spans) if a < stop and b > start]))
    return found


def compute_attention(model: MM1, inputs: Inputs, answer: list[int]) -> Float[np.ndarray, "K A L"]:
    """Return the attention of each token of the answer to the sequence, in each layer, averaged over heads.

    A token's attention is that of the position that wrote it, which is the one before its own.

    Args:
        model: from ``load``.
        inputs: the prompt as the processor prepared it.
        answer: ids of the A tokens of the answer.

    Returns:
        attention by layer (K), by token of the answer (A) and by position of the sequence (L).

    Raises:
        ConfigError: the decoder has no attention that can be read.
    """
    before = mx.array(answer[:-1], dtype=mx.int32)
    embeddings = embed(model, inputs)
    if len(before):
        embeddings = mx.concatenate([embeddings, model.embed_text(before).astype(embeddings.dtype)])
    ids = mx.concatenate([inputs.input_ids, before])
    with record_attention(len(answer)) as layers:
        model(ids[None], cache=model.make_cache(), input_embeddings=embeddings[None])
    layers = [np.array(layer) for layer in layers if layer.shape == (len(answer), len(ids))]
    if not layers:
        name = model.config.text_config.model_type
        raise ConfigError(f"a {name} decoder's attention cannot be shown: it does not go by MLX's function.")
    return np.stack(layers)


@contextmanager
def record_attention(rows: int) -> Iterator[list[Float[mx.array, "A K"]]]:
    """Record attention while the context lasts: every call of MLX's attention adds an entry to the list that it gives.

    An entry holds the attention weights of the last ``rows`` queries, averaged over the heads of the first sequence,
    and evaluated, so that memory does not grow with the heads. It works because decoders, ours and mlx-lm's, look MLX's
    function up when they call it. The image encoder must not be called inside.
    """
    attend, found = mx.fast.scaled_dot_product_attention, []

    def attend_and_record(q: mx.array, k: mx.array, v: mx.array, **options: Any) -> mx.array:
        plain = {name: options[name] for name in ("scale", "mask", "sinks") if name in options}
        found.append(attention_weights(q, k, rows=rows, **plain)[0].mean(axis=0))
        mx.eval(found[-1])
        return attend(q, k, v, **options)

    mx.fast.scaled_dot_product_attention = attend_and_record
    try:
        yield found
    finally:
        mx.fast.scaled_dot_product_attention = attend


def attention_weights(
    q: Float[mx.array, "B H L d"],
    k: Float[mx.array, "B G K d"],
    *,
    scale: float,
    mask: mx.array | str | None = None,
    sinks: Float[mx.array, "H"] | None = None,
    rows: int,
) -> Float[mx.array, "B H A K"]:
    """Return how much the last ``rows`` queries attend to each key.

    Arguments are those of ``mx.fast.scaled_dot_product_attention``, whose computation this repeats.
    """
    length, keys, groups = q.shape[2], k.shape[2], k.shape[1]
    rows = min(rows, length)
    q = mx.unflatten(q[:, :, -rows:].astype(mx.float32), 1, (groups, -1))
    scores = (q @ k[:, :, None].astype(mx.float32).swapaxes(-1, -2)).flatten(1, 2) * scale
    if isinstance(mask, str):  # "causal": the last query attends to all keys
        mask = mx.arange(keys) <= mx.arange(keys - rows, keys)[:, None]
    elif mask is not None and mask.ndim > 1 and mask.shape[-2] > 1:
        mask = mask[..., -rows:, :]
    if mask is not None:
        scores = mx.where(mask, scores, -mx.inf) if mask.dtype == mx.bool_ else scores + mask
    if sinks is not None:  # a score that takes part in the softmax, but belongs to no key
        sink = mx.broadcast_to(sinks.astype(mx.float32)[:, None, None], (*scores.shape[:3], 1))
        scores = mx.concatenate([scores, sink], axis=-1)
    return mx.softmax(scores, axis=-1)[..., :keys]


def require_number(flag: str, number: int, most: int, what: str) -> None:
    """Refuse a number outside 1 to ``most``.

    Args:
        flag: the flag that gave the number, for the message.
        number: the number.
        most: the largest number allowed.
        what: what is counted, in words.

    Raises:
        PromptError: the number is outside.
    """
    if not 1 <= number <= most:
        raise PromptError(f"{flag} is {number}, expected 1 to {most}: there are no more {what}.")
