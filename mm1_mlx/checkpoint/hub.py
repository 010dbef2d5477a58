"""Find the folder of a model by its name: embedded, on disk, or on the Hugging Face hub."""

from __future__ import annotations

import glob
import json
import os
import re
import socket
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from mm1_mlx.errors import CheckpointError
from mm1_mlx.files.shards import INDEX
from mm1_mlx.files.weight_files import WEIGHTS, parse_index
from mm1_mlx.presets import DECODERS
from mm1_mlx.settings import EMBEDDED_MODEL

EMBEDDED = {EMBEDDED_MODEL: Path(__file__).parents[1] / "tiny" / EMBEDDED_MODEL}
HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
COMPANION_PATTERNS = ["*.json", "tokenizer.model", "*.txt", "*.jinja", "README.md"]


def find_folder(name: str | Path, *, weights: bool = True) -> Path:
    """Return the folder of an embedded model, a local folder, or a model of the hub (downloaded once, then cached).

    Args:
        name: an embedded model, a folder or a hub id.
        weights: download the weights too.

    Raises:
        CheckpointError: there is no such model, or the hub does not answer.
    """
    if str(name) in EMBEDDED:
        return EMBEDDED[str(name)]
    path = Path(os.path.expanduser(name))
    try:
        if path.is_dir():
            return path
        if path.exists():
            raise CheckpointError(f"{path} is a file; give a model folder.")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"the model {str(name)[:80]!r} cannot be looked up ({error}).") from None
    if isinstance(name, str) and HUB_ID.fullmatch(name):
        return _download(name, weights=weights)
    if str(name) in DECODERS:
        raise CheckpointError(
            f"{name} has a configuration but no published weights; give a model folder or hub id, or mm1-tiny."
        )
    raise CheckpointError(
        f"there is no model named {str(name)!r}: it is no folder here and no hub id (owner/name). "
        f"Embedded: {', '.join(EMBEDDED)}."
    )


def describe_unreachable(name: str) -> str:
    """Return the message about something of the hub that is neither here nor can be fetched."""
    return (
        f"{name} is no folder here and was not downloaded before, and the hub cannot be reached; check the name, and "
        "the connection."
    )


def _download(name: str, *, weights: bool) -> Path:
    """Download a model, its configuration first, so that another kind of model is refused before gigabytes arrive."""
    from huggingface_hub import hf_hub_download, snapshot_download

    cached = not hub_is_reachable()
    try:
        config = hf_hub_download(name, "config.json", local_files_only=cached)
        found = json.loads(Path(config).read_text()).get("model_type")
        if found == "mm1":
            shards = _choose_shards(name, cached) if weights else []
            patterns = [*COMPANION_PATTERNS, *shards]
            return Path(snapshot_download(name, allow_patterns=patterns, local_files_only=cached))
    except CheckpointError:
        raise
    except (
        Exception
    ) as error:  # the hub's client raises many kinds of errors; each means that there is no model
        if cached:
            raise CheckpointError(describe_unreachable(name)) from None
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise CheckpointError(f"{name} is no folder here, and the hub did not give it: {reason}") from None
    raise CheckpointError(f"{name} on the hub is a {found!r} model, expected 'mm1'; it was not downloaded.")


def _choose_shards(name: str, cached: bool) -> list[str]:
    """Return patterns of the weight files to download: those that the index lists, where there is one."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        index = Path(hf_hub_download(name, INDEX, local_files_only=cached))
    except EntryNotFoundError:
        return [WEIGHTS]
    return [glob.escape(shard) for shard in sorted(set(parse_index(index).values()))]


def hub_is_reachable() -> bool:
    """Say whether the hub's name can be looked up, or a proxy does so; without, its client would retry for long."""
    from huggingface_hub.constants import ENDPOINT

    host = urlsplit(ENDPOINT)
    if getproxies():
        return True
    try:
        socket.getaddrinfo(host.hostname, host.port or 443)
    except OSError:
        return False
    return True
