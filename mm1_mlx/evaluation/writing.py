"""Write the prompt of a query: choose its shots, write them before it, and check that they fit the context."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property

from mm1_mlx.errors import DataError, PictureError, PromptError
from mm1_mlx.evaluation.exam import Exam
from mm1_mlx.evaluation.likeness import Likeness
from mm1_mlx.evaluation.prompts import PROMPTS
from mm1_mlx.evaluation.settings import EvaluationSettings
from mm1_mlx.evaluation.shots import Support, measure_picture
from mm1_mlx.evaluation.tasks.task import Item
from mm1_mlx.generation.request import Request
from mm1_mlx.inputs.inputs import Inputs
from mm1_mlx.inputs.processor import Processor
from mm1_mlx.model.mm1 import MM1


@dataclass(frozen=True)
class Cell:
    """One pass over a task's queries."""

    shots: int
    seed: int
    swapped: bool = False  # each query has another one's picture


@dataclass(frozen=True)
class Asked:
    """A query with its prompt."""

    query: Item
    shots: list[Item]
    request: Request
    inputs: Inputs


class Writer:
    """Writes the prompts of one task.

    Args:
        model: its context must hold the prompts.
        processor: from ``load``, with the model.
        exam: the task with its queries and examples.
        settings: how the queries are asked.
    """

    def __init__(self, model: MM1, processor: Processor, exam: Exam, settings: EvaluationSettings):
        self._model, self._processor, self._settings = model, processor, settings
        self.exam, self.prompts = exam, PROMPTS[settings.prompts]
        self.max_tokens = settings.max_tokens or exam.task.max_tokens

    @property
    def cells(self) -> list[Cell]:
        """All passes over the queries; one seed is enough where the choice of shots is not random."""
        settings, found = self._settings, []
        for shots in settings.shots:
            by_chance = (shots or settings.num_text_shots) and settings.select != "rices"
            seeds = settings.shot_seeds if by_chance else settings.shot_seeds[:1]
            controls = (False, True) if settings.swapped else (False,)
            found += [Cell(shots, seed, swapped) for seed in seeds for swapped in controls]
        return found

    @property
    def skip_missing(self) -> bool:
        """Whether queries whose pictures cannot be used are left out."""
        return self._settings.skip_missing

    def check(self) -> None:
        """Refuse more shots than the context holds before the first query.

        Raises:
            DataError: names how many fit, or why the first query cannot be asked.
        """
        first = self.exam.queries[0]
        support = Support(self.exam.support, "fixed", skip_damaged=self._settings.skip_missing)
        with suppress(PictureError):  # reported when its block is asked
            self._write(
                support.choose(measure_picture(first), self._settings.most_shots, 0), measure_picture(first)
            )

    def ask(self, cell: Cell, index: int) -> Asked:
        """Choose shots for a query and write the prompt of both.

        Raises:
            PictureError: one of its pictures cannot be opened.
            DataError: there are not enough shots for it, or they do not fit the context.
        """
        query = measure_picture(self.exam.swap_picture(index) if cell.swapped else self.exam.queries[index])
        return self._write(self._choose_shots(cell, query), query)

    def ask_behind_common_shots(self, cell: Cell, query: Item) -> Asked:
        """Write the prompt of a query after the shots of a seed, even if one has the query's picture."""
        return self._write(self._choose_shots(cell, replace(query, image=None)), query)

    def ranks(self, query: Item) -> bool:
        """Tell whether a query's choices are ranked; they are not where a rationale comes before the answer."""
        reasons = any(item.rationale is not None for item in self.exam.support[:1])
        return self._settings.rank and bool(query.choices) and not reasons

    @cached_property
    def _support(self) -> Support:
        settings, items = self._settings, self.exam.support
        alike = self._make_likeness() if settings.select == "rices" and items else None
        return Support(items, settings.select, alike, skip_damaged=settings.skip_missing)

    def _make_likeness(self) -> Likeness:
        settings = self._settings
        try:
            return Likeness(
                self._model,
                self._processor,
                self.exam.support,
                batch_size=settings.vision_batch_size,
                skip_damaged=settings.skip_missing,
            )
        except PictureError as error:  # no single query has this picture
            raise DataError(
                f"{self.exam.task.name}, its support: {error} Put the picture right, or pass over such examples with "
                "`skip_missing`."
            ) from None

    def _choose_shots(self, cell: Cell, query: Item) -> list[Item]:
        if cell.shots:
            return self._support.choose(query, cell.shots, cell.seed)
        without_pictures = self._support.choose(query, self._settings.num_text_shots, cell.seed)
        return [replace(item, image=None) for item in without_pictures]

    def _write(self, shots: list[Item], query: Item) -> Asked:
        try:
            request, inputs = self._prepare(shots, query)
        except PromptError as error:
            fitting = self._count_fitting(shots, query)
            many = "" if fitting is None else f"`shots` {len(shots)} do not fit, {fitting} do: "
            raise DataError(f"{self.exam.task.name}, query {query.id}: {many}{error}") from None
        return Asked(query, shots, request, inputs)

    def _prepare(self, shots: Sequence[Item], query: Item) -> tuple[Request, Inputs]:
        after_image = self._processor.config.prompt_config.after_image
        request = replace(self.prompts.write(shots, query, after_image), system=self._settings.system)
        if not self._settings.low_resolution_shots:
            request = replace(request, num_low_resolution=0)
        inputs = request.prepare(self._processor)
        context, length = self._model.config.text_config.max_positions, len(inputs.input_ids)
        if context is not None and length + self.max_tokens > context:
            raise PromptError(
                f"the prompt is {length:,} tokens and an answer up to {self.max_tokens:,} (`max_tokens`), but the "
                f"model's context is {context:,}."
            )
        return request, inputs

    def _count_fitting(self, shots: Sequence[Item], query: Item) -> int | None:
        """Return the largest number of shots that fits, or None where not even a prompt without shots does."""
        for number in range(len(shots) - 1, -1, -1):
            with suppress(PromptError):
                self._prepare(shots[:number], query)
                return number
        return None
