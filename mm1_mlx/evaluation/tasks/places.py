"""Where a data set's files are below one folder: as they were published, each set in a folder of its own or not."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mm1_mlx.errors import DataError

FOLDERS = (
    "",
    "annotations",
    "Annotations",
    "questions",
    "questions1.2",
)  # folders in which archives have their JSON
PICTURES = (
    "",
    "images",
    "Images",
    "train_val_images",
)  # folders in which archives have their picture folders


class Places:
    """The places of a task's files below one folder.

    Args:
        data: the folder; files may also be one level down, in a folder named as the task.
        task: the name of the task.
        shared: the name of another task, whose folder has the pictures.

    Raises:
        DataError: there is no folder.
    """

    def __init__(self, data: str | None, task: str, shared: str | None = None):
        self._task = task
        if data is None:
            raise DataError(f"{task} reads files: give the folder that they are in with `data`.")
        folder = Path(os.path.expanduser(data))
        if not folder.is_dir():
            raise DataError(f"{task}: `data` {data} is no folder; give the one that the data sets are in.")
        self._roots = [folder, *(folder / name for name in (task, shared) if name is not None)]

    def find_file(self, name: str) -> Path:
        """Find a file by its name.

        Raises:
            DataError: there is no such file; the message names the folders that were searched.
        """
        places = [root / folder / name for root in self._roots for folder in FOLDERS]
        for path in places:
            if path.is_file():
                return path
        looked = ", ".join(str(root) for root in self._roots if root.is_dir())
        raise DataError(
            f"{self._task}: there is no {name} in {looked} (nor in {', '.join(FOLDERS[1:])} there); download it, or "
            "give another folder with `data`."
        )

    def find_pictures(self, name: str) -> Path:
        """Find the folder of pictures called ``name``; where there is none, return the place where it should be."""
        places = [root / outer / name for root in self._roots for outer in PICTURES]
        return next((path for path in places if path.is_dir()), places[0])


def read_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        DataError: it cannot be read, or is no JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON ({error}); download it again.") from None


@contextmanager
def expect_layout(path: Path, as_in: str) -> Iterator[None]:
    """Report errors in the ``with`` block, which reads parsed JSON, as a wrong layout of the file.

    Args:
        path: the file.
        as_in: the expected layout, such as "VQAv2's questions".

    Raises:
        DataError: a value is missing or of another type.
    """
    try:
        yield
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        what = f"there is no {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(
            f"{path} is not laid out as {as_in}: {what}; give the file as it was published."
        ) from None
