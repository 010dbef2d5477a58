"""What all commands share: errors as one line, exit codes, and ends without a traceback."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from mm1_mlx.errors import MM1Error, PromptError, UsageError, printable
from mm1_mlx.other_names import explain_foreign_flag
from mm1_mlx.terminal import guard_terminals

INTERRUPTED, CLOSED_PIPE = 130, 141  # exit codes: 128 + the signal's number, as in shells
MAY_BE_EMPTY = ("prompt", "system", "report_to")
OTHER_NAMES = {  # parameters whose flags have other names; a command has one of these
    "max_pixels": ("max_image_pixels",),
    "folder": ("adapter_path", "output"),
    "num": ("items",),
}


@dataclass(frozen=True)
class Subcommand:
    """A part of a command that has flags of its own."""

    name: str
    about: str  # one sentence, for the help
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]


class ShowVersion(argparse.Action):
    """Print the version of the package, and end the process."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(f"mm1_mlx {import_module('mm1_mlx').__version__}")
        parser.exit()


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """A formatter that shows the defaults of flags, except empty ones and switches that are off."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        has_none = default is None or default is False or default in ([], "")  # 0 is a default
        return action.help if has_none else super()._get_help_string(action)


def run_command(
    module_doc: str | None,
    add_arguments: Callable[[argparse.ArgumentParser], None],
    run: Callable[[argparse.Namespace], None],
    argv: list[str] | None = None,
    *,
    prog: str | None = None,
    take_defaults: Callable[[argparse.ArgumentParser, list[str] | None], None] | None = None,
) -> int:
    """Parse the command line and run the command; print an error as one line on stderr.

    Args:
        module_doc: what the command does, for its help.
        add_arguments: function that adds the flags to a parser.
        run: function that does the work.
        argv: the words of the command line; by default those of this process.
        prog: the name that the help shows.
        take_defaults: function that sets defaults of flags before parsing, such as those of a configuration file.

    Returns:
        the exit code: 0 if all went well, 1 for an error that the user can correct, 2 for wrong or contradictory
        flags, 130 for Ctrl-C, and 141 if the reader of stdout has gone.
    """
    parser = argparse.ArgumentParser(
        prog=prog or find_command_name(), description=module_doc, formatter_class=Help
    )
    for stream in (sys.stdout, sys.stderr):
        set_stream_errors(stream, "replace")  # an answer may have characters that the terminal cannot show
    with guard_terminals():
        try:
            add_arguments(parser)
            _add_version(parser)
            if foreign := explain_foreign_flag(parser, sys.argv[1:] if argv is None else argv):
                raise UsageError(foreign)
            if take_defaults is not None:
                take_defaults(parser, argv)
            args = parser.parse_args(argv)
            _require_usable_words(args)
            run(args)
            sys.stdout.flush()
        except MM1Error as error:
            say(f"mm1: {put_in_words(error, parser)}")
            return 2 if isinstance(error, UsageError) else 1
        except KeyboardInterrupt:
            say("\nmm1: interrupted.")
            return INTERRUPTED
        except BrokenPipeError:
            _abandon_stdout()
            return CLOSED_PIPE
        except OSError as error:  # such as a full disk behind stdout
            _abandon_stdout()
            where = f"{error.filename}: " if error.filename else ""
            say(f"mm1: {where}{error.strerror or error}.")
            return 1
    return 0


def _add_version(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--version", action=ShowVersion, nargs=0, default=argparse.SUPPRESS, help="print it")


def _require_usable_words(args: argparse.Namespace) -> None:
    """Refuse values with a NUL character, which no path holds, and empty ones, such as a shell makes of an unset
    variable, where no text is asked for.

    Raises:
        UsageError: the message names the parameter.
    """
    for name, value in vars(args).items():
        words = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(word, str) and "\0" in word for word in words):
            raise UsageError(f"`{name}` holds a NUL character; leave it out.")
        if "" in words and name not in MAY_BE_EMPTY:
            raise UsageError(f"`{name}` is empty; give a value, or leave it out.")


def set_stream_errors(stream: Any, errors: str) -> None:
    """Set how a text stream treats characters that it cannot encode or decode, if it can be set."""
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors=errors)


def entry_points(
    module_doc: str | None,
    add_arguments: Callable[[argparse.ArgumentParser], None],
    run: Callable[[argparse.Namespace], None],
    *,
    take_defaults: Callable[[argparse.ArgumentParser, list[str] | None], None] | None = None,
) -> tuple[Callable[..., int], Callable[[], None]]:
    """Return a command's ``main``, which returns an exit code, and its console script, which ends the process."""

    def main(argv: list[str] | None = None) -> int:
        return run_command(module_doc, add_arguments, run, argv, take_defaults=take_defaults)

    def script() -> None:
        leave_out("torch")
        exit_process(main())

    return main, script


