"""Training checkpoints: trained parameters, optimizer state, step and data iterator together.

The frozen base model is not saved. Orbax writes under a temporary name and renames, so a checkpoint
appears whole.
"""

import contextlib
import functools
import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import grain
import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath

from pav_jax.checkpoints import mirror
from pav_jax.checkpoints.mirror import CheckpointMirror
from pav_jax.errors import BadInput, TemporaryFailure
from pav_jax.parallel import processes
from pav_jax.storage.addresses import as_path, is_remote, list_names, store_errors
from pav_jax.storage.folders import rename_folder

# How reading a checkpoint ended; with several processes the largest value counts for all.
READ = 0
NOT_READ = 1  # for a reason that may pass or that says nothing about the files
CORRUPT = 2  # proven by the files themselves

# TensorStore's messages begin with a status code, or with none where decoding failed. All its codes
# but these three, such as PERMISSION_DENIED, UNAVAILABLE, DEADLINE_EXCEEDED and RESOURCE_EXHAUSTED,
# say nothing about the stored bytes.
CORRUPT_MESSAGE = re.compile(
    r"(DATA_LOSS|OUT_OF_RANGE|NOT_FOUND): |(?![A-Z_]+: ).*\b(Error decoding|[Cc]orrupt)", re.DOTALL
)
CORRUPT_ERRORS = (
    json.JSONDecodeError,
    UnicodeDecodeError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
)
TEMPORARY_NAME = ".orbax-checkpoint-tmp"
ITEMS = ("state", "data")  # the subfolders of a checkpoint


class Checkpoints:
    """The checkpoints of one training run: a folder with one numbered subfolder per step."""

    def __init__(self, folder: str | os.PathLike, keep: int = 2):
        """Open the folder and remove unfinished checkpoints, with a warning.

        Args:
          folder: created if it does not exist.
          keep: number of newest checkpoints to keep; 0 keeps all.

        Raises:
          BadInput: the folder cannot be used.
        """
        self.folder = as_path(folder).absolute()  # orbax requires an absolute path
        self._mirror = None
        if mirror.is_needed(self.folder):
            self._mirror = CheckpointMirror(self.folder, keep)
        # where orbax works, with its own client for gs://
        local = self.folder if self._mirror is None else self._mirror.local
        self._orbax_folder = epath.Path(os.fspath(local))
        logging.getLogger("absl").addFilter(_is_not_from_orbax)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep or None, cleanup_tmp_directories=True
        )
        if self._mirror is not None:
            options.create = False
            options.multiprocessing_options = self._mirror.options()
        try:
            with self._store_errors():
                self._warn_of_unfinished()
                self._manager = ocp.CheckpointManager(self._orbax_folder, options=options)
        except OSError as error:
            raise BadInput(
                f"{self.folder}: checkpoints cannot be read or written here ({_reason(error)});"
                " change the permissions or --workdir",
                source=self.folder,
            ) from error

    @contextlib.contextmanager
    def _store_errors(self) -> Iterator[None]:
        """Turn what Orbax's client of an object store raises into BadInput."""
        if not is_remote(self._orbax_folder):
            yield
            return
        _need_no_bucket_metadata()
        with store_errors(self.folder, writing=True):
            yield

    def _warn_of_unfinished(self) -> None:
        unfinished = [name for name in list_names(self.folder) if TEMPORARY_NAME in name]
        if unfinished:
            warnings.warn(
                f"{self.folder}: {unfinished[0]} was being written when the run ended; it is"
                " removed",
                stacklevel=3,
            )

    def save(self, step: int, state: Any, iterator: grain.DatasetIterator) -> None:
        """Save the tree `state` after `step` steps; return while the files are being written.

        Raises:
          BadInput: the disk is full, possibly while writing the previous checkpoint. Complete
            checkpoints are kept.
        """
        if jax.default_backend() == "cpu":
            # On CPU the "copy to host" is a view: the next step donates the buffer that it aliases.
            state = jax.tree.map(jnp.copy, state)
        # orbax cannot rename its temporary folder to a name that is in use
        unlisted = step not in self._manager.all_steps() and not is_remote(self._orbax_folder)
        if jax.process_index() == 0 and unlisted and (self._orbax_folder / str(step)).exists():
            self._set_aside(step)
        if self._mirror is not None:
            state = processes.gather_to_host(state)
        # One data position for all processes, so a different number of processes can resume.
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(iterator.get_state())
        )
        with self._one_line_errors():
            if self._mirror is None:
                self._manager.save(step, args=args, force=True)
            elif jax.process_index() == 0:
                self._manager.save(step, args=args, force=True)
                self._manager.wait_until_finished()
                self._mirror.upload(step)
        if self._mirror is not None:
            processes.barrier(f"checkpoint {step}")

    def restore(self, target: Any, iterator: grain.DatasetIterator) -> tuple[int, Any] | None:
        """Restore the newest complete checkpoint and set `iterator` to the data after it.

        A checkpoint that its own files prove to be incomplete or corrupt is renamed, with a
        warning, and the previous one is used.

        Args:
          target: the state's tree, as arrays or as `jax.ShapeDtypeStruct` with shardings.

        Returns:
          (step, state); None if there is no checkpoint.

        Raises:
          TemporaryFailure: the newest checkpoint could not be read for any other reason; it is
            unchanged.
          MemoryError: likewise.
        """
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, target)
        for step in sorted(self._manager.all_steps(), reverse=True):
            state, outcome, reason = self._try_restore(step, shapes, iterator)
            # all processes must agree: each reads its own part of the files
            outcome = processes.largest_of_processes(outcome)
            reason = reason or "another process could not read its part"
            if outcome == READ:
                return step, state
            if outcome == NOT_READ:
                raise TemporaryFailure(
                    f"{self.folder / str(step)}: the checkpoint could not be read"
                    f" ({reason}); it is unchanged; run the same command again when it can"
                    " be read, or move it away to continue from the one before",
                    source=self.folder,
                )
            if jax.process_index() == 0:
                name = self._set_aside(step)
                warnings.warn(
                    f"{self.folder / str(step)}: incomplete or corrupt checkpoint"
                    f" ({reason}); it is renamed to {name} and the previous one is used",
                    stacklevel=2,
                )
            processes.barrier("checkpoint set aside")
            with self._store_errors():
                self._manager.reload()
        return None

    def _try_restore(
        self, step: int, shapes: Any, iterator: grain.DatasetIterator
    ) -> tuple[Any, int, str]:
        """Return the state, the outcome and the reason for any other outcome than READ."""
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(shapes), data=ocp.args.JsonRestore()
        )
        try:
            checkpoint = self._manager.restore(step, args=args)
            iterator.set_state(checkpoint["data"])
            return checkpoint["state"], READ, ""
        except MemoryError:
            raise
        except Exception as error:  # of TensorStore, Orbax and the clients of object stores
            _silence_abandoned_reads()
            return None, self._outcome(step, error), _reason(error)

    def _outcome(self, step: int, error: Exception) -> int:
        """NOT_READ or CORRUPT."""
        folder = as_path(self._orbax_folder) / str(step)
        is_corrupt = isinstance(error, CORRUPT_ERRORS) or CORRUPT_MESSAGE.match(str(error))
        if isinstance(error, OSError) and not is_corrupt:
            return NOT_READ
        try:
            if is_corrupt:
                # files are also missing if the whole folder is, as when a network disk is lost
                return CORRUPT if folder.is_dir() else NOT_READ
            complete = all((folder / item).is_dir() for item in ITEMS)
        except (OSError, BadInput):
            return NOT_READ
        return NOT_READ if complete else CORRUPT

    def _set_aside(self, step: int) -> str:
        """Rename the folder of a step, so that its files are kept and the step can be saved again.

        Returns:
          The new name.
        """
        name = mirror.unreadable_name(step, list_names(self.folder))
        folder = as_path(self._orbax_folder)
        try:
            if is_remote(folder):
                rename_folder(folder / str(step), folder / name)
            else:
                (folder / str(step)).rename(folder / name)
            if self._mirror is not None:
                self._mirror.set_aside(step, name)
        except OSError as error:
            raise BadInput(
                f"{self.folder / str(step)}: this incomplete or corrupt checkpoint could not be"
                f" renamed to {name} ({_reason(error)}); move it away and run the same command"
                " again",
                source=self.folder,
            ) from error
        return name

    def preempted(self, step: int) -> bool:
        """Whether all of several processes stop after `step`, since one has received SIGTERM.

        False in a program of one process.
        """
        return jax.process_count() > 1 and self._manager.reached_preemption(step)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        """Wait for a save in progress, also after an error."""
        try:
            with self._one_line_errors():
                self._manager.wait_until_finished()
        finally:
            self._manager.close()
            if self._mirror is not None:
                self._mirror.close()

    @contextlib.contextmanager
    def _one_line_errors(self) -> Iterator[None]:
        try:
            with self._store_errors():
                yield
        except BadInput:
            raise
        except (OSError, ValueError) as error:  # tensorstore raises ValueError for a full disk
            raise BadInput(
                f"{self.folder}: a checkpoint could not be written ({_reason(error)});"
                " complete ones are kept; free disk space and run the same command again",
                source=self.folder,
            ) from error


