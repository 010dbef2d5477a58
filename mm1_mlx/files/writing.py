"""Write files and folders that appear complete or not at all, under exactly the name given.

Something that exists there is replaced only if it is of the same kind. A link is followed to its target; a pipe, a
socket or a device is neither written to nor removed.
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
    """Yield a temporary folder that becomes ``path`` if the block succeeds, and is deleted if it fails.

    Raises:
        CheckpointError: ``path`` is not a folder, or exists and ``overwrite`` is not set.
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
    """Yield an empty hidden file beside ``path`` that becomes ``path`` if the block succeeds, and is deleted if it
    fails.

    Args:
        path: any name; the hidden name ends in the same way.
        suffix: an ending that the hidden name must have too, for a library that looks at it.

    Raises:
        CheckpointError: ``path`` exists and is not a regular file.
        OSError: the file cannot be created.
    """
    _require_file(path)
    path = Path(os.path.realpath(path))
    ending = "" if path.name.endswith(suffix) else suffix
    temporary = path.with_name(f".{secrets.token_hex(4)}.{path.name}{ending}")
    try:
        temporary.touch()
        yield temporary
        os.replace(temporary, path)  # the operating system refuses this for a folder
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_files(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """Yield a temporary folder, whose files called ``names`` move into ``folder`` if the block succeeds.

    All are written before the first of them moves, so the last one can prove that the others are complete.

    Raises:
        CheckpointError: one of them exists and is not a regular file.
        OSError: the folder or the files cannot be created.
    """
    for name in names:
        _require_file(folder / name)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=folder) as made:
        yield Path(made)
        for name in names:
            os.replace(Path(made, name), folder / name)


def _require_file(path: Path) -> None:
    """Refuse a path that is a pipe, socket or device; a folder is refused later, by the operating system."""
    mode = _mode(path)
    if mode is not None and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise CheckpointError(f"{path} is no regular file, so it is not replaced; give another name.")


def _mode(path: Path) -> int | None:
    """Return the mode that ``stat`` gives for a path, or None where nothing is there."""
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
