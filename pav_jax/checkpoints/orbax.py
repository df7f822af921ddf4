"""Training checkpoints: trained parameters, optimizer state, step and data iterator together.

The frozen base model is not saved. Orbax writes under a temporary name and renames, so a checkpoint
appears whole.
"""

import contextlib
import logging
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from pav_jax.errors import BadInput

# What Orbax, TensorStore, JSON and Grain raise for missing or corrupt files. Any other error, such
# as lack of memory, says nothing about the checkpoint, which must not be removed for it.
UNREADABLE = (ValueError, OSError, LookupError, TypeError, AttributeError)


class Checkpoints:
    """The checkpoints of one training run: a folder with one numbered subfolder per step."""

    def __init__(self, folder: str | Path, keep: int = 2):
        """Open the folder and remove unfinished checkpoints, with a warning.

        Args:
          folder: created if it does not exist.
          keep: number of newest checkpoints to keep; 0 keeps all.

        Raises:
          BadInput: the folder cannot be used.
        """
        self.folder = Path(folder).absolute()  # orbax requires an absolute path
        self._warn_of_unfinished()
        logging.getLogger("absl").addFilter(_is_not_from_orbax)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep or None, cleanup_tmp_directories=True
        )
        try:
            self._manager = ocp.CheckpointManager(self.folder, options=options)
        except OSError as error:
            raise BadInput(
                f"{self.folder}: checkpoints cannot be written here ({error}); change --workdir",
                source=self.folder,
            ) from error

    def _warn_of_unfinished(self) -> None:
        names = (path.name for path in self.folder.glob("*"))
        unfinished = [name for name in names if "tmp" in name and not re.fullmatch(r"\d+", name)]
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
        # One data position for all processes, so a different number of processes can resume.
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(iterator.get_state())
        )
        with self._one_line_errors():
            self._manager.save(step, args=args, force=True)

    def restore(self, target: Any, iterator: grain.DatasetIterator) -> tuple[int, Any] | None:
        """Restore the newest complete checkpoint and set `iterator` to the data after it.

        A checkpoint that cannot be read is removed with a warning, and the previous one is used.

        Args:
          target: the state's tree, as arrays or as `jax.ShapeDtypeStruct` with shardings.

        Returns:
          (step, state); None if there is no checkpoint.
        """
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, target)
        for step in sorted(self._manager.all_steps(), reverse=True):
            args = ocp.args.Composite(
                state=ocp.args.StandardRestore(shapes), data=ocp.args.JsonRestore()
            )
            try:
                checkpoint = self._manager.restore(step, args=args)
                iterator.set_state(checkpoint["data"])
                return step, checkpoint["state"]
            except UNREADABLE as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                warnings.warn(
                    f"{self.folder}/{step}: incomplete or corrupt checkpoint ({reason[:200]}); it"
                    " is removed and the previous one is used",
                    stacklevel=2,
                )
                self._manager.delete(step)
        return None

    def preempted(self, step: int) -> bool:
        """Whether the cluster asked all processes to stop after `step`; False in one process."""
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

    @contextlib.contextmanager
    def _one_line_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # tensorstore raises ValueError for a full disk
            reason = str(error).partition("\n")[0]
            raise BadInput(
                f"{self.folder}: a checkpoint could not be written ({reason:.300}); complete ones"
                " are kept; free disk space and run the same command again",
                source=self.folder,
            ) from error


def _is_not_from_orbax(record: logging.LogRecord) -> bool:
    """Drop orbax's log records: it also raises what it logs."""
    return f"{os.sep}orbax{os.sep}" not in record.pathname
