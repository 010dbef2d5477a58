"""The rows of a stage, and the batches made of them: packed sequences, or pairs of picture and caption."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mm1_mlx.data.batches import Batches, RowBatches
from mm1_mlx.data.mixture import Mixture, open_mixture
from mm1_mlx.data.packing import can_pack
from mm1_mlx.data.pairs import PairBatches
from mm1_mlx.data.sources import Generator as RowGenerator
from mm1_mlx.data.sources import SourceSettings
from mm1_mlx.training.distributed.processes import Processes
from mm1_mlx.training.pretraining.beginning import Beginning
from mm1_mlx.training.pretraining.realised import Realised
from mm1_mlx.training.pretraining.recipe import Stage
from mm1_mlx.training.recipe import Recipe

OTHER_SEED = 1 << 20  # added to the seed for held-out rows, so that they differ from the rows of all stages


@dataclass(frozen=True)
class Rows:
    """The rows that a stage learns from, and the held-out rows that its loss is measured on."""

    train: Mixture
    valid: Mixture | None
    num_rows: dict[str, int | None] = field(default_factory=dict)  # by source; None for an endless one

    def identity(self) -> dict[str, Any]:
        """Return the identity of the sources, and their numbers of rows."""
        return self.train.identity() | {"rows": self.num_rows}

    def lines(self, iters: int) -> Iterator[str]:
        """Yield a line for each source: its share of the rows, and how often ``iters`` updates read all of it."""
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
    generators: Mapping[str, RowGenerator],
    say: Callable[[str], Any] = lambda line: None,
) -> Rows:
    """Open the sources of a stage, to read this process's share of them.

    Args:
        sources: the sources to learn from.
        valid: the sources of held-out rows, or None.
        recipe: the settings of the stage's run.
        mix: name of the mix that sets the shares of sources without a weight.
        generators: the generators that sources can name.
        say: function that is called with a line for every shard that is left out.

    Raises:
        MM1Error: a source cannot be opened.
    """
    processes = Processes()

    def open_mix(chosen: Mapping[str, SourceSettings], data: Recipe) -> Mixture:
        return open_mixture(
            chosen,
            data,
            mix=mix,
            generators=generators,
            rank=processes.rank,
            size=processes.size,
            say=say,
        )

    train = open_mix(sources, recipe)
    apart = replace(recipe, grad_accumulation_steps=1, seed=recipe.seed + OTHER_SEED)
    held_out = None if valid is None else open_mix(valid, apart)
    num_rows = {name: source.num_rows for name, source in train.sources.items()}
    return Rows(train, held_out, num_rows)


class StageBatches:
    """The batches of a stage, for training and for validation.

    Args:
        stage: a stage of a recipe.
        beginning: the model that the stage starts with.
        rows: the rows of the stage.
        recipe: the settings of its run.
        known: function that tells whether the visual tokens of the picture with a digest are kept, so that the picture
            need not be opened.
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
        """Return the identity of the stage and its rows; a run with another one cannot be resumed."""
        return self._stage.identity() | self._rows.identity()

    def gather_metrics(self) -> dict[str, Any]:
        """Return each source's share of the rows since the last report. All processes call this together."""
        return {"mixture": self._realised.measure_shares()}

    def gather_counts(self) -> dict[str, Any]:
        """Return what each source gave since the last report. All processes call this together."""
        return self._realised.gather_counts()

    def take_counts(self, counts: dict[str, Any]) -> None:
        """Go on from what each source had given when the run was stopped."""
        self._realised.take_counts(counts)

    def num_held_out(self, num_batches: int) -> int:
        """Return the number of held-out rows in this many batches, 0 where there are none."""
        return 0 if self._valid is None else num_batches * self._recipe.batch_size

    def held_out(self, num_rows: int) -> Generator[list[Any], None, None]:
        """Yield this process's share of held-out rows, batch by batch; every validation reads the same rows."""
        if self._valid is not None and self._rows.valid is not None:
            self._rows.valid.count_anew()
            yield from self._valid.updates(0, num_rows // self._recipe.batch_size)
