"""The stages of a recipe in order: what each one starts from, what it learns, and where its results are.

The folder of a run has one folder for each stage, with its checkpoints, metrics and model, from which the run can be
resumed at the right stage and update.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mm1_mlx.checkpoint.load import read_config
from mm1_mlx.data.sources import Generator
from mm1_mlx.errors import MM1Error, TrainingError
from mm1_mlx.files.identity import model_identity
from mm1_mlx.machine import machine_memory
from mm1_mlx.training.dry_run import describe_learning, describe_need, require_memory
from mm1_mlx.training.pretraining.batches import Rows, open_rows
from mm1_mlx.training.pretraining.beginning import Beginning, begin, begin_with
from mm1_mlx.training.pretraining.contrastive_task import ContrastiveTask
from mm1_mlx.training.pretraining.decisions import Decided, decide
from mm1_mlx.training.pretraining.foresight import foresee
from mm1_mlx.training.pretraining.outcome import KINDS, MODEL, Outcome
from mm1_mlx.training.pretraining.recipe import PretrainingRecipe, Stage
from mm1_mlx.training.pretraining.task import PretrainingTask
from mm1_mlx.training.recipe import Recipe
from mm1_mlx.training.run import Run, differences
from mm1_mlx.training.run_folder import RunFolder, read_run
from mm1_mlx.training.session import require_fresh
from mm1_mlx.training.task import Task
from mm1_mlx.vision.cache import VisionCache


@dataclass(frozen=True)
class Ready:
    """A stage that is ready to begin."""

    task: Task[Any, Any]
    notes: tuple[str, ...]  # lines that say what was decided, what is read and what learns


@dataclass(frozen=True)
class Stages:
    """A recipe, and the folder that holds the folders of its stages."""

    recipe: PretrainingRecipe
    folder: Path
    generators: Mapping[str, Generator]  # the generators that sources can name
    say: Callable[[str], Any] = lambda line: None  # called with a line for every shard that is left out
    _compared: set[Path] = field(default_factory=set, init=False, repr=False, compare=False)

    def prepare(self, stage: Stage, *, force: bool = False) -> Ready:
        """Check a stage, load its model and rows, and return its task.

        Args:
            stage: a stage of the recipe.
            force: begin even if the memory is too small.

        Raises:
            MM1Error: the previous stage is not finished, the memory is too small, or model, rows and settings do not
                fit each other.
        """
        self._require_start(stage)
        sizes = self.sizes(stage)  # checked before any weight is made
        decided = self._decide(stage, sizes)
        recipe, rows = decided.recipe, self._rows(stage, decided.recipe)
        if not force and not recipe.shard:
            _, need = foresee(decided, sizes, rows)
            require_memory(need, machine_memory(), recipe)
        beginning = self.begin(stage)
        outcome = Outcome(beginning, stage, self.origin(stage))
        if stage.contrastive is not None:
            task = ContrastiveTask(outcome, rows, recipe)
        else:
            kept = stage.options.cached_bytes
            cache = VisionCache(kept) if kept else None
            task = PretrainingTask(outcome, rows, recipe, vision_cache=cache)
        return Ready(task, (*self._notes(decided, rows), *describe_learning(beginning.model)))

    def foresee(self, stage: Stage) -> Iterator[str]:
        """Yield lines that say what a stage would decide, what it would learn and the memory that it would need.

        Nothing is computed.

        Raises:
            MM1Error: model, rows and settings do not fit each other.
        """
        sizes = self.sizes(stage)
        decided = self._decide(stage, sizes)
        rows = self._rows(stage, decided.recipe)
        yield from self._notes(decided, rows)
        about, need = foresee(decided, sizes, rows)
        yield from about
        yield from describe_need(need, machine_memory(), decided.recipe)

    def _decide(self, stage: Stage, sizes: Beginning) -> Decided:
        decided, there = decide(stage, sizes.model, seed=self.recipe.seed_of(stage)), self.checkpoint(stage)
        was = None if there is None else read_run(there).recipe
        return decided if was is None or was.iters > stage.given["iters"] else decided.keep_warmup(was)

    def _notes(self, decided: Decided, rows: Rows) -> Iterator[str]:
        """Yield lines that say what a stage is, what was decided and what is read."""
        stage, recipe = decided.stage, decided.recipe
        yield (
            f"stage {stage.name}: {KINDS[stage.kind]}, begun with {self.origin(stage)}; {recipe.iters:,} updates of "
            f"{recipe.rows_per_update:,} rows"
        )
        yield from decided.lines()
        yield from rows.lines(recipe.iters)

    def _rows(self, stage: Stage, recipe: Recipe) -> Rows:
        try:
            return open_rows(
                self.recipe.sources_of(stage),
                stage.valid,
                recipe,
                mix=stage.mix or self.recipe.mix,
                generators=self.generators,
                say=self.say,
            )
        except MM1Error as error:
            raise type(error)(f"stage {stage.name}: {error}") from None

    def folder_of(self, stage: Stage) -> Path:
        """Return the folder of a stage's run."""
        return self.folder / stage.name

    def result(self, stage: Stage) -> Path:
        """Return the path of the model folder that a stage writes."""
        return self.folder_of(stage) / MODEL

    def checkpoint(self, stage: Stage) -> Path | None:
        """Return the newest checkpoint of a stage, or None."""
        return RunFolder(self.folder_of(stage)).newest()

    def require_fresh(self, stage: Stage, *, resume: bool) -> None:
        """Refuse to begin a stage that would overwrite an earlier run or its model.

        Args:
            stage: a stage of the recipe.
            resume: its earlier run is to be resumed.

        Raises:
            TrainingError: something would be overwritten.
        """
        folder, there = self.folder_of(stage), self.result(stage)
        require_fresh(folder, resume=resume)
        ended = any(line["update"] >= stage.given["iters"] for line in RunFolder(folder).lines())
        if there.exists() and self.checkpoint(stage) is None and (ended or not resume):
            raise TrainingError(
                f"{there} is there already, and no checkpoint beside it to go on from; move it away, or give another "
                "`folder`."
            )

    def is_done(self, stage: Stage) -> bool:
        """Tell whether a stage has made all its updates.

        Raises:
            TrainingError: it has, but with another recipe, or its model is missing.
        """
        there = self.checkpoint(stage)
        if there is None or int(there.name) < stage.given["iters"]:
            return False
        if not self.result(stage).exists():
            raise TrainingError(
                f"stage {stage.name} is done, but its model is gone from {self.result(stage)}; put it back, or delete "
                f"{self.folder_of(stage)} to run the stage again."
            )
        if there in self._compared:  # weights are read for it, and neither recipe nor checkpoint changes
            return True
        others = self._changes(stage, read_run(there))
        if others:
            raise TrainingError(
                f"stage {stage.name} is done by another recipe: {'; '.join(others)}. Put that back, delete "
                f"{self.folder_of(stage)} to run the stage again, or give another `folder`."
            )
        self._compared.add(there)
        return True

    def _changes(self, stage: Stage, was: Run) -> list[str]:
        """List what differs between the recipe and an earlier run of a stage, whose rows need not exist any more."""
        sizes = self.sizes(stage)
        recipe = self._decide(stage, sizes).recipe
        now = was.task | {
            "stage": was.task.get("stage", {}) | stage.identity() | self.recipe.identify_sources(stage)
        }
        # New weights follow from the seed, the sizes and MLX's version, so only those of a folder are compared.
        if self._starts_from_folder(stage):
            now |= {"base": model_identity(self.begin(stage).model)}
        left, here = read_config(self.result(stage)).to_dict(), sizes.model.config.to_dict()
        of_model = [line for line in differences(left, here) if not line.startswith("untrained")]
        return was.differences(Run(recipe, stage.options, now)) + of_model

    def _starts_from_folder(self, stage: Stage) -> bool:
        before = self.recipe.stage_before(stage)
        return before is not None or stage.start is not None or self.recipe.model.folder is not None

    def origin(self, stage: Stage) -> str:
        """Return a description of what a stage starts from."""
        before = self.recipe.stage_before(stage)
        if before is not None:
            return f"what stage `{before.name}` left"
        if stage.start is not None or self.recipe.model.folder is not None:
            return f"`{stage.start or self.recipe.model.folder}`"
        return "a model of its recipe"

    def begin(self, stage: Stage) -> Beginning:
        """Load the model that a stage starts with, with the stage's changes to how pictures are prepared.

        Raises:
            MM1Error: a folder is not usable.
        """
        before = self.recipe.stage_before(stage)
        found = (
            self._first(stage) if before is None else begin_with(self.result(before), dtype=self.recipe.dtype)
        )
        return found.with_image_config(stage.image or {})

    def sizes(self, stage: Stage) -> Beginning:
        """Return the model that a stage starts with, without its weights; the previous stage need not have run."""
        before = self.recipe.stage_before(stage)
        found = self._first(stage, sizes_alone=True) if before is None else self.sizes(before)
        return found.with_image_config(stage.image or {})

    def _first(self, stage: Stage, *, sizes_alone: bool = False) -> Beginning:
        """Load or make the model of a stage that does not start from another stage."""
        dtype = self.recipe.dtype
        if stage.start is not None:
            return begin_with(stage.start, dtype=dtype, sizes_alone=sizes_alone)
        return begin(self.recipe.model, seed=self.recipe.seed, dtype=dtype, sizes_alone=sizes_alone)

    def _require_start(self, stage: Stage) -> None:
        """Refuse a stage that starts from another one which is not finished."""
        before = self.recipe.stage_before(stage)
        if before is None or self.is_done(before):
            return
        there, iters = self.checkpoint(before), before.given["iters"]
        done = f"has made {int(there.name):,} of its {iters:,} updates" if there else "has not begun"
        raise TrainingError(
            f"stage {before.name}, from which {stage.name} starts, {done}; run that one first, or have the recipe "
            "start this one from a model folder."
        )
