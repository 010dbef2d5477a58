"""Give a decoder and its tokenizer one more token, to stand for a picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from mm1_mlx.arrays import flatten
from mm1_mlx.config import MlxLmDecoderConfig
from mm1_mlx.errors import CheckpointError
from mm1_mlx.files.json_files import write_json
from mm1_mlx.model.mlx_lm_parts import build_decoder

from .recipe import EnlargedTensors, Part
from .source_config import read_json
from .tokenizers import SETTINGS, TOKENIZER_FILES

DECODER = "decoder."


def add_token(tokenizer: Any, token: str, vocab_size: int) -> int:
    """Add a special token to a loaded tokenizer, and return its id, which may be past the decoder's vocabulary.

    Raises:
        CheckpointError: the tokenizer has it already, or leaves no id free.
    """
    from tokenizers import AddedToken

    vocabulary = tokenizer.get_vocab()
    if vocabulary.get(token, vocab_size) < vocab_size:
        raise CheckpointError(
            f"the tokenizer has {token!r} already; drop `add_image_token`, or give the new token another name with "
            "`image_token`."
        )
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False)])
    found = tokenizer.convert_tokens_to_ids(token)
    if token not in vocabulary and found in vocabulary.values():
        raise CheckpointError(
            f"the ids of the tokenizer have gaps, so that a new token would get id {found}, which another one has; "
            "name one of its tokens with `image_token`."
        )
    return found


def write_token(folder: Path, token: str, id: int) -> None:
    """Add a special token to the tokenizer files of a model folder."""
    from tokenizers import AddedToken, Tokenizer

    path = folder / TOKENIZER_FILES[0]
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False)])
    tokenizer.save(str(path))
    if not (folder / SETTINGS).exists():
        return
    values = read_json(folder / SETTINGS).values
    if isinstance(values.get("added_tokens_decoder"), dict):
        entry = {"content": token, "special": True, "normalized": False}
        entry |= {"lstrip": False, "rstrip": False, "single_word": False}
        values["added_tokens_decoder"] = values["added_tokens_decoder"] | {str(id): entry}
        write_json(folder / SETTINGS, values)


def enlarge_vocabulary(
    decoder: MlxLmDecoderConfig, part: Part, vocab_size: int
) -> tuple[MlxLmDecoderConfig, Part]:
    """Return a decoder and its tensors with a larger vocabulary; where it is large enough, as they are.

    Raises:
        CheckpointError: the decoder has no tables that grow with its vocabulary.
    """
    num_rows = vocab_size - decoder.vocab_size
    if num_rows <= 0:
        return decoder, part
    larger = MlxLmDecoderConfig(decoder.values | {"vocab_size": vocab_size})
    before, after = (_shapes(config) for config in (decoder, larger))
    grown = {DECODER + key for key, shape in after.items() if shape != before[key]}
    names = {name for name, move in part.table.moves.items() if grown.intersection(move.targets)}
    fits = [
        part.tensors.infos[name].shape[0] == decoder.vocab_size and len(part.table.moves[name].targets) == 1
        for name in names
    ]
    if not fits or not all(fits):
        raise CheckpointError(
            f"{decoder.model_type} has no tables with one row for each token of vocab_size, so none can be added; name "
            "one of its tokens with `image_token`."
        )
    return larger, replace(part, tensors=EnlargedTensors(part.tensors, names, num_rows))


def _shapes(config: MlxLmDecoderConfig) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a decoder's weights; no number is computed."""
    return {
        key: value.shape for key, value in flatten(build_decoder(dict(config.values)).parameters()).items()
    }
