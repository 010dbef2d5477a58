"""Files of JSON lines that grow while a process writes, and may be torn."""

import json
import os

import pytest

from mm1_mlx.errors import CheckpointError
from mm1_mlx.files.json_lines import open_grown, read_grown, write_line


def test_half_a_surrogate_pair_is_escaped_and_read_back():
    values = {"id": "cut \ud83d emoji \U0001f408", "\udc00": ["ü", 1.5, None]}
    line = write_line(values)
    assert line.encode("utf-8").count(b"\n") == 1 and "ü" in line and "\U0001f408" in line
    assert json.loads(line) == values


def test_a_torn_end_is_cut_and_a_whole_one_is_ended(tmp_path, subtests):
    path = tmp_path / "lines"
    for end, found in (
        (b"", [{"a": 1}]),
        (b'{"b": 2', [{"a": 1}]),
        (b'{"b": "\xc3', [{"a": 1}]),
        (b"\0\0\0", [{"a": 1}]),
        (b'{"b": 2}', [{"a": 1}, {"b": 2}]),
        (b'{"b": 2}\n', [{"a": 1}, {"b": 2}]),
        (b'{"torn{"b": 2}\n', [{"a": 1}]),
    ):
        with subtests.test(end):
            path.write_bytes(b'{"a": 1}\n' + end)
            assert read_grown(path) == found
            with open_grown(path) as file:
                file.write(write_line({"c": 3}))
            assert read_grown(path) == [*found, {"c": 3}]


def test_a_file_that_is_not_there_holds_nothing_and_a_pipe_is_refused(tmp_path):
    assert read_grown(tmp_path / "lines") == []
    os.mkfifo(tmp_path / "pipe")
    for function in (read_grown, open_grown):
        with pytest.raises(CheckpointError, match="pipe is no regular file"):
            function(tmp_path / "pipe")
