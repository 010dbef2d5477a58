"""Write files and folders that appear complete or not at all, under exactly the name given.

Something that exists there is replaced only if it is of the same kind. A link is followed to its target; a pipe, a
socket or a device is neither written to nor removed. Hidden names have the form ``.NAME.mm1-new`` (a folder to be),
``.NAME.mm1-old`` (the one that it replaces) and ``.mm1-HEX.NAME`` (a file to be); they are locked, so that those which a
killed process left are known, and removed by the next writer of the same name.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from mm1_mlx.errors import CheckpointError
from mm1_mlx.files.locking import NEW, claim_beside, is_abandoned, lock_path

OLD = ".mm1-old"
HIDDEN_FILE = re.compile(r"\.mm1-[0-9a-f]{12}\.(.+)", re.S)


@contextmanager
def new_folder(path: Path, *, overwrite: bool = False, kind: Sequence[str] = ()) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``path`` if the block succeeds, and is deleted if it fails.

    Args:
        path: the folder to make.
        overwrite: replace one that exists.
        kind: names, with ``*``, of files that a folder must have to be replaced, unless it is empty.

    Raises:
        CheckpointError: ``path`` is not a folder or another kind of folder, exists and ``overwrite`` is not set, or
            another process is writing it; this may also have become true while the block ran.
        OSError: something cannot be written; the error names ``path``.
    """
    given, path = path, Path(os.path.realpath(path))
    _require_replaceable(given, overwrite, kind)
    old = _beside(path, OLD)
    with name_failures(given, path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    with _claim_folder(path, given) as made, name_failures(given, made), ExitStack() as held:
        _put_right(old)
        was_there = _lock_there(path, given, held)
        _require_replaceable(given, overwrite, kind)
        yield made
        if not was_there:
            _lock_there(path, given, held)
        _require_replaceable(given, overwrite, kind)
        if path.exists():
            path.rename(old)
            try:
                made.rename(path)
            except BaseException:
                old.rename(path)
                raise
            shutil.rmtree(old)
        else:
            made.rename(path)


@contextmanager
def new_file(
    path: Path, *, suffix: str = "", is_kind: Callable[[Path], bool] | None = None, kind: str = ""
) -> Iterator[Path]:
    """Yield an empty hidden file beside ``path`` that becomes ``path`` if the block succeeds, and is deleted if it
    fails.

    Args:
        path: any name; the hidden name ends in the same way.
        suffix: an ending that the hidden name must have too, for a library that looks at it.
        is_kind: tells whether a file that is there may be replaced; by default every one that is no pipe or device.
        kind: what such a file is called in messages: "saved prompt cache".

    Raises:
        CheckpointError: ``path`` exists and is not a regular file, or not one that may be replaced.
        OSError: the file cannot be written; the error names ``path``.
    """
    require_file(path, is_kind=is_kind, kind=kind)
    given, path = path, Path(os.path.realpath(path))
    ending = "" if path.name.endswith(suffix) else suffix
    clean_up(path.parent, f"{path.name}{ending}")
    temporary = path.with_name(f".mm1-{secrets.token_hex(6)}.{path.name}{ending}")
    with name_failures(given, temporary), lock_path(temporary, temporary.touch, wait=True):
        try:
            yield temporary
            os.replace(temporary, path)  # the operating system refuses this for a folder
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def new_files(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """Yield a temporary folder, whose files called ``names`` move into ``folder`` if the block succeeds.

    All are written before the first of them moves, so the last one can prove that the others are complete.

    Raises:
        CheckpointError: one of them exists and is not a regular file, or another process is writing them.
        OSError: the folder or the files cannot be written; the error names ``folder``.
    """
    for name in names:
        require_file(folder / name)
    with name_failures(folder, folder):
        folder.mkdir(parents=True, exist_ok=True)
    with _claim_folder(folder / names[-1], folder) as made, name_failures(folder, made):
        yield made
        for name in names:
            os.replace(made / name, folder / name)


def require_file(path: Path, *, is_kind: Callable[[Path], bool] | None = None, kind: str = "") -> None:
    """Refuse a path that is a folder, pipe, socket or device, or a file of another kind.

    Raises:
        CheckpointError: what is there must not be replaced.
    """
    mode = _mode(path)
    if mode is None:
        return
    if stat.S_ISDIR(mode):
        raise CheckpointError(f"{path} is a folder; give the name of a file.")
    if not stat.S_ISREG(mode):
        raise CheckpointError(f"{path} is no regular file; give the name of one.")
    if is_kind is not None and path.stat().st_size and not is_kind(path):
        raise CheckpointError(f"{path} is there already and is no {kind}; give another name.")


def clean_up(folder: Path, name: str | None = None) -> None:
    """Remove what writers that were killed have left in a folder, and put back a folder that one was about to replace.

    Args:
        folder: where to look; it need not exist.
        name: the name of the file that they were writing; by default all names.
    """
    try:
        hidden = [entry for entry in os.listdir(folder) if entry.startswith(".")]
    except OSError:
        return
    for entry in hidden:
        of_file = HIDDEN_FILE.fullmatch(entry)
        if of_file and name in (None, of_file[1]) and is_abandoned(folder / entry):
            (folder / entry).unlink(missing_ok=True)
        elif name is None and entry.endswith(NEW) and is_abandoned(folder / entry):
            shutil.rmtree(folder / entry, ignore_errors=True)
            _put_right(folder / f"{entry.removesuffix(NEW)}{OLD}")
        elif (
            name is None and entry.endswith(OLD) and not (folder / f"{entry.removesuffix(OLD)}{NEW}").exists()
        ):
            _put_right(folder / entry)


@contextmanager
def name_failures(path: Path, hidden: Path) -> Iterator[None]:
    """Raise errors of the operating system inside the block, with the name of what a user asked for.

    Args:
        path: the name for errors that have none, or one at or below ``hidden``.
        hidden: where things are written meanwhile.
    """
    try:
        yield
    except OSError as error:
        names = [name for name in (error.filename2, error.filename) if isinstance(name, str | os.PathLike)]
        if names and not any(Path(name).is_relative_to(hidden) for name in names):
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None


@contextmanager
def _claim_folder(path: Path, given: Path) -> Iterator[Path]:
    """Yield an empty hidden folder for what is to be at ``path``, locked against other processes; delete it at the end.

    Raises:
        CheckpointError: another process has it; the message calls it ``given``.
    """
    made = claimed = claim_beside(path)
    with ExitStack() as held:
        try:
            if not held.enter_context(lock_path(claimed, lambda: claimed.mkdir(exist_ok=True))):
                with suppress(OSError):  # another one may be working in it
                    claimed.rmdir()
                made = Path(tempfile.mkdtemp(prefix=f"{claimed.name}-", dir=claimed.parent))  # one of its own
        except BlockingIOError:
            raise _written_by_another(given) from None
        try:
            for left in made.iterdir():
                shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
            yield made
        finally:
            shutil.rmtree(made, ignore_errors=True)


def _lock_there(path: Path, given: Path, held: ExitStack) -> bool:
    """Lock the folder at ``path`` until ``held`` ends, and return whether there is one.

    Raises:
        CheckpointError: another process has it, such as one that trains there; the message calls it ``given``.
    """
    if not path.is_dir():
        return False
    try:
        held.enter_context(lock_path(path, lambda: path.mkdir(exist_ok=True)))
    except BlockingIOError:
        raise _written_by_another(given) from None
    return True


def _written_by_another(path: Path) -> CheckpointError:
    return CheckpointError(
        f"another process is writing {path}; wait until it ends, or choose another folder."
    )


def _put_right(old: Path) -> None:
    """Put a folder back that was about to be replaced, or remove it where its successor is there."""
    path = old.with_name(old.name.removesuffix(OLD)[1:])
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)
    elif old.exists():
        old.rename(path)


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(f".{path.name}{ending}")


def _require_replaceable(path: Path, overwrite: bool, kind: Sequence[str]) -> None:
    """Refuse a path at which there is something else than a folder that may be replaced."""
    mode = _mode(path)
    if mode is None:
        return
    if not stat.S_ISDIR(mode):
        what = "a file" if stat.S_ISREG(mode) else "no folder"
        raise CheckpointError(f"{path} is {what}; choose another folder.")
    if not overwrite:
        raise CheckpointError(f"{path} exists; choose another folder or overwrite it.")
    missing = [name for name in kind if not any(path.glob(name))]
    if missing and any(path.iterdir()):
        raise CheckpointError(
            f"{path} has no {missing[0]}, so it is not what is written here, and is not replaced; choose another folder."
        )


def _mode(path: Path) -> int | None:
    """Return the mode that ``stat`` gives for a path, or None where nothing is there."""
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
