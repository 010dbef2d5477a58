"""Ask a model one block of queries at a time: common shots are read once, pictures are encoded together.

Blocks do not depend on one another, so that a run that stops and is resumed gives the same answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace

from mm1_mlx.errors import DataError, PictureError
from mm1_mlx.evaluation.prompts import find_kind
from mm1_mlx.evaluation.results import Line
from mm1_mlx.evaluation.settings import EvaluationSettings
from mm1_mlx.evaluation.tasks.task import Item
from mm1_mlx.evaluation.writing import Asked, Cell, Writer
from mm1_mlx.generation.answering import Answering
from mm1_mlx.generation.batch import answers_of
from mm1_mlx.generation.decoding import Decoding
from mm1_mlx.generation.engine import WINDOW, Engine
from mm1_mlx.generation.likelihood import Likelihood, find_likeliest, score_continuations
from mm1_mlx.generation.prefix import Prefix
from mm1_mlx.generation.reading import read
from mm1_mlx.generation.request import Request
from mm1_mlx.generation.stream import stream_answer
from mm1_mlx.inputs.inputs import Inputs
from mm1_mlx.inputs.processor import Processor
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.vision.cache import VisionCache
from mm1_mlx.vision.encode import encode_ahead


class Asker:
    """Asks a model the prompts that a writer writes.

    Args:
        model: from ``load``.
        processor: from ``load``.
        writer: writes the task's prompts.
        settings: how the queries are asked.
        vision_cache: where visual tokens are kept.
    """

    def __init__(
        self,
        model: MM1,
        processor: Processor,
        writer: Writer,
        settings: EvaluationSettings,
        vision_cache: VisionCache,
    ):
        self._model, self._processor, self._writer, self._settings = model, processor, writer, settings
        self._vision_cache = vision_cache
        self._decoding = Decoding(
            max_tokens=writer.max_tokens,
            prefill_step_size=settings.prefill_step_size,
            vision_batch_size=settings.vision_batch_size,
        )
        self._prefixes: dict[Cell, Prefix] = {}  # the shots of the cell that was asked last

    @property
    def block_size(self) -> int:
        """The number of queries that are asked together."""
        return 1 if self._settings.one_by_one else WINDOW * self._settings.batch_size

    def ask_block(self, cell: Cell, indices: Sequence[int]) -> list[Line]:
        """Ask a block of queries and return a line for each, in their order.

        Raises:
            DataError: a picture is damaged and ``skip_missing`` is off, or a prompt does not fit the context.
        """
        asked: dict[int, Asked] = {}
        failed: dict[int, str] = {}
        for index in indices:
            try:
                asked[index] = self._writer.ask(cell, index)
            except PictureError as error:
                failed[index] = " ".join(str(error).split())
        ask = self._ask_alone if self._settings.one_by_one else self._ask_together
        texts = ask(cell, asked, failed)
        if failed and not self._settings.skip_missing:
            index = min(failed)
            exam = self._writer.exam
            raise DataError(
                f"{exam.task.name}, query {exam.queries[index].id}: {failed[index]} Put the picture right, or leave such "
                "queries out with `skip_missing`."
            )
        ranked = self._rank(cell, {index: own for index, own in asked.items() if index in texts})
        return [
            self._begin_line(cell, index) | {"error": failed[index]}
            if index in failed
            else self._begin_line(cell, index)
            | self._end_line(asked[index], texts[index])
            | ranked.get(index, {})
            for index in indices
        ]

    def _ask_together(self, cell: Cell, asked: dict[int, Asked], failed: dict[int, str]) -> dict[int, str]:
        """Return what the model wrote, by index; write errors about pictures into ``failed``."""
        if not asked:
            return {}
        pictures = [picture for own in asked.values() for picture in own.inputs.pictures]
        encode_ahead(self._model, pictures, self._vision_cache, batch_size=self._settings.vision_batch_size)
        indices, texts = list(asked), {}
        with closing(self._open_engine(cell, next(iter(asked.values())).query)) as engine:
            requests = [replace(own.request, prompt=own.inputs) for own in asked.values()]
            for answer in answers_of(engine, requests):
                if answer.error is not None:
                    failed[indices[answer.number]] = answer.error
                else:
                    texts[indices[answer.number]] = answer.text
        return texts

    def _ask_alone(self, cell: Cell, asked: dict[int, Asked], failed: dict[int, str]) -> dict[int, str]:
        """Do as ``_ask_together``, but read each prompt from its first token and keep nothing of it."""
        texts = {}
        for index, own in asked.items():
            request = replace(own.request, prompt=own.inputs)
            try:
                pieces = stream_answer(self._model, self._processor, request, self._decoding)
                texts[index] = "".join(piece.text for piece in pieces)
            except PictureError as error:
                failed[index] = " ".join(str(error).split())
        return texts

    def _open_engine(self, cell: Cell, query: Item) -> Engine:
        return Engine(
            self._model,
            self._processor,
            self._decoding,
            batch_size=self._settings.batch_size,
            vision_cache=self._vision_cache,
            prefix=self._read_prefix(cell, query),
        )

    def _read_prefix(self, cell: Cell, query: Item) -> Prefix | None:
        """Read a seed's fixed shots into a prefix; return None where each query has its own shots, or none."""
        num_shots = cell.shots or self._settings.num_text_shots
        if self._settings.select != "fixed" or not num_shots or query.image is None:
            return None
        if cell not in self._prefixes:
            asked = self._writer.ask_behind_common_shots(cell, query)
            prefix, answering = Prefix(self._model), Answering(Request(asked.inputs), self._processor)
            stop = asked.inputs.image_places[-1].start
            read(self._model, prefix, answering, stop, self._decoding, self._vision_cache)
            self._prefixes = {cell: prefix}
        return self._prefixes[cell]

    def _rank(self, cell: Cell, asked: dict[int, Asked]) -> dict[int, Line]:
        """Find the likeliest of each query's choices, by index."""
        choosing = {index: own for index, own in asked.items() if self._writer.ranks(own.query)}
        if not choosing:
            return {}
        if self._settings.one_by_one:
            return {index: self._find_likeliest(own, None) for index, own in choosing.items()}
        with closing(self._open_engine(cell, next(iter(choosing.values())).query)) as engine:
            return {index: self._find_likeliest(own, engine) for index, own in choosing.items()}

    def _find_likeliest(self, own: Asked, engine: Engine | None) -> Line:
        """Find the likeliest of a query's choices, with an engine that holds the shots or without one."""
        request, choices = own.request, own.query.choices
        continuations = [self._writer.prompts.gap + choice for choice in choices]
        scored: list[Likelihood]
        if engine is None:
            scored = score_continuations(
                self._model,
                self._processor,
                request,
                continuations,
                Prefix(self._model),
                decoding=self._decoding,
                batch_size=1,
            )
        else:
            if isinstance(request.prompt, Inputs):
                raise ValueError("the prompt is prepared already; choices are ranked after its text.")
            scored = engine.score(
                request.prompt,
                request.images,
                continuations,
                system=request.system,
                template=request.template,
                num_low_resolution=request.num_low_resolution,
            )
        return {"ranked": choices[find_likeliest(scored)]}

    def _begin_line(self, cell: Cell, index: int) -> Line:
        exam = self._writer.exam
        query = exam.queries[index]
        line: Line = {"task": exam.task.name, "shots": cell.shots, "seed": cell.seed}
        line |= {"swapped": True} if cell.swapped else {}
        line |= {"id": query.id} | ({} if query.question is None else {"question": query.question})
        line |= {"references": list(query.answers)}
        return line | ({} if query.group is None else {"group": query.group})

    def _end_line(self, asked: Asked, text: str) -> Line:
        answer = self._writer.prompts.cut(text, find_kind(asked.shots, asked.query))
        return {"shot_ids": [item.id for item in asked.shots], "text": text, "answer": answer}
