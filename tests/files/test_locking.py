"""Locks end with the process that has them, however it ends."""

import subprocess
import sys

import pytest

from mm1_mlx.files.locking import is_abandoned, lock_path

HOLD = """
import sys
from pathlib import Path
from mm1_mlx.files.locking import lock_path
path = Path(sys.argv[1])
with lock_path(path, path.touch):
    print("locked", flush=True)
    input()
"""


def test_a_lock_of_another_process_ends_when_that_is_killed(tmp_path):
    path = tmp_path / "lock"
    argv = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"locked\n" and not is_abandoned(path)
        with pytest.raises(BlockingIOError):
            lock_path(path, path.touch).__enter__()
        process.kill()
        process.wait()
    assert is_abandoned(path)
    with lock_path(path, path.touch) as locked:
        assert locked and not is_abandoned(path)
