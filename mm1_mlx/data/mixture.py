"""INTERIM, replaced by branch mix."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mm1_mlx.data.row_forms import Record, read_row
from mm1_mlx.data.settings import DataSettings
from mm1_mlx.strict import Config


@dataclass(frozen=True)
class SourceSettings(Config):
    path: str
    weight: float


@dataclass(frozen=True)
class MixtureSettings(Config):
    sources: dict


class Mixture:
    def __init__(
        self,
        settings: MixtureSettings,
        data: DataSettings,
        generators: Mapping[str, Callable],
        rank=0,
        size=1,
    ):
        self.settings, self.data, self.generators, self.rank, self.size = (
            settings,
            data,
            generators,
            rank,
            size,
        )
        self.sources = {k: SourceSettings.from_dict(v) for k, v in settings.sources.items()}

    def __len__(self):
        return 1 << 62

    def rows_of(self, update: int) -> list[int]:
        size = self.data.rows_per_update
        return [update * size + place for place in range(self.rank, size, self.size)]

    def first(self, num_rows: int) -> range:
        return range(self.rank, num_rows, self.size)

    def __getitem__(self, number: int) -> Record:
        rng = random.Random(f"{self.data.seed} {number}")
        name = rng.choices(list(self.sources), [s.weight for s in self.sources.values()])[0]
        maker = self.generators[self.sources[name].path]
        return read_row(maker(number, self.data.seed), name=f"{name}[{number}]", folder=None)
