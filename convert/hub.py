"""From and to the Hugging Face hub: fetch what a conversion needs of a checkpoint, upload the result."""

from __future__ import annotations

import glob
import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path

from convert.tensors import NOT_WEIGHTS, PATTERNS
from mm1_mlx.checkpoint.load import some
from mm1_mlx.errors import CheckpointError

COMPANIONS = ("*.json", "*.jinja", "*.txt", "*.model", "README.md", "LICENSE*")
INNER = "vision_tower/"  # where an exported 360VL keeps its image encoder
INDEX = ".index.json"  # ends the name of a file that names the shard of each tensor
LOG_IN = "log in with `hf auth login`"


def find_source(name: str, *, weights: bool = True) -> Path:
    """The folder or file that ``name`` is here, or the hub's copy of it, downloaded once, then cached.

    Of a hub repository only configurations, tokenizer, card and licence are fetched, and the weights that
    ``convert.tensors`` would read there: one format, never two. Folders inside it are left alone, but for the
    image encoder of an exported 360VL.

    Args:
        name: a path, or a hub id, ``owner/name`` or ``owner/name@revision``.
        weights: whether they are wanted; a tokenizer has none.

    Raises:
        CheckpointError: there is no such checkpoint, it has no weights, or it cannot be fetched.
    """
    path = os.path.expanduser(name)
    if os.path.exists(path):
        return Path(path)
    repo_id, _, revision = name.partition("@")
    if _is_hub_id(repo_id):
        return _download(repo_id, revision or None, weights)
    raise CheckpointError(
        f"{name!r} is no folder or file here and no hub id, which is owner/name or owner/name@revision."
    )


def check_repo_id(repo_id: str) -> None:
    """Refuse an id that no hub repository can have, before any work starts.

    Raises:
        CheckpointError: ``repo_id`` is not ``owner/name`` by the hub's rules.
    """
    if not _is_hub_id(repo_id):
        raise CheckpointError(
            f"{repo_id!r} is no hub id; expected owner/name, each of letters, digits, '-', '_' and '.', "
            "without '--' or '..'."
        )


def check_login() -> None:
    """Refuse to start work that ends in an upload while nobody is logged in.

    Raises:
        CheckpointError: there is no Hugging Face token.
    """
    from huggingface_hub import get_token

    if get_token() is None:
        raise CheckpointError(f"uploading needs a Hugging Face token: {LOG_IN}, or set HF_TOKEN.")


def upload(folder: Path, repo_id: str, *, private: bool = False) -> str:
    """Upload a model folder to the hub, whose repository is made where there is none.

    Args:
        folder: what to upload.
        repo_id: ``owner/name``.
        private: make the repository private; else the owner's default holds, which is public for most.

    Returns:
        The URL of the repository.

    Raises:
        CheckpointError: the id or the login is wrong, the repository is public where ``private`` is set, or
            the hub does not take the folder.
    """
    from huggingface_hub import HfApi

    check_repo_id(repo_id)
    check_login()
    api = HfApi()
    refused = (
        f"the hub does not let you write there; check the owner, and {LOG_IN} with a token that may write"
    )
    with _in_users_words(repo_id, "uploaded", refused=refused):
        url = api.create_repo(repo_id, private=private or None, exist_ok=True)
        if private and not api.model_info(repo_id).private:
            raise CheckpointError(
                f"{repo_id} exists and is public; make it private on the hub, or choose another name."
            )
        api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message="Upload an MM1 model for MLX",
            delete_patterns="model*.safetensors",  # loading reads all: none may be left of another upload
        )
    return str(url)


def public_name(name: str | Path) -> str:
    """A source as others may read of it: a hub id, or a folder's own name without where it lies."""
    return Path(name).name if Path(name).exists() else str(name)


def hub_ids(*names: object) -> tuple[str, ...]:
    """Those of ``names`` that are hub ids and no folders here, without their revisions: what a card may name."""
    ids = (name.partition("@")[0] for name in names if isinstance(name, str))
    return tuple(id for id in ids if _is_hub_id(id) and not os.path.exists(os.path.expanduser(id)))


def _is_hub_id(name: str) -> bool:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1


