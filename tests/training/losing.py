"""A run in which something happens to the second process: ``mlx.launch -n 2 python losing.py FOLDER WHAT SHARD``."""

import dataclasses
import os
import signal
import sys
from pathlib import Path

from sharded_runs import CASES, make_trainer

from mm1_mlx.command import exit_process, run_command
from mm1_mlx.errors import DataError
from mm1_mlx.training.distributed import lost_process

AT = 2  # updates done when it happens
PATIENCE = 20  # seconds; a slow machine needs some for an update


def let_happen(what):
    if what == "error":
        raise DataError("row 7: its picture is damaged.")
    os.kill(os.getpid(), signal.Signals[what])


def main(folder, what, shard):
    lost_process.PATIENCE, lost_process.TIMES_THE_LONGEST = PATIENCE, 0
    case = CASES["lora"]
    recipe = dataclasses.replace(case.recipe, iters=4, shard=shard == "shard")
    options = dataclasses.replace(case.options, save_every=1)
    case = dataclasses.replace(case, recipe=recipe, options=options)
    trainer, _ = make_trainer(case, Path(folder) / "run")
    look, left = trainer.task.look, []

    def look_once(batch):
        if trainer.progress.update == AT and trainer.processes.rank == 1 and not left:
            left.append(True)
            Path(folder, "pid").write_text(str(os.getpid()))
            let_happen(what)
        return look(batch)

    def run(args):
        trainer.train()

    trainer.task.look = look_once
    return run_command("", lambda parser: None, run, [])


if __name__ == "__main__":
    code = main(*sys.argv[1:])
    Path(sys.argv[1], f"code-{os.environ['MLX_RANK']}").write_text(str(code))
    exit_process(code)
