"""A process that dies or falls silent ends the run of the others, in words and in time."""

import contextlib
import os
import re
import signal
import threading
import time

import losing
import pytest
from launching import LAUNCH, start

from mm1_mlx.errors import TrainingError
from mm1_mlx.training.distributed import lost_process
from mm1_mlx.training.distributed.lost_process import Watch
from mm1_mlx.training.distributed.processes import Processes
from mm1_mlx.training.run_folder import RunFolder

LONGEST = 120  # seconds for all that takes time on a busy machine
HERE = r"\. It was in update 3; the last good checkpoint is \S+/00000002; resume from it"


def wait_for(condition, said=str):
    end = time.monotonic() + LONGEST
    while not condition():
        assert time.monotonic() < end, said()
        time.sleep(0.1)


def lose(folder, what, shard, told="mm1: process 1"):
    """Let something happen to the second of two processes: what was said, and after how many seconds."""
    log, mark = folder / "log", folder / "pid"
    with log.open("w") as output:
        process = start(losing.__file__, folder, what, shard, output=output)
    try:
        wait_for(mark.exists, log.read_text)
        began = time.monotonic()
        wait_for(lambda: told in log.read_text(), log.read_text)
        seconds = time.monotonic() - began
        if what == "SIGSTOP":  # mlx.launch waits for it
            os.kill(int(mark.read_text()), signal.SIGKILL)
        process.wait(LONGEST)
    finally:
        process.kill()
        if mark.exists():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(mark.read_text()), signal.SIGKILL)
    return log.read_text(), seconds


together = pytest.mark.skipif(not LAUNCH.exists(), reason="mlx.launch is not installed")


@pytest.mark.slow
@together
@pytest.mark.parametrize("shard", ["shard", "whole"])
@pytest.mark.parametrize("what", ["SIGKILL", "error"])
def test_a_process_that_ends_is_missed_at_once(tmp_path, what, shard):
    said, seconds = lose(tmp_path, what, shard)
    assert re.search(r"mm1: process 1 has left; if it could say why, that stands above" + HERE, said)
    assert said.count("mm1: row 7: its picture is damaged.") == (what == "error")
    assert (tmp_path / "code-0").read_text() == "1"
    assert RunFolder(tmp_path / "run").newest().name == "00000002"
    assert seconds < losing.PATIENCE
    assert "Traceback" not in said


@pytest.mark.slow
@together
@pytest.mark.parametrize("shard", ["shard", "whole"])
def test_a_process_that_is_silent_is_given_up(tmp_path, shard):
    said, seconds = lose(tmp_path, "SIGSTOP", shard)
    assert re.search(r"mm1: process 1 has not answered for \d+ seconds" + HERE, said)
    assert "Node with rank 0 exited with code 1" in said
    assert losing.PATIENCE <= seconds < 2 * losing.PATIENCE


@pytest.mark.slow
@together
@pytest.mark.parametrize("what", ["SIGTERM", "SIGINT"])
def test_a_process_that_is_asked_to_leave_takes_the_others_along(tmp_path, what):
    said, _ = lose(tmp_path, what, "shard", told="")
    assert [(tmp_path / f"code-{rank}").read_text() for rank in (0, 1)] == ["0", "0"]
    assert RunFolder(tmp_path / "run").newest().name == "00000003"
    assert "mm1:" not in said


# In one process


def watch(size, monkeypatch, ended):
    monkeypatch.setattr(lost_process.os, "_exit", lambda code: (ended.append(code), made._left.set()))
    processes = Processes()
    processes.size = size
    made = Watch(processes, lambda: "It was in update 3.")
    return made


def test_a_lost_connection_is_told_in_words(monkeypatch):
    for size, who in ((2, "process 1"), (3, "another process")):
        with (
            pytest.raises(TrainingError, match=rf"{who} has left; .* It was in update 3."),
            watch(size, monkeypatch, []),
        ):
            raise RuntimeError("[ring] connection to a peer was lost")


def test_other_errors_stay_what_they_are(monkeypatch):
    with pytest.raises(RuntimeError, match="memory"), watch(2, monkeypatch, []):
        raise RuntimeError("[metal::malloc] no memory")


def test_silence_ends_the_process(monkeypatch, capsys):
    monkeypatch.setattr(lost_process, "PATIENCE", 0)
    ended = []
    with watch(2, monkeypatch, ended) as made:
        wait_for(lambda: ended)
    assert ended == [1] and made
    assert capsys.readouterr().err == "mm1: process 1 has not answered for 1 seconds. It was in update 3.\n"


def test_who_waited_long_before_is_patient(monkeypatch):
    monkeypatch.setattr(lost_process, "PATIENCE", 0)
    ended = []
    with watch(2, monkeypatch, ended) as made:
        made._longest = 1
        time.sleep(2.5)
        made.progress()
    assert not ended


def test_a_process_alone_is_not_watched(monkeypatch):
    before = threading.active_count()
    with watch(1, monkeypatch, []):
        assert threading.active_count() == before
