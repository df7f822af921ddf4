"""Where files and checkpoints are: on this machine, in the package, or on the Hugging Face Hub."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from pav_jax.checkpoints import embedded
from pav_jax.errors import BadInput
from pav_jax.storage.folders import local_copy

REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w.-]+")


def local_file(path: str | os.PathLike) -> str:
    """The path of a file, where `mini:prompts/evolve.txt` names one that comes with the package.

    Any other path is returned as it is, also one in an object store.

    Raises:
      BadInput: the package has no file of that name.
    """
    path = os.fspath(path)
    if not path.startswith(embedded.PREFIX):
        return path
    return str(_in_package(path))


def local_folder(path_or_repo: str | os.PathLike, patterns: Sequence[str] | None = None) -> Path:
    """The folder of a checkpoint; a Hub repository is downloaded into the cache where needed.

    Args:
      path_or_repo: a folder, also in an object store, `mini:NAME` for a checkpoint that comes with
        the package, or the name of a Hub repository (owner/name).
      patterns: the files wanted from the Hub, as in "*.json"; all of them where None.

    Raises:
      BadInput: there is no such folder, and no such repository could be downloaded.
    """
    if str(path_or_repo).startswith(embedded.PREFIX):
        return _in_package(str(path_or_repo))
    folder = local_copy(path_or_repo)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise BadInput(
            f"{path_or_repo}: this is a file; give the folder of a checkpoint", source=folder
        )
    if not isinstance(path_or_repo, str) or not REPOSITORY.fullmatch(path_or_repo):
        raise BadInput(
            f"{path_or_repo}: no such folder; give the folder of a checkpoint or a Hub repository"
            " (owner/name)",
            source=folder,
        )
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # LocalEntryNotFoundError, raised without a network, is an OSError
    failures = (HfHubHTTPError, HFValidationError, OSError)
    files = None if patterns is None else list(patterns)
    try:
        return Path(huggingface_hub.snapshot_download(path_or_repo, allow_patterns=files))
    except failures as error:
        raise BadInput(
            f"{path_or_repo}: no such folder here, and it could not be downloaded from the Hugging"
            f" Face Hub ({type(error).__name__}); check the name and the network",
            source=path_or_repo,
        ) from error


def _in_package(path: str) -> Path:
    name = path.removeprefix(embedded.PREFIX)
    for parent in (embedded.ROOT, embedded.CHECKPOINTS):
        if name and (parent / name).exists():
            return parent / name
    raise BadInput(
        f"{path}: not in the package, which has {', '.join(embedded.names())}", source=path
    )
