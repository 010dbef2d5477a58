"""The shares of a mixture as they were read: each source's part of rows, tokens and pictures between two reports."""

from __future__ import annotations

from dataclasses import asdict, astuple
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
        self._taken = dict.fromkeys(mixture.counts, Counts())  # from before the run was stopped

    def measure_shares(self) -> dict[str, Any]:
        """Return the shares of each source since the last call. All processes must call this together.

        Returns:
            by source: its shares of ``rows``, ``tokens`` and ``pictures``, and the number of its ``damaged`` rows,
            which were left out.
        """
        found = self._gather()
        self._before = {name: Counts(*astuple(counts)) for name, counts in self._mixture.counts.items()}
        self._taken = dict.fromkeys(found, Counts())
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

    def gather_counts(self) -> dict[str, Any]:
        """Return the counts of each source since ``measure_shares``. All processes must call this together."""
        return {name: asdict(counts) for name, counts in self._gather().items()}

    def take_counts(self, counts: dict[str, Any]) -> None:
        """Go on from what ``gather_counts`` returned when the run was stopped.

        Raises:
            TypeError, ValueError: these are no such counts.
        """
        if not counts.keys() <= self._taken.keys():
            raise ValueError(f"the sources are {', '.join(counts)}, expected {', '.join(self._taken)}")
        taken = {name: Counts(**values) for name, values in counts.items()}
        if not all(type(number) is int and number >= 0 for own in taken.values() for number in astuple(own)):
            raise ValueError("the counts of a source are no numbers")
        self._taken |= taken

    def _gather(self) -> dict[str, Counts]:
        """Return the counts of each source over all processes since ``measure_shares``."""
        found = {}
        for name, counts in self._mixture.counts.items():
            before = astuple(self._before[name])
            own = [after - begun for after, begun in zip(astuple(counts), before, strict=True)]
            both = zip(self._processes.sum_numbers(*own), astuple(self._taken[name]), strict=True)
            found[name] = Counts(*(here + there for here, there in both))
        return found