def _download(repo_id: str, revision: str | None, with_weights: bool) -> Path:
    from huggingface_hub import hf_hub_download, snapshot_download

    refused = (
        f"it is no folder here and no public model on the hub; check the name, or {LOG_IN} if it is private"
    )
    with _in_users_words(repo_id, "downloaded", refused=refused):
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
        _check_disk(repo_id, sum(missing[file] for file in files))
        patterns = [glob.escape(file) for file in files]
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=patterns))


def _list_files(repo_id: str, revision: str | None) -> dict[str, int]:
    """The files at the top of a repository and in ``INNER``, each with how many bytes of it are not in the cache."""
    from huggingface_hub import HfApi, get_cached_repo_tree, try_to_load_from_cache
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        info = HfApi().model_info(repo_id, revision=revision, files_metadata=True)
    except Exception:
        with suppress(CachedRepoTreeNotFoundError):  # what was fetched before needs no hub
            tree = get_cached_repo_tree(repo_id, revision=revision)
            return {file.path: 0 for file in tree if _is_near(file.path)}
        raise
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or () if _is_near(file.rfilename)}
    for file in sizes:
        if isinstance(try_to_load_from_cache(repo_id, file, revision=info.sha), str):
            sizes[file] = 0
    return sizes


def _is_near(file: str) -> bool:
    return os.path.dirname(file) in ("", INNER.rstrip("/"))


def _choose_weights(repo_id: str, files: list[str]) -> list[str]:
    """The files that ``convert.tensors`` would read: those of the first pattern that matches any."""
    for pattern in PATTERNS:
        found = [file for file in files if fnmatchcase(file, pattern) and not _matches(file, NOT_WEIGHTS)]
        if len(found) > 1 and pattern.startswith("*"):
            raise CheckpointError(
                f"{repo_id} holds {len(found)} files like {pattern} ({some(found, shown=8)}), expected one."
            )
        if found:
            return found
    raise CheckpointError(
        f"{repo_id} holds no weights that can be converted; it holds {some(files, shown=8) or 'nothing'}."
    )


def _read_shards(repo_id: str, index: Path, files: list[str]) -> list[str]:
    """The shards that an index names, all of which the repository has."""
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(
            f"{repo_id}: {index.name} does not say which shard holds each tensor."
        ) from None
    absent = [shard for shard in shards if shard not in files]
    if absent:
        raise CheckpointError(
            f"{repo_id}: {index.name} names {some(absent, shown=8)}, which the repository lacks."
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


@contextmanager
def _in_users_words(repo_id: str, done: str, *, refused: str) -> Iterator[None]:
    """Tell what the hub's client raises as what the user can put right.

    Args:
        repo_id: the repository.
        done: "downloaded" or "uploaded", which it was not.
        refused: what it means when the hub knows no such repository, or not for this user.
    """
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # the client raises many kinds, and those of its libraries
        raise CheckpointError(f"{repo_id} was not {done}: {_explain(error, repo_id, refused)}.") from error


def _explain(error: BaseException, repo_id: str, refused: str) -> str:
    from huggingface_hub import HfApi, errors

    chain = [error]
    while (inner := chain[-1].__cause__ or chain[-1].__context__) is not None:  # the client wraps what it met
        chain.append(inner)
    if any("No space left" in str(link) for link in chain):
        return "the disk is full; free some space, or set HF_HOME to a folder on a larger disk"
    answer = next((link for link in chain if isinstance(link, errors.HfHubHTTPError)), None)
    if isinstance(answer, errors.GatedRepoError):
        return f"it is gated; ask for access at {HfApi().endpoint}/{repo_id}, then {LOG_IN}"
    if isinstance(answer, errors.RevisionNotFoundError):
        return "the hub has it, but not this revision; check what stands after the @"
    status = answer.response.status_code if answer else None
    if status in (401, 403, 404):
        says = " ".join((answer.server_message or "").split()).rstrip(".")
        return f"{refused} (the hub says: {says})" if says else refused
    reason = (" ".join(str(error).split()) or type(error).__name__).rstrip(".")[:300]
    if status is None and any(isinstance(e, (ConnectionError, TimeoutError, socket.gaierror)) for e in chain):
        return f"{HfApi().endpoint} does not answer ({reason}); check the network"
    return reason


def _matches(file: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(file, pattern) for pattern in patterns)
