"""Load the tokenizer of a folder quietly, without running the folder's code, and check that it fits the model."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mm1_mlx.checkpoint.chat_template import find_chat_template
from mm1_mlx.config import MM1Config
from mm1_mlx.errors import CheckpointError, is_panic

PROBES = [60 * chr(code) + "!\n" for code in range(32, 127)] + [
    "\n" * 60 + "!",
    "\u00e9\u65e5\U0001f600" * 20,
]


@contextmanager
def explain_tokenizer_errors(folder: Path) -> Iterator[None]:
    """Silence transformers inside the block, and raise its errors as a message that the tokenizer cannot be loaded.

    Raises:
        CheckpointError: transformers cannot read a file, or the tokenizer's library fails on one.
    """
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with _hold_stderr():
            yield
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        reason = str(error).strip().split("\n")[0]
        raise CheckpointError(f"the tokenizer of {folder} cannot be loaded: {reason}") from None
    finally:
        logging.set_verbosity(verbosity)


def probe_tokenizer(tokenizer: Any) -> None:
    """Tokenise texts that make a bad regular expression of a tokenizer fail, where ``explain_tokenizer_errors`` says so."""
    for text in PROBES:
        with suppress(Exception):  # an error that Python hears of is told where the text is somebody's
            tokenizer.encode(text, add_special_tokens=False)


@contextmanager
def _hold_stderr() -> Iterator[None]:
    """Keep back what reaches the process's stderr inside the block, and drop it if a library of Rust's panics.

    Such a library prints where it panicked before Python hears of it.
    """
    sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:  # the process has no stderr
        yield
        return
    panicked = False
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException as error:
            panicked = is_panic(error)
            raise
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            held.seek(0)
            if not panicked and (text := held.read()):
                os.write(2, text)


def load_tokenizer_of(folder: Path, config: MM1Config) -> Any:
    """Return the folder's tokenizer, which must fit ``config``.

    Raises:
        CheckpointError: it does not fit.
    """
    from mlx_lm.tokenizer_utils import load as load_tokenizer

    eos = config.eos_token_id
    generation_config = folder / "generation_config.json"
    with explain_tokenizer_errors(folder):  # transformers warns that it does not know the model type mm1
        if generation_config.exists():
            stated = json.loads(generation_config.read_text()).get("eos_token_id")
            eos = eos if stated is None else stated
        tokenizer = load_tokenizer(
            folder,
            {
                "trust_remote_code": False
            },  # otherwise transformers asks on stdin whether to run the folder's code
            eos_token_ids=list(eos) if isinstance(eos, tuple) else eos,
        )
        probe_tokenizer(tokenizer)
    tokenizer.chat_template = find_chat_template(folder)
    if tokenizer.vocab_size > config.text_config.vocab_size:
        raise CheckpointError(
            f"the tokenizer of {folder} has {tokenizer.vocab_size} tokens, but the model's vocabulary is "
            f"{config.text_config.vocab_size}; take the tokenizer that belongs to the decoder, or for a new decoder a "
            "larger text_config.vocab_size."
        )
    if tokenizer.convert_ids_to_tokens(config.image_token_id) is None:
        raise CheckpointError(
            f"image_token_id is {config.image_token_id}, which the tokenizer of {folder} does not know."
        )
    return tokenizer
