"""What a mixture really gave: each source's share of the rows, tokens and pictures between two reports."""

from __future__ import annotations

from dataclasses import astuple
from typing import Any

from mm1_mlx.data.mixture import Counts, Mixture
from mm1_mlx.training.distributed.processes import Processes


class Realised:
    """Tells the shares of a mixture's sources, over all processes.

    Args:
        mixture: that counts what this process reads.
        processes: of the run.
    """

    def __init__(self, mixture: Mixture, processes: Processes):
        self._mixture, self._processes = mixture, processes
        self._before = dict.fromkeys(mixture.counts, Counts())

    def since_last(self) -> dict[str, Any]:
        """Return shares since the last report, by source; all processes come here together.

        ``damaged`` counts rows that were left out.
        """
        found, now = {}, {name: Counts(*astuple(counts)) for name, counts in self._mixture.counts.items()}
        for name, counts in now.items():
            pairs = zip(astuple(counts), astuple(self._before[name]), strict=True)
            found[name] = Counts(*self._processes.summed(*(after - before for after, before in pairs)))
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
