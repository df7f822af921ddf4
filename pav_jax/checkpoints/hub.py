"""Checkpoints by name: a folder as it is, or the Hugging Face hub's copy of a repository."""

import re
from collections.abc import Sequence
from pathlib import Path

from pav_jax.errors import BadInput

REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w.-]+")


def local_folder(path_or_repo: str | Path, patterns: Sequence[str] | None = None) -> Path:
    """The folder `path_or_repo`, or the cached copy of the hub's repository of that name, fetched
    where needed.

    Args:
      patterns: of the files wanted from the hub, as in "*.json"; all where None.

    Raises:
      BadInput: neither a folder here nor a repository the hub gives.
    """
    folder = Path(path_or_repo)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise BadInput(f"{path_or_repo}: a file, where a checkpoint's folder is wanted")
    if isinstance(path_or_repo, Path) or not REPOSITORY.fullmatch(path_or_repo):
        raise BadInput(
            f"{path_or_repo}: no such folder; give a checkpoint's folder or a hub name (owner/name)"
        )
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(huggingface_hub.snapshot_download(path_or_repo, allow_patterns=patterns))
    except (
        HfHubHTTPError,
        HFValidationError,
        OSError,
    ) as error:  # LocalEntryNotFoundError (no network) is an OSError
        raise BadInput(
            f"{path_or_repo}: no such folder, and the hub did not give it ({type(error).__name__});"
            " check the name and the network"
        ) from error
