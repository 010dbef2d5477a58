"""What every command shares: one line for an error, exit codes, and quiet ends."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

from mm1_mlx.errors import MM1Error

INTERRUPTED, CLOSED_PIPE = 130, 141  # 128 + the signal's number, as shells count


def run_command(
    module_doc: str,
    add_arguments: Callable[[argparse.ArgumentParser], None],
    run: Callable[[argparse.Namespace], None],
    argv: list[str] | None = None,
) -> int:
    """Parse, run, and turn what went wrong into a line on stderr and an exit code.

    0: done. 1: something the user can put right. 2: usage. 130: Ctrl-C. 141: the reader went away.
    """
    parser = argparse.ArgumentParser(
        description=module_doc, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add_arguments(parser)
    args = parser.parse_args(argv)
    try:
        run(args)
        sys.stdout.flush()
    except MM1Error as error:
        print(f"mm1: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nmm1: interrupted.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    return 0
