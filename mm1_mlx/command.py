"""What every command shares: one line for an error, exit codes, and quiet ends."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass

from mm1_mlx.errors import MM1Error, PromptError, UsageError

INTERRUPTED, CLOSED_PIPE = 130, 141  # 128 + the signal's number, as shells count
OTHER_NAMES = {  # parameters whose flags are called otherwise; a command has one of those named
    "max_pixels": ("max_image_pixels",),
    "folder": ("adapter_path", "output"),
}


@dataclass(frozen=True)
class Subcommand:
    """One of the things that a command does, as it has its own flags."""

    name: str
    about: str  # one sentence, for its help
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Tells the default of a flag that has one: not that nothing is nothing, nor that a switch is off."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        has_none = default is None or default is False or default in ([], "")  # 0 is one
        return action.help if has_none else super()._get_help_string(action)


def run_command(
    module_doc: str,
    add_arguments: Callable[[argparse.ArgumentParser], None],
    run: Callable[[argparse.Namespace], None],
    argv: list[str] | None = None,
    *,
    prog: str | None = None,
    take_defaults: Callable[[argparse.ArgumentParser, list[str] | None], None] | None = None,
) -> int:
    """Parse, run, and turn what went wrong into a line on stderr and an exit code.

    0: done. 1: something the user can put right. 2: usage, flags that do not go together included. 130: Ctrl-C.
    141: the reader went away.

    Args:
        module_doc: what the command does, for its help.
        add_arguments: puts the flags into a parser.
        run: does the work.
        argv: the command's words; those of this process by default.
        prog: the name that the help shows.
        take_defaults: sets defaults of flags by the words themselves, such as those of a configuration file.
    """
    parser = argparse.ArgumentParser(prog=prog or called_as(), description=module_doc, formatter_class=Help)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # an answer may hold what the terminal cannot show
    try:
        add_arguments(parser)
        if take_defaults is not None:
            take_defaults(parser, argv)
        run(parser.parse_args(argv))
        sys.stdout.flush()
    except MM1Error as error:
        print("mm1:", in_words(error, parser), file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        print("\nmm1: interrupted.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        _abandon_stdout()
        return CLOSED_PIPE
    except OSError as error:  # a full disk behind stdout, say
        _abandon_stdout()
        where = f"{error.filename}: " if error.filename else ""
        print(f"mm1: {where}{error.strerror or error}.", file=sys.stderr)
        return 1
    return 0


def entry_points(
    module_doc: str,
    add_arguments: Callable[[argparse.ArgumentParser], None],
    run: Callable[[argparse.Namespace], None],
    *,
    take_defaults: Callable[[argparse.ArgumentParser, list[str] | None], None] | None = None,
) -> tuple[Callable[..., int], Callable[[], None]]:
    """Return a command's ``main``, which gives an exit code, and its console script, which ends the process."""

    def main(argv: list[str] | None = None) -> int:
        return run_command(module_doc, add_arguments, run, argv, take_defaults=take_defaults)

    def script() -> None:
        exit_process(main())

    return main, script


def called_as() -> str:
    """Return the name that the running command was called by: of its module, or of its script."""
    module = sys.modules["__main__"].__spec__
    if module is None:
        return os.path.basename(sys.argv[0])
    return f"python -m {module.name.removesuffix('.__main__')}"


def in_words(error: MM1Error, parser: argparse.ArgumentParser) -> str:
    """Return an error as one line, in which a parameter in backticks, `max_tokens`, is its flag, --max-tokens."""
    names = _flags_of(parser)

    def flag(match: re.Match[str]) -> str:
        name = next((other for other in OTHER_NAMES.get(match[1], ()) if other in names), match[1])
        return names.get(name) or names.get(name.removesuffix("s")) or name

    return re.sub(r"`(\w+)`", flag, " ".join(str(error).split()))


def _flags_of(parser: argparse.ArgumentParser) -> dict[str, str]:
    """Return the long form of every flag, by the names that a room may call it."""
    found: dict[str, str] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                found |= _flags_of(inner)
        for option in action.option_strings:
            if option.startswith("--"):
                found.setdefault(action.dest, option)
                found[option[2:].replace("-", "_")] = option
    return found


def add_subcommands(parser: argparse.ArgumentParser, *commands: Subcommand, required: bool = True) -> None:
    """Commands behind the command; parsed, ``args.subcommand`` runs the one that was given."""
    choices = parser.add_subparsers(required=required, metavar="WHAT")
    for command in commands:
        own = choices.add_parser(
            command.name, help=command.about, description=command.about, formatter_class=Help
        )
        command.add_arguments(own)
        own.set_defaults(subcommand=command.run)


def exit_process(code: int) -> None:
    """End the process with ``code``. Python replaces the code of a Ctrl-C that came while it imported."""
    if code == INTERRUPTED:
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def read_stdin() -> str:
    """The text on stdin.

    Raises:
        PromptError: there is no stdin, or it does not hold UTF-8 text.
    """
    try:
        return sys.stdin.read()
    except (AttributeError, UnicodeDecodeError) as error:
        reason = "is closed" if sys.stdin is None else f"holds no UTF-8 text ({error})"
        raise PromptError(f"--prompt - reads stdin, which {reason}.") from None


def say(text: str) -> None:
    """To stderr, at once: stdout is for answers."""
    print(text, file=sys.stderr, flush=True)


def number_of(count: int, thing: str) -> str:
    """``count`` things in words: 1 view, 2 views, 1,000 views."""
    return f"{count:,} {thing}" + "s" * (count != 1)


def peak_resident_memory() -> int:
    """Bytes of memory that the process held at most; macOS counts in bytes, Linux in kilobytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _abandon_stdout() -> None:
    """Nothing more can be written; keep Python from trying again when it ends."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # a notebook's has no file behind it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