def leave_out(package: str) -> None:
    """Keep a package from being imported in this process, unless it is loaded already.

    transformers, whose tokenizers are used, loads all of PyTorch wherever it is installed: that takes longer than
    all other imports.
    """
    modules: dict[str, Any] = sys.modules
    modules.setdefault(package, None)  # importing it fails as if it were not installed


def find_command_name() -> str:
    """Return the name by which the running command was called: that of its module or of its script."""
    module = sys.modules["__main__"].__spec__
    if module is None:
        return os.path.basename(sys.argv[0])
    return f"python -m {module.name.removesuffix('.__main__')}"


def put_in_words(error: MM1Error, parser: argparse.ArgumentParser) -> str:
    """Return an error as one line, with flags such as --max-tokens in place of parameters such as `max_tokens`."""
    names = _flags_of(parser)

    def flag(match: re.Match[str]) -> str:
        name = next((other for other in OTHER_NAMES.get(match[1], ()) if other in names), match[1])
        return names.get(name) or names.get(name.removesuffix("s")) or name

    return re.sub(r"`(\w+)`", flag, " ".join(str(error).split()))


def _flags_of(parser: argparse.ArgumentParser) -> dict[str, str]:
    """Return the long form of every flag, by the parameter names that error messages may use for it."""
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
    """Add subcommands to a parser; after parsing, ``args.subcommand`` runs the chosen one."""
    choices = parser.add_subparsers(required=required, metavar="WHAT")
    for command in commands:
        own = choices.add_parser(
            command.name, help=command.about, description=command.about, formatter_class=Help
        )
        command.add_arguments(own)
        _add_version(own)
        own.set_defaults(subcommand=command.run)


def exit_process(code: int) -> None:
    """End the process with ``code``.

    After Ctrl-C it ends at once, because Python would replace the code if Ctrl-C came during an import.
    """
    if code == INTERRUPTED:
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def read_stdin() -> str:
    """Read all text from stdin.

    Raises:
        PromptError: there is no stdin, or it does not hold UTF-8 text.
    """
    try:
        return sys.stdin.read()
    except (AttributeError, UnicodeDecodeError) as error:
        reason = "is closed" if sys.stdin is None else f"holds no UTF-8 text ({error})"
        raise PromptError(f"--prompt - reads stdin, which {reason}.") from None


def say(text: str) -> None:
    """Print to stderr, since stdout is for answers, and flush; names in the text may hold any character."""
    print(printable(text), file=sys.stderr, flush=True)


def number_of(count: int, thing: str) -> str:
    """Return a count in words: 1 view, 2 views, 1,000 views."""
    return f"{count:,} {thing}" + "s" * (count != 1)


def peak_resident_memory() -> int:
    """Return the most bytes of memory that this process has used."""
    # macOS counts in bytes, Linux in kilobytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _abandon_stdout() -> None:
    """Send stdout to nowhere, so that Python does not try to write to it again when it ends."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # in a notebook, stdout is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
