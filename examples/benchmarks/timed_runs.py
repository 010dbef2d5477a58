"""Run both sides in processes of their own and measure them, for ``against_mlx_vlm.py``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from mm1_mlx import MM1Error

SIDE = Path(__file__).with_name("mlx_vlm_side.py")
METRICS = "metrics.jsonl"  # in the folder of a run, a line for each update
BATCH = 16  # rows an update: the default of mm1_mlx.lora
MAXRSS = 1 if sys.platform == "darwin" else 1024  # bytes
GB = 1e9


@dataclass(frozen=True)
class Run:
    """One line of the table."""

    name: str
    model: str  # folder: theirs, every (patch), pooled
    rows: int  # for one update
    flags: tuple[str, ...] = ()

    @property
    def theirs(self) -> bool:
        return self.model == "theirs"


RUNS = (
    Run("mlx_vlm", "theirs", 1),
    Run("mlx_vlm, accumulated", "theirs", BATCH),
    Run("every patch", "every", 1),
    Run("every patch, cached", "every", 1, ("--cache-visual-tokens",)),
    Run("every patch, --no-pack", "every", BATCH, ("--no-pack",)),
    Run("every patch, packed", "every", BATCH),
    Run("C-Abstractor", "pooled", 1),
    Run("C-Abstractor, --no-pack", "pooled", BATCH, ("--no-pack",)),
    Run("C-Abstractor, packed", "pooled", BATCH),
    Run("C-Abstractor, packed, cached", "pooled", BATCH, ("--cache-visual-tokens",)),
)


@dataclass(frozen=True)
class Used:
    """What a process took of the machine."""

    output: str  # on stdout
    process_gb: float  # the largest resident memory
    cpu_seconds: float | None  # since the file had the lines to wait for; None where it is not Linux


def spawn(argv: Sequence[Any], log: Path, *, lines_in: Path | None = None, lines: int = 0) -> Used:
    """Run a command to its end.

    Args:
        argv: the command.
        log: what it prints goes there, beside ``.out`` and ``.err``.
        lines_in: a file that the command writes; CPU seconds count from when it has ``lines``.
        lines: number of lines in that file.

    Raises:
        MM1Error: the command failed.
    """
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    before = None
    with log.with_suffix(".out").open("w+") as out, log.with_suffix(".err").open("w+") as err:
        process = subprocess.Popen([*map(str, argv)], stdout=out, stderr=err, env=os.environ | offline)
        while True:
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
            if ended:
                break
            if (
                before is None
                and lines_in
                and lines_in.exists()
                and lines_in.read_bytes().count(b"\n") >= lines
            ):
                before = measure_cpu_seconds(process.pid)
            time.sleep(0.02)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if process.returncode:
            raise MM1Error(f"{' '.join(map(str, argv[:4]))} … failed: {err.read().strip()[-800:]}")
        spent = None if before is None else usage.ru_utime + usage.ru_stime - before
        return Used(out.read(), usage.ru_maxrss * MAXRSS / GB, spent)


def measure_cpu_seconds(pid: int) -> float | None:
    """Return the CPU seconds of a running process so far, all threads together; None where it is not Linux."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def train(
    run: Run, folder: Path, out: Path, python: str, rows: int, measured: int
) -> dict[str, float | None]:
    """Train one run; return what it reports after the first pass over all rows, and what it used.

    Args:
        run: the run to train.
        folder: the folder with rows and models.
        out: folder to make, for its adapter and its metrics.
        python: the Python that has mlx_vlm.
        rows: number of rows of the data.
        measured: number of rows after the first pass.
    """
    first, last = -(-rows // run.rows), -(-rows // run.rows) + -(-measured // run.rows)
    out.mkdir(parents=True)
    paths = ("--model", folder / run.model, "--data", folder / "rows")
    if run.theirs:
        first, last = first * run.rows, last * run.rows  # it counts rows, and updates after so many
        argv = (python, SIDE, "train", *paths, "--output-path", out, "--iters", last)
        flags = ("--gradient-accumulation-steps", run.rows, "--steps-per-save", last + 1)
    else:
        argv = (
            sys.executable,
            "-m",
            "mm1_mlx.lora",
            "--train",
            *paths,
            "--adapter-path",
            out,
            "--iters",
            last,
        )
        flags = ("--batch-size", run.rows, "--save-every", last + 1, *run.flags)
    metrics = out / METRICS
    used = spawn((*argv, *flags, "--steps-per-report", 1), out / "log", lines_in=metrics, lines=first)
    lines = [json.loads(line) for line in metrics.read_text("utf-8").splitlines()][first:]
    numbers = (read_theirs if run.theirs else read_ours)(lines)
    trained = -(-measured // run.rows) * run.rows
    return numbers | {
        "rows": trained,
        "rows_per_second": trained / numbers["seconds"],
        "process_gb": used.process_gb,
        "cpu_seconds_per_row": None if used.cpu_seconds is None else used.cpu_seconds / trained,
    }


def read_theirs(lines: Sequence[dict[str, float]]) -> dict[str, float]:
    """Sum up the reports of mlx_vlm, each of one row; the last token of a row without padding is not counted."""
    padded = sum(line["train_num_padded_tokens"] for line in lines)
    read = sum(line["train_num_processed_tokens"] for line in lines)
    return {
        "seconds": sum(line["step_time"] + line["data_time_per_step"] for line in lines),
        "tokens": read,
        "padding": padded / (padded + read),
        "mlx_gb": lines[-1]["peak_memory"],
    }


def read_ours(lines: Sequence[dict[str, float]]) -> dict[str, float]:
    """Sum up the lines of our ``metrics.jsonl``, each of one update."""
    return {
        "seconds": sum(1 / line["updates_per_second"] for line in lines),
        "tokens": sum(line["tokens_per_second"] / line["updates_per_second"] for line in lines),
        "padding": mean(line["padding"] for line in lines),
        "mlx_gb": lines[-1]["peak_memory"] / GB,
    }
