"""A process that dies or falls silent ends the run of all, in words, instead of leaving the others to wait for ever.

A process that dies closes its connections. The ring tells its neighbours, in whom MLX raises an error; they leave, and
so do theirs. A process that is stopped, a machine that sleeps or has lost its network, closes nothing: then the
others notice that nothing has gone on for long. They wait inside of MLX, where no exception reaches them, so a thread
ends them.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Callable
from types import TracebackType

from mm1_mlx.errors import TrainingError
from mm1_mlx.training.distributed.processes import Processes

PATIENCE = 600  # seconds without any progress, at least
TIMES_THE_LONGEST = 10  # and so many times as long as the longest wait that came to an end
CONNECTION = re.compile(r"\[(ring|jaccl|mpi|nccl)\]|NCCL")  # how MLX begins what it says of one


class Watch:
    """Inside of it, the loss of another process is an error; for a process alone it does nothing.

    Args:
        processes: all of the run.
        where: how far the run is and how it goes on, for the message.

    Raises:
        TrainingError: on leaving, where the connection to another process was lost.
    """

    def __init__(self, processes: Processes, where: Callable[[], str]):
        self._processes, self._where = processes, where
        self._quiet = self._longest = 0  # seconds
        self._left = threading.Event()

    def __enter__(self) -> Watch:
        self._quiet, self._left = 0, threading.Event()
        if self._processes.size > 1:
            threading.Thread(target=self._wait, args=(self._left,), daemon=True).start()
        return self

    def __exit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        self._left.set()
        if isinstance(error, RuntimeError) and CONNECTION.search(str(error)):
            raise TrainingError(self._words("has left; if it could say why, that stands above")) from None

    def progress(self) -> None:
        """Something went on."""
        self._longest, self._quiet = max(self._longest, self._quiet), 0

    def _wait(self, left: threading.Event) -> None:
        """Count the seconds in which this process ran: those in which it was stopped itself are nobody's fault."""
        while not left.wait(1):
            self._quiet += 1
            if self._quiet > max(PATIENCE, TIMES_THE_LONGEST * self._longest):
                words = self._words(f"has not answered for {self._quiet} seconds")
                print(f"mm1: {words}", file=sys.stderr, flush=True)
                os._exit(1)

    def _words(self, what: str) -> str:
        who = f"process {1 - self._processes.rank}" if self._processes.size == 2 else "another process"
        return f"{who} {what}. {self._where()}"
