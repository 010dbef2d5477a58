"""Fetch what a conversion needs of a checkpoint from the Hugging Face hub."""

from __future__ import annotations

import glob
import json
import os
import shutil
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path

from mm1_mlx.checkpoint.chat_template import MORE
from mm1_mlx.checkpoint.upload import LOG_IN, explain_hub_errors, is_hub_id
from mm1_mlx.errors import CheckpointError
from mm1_mlx.files.weights import list_some

from .tensors import NOT_WEIGHTS, PATTERNS

COMPANIONS = ("*.json", "*.jinja", "*.txt", "*.model", "README.md", "LICENSE*")
TEMPLATES = f"{MORE}/"
INNER = "vision_tower/"  # where an exported 360VL keeps its image encoder
INDEX = ".index.json"  # ends the name of a file that names the shard of each tensor


def find_source(name: str, *, weights: bool = True) -> Path:
    """Return the folder or file called ``name``, or the hub's copy of it, downloaded once, then cached.

    Only configurations, tokenizer, card, licence and the weights that ``tensors.py`` would read are downloaded, in
    one format, never two. Folders inside a repository are not downloaded, except for chat templates and the image
    encoder of an exported 360VL.

    Args:
        name: a path, or a hub id, ``owner/name`` or ``owner/name@revision``.
        weights: download weights too; a tokenizer has none.

    Raises:
        CheckpointError: there is no such checkpoint, it has no weights, or it cannot be fetched.
    """
    path = os.path.expanduser(name)
    if os.path.exists(path):
        return Path(path)
    repo_id, _, revision = name.partition("@")
    if is_hub_id(repo_id):
        return _download(repo_id, revision or None, weights)
    raise CheckpointError(
        f"{name!r} is no folder or file here and no hub id, which is owner/name or owner/name@revision."
    )


def public_name(name: str | Path) -> str:
    """Return a source's name without private paths: a hub id, or only the last part of a folder's path."""
    return Path(name).name if Path(name).exists() else str(name)


def hub_ids(*names: object) -> tuple[str, ...]:
    """Return those of ``names`` that are hub ids and not folders here, without revisions; a card may name them."""
    ids = (name.partition("@")[0] for name in names if isinstance(name, str))
    return tuple(id for id in ids if is_hub_id(id) and not os.path.exists(os.path.expanduser(id)))


def _download(repo_id: str, revision: str | None, with_weights: bool) -> Path:
    from huggingface_hub import hf_hub_download, snapshot_download

    refused = (
        f"it is no folder here and no public model on the hub; check the name, or {LOG_IN} if it is private"
    )
    with explain_hub_errors(repo_id, "downloaded", refused=refused):
        missing = _list_files(repo_id, revision)
        files = []
        for folder in ("", INNER):
            own = [
                file.removeprefix(folder) for file in missing if os.path.dirname(file) == folder.rstrip("/")
            ]
            if folder and "config.json" not in own:
                continue
            weights = _choose_weights(repo_id, own) if with_weights else []
            if weights and weights[0].endswith(INDEX):
                index = hf_hub_download(repo_id, folder + weights[0], revision=revision)
                weights += _read_shards(repo_id, Path(index), own)
            companions = [file for file in own if _matches(file, COMPANIONS) and not file.endswith(INDEX)]
            files += [folder + file for file in companions + weights]
        files += [file for file in missing if file.startswith(TEMPLATES) and file.endswith(".jinja")]
        _check_disk(repo_id, sum(missing[file] for file in files))
        patterns = [glob.escape(file) for file in files]
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=patterns))


def _list_files(repo_id: str, revision: str | None) -> dict[str, int]:
    """Return the files at the top of a repository, in ``INNER`` and in ``MORE``, each with its number of bytes that are not cached."""
    from huggingface_hub import HfApi, get_cached_repo_tree, try_to_load_from_cache
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        info = HfApi().model_info(repo_id, revision=revision, files_metadata=True)
    except Exception:
        with suppress(CachedRepoTreeNotFoundError):  # files in the cache need no hub
            tree = get_cached_repo_tree(repo_id, revision=revision)
            return {file.path: 0 for file in tree if _is_near(file.path)}
        raise
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or () if _is_near(file.rfilename)}
    for file in sizes:
        if isinstance(try_to_load_from_cache(repo_id, file, revision=info.sha), str):
            sizes[file] = 0
    return sizes


def _is_near(file: str) -> bool:
    return os.path.dirname(file) in ("", INNER.rstrip("/"), MORE)


def _choose_weights(repo_id: str, files: list[str]) -> list[str]:
    """Return the files that ``tensors.py`` would read: those of the first pattern that matches any."""
    for pattern in PATTERNS:
        found = [file for file in files if fnmatchcase(file, pattern) and not _matches(file, NOT_WEIGHTS)]
        if len(found) > 1 and pattern.startswith("*"):
            raise CheckpointError(
                f"{repo_id} holds {len(found)} files like {pattern} ({list_some(found, shown=8)}), expected one."
            )
        if found:
            return found
    raise CheckpointError(
        f"{repo_id} holds no weights that can be converted; it holds {list_some(files, shown=8) or 'nothing'}."
    )


def _read_shards(repo_id: str, index: Path, files: list[str]) -> list[str]:
    """Return the shards that an index names, all of which the repository must have."""
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(
            f"{repo_id}: {index.name} does not say which shard holds each tensor."
        ) from None
    absent = [shard for shard in shards if shard not in files]
    if absent:
        raise CheckpointError(
            f"{repo_id}: {index.name} names {list_some(absent, shown=8)}, which the repository lacks."
        )
    return shards


def _check_disk(repo_id: str, needed: int) -> None:
    """Refuse to start a download of ``needed`` bytes that the disk cannot hold."""
    from huggingface_hub.constants import HF_HUB_CACHE

    cache = Path(HF_HUB_CACHE).absolute()
    folder = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise CheckpointError(
            f"{repo_id} takes {needed / 1e9:.1f} GB, but {cache} has {free / 1e9:.1f} GB free; make room, or "
            "set HF_HOME to a folder on a larger disk."
        )


def _matches(file: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(file, pattern) for pattern in patterns)
