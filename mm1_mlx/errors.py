"""Errors that a user can correct. Commands print them as one ``mm1: …`` line and exit with code 1.

A message names a parameter in backticks, as in `max_tokens` is 0; a command prints its flag, ``--max-tokens``, instead.
"""

from __future__ import annotations

import re

CONTROLS = r"\x00-\x08\x0b-\x1f\x7f-\x9f"  # what commands a terminal: all but tab and newline
TURNS = r"\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"  # what breaks lines or turns text around
UNPRINTABLE = re.compile(f"[{CONTROLS}{TURNS}]")


def printable(text: str) -> str:
    """Return text with escapes, such as \\x1b, for the characters that would command a terminal or turn it around."""
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class MM1Error(Exception):
    """Something in the user's input is wrong; the message says what was found and what to do."""

    def __init__(self, message: str):
        super().__init__(printable(message))


class UsageError(MM1Error):
    """Flags of a command contradict each other; it exits with code 2, as for an unknown flag."""


class ConfigError(MM1Error):
    """A configuration does not describe a model that can be built."""


class CheckpointError(MM1Error):
    """A model folder is incomplete or does not fit its configuration."""


class PictureError(MM1Error):
    """A picture cannot be opened or is not safe to open."""


class PromptError(MM1Error):
    """A prompt does not fit the pictures given, the model or its context."""


class SamplingError(MM1Error):
    """A sampling or generation setting is out of range."""


class TrainingError(MM1Error):
    """A training run cannot begin or continue."""


class DataError(MM1Error):
    """A training row or a data set is wrong."""


def is_panic(error: BaseException) -> bool:
    """Tell whether a library written in Rust failed inside; such an error is no Exception, so nothing catches it."""
    return type(error).__name__ == "PanicException"