@functools.cache
def _need_no_bucket_metadata() -> None:
    """Have Orbax take a bucket whose metadata it may not read for one without folders.

    Whenever it lists or deletes checkpoints on gs://, it asks whether the bucket has a hierarchical
    namespace. That needs the permission storage.buckets.get, which roles/storage.objectAdmin lacks.
    """
    from google.api_core.exceptions import Forbidden
    from orbax.checkpoint._src.path import gcs_utils

    has_folders = gcs_utils.is_hierarchical_namespace_enabled

    def has_folders_if_known(path: Any) -> bool:
        try:
            return has_folders(path)
        except Forbidden:
            return False

    gcs_utils.is_hierarchical_namespace_enabled = has_folders_if_known


def _is_not_from_orbax(record: logging.LogRecord) -> bool:
    """Drop orbax's log records: it also raises what it logs."""
    return f"{os.sep}orbax{os.sep}" not in record.pathname


def _reason(error: Exception) -> str:
    """The first line of an error's text, at most 300 characters."""
    return (str(error) or type(error).__name__).splitlines()[0][:300]


@functools.cache
def _silence_abandoned_reads() -> None:
    """Drop what Python prints of the reads that were under way when one of them failed.

    They report when they end or are collected, which may be much later.
    """
    previous_hook = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        code = getattr(unraisable.object, "cr_code", None)
        is_read = code is not None and f"{os.sep}orbax{os.sep}" in code.co_filename
        if not is_read and str(unraisable.exc_value) != "Event loop is closed":
            previous_hook(unraisable)

    sys.unraisablehook = hook
