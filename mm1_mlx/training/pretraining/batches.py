"""The rows of a stage, and how they become what it computes: packed sequences, or pairs of picture and caption."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mm1_mlx.data.batches import Batches, RowBatches
from mm1_mlx.data.mixture import Mixture, open_mixture
from mm1_mlx.data.packing import can_pack
from mm1_mlx.data.pairs import PairBatches
from mm1_mlx.data.sources import Generator, SourceSettings
from mm1_mlx.training.distributed.processes import Processes
from mm1_mlx.training.pretraining.beginning import Beginning
from mm1_mlx.training.pretraining.realised import Realised
from mm1_mlx.training.pretraining.recipe import Stage
from mm1_mlx.training.recipe import Recipe

OTHER_SEED = 1 << 20  # beyond those of stages: generated rows that are held out are drawn with it


@dataclass(frozen=True)
class Rows:
    """What a stage learns from, and what its loss is measured on now and then."""

    train: Mixture
    valid: Mixture | None
    num_rows: dict[str, int | None] = field(default_factory=dict)  # of each source; None: it has no end
    sources: dict[str, Any] = field(default_factory=dict)  # what they read

    def identity(self) -> dict[str, Any]:
        """Return what the rows are, as ``PretrainingRecipe.read_by`` tells it, and how many."""
        return {"weights": self.train.weights, "sources": self.sources, "rows": self.num_rows}

    def lines(self, iters: int) -> Iterator[str]:
        """Yield a line for each source: its share, and how often so many updates read it through."""
        epochs = self.train.epochs(iters)
        for name, weight in self.train.weights.items():
            rows = self.num_rows[name]
            often = f", {rows:,} rows, read {epochs[name]:g} times through" if rows else ", without an end"
            yield f"source {name}: {100 * weight:g} % of the rows{often}"


def open_rows(
    sources: Mapping[str, SourceSettings],
    valid: Mapping[str, SourceSettings] | None,
    recipe: Recipe,
    *,
    mix: str,
    generators: Mapping[str, Generator],
    say: Callable[[str], Any] = lambda line: None,
) -> Rows:
    """Open the sources of a stage, of which this process reads its share.

    Args:
        sources: what is learned from.
        valid: what is not trained on, where there is something.
        recipe: of the stage's run.
        mix: shares of sources without a weight.
        generators: those that sources can name.
        say: told of shards that are left out.

    Raises:
        MM1Error: a source cannot be opened.
    """
    processes = Processes()

    def opened(chosen: Mapping[str, SourceSettings], data: Recipe) -> Mixture:
        return open_mixture(
            chosen,
            data,
            mix=mix,
            generators=generators,
            rank=processes.rank,
            size=processes.size,
            say=say,
        )

    train = opened(sources, recipe)
    apart = replace(recipe, grad_accumulation_steps=1, seed=recipe.seed + OTHER_SEED)
    held_out = None if valid is None else opened(valid, apart)
    num_rows = {name: source.num_rows for name, source in train.sources.items()}
    return Rows(train, held_out, num_rows, {name: source.identity() for name, source in sources.items()})


class StageBatches:
    """The batches of a stage.

    Args:
        stage: of a recipe.
        beginning: the model that it starts with.
        rows: of the stage.
        recipe: of its run.
        known: whether the visual tokens of a picture with this digest are kept, so that it is not opened.
    """

    def __init__(
        self,
        stage: Stage,
        beginning: Beginning,
        rows: Rows,
        recipe: Recipe,
        *,
        known: Callable[[str], bool] = lambda digest: False,
    ):
        self._stage, self._beginning, self._rows, self._recipe = stage, beginning, rows, recipe
        self._known = known
        self.train = self._batches(rows.train)
        self._valid = None if rows.valid is None else self._batches(rows.valid)
        self._realised = Realised(rows.train, Processes())

    def _batches(self, mixture: Mixture) -> RowBatches:
        contrastive, processor = self._stage.contrastive, self._beginning.processor
        if contrastive is None:
            packing = self._recipe.pack and can_pack(self._beginning.model)
            return Batches(mixture, processor, self._recipe, packing=packing, known=self._known)
        return PairBatches(
            mixture,
            processor.with_image_config(sub_images="none"),
            self._recipe,
            max_length=contrastive.max_text_length,
            chunk_size=contrastive.chunk_size,
        )

    def identity(self) -> dict[str, Any]:
        """Return what the stage and its rows are: other ones cannot go on from its checkpoints."""
        return self._stage.identity() | self._rows.identity()

    def told(self) -> dict[str, Any]:
        """Return each source's share since the last report; all processes come here together."""
        return {"mixture": self._realised.since_last()}

    def num_held_out(self, num_batches: int) -> int:
        """Return how many rows so many batches have that are not trained on."""
        return 0 if self._valid is None else num_batches * self._recipe.batch_size

    def held_out(self, num_rows: int) -> Iterator[list[Any]]:
        """Yield this process's share of rows that are not trained on, a batch at a time; they are the same each time."""
        self._rows.valid.count_anew()
        return self._valid.updates(0, num_rows // self._recipe.batch_size)
