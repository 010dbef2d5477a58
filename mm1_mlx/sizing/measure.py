"""Measurements of each phase from a picture's file to the last token of an answer: seconds, work and memory."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import pairwise
from typing import Any

import mlx.core as mx
import numpy as np
from jaxtyping import Float, Integer
from mlx.utils import tree_flatten
from mlx_lm.generate import generate_step
from PIL import Image

from mm1_mlx.errors import PromptError
from mm1_mlx.inputs.layout import layout
from mm1_mlx.inputs.picture import open_picture
from mm1_mlx.inputs.preprocess import normalize
from mm1_mlx.inputs.sub_images import views
from mm1_mlx.machine import machine_memory
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.settings import PREFILL_STEP_SIZE
from mm1_mlx.sizing.work import Work, count_work
from mm1_mlx.vision.clock import Clock
from mm1_mlx.vision.encode import encode_batches, round_to_groups


@dataclass(frozen=True)
class Case:
    """The sizes of one measured prompt, which is made of pictures and random text."""

    num_images: int
    prompt_tokens: int  # of text, after the pictures
    max_tokens: int  # of the answer
    batch_size: int  # views encoded together
    picture_size: tuple[int, int]  # width and height in pixels


@dataclass(frozen=True)
class Limits:
    """The highest speeds of this machine."""

    flops_per_second: float  # of the fastest square matrix product
    bytes_per_second: float  # of reading and writing a large array
    matmul_size: int  # side of the largest matrices tried


@dataclass
class Phase:
    """The measurements of one phase over all repeats."""

    seconds: list[float] = field(default_factory=list)
    peak_memory: int = 0  # the most bytes that MLX held
    work: Work | None = None  # None for a phase outside MLX, and for a sum of phases


PHASES = ("open", "resize", "encoder", "connector", "embedding", "prefill", "decode")


class Laps(Clock):
    """A clock that adds the time and memory of each phase to the phases of one case."""

    def __init__(self, phases: dict[str, Phase]):
        self.phases = phases
        self.shapes: list[tuple[int, ...]] = []  # shapes of the batches of views

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Time the block if the phase is measured; "preprocess" is not, since its two parts are measured instead."""
        return self._lap(self.phases[name]) if name in self.phases else nullcontext()

    @contextmanager
    def _lap(self, phase: Phase) -> Iterator[None]:
        mx.reset_peak_memory()
        start = time.perf_counter()
        yield
        mx.synchronize()
        phase.seconds[-1] += time.perf_counter() - start
        phase.peak_memory = max(phase.peak_memory, mx.get_peak_memory())


