"""The list of commands: ``python -m mm1_mlx`` prints it, and ``--version`` prints the version."""

from __future__ import annotations

import argparse
from importlib import import_module
from importlib.util import find_spec

from mm1_mlx.command import entry_points

COMMANDS = ("generate", "chat", "pretrain", "lora", "fuse", "peft", "evaluate", "show", "benchmark")
CONVERT = "Turn a PyTorch checkpoint into a model folder; check one; write one back."
ABOUT = "MM1 multimodal language models on Apple silicon."


def add_arguments(_: argparse.ArgumentParser) -> None:
    """Add nothing: this command has only the flags that all have."""


def run(_: argparse.Namespace) -> None:
    print(f"{ABOUT} Each of these commands takes --help:\n")
    for name in COMMANDS:
        about = (import_module(f"mm1_mlx.{name}").__doc__ or "").partition("\n")[0].replace("``", "")
        print(f"python -m mm1_mlx.{name:<10} {about}")
    home = "mm1_mlx.convert" if find_spec("mm1_mlx.convert") else "convert"  # a checkout has only the latter
    print(f"python -m {home:<18} {CONVERT}")


main, script = entry_points(ABOUT, add_arguments, run)

if __name__ == "__main__":
    script()
