"""The end of a run whose other processes are lost: it stops with a message instead of waiting for ever.

A process that dies closes its connections. MLX then raises an error in its neighbours on the ring, which end too, and
so on around the ring. A process that is stopped, or a machine that sleeps or has lost its network, closes nothing.
Then the others notice that nothing has happened for a long time. They wait inside of MLX, where no exception reaches
them, so a thread ends them.
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

PATIENCE = 600  # seconds without progress after which a process ends, at least
TIMES_THE_LONGEST = 10  # it also waits this many times as long as its longest wait so far
CONNECTION = re.compile(r"\[(ring|jaccl|mpi|nccl)\]|NCCL")  # how MLX begins messages about a connection


class Watch:
    """A context that turns the loss of another process into an error. For a run of one process it does nothing.

    Args:
        processes: all processes of the run.
        where: function that returns how far the run is and how to resume it, for the message.

    Attributes:
        lost: whether the connection to another process was lost.

    Raises:
        TrainingError: when the context ends, if the connection to another process was lost.
    """

    def __init__(self, processes: Processes, where: Callable[[], str]):
        self._processes, self._where = processes, where
        self._quiet = self._longest = 0  # seconds
        self._left = threading.Event()
        self.lost = False

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
            self.lost = True
            raise TrainingError(self._words("has left; if it could say why, that stands above")) from None

    def progress(self) -> None:
        """Note that the run goes on, so that the time without progress begins anew."""
        self._longest, self._quiet = max(self._longest, self._quiet), 0

    def _wait(self, left: threading.Event) -> None:
        """End the process when it has waited for too long.

        Seconds are counted one by one, so that those in which this process itself was stopped do not count.
        """
        while not left.wait(1):
            self._quiet += 1
            if self._quiet > max(PATIENCE, TIMES_THE_LONGEST * self._longest):
                words = self._words(f"has not answered for {self._quiet} seconds")
                print(f"mm1: {words}", file=sys.stderr, flush=True)
                os._exit(1)

    def _words(self, what: str) -> str:
        who = f"process {1 - self._processes.rank}" if self._processes.size == 2 else "another process"
        return f"{who} {what}. {self._where()}"
