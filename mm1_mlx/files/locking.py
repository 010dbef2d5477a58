"""One process at a time writes to a file or folder; the system frees it when that process ends, however that comes."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

NEW = ".mm1-new"  # ends the hidden name of a folder that is being written


@contextmanager
def lock_path(path: Path, make: Callable[[], Any], *, wait: bool = False) -> Iterator[bool]:
    """Make a file or folder where there is none, and keep it for whoever is in the block.

    Args:
        path: the file or folder.
        make: makes it, unless it is there.
        wait: wait until another one gives it up, in place of an error.

    Yields:
        whether it is locked: some network drives know no locks.

    Raises:
        BlockingIOError: another one has it.
        OSError: it cannot be made or opened.
    """
    while True:
        make()
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except FileNotFoundError:  # whoever had it has removed it just now
            continue
        try:
            locked = _lock(descriptor, wait=wait)
            if _is_at(descriptor, path):
                yield locked
                return
        finally:
            os.close(descriptor)


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Keep a folder for whoever is in the block; where there are no locks, it is as if nobody had asked for one.

    Raises:
        BlockingIOError: another one has it, or is writing a folder that is to stand there.
        OSError: the folder cannot be made.
    """
    if _is_locked(claim_beside(Path(os.path.realpath(folder)))):
        raise BlockingIOError
    with lock_path(folder, lambda: folder.mkdir(parents=True, exist_ok=True)):
        yield


def claim_beside(folder: Path) -> Path:
    """Return the hidden folder in which what is to stand at ``folder`` is written."""
    return folder.with_name(f".{folder.name}{NEW}")


def is_abandoned(path: Path) -> bool:
    """Tell whether nobody has a file or folder locked, though locks are known there."""
    return _is_locked(path) is False


def _is_locked(path: Path) -> bool | None:
    """Tell whether another one has a file or folder locked; None where it is not there or locks are not known."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        return False if _lock(descriptor, wait=False) else None
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)


def _lock(descriptor: int, *, wait: bool) -> bool:
    """Lock a file or folder, and return whether that was possible."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return True
    except BlockingIOError:
        raise
    except OSError:
        return False


def _is_at(descriptor: int, path: Path) -> bool:
    """Tell whether an open file is the one that has this name now."""
    with suppress(OSError):
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    return False
