"""A person's own rows: ``test.jsonl`` to ask about, ``train.jsonl`` for worked examples, or a hub data set's splits.

A row is a question about one picture or none, or a caption, in the forms of training rows. ``answers`` lists more right
answers, ``captions`` more right captions, ``choices`` the answers that a ranking chooses from.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mm1_mlx.data import records
from mm1_mlx.data.row_forms import Record, read_row
from mm1_mlx.errors import DataError, PromptError
from mm1_mlx.evaluation.tasks.places import Places
from mm1_mlx.evaluation.tasks.task import Item, Split, join_lines
from mm1_mlx.files.json_lines import read_json_lines
from mm1_mlx.inputs.prompt import remove_places
from mm1_mlx.strict import shown

SPLITS: dict[Split, records.Split] = {"queries": "test", "support": "train"}


def read_rows(data: str | None, split: Split) -> list[Item]:
    """Read one's own rows from a folder or from a data set on the Hugging Face hub.

    Raises:
        DataError: there is no such split, a row is at fault, or they are not all questions or all captions.
    """
    items = [_make_item(str(number), record, values) for number, record, values in _iterate_rows(data, split)]
    kinds = {item.question is None for item in items}
    if len(kinds) > 1:
        raise DataError(
            f"rows: {SPLITS[split]} has both questions and captions; put them in folders of their own."
        )
    return items


def _iterate_rows(data: str | None, split: Split) -> Iterator[tuple[int, Record, dict[str, Any]]]:
    """Yield each row's number, the record it makes, and its values unchanged."""
    if data is not None and not os.path.exists(os.path.expanduser(data)) and "/" in data:
        found = records.open_data(data, needed=SPLITS[split])[SPLITS[split]]
        if not isinstance(found, records.HubRecords):
            raise DataError(f"rows: {data} is no data set of the hub.")
        for index in range(len(found)):
            (row,) = found.rows[index].to_pylist()
            yield index, found[index], found.features.decode_example(row)
        return
    path = Places(data, "rows").find_file(f"{SPLITS[split]}.jsonl")
    try:
        lines = read_json_lines(path, holds="rows")
    except PromptError as error:
        raise DataError(str(error)) from None
    for line, values in lines.items():
        name, folder = f"{path}, line {line}", Path(path).parent
        yield line, read_row(values, name=name, folder=folder, pictures_there=False), values


def _make_item(id: str, record: Record, values: dict[str, Any]) -> Item:
    try:
        if len(record.images) > 1:
            raise DataError(f"it has {len(record.images)} pictures; an evaluation asks about one, or none.")
        image = record.images[0] if record.images else None
        choices = _require_texts(values, "choices")
        if record.form == "caption":
            caption = values["caption"]
            captions = _put_first(caption, _require_texts(values, "captions"))
            return Item(id, image, captions, shown=join_lines(caption), choices=choices)
        if record.document is not None or [turn.role for turn in record.turns] != ["user", "assistant"]:
            raise DataError("it is no single question with its answer, and no caption.")
        asked, said = record.turns
        answers, rationale = _require_texts(values, "answers"), values.get("rationale")
        first = join_lines(said.text if record.form != "question" else values.get("answer") or answers[0])
        return Item(
            id,
            image,
            _put_first(first, answers),
            remove_places(asked.text).strip(),
            shown=first,
            rationale=rationale and join_lines(rationale),
            choices=choices,
        )
    except DataError as error:
        raise DataError(f"{record.name}: {error}") from None


def _put_first(first: str, texts: tuple[str, ...]) -> tuple[str, ...]:
    """Return all right answers: ``texts``, and before them ``first`` where they lack it."""
    return texts if first in texts else (first, *texts)


def _require_texts(values: dict[str, Any], key: str) -> tuple[str, ...]:
    found = values.get(key) or ()
    found = [found] if isinstance(found, str) else found
    if not isinstance(found, list | tuple) or not all(
        isinstance(text, str) and text.strip() for text in found
    ):
        raise DataError(f"{key} is {shown(values[key])}, expected a list of texts.")
    return tuple(found)