class Measurement:
    """The measured phases of one case; ``first_token`` runs from the picture's file to the first token."""

    def __init__(self, model: MM1, case: Case, *, seed: int = 0):
        self.model, self.case = model, case
        config, random = model.config, np.random.default_rng(seed)
        self.jpeg = make_jpeg(*case.picture_size, random)
        untagged = replace(config, image_config=config.image_config.changed(position_tags="none"))
        picture = layout(case.picture_size, untagged, num_images=case.num_images)
        self.visual_tokens = picture.ids.count(config.image_token_id) * case.num_images
        self._require_room(len(picture.ids) * case.num_images + case.prompt_tokens)
        text = random.integers(config.text_config.vocab_size - 1, size=case.prompt_tokens)
        text += text >= config.image_token_id  # all tokens but the one that stands for pictures
        self.input_ids = mx.array(picture.ids * case.num_images + text.tolist())
        starts = [picture.num_made * number for number in range(case.num_images)]
        self.order = [n if n < 0 else n + start for start in starts for n in picture.order or ()] or None

    def _require_room(self, length: int) -> None:
        """Refuse a prompt of ``length`` tokens, and its answer, that pass the context or the machine's memory."""
        decoder = self.model.config.text_config
        context, answer = decoder.max_positions, self.case.max_tokens
        fitting = machine_memory() // (4 * decoder.hidden_dims)  # embeddings alone, in float32
        limits = {"the model's context": context, "what this machine's memory holds": fitting}
        for limit, most in limits.items():
            if most is not None and length + answer > most:
                raise PromptError(
                    f"{self.visual_tokens:,} visual tokens, {length - self.visual_tokens:,} of text and "
                    f"{answer:,} of answer pass {limit}, {most:,}; "
                    "lower `num_images`, `prompt_tokens` or `max_tokens`."
                )

    def repeat(self, repeats: int, *, warmup: int = 1) -> None:
        """Run from file to last token, ``warmup`` times unmeasured, then ``repeats`` times; count the work once."""
        for number in range(warmup + repeats):
            if number in (0, warmup):
                self.phases = {name: Phase() for name in (*PHASES, "first_token")}
            self._run(counting=number == warmup + repeats - 1)

    def _run(self, *, counting: bool) -> None:
        model, case = self.model, self.case
        for phase in self.phases.values():
            phase.seconds.append(0.0)
        laps = Laps(self.phases)
        start = time.perf_counter()
        visual_tokens = mx.concatenate(encode_batches(model, self._pixels(laps), laps))
        self.num_views = laps.encoded_views
        with laps.phase("embedding"):
            embeddings = self._embed(visual_tokens)
            mx.eval(embeddings)
        cache = model.make_cache()
        with laps.phase("prefill"):
            tokens = generate_step(
                self.input_ids,
                model,
                max_tokens=case.max_tokens,
                prompt_cache=cache,
                prefill_step_size=PREFILL_STEP_SIZE,
                input_embeddings=embeddings,
            )
            next(tokens)
        self.phases["first_token"].seconds[-1] = time.perf_counter() - start
        with laps.phase("decode"):
            for _ in range(case.max_tokens - 1):
                next(tokens)
        mx.eval([entry.state for entry in cache])  # mlx-lm computes one token ahead: wait for it
        if counting:
            self._count(laps.shapes, visual_tokens, embeddings)

    def _pixels(self, laps: Laps) -> Iterator[Float[mx.array, "n H W 3"]]:
        """Open, resize and normalise the pictures one by one, and yield their views in batches to encode."""
        case, config = self.case, self.model.config.image_config
        step, held = round_to_groups(self.model, case.batch_size), []
        for number in range(1, case.num_images + 1):
            with laps.phase("open"):
                picture = open_picture(self.jpeg)
            with laps.phase("resize"):
                held += views(picture, config, num_images=case.num_images)
            while len(held) >= step or (held and number == case.num_images):
                with laps.phase("resize"):
                    pixels = mx.array(normalize(held[:step], config))
                    mx.eval(pixels)
                    held = held[step:]
                laps.shapes.append(pixels.shape)
                yield pixels

    def _embed(self, visual_tokens: Float[mx.array, "K D"]) -> Float[mx.array, "L D"]:
        visual_tokens = self.model.arrange(visual_tokens, self.order)
        return self.model.embed_inputs(self.input_ids, visual_tokens=visual_tokens)

    def _count(self, shapes: list[tuple[int, ...]], visual_tokens: mx.array, embeddings: mx.array) -> None:
        model, phases = self.model, self.phases
        phases["encoder"].work = phases["connector"].work = Work()
        for shape in shapes:
            pixels = mx.zeros(shape)
            both, encoder = (count_work(part, pixels) for part in (model.encode_images, self._features))
            phases["encoder"].work += encoder
            phases["connector"].work += both - encoder
        phases["embedding"].work = count_work(self._embed, visual_tokens)
        phases["prefill"].work = count_work(
            lambda x: read_prompt(model, self.input_ids, x, model.make_cache()), embeddings
        )
        first, num_steps = len(embeddings), self.case.max_tokens - 1
        ends = decode_work(model, first) + decode_work(model, first + num_steps - 1)
        # The work grows evenly from the first step to the last, so the sum follows from the two ends.
        phases["decode"].work = Work(ends.flops * num_steps // 2, ends.bytes * num_steps // 2)

    def _features(self, pixels: Float[mx.array, "n H W 3"]) -> Float[mx.array, "n P E"]:
        return self.model.patch_features(pixels)[0]


def make_jpeg(width: int, height: int, random: np.random.Generator) -> bytes:
    """Make a picture that is as hard to decode as a photograph, of soft shapes under fine noise."""
    shapes = Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8)).resize((width, height))
    noise = random.integers(-8, 9, (height, width, 1), np.int16)
    pixels = np.clip(np.asarray(shapes, np.int16) + noise, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()


def read_prompt(
    model: MM1, input_ids: Integer[mx.array, "L"], embeddings: Float[mx.array, "L D"], cache: list[Any]
) -> Float[mx.array, "1 1 V"]:
    """Return the logits after a prompt, which is read as mlx-lm does: in steps, with the last position alone."""
    last = len(input_ids) - 1
    for start, stop in pairwise([*range(0, last, PREFILL_STEP_SIZE), last]):
        model(input_ids[None, start:stop], cache=cache, input_embeddings=embeddings[None, start:stop])
    return model(input_ids[None, last:], cache=cache, input_embeddings=embeddings[None, last:])


def decode_work(model: MM1, length: int) -> Work:
    """Return the work of one more token after ``length`` tokens, as the difference of the work with and without it."""
    ids = mx.zeros(length, mx.int32)

    def fill(embeddings: mx.array, *, step: bool) -> list[mx.array]:
        cache = model.make_cache()
        read_prompt(model, ids, embeddings, cache)
        logits = [model(ids[None, :1], cache=cache)] if step else []
        states = [value for _, value in tree_flatten([entry.state for entry in cache])]
        return logits + [value for value in states if isinstance(value, mx.array)]

    embeddings = mx.zeros((length, model.config.text_config.hidden_dims), model.embed_text(ids[:1]).dtype)
    both, before = (count_work(lambda x, step=step: fill(x, step=step), embeddings) for step in (True, False))
    return both - before


def measure_limits(dtype: mx.Dtype) -> Limits:
    """Measure the limits of this machine, with square matrix products and by rewriting a quarter of a GB 16 times."""
    side, rate, seconds = 128, 0.0, 0.0
    while seconds < 0.05 and side < 8192:
        side *= 2
        a, b = (mx.random.normal((side, side)).astype(dtype) for _ in range(2))
        seconds = _fastest(lambda a=a, b=b: a @ b, a, b)
        rate = max(rate, 2 * side**3 / seconds)
    x = mx.ones(2**26, mx.float32)
    rewritten = _fastest(lambda: reduce(lambda y, _: -y, range(16), x), x)
    return Limits(rate, 16 * 2 * x.nbytes / rewritten, side)


def _fastest(function: Callable[[], mx.array], *inputs: mx.array, repeats: int = 5) -> float:
    """Return the seconds of the fastest of some runs, after one run to warm up."""
    mx.eval(inputs)
    found = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        mx.eval(function())
        found.append(time.perf_counter() - start)
    return min(found[1:])
