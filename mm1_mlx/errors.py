"""Errors that a user can correct. Commands print them as one ``mm1: …`` line and exit with code 1.

A message names a parameter in backticks, as in `max_tokens` is 0; a command prints its flag, ``--max-tokens``, instead.
"""


class MM1Error(Exception):
    """Something in the user's input is wrong; the message says what was found and what to do."""


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
