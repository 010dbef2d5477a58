"""Files and folders that appear whole or not at all, under the very name given.

What stands there is replaced only where it is of the same kind: a link is followed to what it leads to, and a pipe,
a socket or a device is never written to, nor put out of the way.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mm1_mlx.errors import CheckpointError


@contextmanager
def new_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary folder that becomes ``path`` when the block ends well, and vanishes when it does not.

    Raises:
        CheckpointError: ``path`` is no folder, or exists and ``overwrite`` is not set.
    """
    given, path = path, Path(os.path.realpath(path))
    mode = _mode(given)
    if mode is not None and not stat.S_ISDIR(mode):
        kind = "a file" if stat.S_ISREG(mode) else "no folder"
        raise CheckpointError(f"{given} is {kind}; choose another folder.")
    if mode is not None and not overwrite:
        raise CheckpointError(f"{given} exists; choose another folder or overwrite it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        if path.exists():
            retired = temporary.with_name(temporary.name + "-old")
            path.rename(retired)
            try:
                temporary.rename(path)
            except BaseException:
                retired.rename(path)
                raise
            shutil.rmtree(retired)
        else:
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def new_file(path: Path, *, suffix: str = "") -> Iterator[Path]:
    """Give an empty file beside ``path``, hidden, that becomes ``path`` when the block ends well.

    Args:
        path: any name; the hidden one ends as it does.
        suffix: what the hidden name ends in besides, for a library that looks at that.

    Raises:
        CheckpointError: ``path`` is there and no regular file.
        OSError: there can be no file.
    """
    _require_file(path)
    path = Path(os.path.realpath(path))
    ending = "" if path.name.endswith(suffix) else suffix
    temporary = path.with_name(f".{secrets.token_hex(4)}.{path.name}{ending}")
    try:
        temporary.touch()
        yield temporary
        os.replace(temporary, path)  # a folder is refused here, by the system
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_files(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """Give a temporary folder, of which files called ``names`` move into ``folder`` when the block ends well.

    All have been written before the first of them moves; the last may vouch for the others.

    Raises:
        CheckpointError: one is there and no regular file.
        OSError: there can be no such folder or files.
    """
    for name in names:
        _require_file(folder / name)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=folder) as made:
        yield Path(made)
        for name in names:
            os.replace(Path(made, name), folder / name)


def _require_file(path: Path) -> None:
    """Refuse what is there and no file; a folder is refused by the system, when the file should take its place."""
    mode = _mode(path)
    if mode is not None and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise CheckpointError(f"{path} is no regular file, so it is not replaced; give another name.")


def _mode(path: Path) -> int | None:
    """Return what is there, as ``stat`` tells it, or None."""
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
