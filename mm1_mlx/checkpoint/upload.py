"""Upload to the Hugging Face hub, and say what its client's errors mean in words that the user understands."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mm1_mlx.checkpoint.hub import hub_is_reachable
from mm1_mlx.errors import CheckpointError
from mm1_mlx.files.weight_files import WEIGHTS

LOG_IN = "log in with `hf auth login`"


def check_repo_id(repo_id: str) -> None:
    """Refuse an id that no hub repository can have, before any work starts.

    Raises:
        CheckpointError: ``repo_id`` is not ``owner/name`` by the hub's rules.
    """
    if not is_hub_id(repo_id):
        raise CheckpointError(
            f"{repo_id!r} is no hub id; expected owner/name, each of letters, digits, '-', '_' and '.', "
            "without '--' or '..'."
        )


def check_can_upload() -> None:
    """Refuse to start work that ends in an upload while nobody is logged in, or the hub cannot be reached.

    Raises:
        CheckpointError: there is no Hugging Face token, or no connection.
    """
    from huggingface_hub import get_token

    if get_token() is None:
        raise CheckpointError(f"uploading needs a Hugging Face token: {LOG_IN}, or set HF_TOKEN.")
    if not hub_is_reachable():
        raise CheckpointError("uploading needs the hub, which cannot be reached; check the connection.")


def upload(folder: Path, repo_id: str, *, private: bool = False) -> str:
    """Upload a model folder to the hub; its repository is created if there is none.

    Args:
        folder: what to upload.
        repo_id: ``owner/name``.
        private: make the repository private; otherwise the owner's default applies, which is public for most.

    Returns:
        The URL of the repository.

    Raises:
        CheckpointError: the id or the login is wrong, the repository is public where ``private`` is set, or
            the hub does not take the folder.
    """
    from huggingface_hub import HfApi

    check_repo_id(repo_id)
    check_can_upload()
    api = HfApi()
    refused = (
        f"the hub does not let you write there; check the owner, and {LOG_IN} with a token that may write"
    )
    with explain_hub_errors(repo_id, "uploaded", refused=refused):
        url = api.create_repo(repo_id, private=private or None, exist_ok=True)
        if private and not api.model_info(repo_id).private:
            raise CheckpointError(
                f"{repo_id} exists and is public; make it private on the hub, or choose another name."
            )
        api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message="Upload an MM1 model for MLX",
            delete_patterns=WEIGHTS,  # those of an earlier upload, which loading would read too
        )
    return str(url)


def is_hub_id(name: str) -> bool:
    """Say whether ``name`` is ``owner/name`` by the hub's rules."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1


@contextmanager
def explain_hub_errors(repo_id: str, done: str, *, refused: str) -> Iterator[None]:
    """Turn every exception raised inside the block into a CheckpointError that tells the user what to do.

    Args:
        repo_id: the repository.
        done: "downloaded" or "uploaded", for the message that it was not.
        refused: the explanation to give where the hub answers 401, 403 or 404.

    Raises:
        CheckpointError: anything was raised inside the block; one that already is a CheckpointError passes unchanged.
    """
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # the client raises many kinds of errors, and so do its libraries
        raise CheckpointError(f"{repo_id} was not {done}: {_explain(error, repo_id, refused)}.") from error


def _explain(error: BaseException, repo_id: str, refused: str) -> str:
    """Return why the hub's client failed and what to do, as part of a sentence without its full stop."""
    from huggingface_hub import HfApi, errors

    chain = [error]
    while (
        inner := chain[-1].__cause__ or chain[-1].__context__
    ) is not None:  # the client wraps the errors of its libraries
        chain.append(inner)
    if any("No space left" in str(link) for link in chain):
        return "the disk is full; free some space, or set HF_HOME to a folder on a larger disk"
    answer = next((link for link in chain if isinstance(link, errors.HfHubHTTPError)), None)
    if isinstance(answer, errors.GatedRepoError):
        return f"it is gated; ask for access at {HfApi().endpoint}/{repo_id}, then {LOG_IN}"
    if isinstance(answer, errors.RevisionNotFoundError):
        return "the hub has it, but not this revision, which is the part of the name after the @"
    status = answer.response.status_code if answer else None
    if answer is not None and status in (401, 403, 404):
        says = " ".join((answer.server_message or "").split()).rstrip(".")
        return f"{refused} (the hub says: {says})" if says else refused
    reason = (" ".join(str(error).split()) or type(error).__name__).rstrip(".")[:300]
    if status is None and any(isinstance(e, (ConnectionError, TimeoutError, socket.gaierror)) for e in chain):
        return f"{HfApi().endpoint} does not answer ({reason}); check the network"
    return reason
