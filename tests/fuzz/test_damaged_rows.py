"""Damaged rows for tuning, for batches, for worked examples and for an evaluation are refused in words."""

import contextlib
import json
import shutil
from pathlib import Path
from random import Random

import pytest
from damaged_json import damage_json
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import examples

from mm1_mlx.data.records import open_folder
from mm1_mlx.data.row_forms import read_row
from mm1_mlx.errors import MM1Error
from mm1_mlx.evaluation.tasks.rows import read_rows as read_evaluation_rows
from mm1_mlx.files.json_lines import parse_object
from mm1_mlx.generation.batch_file import read_rows
from mm1_mlx.inputs.few_shot import read_shots

PICTURE = {"type": "image"}
ROWS = (
    {"image": "a.png", "question": "What is it?", "answer": "a cat", "choices": ["a", "b"]},
    {"messages": [{"role": "user", "content": [PICTURE, {"type": "text", "text": "What?"}]},
                  {"role": "assistant", "content": "a cat"}], "images": ["a.png"]},
    {"image": "a.png", "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "a"}]},
    {"image": "a.png", "caption": "a cat on a mat"},
    {"images": ["a.png", None], "texts": [None, "A cat."]},
    {"text": "Cats sit on mats."},
    {"id": 1, "prompt": "What?", "images": ["a.png"], "system": "Be brief."},
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory, picture):
    folder = tmp_path_factory.mktemp("rows")
    shutil.copy(picture, folder / "a.png")
    return folder


def read_all(folder: Path) -> None:
    """Read a folder's rows as every command does."""
    readers = (
        lambda: read_rows(folder / "train.jsonl"),
        lambda: read_shots(folder / "train.jsonl"),
        lambda: read_evaluation_rows(str(folder), "support"),
        lambda: [rows[n] for rows in open_folder(folder).values() for n in range(len(rows))],
    )
    for read in readers:
        with contextlib.suppress(MM1Error):
            read()


@settings(max_examples=examples(150))
@given(seed=st.integers(0, 2**32))
def test_a_damaged_row_is_read_or_refused(folder, seed):
    rng = Random(seed)
    row = json.dumps(rng.choice(ROWS)).encode()
    damaged = damage_json(row, rng).replace(b"\n", b" ")
    (folder / "train.jsonl").write_bytes(row + b"\n" + damaged + b"\n")
    read_all(folder)
    with contextlib.suppress(MM1Error):
        values = parse_object(damaged.decode("utf-8", errors="replace"))
        read_row(values, name="row", folder=folder)
