"""The likelihoods of texts as continuations of a prompt, by which choices are ranked.

The prompt is read once. After it, the decoder reads each continuation without its last token, which it only has to
predict: this is a pass. Continuations that differ only in their last token (such as red, green and blue, of one token
each) share a single pass. Several passes go through the decoder together, padded at their ends, where causal attention
keeps the padding from changing the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from jaxtyping import Float

from mm1_mlx.arrays import to_list
from mm1_mlx.errors import PromptError
from mm1_mlx.generation.answering import Answering
from mm1_mlx.generation.decoding import Decoding
from mm1_mlx.generation.prefix import Prefix
from mm1_mlx.generation.reading import read
from mm1_mlx.generation.request import Request
from mm1_mlx.inputs.inputs import Inputs
from mm1_mlx.inputs.processor import Processor
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.vision.cache import VisionCache
from mm1_mlx.vision.encode import embed


@dataclass(frozen=True)
class Likelihood:
    """How likely a text is as the continuation of a prompt."""

    text: str
    tokens: tuple[int, ...]  # those scored; the first may hold the last characters of the prompt
    log_likelihoods: tuple[float, ...]  # of each token, given all tokens before it, in nats
    is_greedy: bool  # whether every token is the most likely one in its place

    @property
    def total(self) -> float:
        """The log-likelihood of the whole text, in nats."""
        return sum(self.log_likelihoods)


def find_likeliest(scored: Sequence[Likelihood]) -> int:
    """Return the index of the likeliest of one or more texts, the first if several are equally likely."""
    return max(range(len(scored)), key=lambda place: scored[place].total)


@dataclass(frozen=True)
class _Token:
    """A token to score, which follows the prompt and the first ``place`` tokens of a pass."""

    place: int
    id: int


def score_continuations(
    model: MM1,
    processor: Processor,
    request: Request,
    continuations: Sequence[str],
    prefix: Prefix,
    *,
    decoding: Decoding,
    batch_size: int,
    vision_cache: VisionCache | None = None,
) -> list[Likelihood]:
    """Compute the log-likelihood of each continuation of a prompt.

    Prompt and continuation are tokenised as one text, because the model was trained on such texts. If one token
    then spans the end of the prompt and the start of a continuation, scoring begins with it for all continuations.

    Args:
        model: from ``load``.
        processor: from ``load``.
        request: the prompt, as text or messages, with its pictures.
        continuations: texts exactly as they follow the prompt, including any leading space.
        prefix: a KV cache to continue from; afterwards it holds the prompt without its last token.
        decoding: only its ``prefill_step_size`` and ``vision_batch_size`` are used.
        batch_size: number of passes made together.
        vision_cache: where visual tokens are kept.

    Returns:
        one result for each continuation, in the same order.

    Raises:
        MM1Error: a picture or the prompt is not usable, or a continuation is empty or does not fit the context.
        ValueError: the request holds prepared inputs.
    """
    ids, tokens = _tokenize(processor, request, continuations)
    inputs = processor.assemble(ids, request.images, num_low_resolution=request.num_low_resolution)
    answering = Answering(Request(inputs), processor)
    last = len(answering.content) - 1
    _require_context(model, last + 1, max(map(len, tokens)))
    read(model, prefix, answering, last, decoding, vision_cache)  # fills `prefix` with all but the last token
    first = embed(
        model, inputs, vision_cache=vision_cache, start=last
    )  # embedding of the prompt's last token
    passes = sorted({own[:-1] for own in tokens}, key=lambda own: (len(own), own))
    found: dict[tuple[int, ...], dict[_Token, tuple[float, bool]]] = {}
    for begin in range(0, len(passes), batch_size):
        together = passes[begin : begin + batch_size]
        wanted = [
            sorted(_select_tokens(own, tokens), key=lambda token: (token.place, token.id)) for own in together
        ]
        scored = _score(model, prefix, first, together, wanted, decoding.prefill_step_size)
        found |= dict(zip(together, scored, strict=True))
    return [
        _make_likelihood(text, own, found[own[:-1]]) for text, own in zip(continuations, tokens, strict=True)
    ]


def _tokenize(
    processor: Processor, request: Request, continuations: Sequence[str]
) -> tuple[list[int], list[tuple[int, ...]]]:
    """Return the ids that the prompt alone and with each continuation begins with, and each continuation's other ids.

    Raises:
        PromptError: there is no continuation, or one adds no token of its own.
        ValueError: the request holds prepared inputs.
    """
    question = request.prompt
    if isinstance(question, Inputs):
        raise ValueError(
            "continuations are scored after a prompt of text or messages, not after prepared inputs."
        )

    def encode(answer: str) -> list[int]:
        return processor.prompt_ids(
            question,
            len(request.images),
            system=request.system,
            template=request.template,
            answer=answer,
        )

    if not continuations:
        raise PromptError("there is no continuation to score; give at least one.")
    prompt, whole = encode(""), [encode(text) for text in continuations]
    shared = len(prompt)
    for ids in whole:
        agree = zip(prompt, ids, strict=False)
        shared = min(shared, next((at for at, (a, b) in enumerate(agree) if a != b), len(ids)))
    for text, ids in zip(continuations, whole, strict=True):
        if len(ids) <= shared:
            raise PromptError(f"the continuation {text!r} has no token of its own; give one with text in it.")
    return prompt[:shared], [tuple(ids[shared:]) for ids in whole]


def _require_context(model: MM1, num_prompt: int, longest: int) -> None:
    context = model.config.text_config.max_positions
    if context is not None and num_prompt + longest > context:
        raise PromptError(
            f"the prompt is {num_prompt:,} tokens and a continuation {longest:,}, but the model's context is "
            f"{context:,}; shorten them, or give fewer pictures or examples."
        )


def _select_tokens(passed: tuple[int, ...], continuations: Sequence[tuple[int, ...]]) -> set[_Token]:
    """Return all tokens of the continuations that are the ids of a pass and one last token."""
    return {_Token(place, id) for own in continuations if own[:-1] == passed for place, id in enumerate(own)}


def _score(
    model: MM1,
    prefix: Prefix,
    first: Float[mx.array, "1 D"],
    passes: Sequence[tuple[int, ...]],
    wanted: Sequence[Sequence[_Token]],
    step_size: int,
) -> list[dict[_Token, tuple[float, bool]]]:
    """Run the decoder over a batch of passes, ``step_size`` positions at a time.

    Args:
        model: the model.
        prefix: the KV cache of the prompt without its last token; it stays as it is.
        first: embedding of the prompt's last token.
        passes: the ids of each pass.
        wanted: the tokens to score of each pass.
        step_size: number of positions.

    Returns:
        for each pass, the log-likelihood of every wanted token in nats, and whether it is the most likely one.
    """
    longest = 1 + max(map(len, passes))
    cache = _make_caches(prefix, len(passes))
    # The first id only keeps the place of `first`; the last ones are padding.
    ids = mx.array([[0, *own, *[0] * (longest - 1 - len(own))] for own in passes])
    starts = mx.broadcast_to(first[None], (len(passes), *first.shape))
    embeddings = mx.concatenate([starts, model.embed_text(ids[:, 1:])], axis=1)
    found: list[dict[_Token, tuple[float, bool]]] = [{} for _ in passes]
    for begin in range(0, longest, step_size):
        end = min(begin + step_size, longest)
        logits = model(ids[:, begin:end], cache=cache, input_embeddings=embeddings[:, begin:end])
        logits = logits.astype(mx.float32)
        inside = [
            (row, token) for row, own in enumerate(wanted) for token in own if begin <= token.place < end
        ]
        for (row, token), value, best_id in _score_tokens(logits, inside, begin):
            found[row][token] = (value, best_id == token.id)
    return found


def _score_tokens(
    logits: Float[mx.array, "B L V"], inside: Sequence[tuple[int, _Token]], begin: int
) -> Iterator[tuple[tuple[int, _Token], float, int]]:
    """Yield each (row, token) with its log-likelihood in nats, and with the id that is most likely at its place.

    Args:
        logits: of the positions from place ``begin`` on.
        inside: rows of the batch and the tokens to score in them, whose places these positions are.
        begin: place of the first position.
    """
    rows = mx.array([row for row, _ in inside])
    places = mx.array([token.place - begin for _, token in inside])
    there = logits[rows, places]
    values = mx.take_along_axis(there, mx.array([[token.id] for _, token in inside]), axis=-1)[:, 0]
    values, best_ids = values - mx.logsumexp(there, axis=-1), there.argmax(axis=-1)
    yield from zip(inside, to_list(values), to_list(best_ids), strict=True)


def _make_caches(prefix: Prefix, number: int) -> list[Any]:
    """Return a cache for each decoder layer, for a batch of sequences that all begin with ``prefix``, which stays as it is."""
    if number == 1:
        return prefix.fork().cache
    return [type(entry).merge([entry] * number) for entry in prefix.cache]


def _make_likelihood(text: str, own: tuple[int, ...], scored: dict[_Token, tuple[float, bool]]) -> Likelihood:
    each = [scored[_Token(place, id)] for place, id in enumerate(own)]
    return Likelihood(text, own, tuple(value for value, _ in each), all(is_best for _, is_best in each))
