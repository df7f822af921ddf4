"""Checkpoints in an object store that Orbax cannot write to, such as s3://.

Orbax works in a scratch folder of each process. Whole checkpoints are copied there when a run
starts, and each new one is uploaded by the first process, its marker last.
"""

import contextlib
import itertools
import shutil
import warnings
from collections.abc import Collection
from pathlib import Path

import jax
import orbax.checkpoint as ocp

from pav_jax.storage.addresses import AnyPath, is_remote, list_names
from pav_jax.storage.folders import (
    IncompleteFolder,
    is_whole,
    local_copy,
    remove_folder,
    rename_folder,
    upload_folder,
)
from pav_jax.storage.scratch import temporary_folder

NUM_COPIED = 2  # newest checkpoints: an older one is used where the newest cannot be read


def is_needed(folder: AnyPath) -> bool:
    """Whether Orbax cannot write to `folder`."""
    return is_remote(folder) and not str(folder).startswith("gs://")


def unreadable_name(step: int, names: Collection[str]) -> str:
    """A name that is not among `names`, for the folder of a checkpoint that is set aside."""
    candidates = (f"{step}.unreadable-{number}" for number in itertools.count(1))
    return next(name for name in candidates if name not in names)


class CheckpointMirror:
    """A scratch folder for Orbax, and the checkpoints of an object store in it."""

    def __init__(self, folder: AnyPath, keep: int):
        """Copy the newest whole checkpoints, and rename those of which files are missing.

        Args:
          folder: in the object store.
          keep: number of newest checkpoints to keep there; 0 keeps all.
        """
        self.folder = folder
        self._keep = keep
        self._stack = contextlib.ExitStack()
        self.local: Path = self._stack.enter_context(temporary_folder("checkpoints"))
        num_copied = 0
        for step in reversed(self._whole_steps()):
            if num_copied < NUM_COPIED:
                num_copied += self._copy(step)

    def _whole_steps(self) -> list[int]:
        steps = sorted(int(name) for name in list_names(self.folder) if name.isdigit())
        return [step for step in steps if is_whole(self.folder / str(step))]

    def _copy(self, step: int) -> bool:
        """Copy a checkpoint; False if files of it are missing."""
        try:
            shutil.copytree(local_copy(self.folder / str(step)), self.local / str(step))
        except IncompleteFolder as error:
            if jax.process_index() == 0:
                name = unreadable_name(step, list_names(self.folder))
                self.set_aside(step, name)
                warnings.warn(f"{error}; it is renamed to {name}", stacklevel=4)
            return False
        return True

    def upload(self, step: int) -> None:
        """Upload a checkpoint, then remove the oldest ones."""
        upload_folder(self.local / str(step), self.folder / str(step))
        if self._keep:
            steps = [old for old in self._whole_steps() if old <= step]
            for old in steps[: -self._keep]:
                remove_folder(self.folder / str(old))

    def set_aside(self, step: int, name: str) -> None:
        """Rename a checkpoint in the object store."""
        rename_folder(self.folder / str(step), self.folder / name)

    def close(self) -> None:
        """Remove the scratch folder."""
        self._stack.close()

    @staticmethod
    def options() -> ocp.options.MultiprocessingOptions:
        """Each process for itself: none sees the others' scratch."""
        index = jax.process_index()
        return ocp.options.MultiprocessingOptions(
            primary_host=index,
            active_processes={index},
            barrier_sync_key_prefix=f"process_{index}",
        )
