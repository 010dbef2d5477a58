"""The likelihoods of texts as continuations of a prompt, by which choices are ranked.

The prompt is read once. Continuations that differ only in their last token (such as red, green and blue, of one token
each) share a single pass. Other continuations go through the decoder together, padded at their ends, where causal
attention keeps the padding from changing the result.
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
    tokens: tuple[int, ...]
    log_likelihoods: tuple[float, ...]  # of each token, given all tokens before it, in nats
    is_greedy: bool  # whether every token is the most likely one in its place

    @property
    def total(self) -> float:
        """The log-likelihood of the whole text, in nats."""
        return sum(self.log_likelihoods)


def find_likeliest(scored: Sequence[Likelihood]) -> int:
    """Return the place of the likeliest text; the first of equally likely ones."""
    return max(range(len(scored)), key=lambda place: scored[place].total)


@dataclass(frozen=True)
class _Token:
    """A token to score, which follows the prompt and the first ``place`` tokens of a pass."""

    place: int
    id: int


def likelihoods(
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
    """Compute how likely each continuation of a prompt is.

    Prompt and continuation are tokenised as one text, because the model was trained on such texts. If this makes a
    token of characters from both, scoring begins with that token for all continuations.

    Args:
        model: from ``load``.
        processor: from ``load``.
        request: the prompt, as text or messages, with its pictures.
        continuations: texts exactly as they follow the prompt, with spaces.
        prefix: a KV cache to continue from; afterwards it holds the prompt up to its last token.
        decoding: only its ``prefill_step_size`` and ``vision_batch_size`` are used.
        batch_size: number of passes made together.
        vision_cache: where visual tokens are kept.

    Returns:
        one result for each continuation, in the same order.

    Raises:
        MM1Error: a picture or the prompt is not usable, or a continuation is empty or does not fit the context.
    """
    ids, tokens = _tokenize(processor, request, continuations)
    inputs = processor.assemble(ids, request.images, num_low_resolution=request.num_low_resolution)
    answering = Answering(Request(inputs), processor)
    last = len(answering.content) - 1
    _require_context(model, last + 1, max(map(len, tokens)))
    read(model, prefix, answering, last, decoding, vision_cache)
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
    """Return the ids of the prompt, which all continuations share, and the ids of each continuation after them."""
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
            f"{context:,}; shorten them, or give fewer pictures or shots."
        )


def _select_tokens(own: tuple[int, ...], tokens: Sequence[tuple[int, ...]]) -> set[_Token]:
    """Return the tokens that the pass over ``own`` scores: those of every continuation that adds one token to it."""
    return {_Token(place, id) for other in tokens if other[:-1] == own for place, id in enumerate(other)}


def _score(
    model: MM1,
    prefix: Prefix,
    first: Float[mx.array, "1 D"],
    passes: Sequence[tuple[int, ...]],
    wanted: Sequence[Sequence[_Token]],
    step_size: int,
) -> list[dict[_Token, tuple[float, bool]]]:
    """Return, for each pass, the log-likelihood of every wanted token, and whether it is the most likely one."""
    longest = 1 + max(map(len, passes))
    cache = _make_caches(prefix, len(passes))
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
        for (row, token), value, best in _look_up(logits, inside, begin):
            found[row][token] = (value, best == token.id)
    return found


def _look_up(
    logits: Float[mx.array, "B L V"], inside: Sequence[tuple[int, _Token]], begin: int
) -> Iterator[tuple[tuple[int, _Token], float, int]]:
    """Yield each wanted token with its log-likelihood, and with the most likely token of its place."""
    rows = mx.array([row for row, _ in inside])
    places = mx.array([token.place - begin for _, token in inside])
    own = logits[rows, places]
    values = mx.take_along_axis(own, mx.array([[token.id] for _, token in inside]), axis=-1)[:, 0]
    values, best = values - mx.logsumexp(own, axis=-1), own.argmax(axis=-1)
    yield from zip(inside, to_list(values), to_list(best), strict=True)


def _make_caches(prefix: Prefix, number: int) -> list[Any]:
    """Make caches for a number of sequences that all begin with the content of ``prefix``."""
    if number == 1:
        return prefix.fork().cache
    return [type(entry).merge([entry] * number) for entry in prefix.cache]


def _make_likelihood(text: str, own: tuple[int, ...], scored: dict[_Token, tuple[float, bool]]) -> Likelihood:
    each = [scored[_Token(place, id)] for place, id in enumerate(own)]
    return Likelihood(text, own, tuple(value for value, _ in each), all(best for _, best in each))
