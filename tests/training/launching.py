"""Starts several processes on this machine, as ``mlx.launch`` does on several."""

import os
import socket
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
LAUNCH = Path(sys.executable).with_name("mlx.launch")


def start(*command, processes=2, output=subprocess.PIPE):
    """Start a Python command in so many processes; what they write is text."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]  # other runs at the same time have other ports
    words = [LAUNCH, "-n", processes, "-p", port, "--backend", "ring", sys.executable, *command]
    paths = os.pathsep.join(map(str, (TESTS, TESTS / "training", TESTS.parent)))
    return subprocess.Popen(
        [str(word) for word in words],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        text=True,
        env=os.environ | {"PYTHONPATH": paths},
    )


def launch(*command, processes=2, timeout=500):
    """Run a Python command in so many processes to its end; return what it wrote to stdout and stderr."""
    process = start(*command, processes=processes)
    try:
        return process.communicate(timeout=timeout)
    finally:
        process.kill()
