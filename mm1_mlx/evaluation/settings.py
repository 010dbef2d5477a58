"""How a model is measured: how many shots, which ones, in what words. It imports little, for ``--help`` reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from mm1_mlx.errors import DataError
from mm1_mlx.evaluation.answers import Rules
from mm1_mlx.settings import BATCH_SIZE, PREFILL_STEP_SIZE

Select = Literal["fixed", "random", "rices"]
Style = Literal["mm1", "openflamingo", "chat"]

TEXT_SHOTS: dict[Style, int] = {"openflamingo": 2}  # examples without pictures that stand for 0 shots
LARGEST_SEED = 2**32
DECIDING = ("select", "prompts", "system", "low_resolution_shots", "max_tokens", "limit", "support_limit")
COUNTING = ("skip_missing", "vqa_rules")


@dataclass(frozen=True)
class EvaluationSettings:
    """How a model is measured: everything except the model and the tasks.

    Raises:
        DataError: a value is out of range.
    """

    shots: tuple[int, ...] = (0,)  # worked examples before a query; each number is measured
    shot_seeds: tuple[int, ...] = (0,)  # of the choice of shots; each is measured
    select: Select = "fixed"  # how they are chosen
    prompts: Style = "mm1"  # how examples and query are written
    system: str | None = None  # a system message
    low_resolution_shots: bool = False  # one view for each example
    max_tokens: int | None = None  # of an answer; None: what the task says
    rank: bool = False  # also take the likeliest of the choices, where a task has some
    swapped: bool = False  # also ask about another query's picture: what the model knows without looking
    limit: int | None = None  # queries of each task, drawn once for all; None: all
    support_limit: int | None = None  # items that examples are chosen from, drawn once for all; None: all
    skip_missing: bool = False  # leave out what has no picture or no answers, and count it
    vqa_rules: Rules = "official"
    batch_size: int = BATCH_SIZE  # answers written together
    one_by_one: bool = (
        False  # nothing is shared, kept or batched: slow, for checks and decoders that cannot batch
    )
    prefill_step_size: int = PREFILL_STEP_SIZE
    vision_batch_size: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("shots", 0), ("shot_seeds", 0)):
            values = getattr(self, name)
            if not values or min(values) < least or max(values) >= LARGEST_SEED:
                raise DataError(f"`{name}` is {list(values)}, expected one or more numbers from {least} up.")
            if len(set(values)) < len(values):
                raise DataError(f"`{name}` is {list(values)}, in which a number stands twice.")
        for name in ("limit", "support_limit", "max_tokens", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise DataError(f"`{name}` is {value}, expected at least 1.")
        for name, known in (("select", Select), ("prompts", Style), ("vqa_rules", Rules)):
            if getattr(self, name) not in get_args(known):
                expected = ", ".join(get_args(known))
                raise DataError(f"`{name}` is {getattr(self, name)!r}, expected one of {expected}.")

    @property
    def num_text_shots(self) -> int:
        """The number of examples without pictures before a query that has no shots."""
        return TEXT_SHOTS.get(self.prompts, 0)

    @property
    def most_shots(self) -> int:
        """The largest number of examples that a query has, including those without pictures."""
        return max(max(self.shots), self.num_text_shots if 0 in self.shots else 0)

    def list_deciding(self) -> dict[str, Any]:
        """Return the settings that answers depend on; a run cannot go on with answers of other values."""
        return {name: getattr(self, name) for name in DECIDING}

    def list_counting(self) -> dict[str, Any]:
        """Return the settings that decide which answers count; they may change when a run goes on."""
        return {name: getattr(self, name) for name in COUNTING}
