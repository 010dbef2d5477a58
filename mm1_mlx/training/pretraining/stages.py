"""A recipe's stages one after the other: what each starts from, what it learns, and where its results lie.

The folder of a run has one folder for each stage, with its checkpoints, metrics and model, so that whoever goes on
finds the right stage at the right update.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mm1_mlx.checkpoint.load import read_config
from mm1_mlx.data.sources import Generator
from mm1_mlx.errors import MM1Error, TrainingError
from mm1_mlx.files.identity import model_identity
from mm1_mlx.machine import machine_memory
from mm1_mlx.training.dry_run import learning, require_room, told
from mm1_mlx.training.pretraining.batches import Rows, open_rows
from mm1_mlx.training.pretraining.beginning import Beginning, begin, begin_with
from mm1_mlx.training.pretraining.contrastive_task import ContrastiveTask
from mm1_mlx.training.pretraining.decisions import Decided, decide
from mm1_mlx.training.pretraining.foresight import foresight
from mm1_mlx.training.pretraining.outcome import KINDS, MODEL, Outcome
from mm1_mlx.training.pretraining.recipe import PretrainingRecipe, Stage
from mm1_mlx.training.pretraining.task import PretrainingTask
from mm1_mlx.training.recipe import Recipe
from mm1_mlx.training.run import Run, differences
from mm1_mlx.training.run_folder import RunFolder, saved_run
from mm1_mlx.training.session import require_fresh
from mm1_mlx.training.task import Task
from mm1_mlx.vision.cache import VisionCache


@dataclass(frozen=True)
class Ready:
    """A stage that can begin."""

    task: Task
    notes: tuple[str, ...]  # what was decided, read and learned, in lines


@dataclass(frozen=True)
class Stages:
    """A recipe, and the folder in which its stages have theirs."""

    recipe: PretrainingRecipe
    folder: Path
    generators: Mapping[str, Generator]  # that sources can name
    say: Callable[[str], Any] = lambda line: None  # told of shards that are left out

    def ready(self, stage: Stage, *, force: bool = False) -> Ready:
        """Return a stage, ready to begin.

        Args:
            stage: of the recipe.
            force: begin though the memory will not do.

        Raises:
            MM1Error: the stage before has left nothing yet, the memory will not do, or model, rows and settings do
                not go together.
        """
        self._require_start(stage)
        sizes = self.sizes(stage)  # before the first weight is made
        decided = self._decided(stage, sizes)
        recipe, rows = decided.recipe, self._rows(stage, decided.recipe)
        if not force and not recipe.shard:
            _, need = foresight(decided, sizes, rows)
            require_room(need, machine_memory(), recipe)
        beginning = self.begin(stage)
        outcome = Outcome(beginning, stage, self.origin(stage))
        if stage.contrastive is not None:
            task = ContrastiveTask(outcome, rows, recipe)
        else:
            kept = stage.options.cached_bytes
            cache = VisionCache(kept) if kept else None
            task = PretrainingTask(outcome, rows, recipe, vision_cache=cache)
        return Ready(task, (*self._notes(decided, rows), *learning(beginning.model)))

    def foreseen(self, stage: Stage) -> Iterator[str]:
        """Yield what a stage would decide, learn and take, line by line; nothing is computed.

        Raises:
            MM1Error: model, rows and settings do not go together.
        """
        sizes = self.sizes(stage)
        decided = self._decided(stage, sizes)
        rows = self._rows(stage, decided.recipe)
        yield from self._notes(decided, rows)
        about, need = foresight(decided, sizes, rows)
        yield from about
        yield from told(need, machine_memory(), decided.recipe)

    def _decided(self, stage: Stage, sizes: Beginning) -> Decided:
        decided, there = decide(stage, sizes.model, seed=self.recipe.seed_of(stage)), self.checkpoint(stage)
        was = None if there is None else saved_run(there).recipe
        return decided if was is None or was.iters > stage.given["iters"] else decided.going_on(was)

    def _notes(self, decided: Decided, rows: Rows) -> Iterator[str]:
        """Yield what a stage is, what was decided and what is read."""
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
        return self.folder / stage.name

    def result(self, stage: Stage) -> Path:
        """Return the model folder that a stage leaves."""
        return self.folder_of(stage) / MODEL

    def checkpoint(self, stage: Stage) -> Path | None:
        """Return the newest checkpoint of a stage."""
        return RunFolder(self.folder_of(stage)).newest()

    def require_fresh(self, stage: Stage, *, resume: bool) -> None:
        """Refuse to begin a stage where something lies that would be lost.

        Raises:
            TrainingError: something does.
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
        """Say whether a stage has made all its updates.

        Raises:
            TrainingError: it has, by another recipe, or its model is gone.
        """
        there = self.checkpoint(stage)
        if there is None or int(there.name) < stage.given["iters"]:
            return False
        if not self.result(stage).exists():
            raise TrainingError(
                f"stage {stage.name} is done, but its model is gone from {self.result(stage)}; put it back, or delete "
                f"{self.folder_of(stage)} to run the stage again."
            )
        others = self._changes(stage, saved_run(there))
        if others:
            raise TrainingError(
                f"stage {stage.name} is done by another recipe: {'; '.join(others)}. Put that back, delete "
                f"{self.folder_of(stage)} to run the stage again, or give another `folder`."
            )
        return True

    def _changes(self, stage: Stage, was: Run) -> list[str]:
        """Say what is otherwise by the recipe now than when a stage was run. Its rows need not be there any more."""
        sizes = self.sizes(stage)
        recipe = self._decided(stage, sizes).recipe
        now = was.task | {"stage": was.task.get("stage", {}) | stage.identity() | self.recipe.read_by(stage)}
        if self._starts_from_folder(
            stage
        ):  # new weights are as the seed, the sizes and MLX's version make them
            now |= {"base": model_identity(self.begin(stage).model)}
        left, here = read_config(self.result(stage)).to_dict(), sizes.model.config.to_dict()
        of_model = [line for line in differences(left, here) if not line.startswith("untrained")]
        return was.differences(Run(recipe, stage.options, now)) + of_model

    def _starts_from_folder(self, stage: Stage) -> bool:
        before = self.recipe.before(stage)
        return before is not None or stage.start is not None or self.recipe.model.folder is not None

    def origin(self, stage: Stage) -> str:
        """Return what a stage starts from, in words."""
        before = self.recipe.before(stage)
        if before is not None:
            return f"what stage `{before.name}` left"
        if stage.start is not None or self.recipe.model.folder is not None:
            return f"`{stage.start or self.recipe.model.folder}`"
        return "a model of its recipe"

    def begin(self, stage: Stage) -> Beginning:
        """Return the model that a stage starts with, its pictures prepared as the stage says.

        Raises:
            MM1Error: a folder is not usable.
        """
        before = self.recipe.before(stage)
        found = (
            self._first(stage) if before is None else begin_with(self.result(before), dtype=self.recipe.dtype)
        )
        return found.with_image_config(stage.image or {})

    def sizes(self, stage: Stage) -> Beginning:
        """Return the same by its sizes alone: nothing is computed, nor need the stage before have been."""
        before = self.recipe.before(stage)
        found = self._first(stage, sizes_alone=True) if before is None else self.sizes(before)
        return found.with_image_config(stage.image or {})

    def _first(self, stage: Stage, *, sizes_alone: bool = False) -> Beginning:
        """Return the model of a stage that starts from no other one."""
        dtype = self.recipe.dtype
        if stage.start is not None:
            return begin_with(stage.start, dtype=dtype, sizes_alone=sizes_alone)
        return begin(self.recipe.model, seed=self.recipe.seed, dtype=dtype, sizes_alone=sizes_alone)

    def _require_start(self, stage: Stage) -> None:
        """Refuse a stage whose start is not there yet."""
        before = self.recipe.before(stage)
        if before is None or self.is_done(before):
            return
        there, iters = self.checkpoint(before), before.given["iters"]
        done = f"has made {int(there.name):,} of its {iters:,} updates" if there else "has not begun"
        raise TrainingError(
            f"stage {before.name}, from which {stage.name} starts, {done}; run that one first, or have the recipe "
            "start this one from a model folder."
        )
