"""A terminal gets no control characters but tab and newline; a pipe gets the text as it is."""

import io
import os
import pty
import sys

import pytest

from mm1_mlx.command import run_command, say
from mm1_mlx.errors import PictureError
from mm1_mlx.terminal import Terminal, escape_controls


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\tb\nc", "a\tb\nc"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("\x9b2J\x7f\x00", "\\x9b2J\\x7f\\x00"),
        ("one\r\ntwo\rthree", "one\ntwo\\x0dthree"),
        ("naïve 猫 👩‍👧", "naïve 猫 👩‍👧"),
    ],
)
def test_control_characters_are_written_out(text, shown):
    assert escape_controls(text) == shown


@pytest.mark.parametrize(
    ("text", "written"),
    [("\r 5%|\x1b", "\r 5%|\\x1b"), ("\r   \r", "\r   \r"), ("\r", "\r"), ("a\rb", "a\\x0db")],
)
def test_progress_bars_keep_their_carriage_returns(text, written):
    stream = io.StringIO()
    assert Terminal(stream, has_bars=True).write(text) == len(text)
    assert stream.getvalue() == written


def show_in(stream, monkeypatch):
    """Run a command that prints an answer and then fails, both streams going to ``stream``."""

    def run(_):
        print("red: \x1b[31m", flush=True)
        raise PictureError("\x1b[2J.png is missing.")

    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, stream)
    assert run_command(None, lambda parser: None, run, []) == 1


def test_a_terminal_gets_neither_answers_nor_errors_raw(monkeypatch):
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w") as stream:
        show_in(stream, monkeypatch)
        assert os.read(leader, 1000) == b"red: \\x1b[31m\r\nmm1: \\x1b[2J.png is missing.\r\n"
    os.close(leader)


def test_a_pipe_gets_the_answer_as_it_is(monkeypatch):
    stream = io.StringIO()
    show_in(stream, monkeypatch)
    assert stream.getvalue() == "red: \x1b[31m\nmm1: \\x1b[2J.png is missing.\n"


def test_what_is_said_is_never_raw(capsys):
    say("\x1b[31mred")
    assert capsys.readouterr().err == "\\x1b[31mred\n"
