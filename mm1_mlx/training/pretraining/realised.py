"""The shares of a mixture as they were read: each source's part of rows, tokens and pictures between two reports."""

from __future__ import annotations

from dataclasses import astuple
from typing import Any

from mm1_mlx.data.mixture import Counts, Mixture
from mm1_mlx.training.distributed.processes import Processes


class Realised:
    """Measures the shares of a mixture's sources over all processes.

    Args:
        mixture: the mixture, which counts what this process reads.
        processes: the processes of the run.
    """

    def __init__(self, mixture: Mixture, processes: Processes):
        self._mixture, self._processes = mixture, processes
        self._before = dict.fromkeys(mixture.counts, Counts())

    def measure_shares(self) -> dict[str, Any]:
        """Return the shares of each source since the last call. All processes must call this together.

        Returns:
            by source: its shares of ``rows``, ``tokens`` and ``pictures``, and the number of its ``damaged`` rows,
            which were left out.
        """
        found, now = {}, {name: Counts(*astuple(counts)) for name, counts in self._mixture.counts.items()}
        for name, counts in now.items():
            pairs = zip(astuple(counts), astuple(self._before[name]), strict=True)
            found[name] = Counts(*self._processes.sum_numbers(*(after - before for after, before in pairs)))
        self._before = now
        rows, tokens, pictures = (
            max(sum(getattr(counts, what) for counts in found.values()), 1)
            for what in ("rows", "tokens", "pictures")
        )
        return {
            name: {
                "rows": counts.rows / rows,
                "tokens": counts.tokens / tokens,
                "pictures": counts.pictures / pictures,
                "damaged": counts.damaged,
            }
            for name, counts in found.items()
        }
