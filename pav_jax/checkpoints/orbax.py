"""Training checkpoints: what is trained, the optimizer's state, the step and the data iterator,
saved as one.

The frozen base is never saved. A checkpoint appears whole: orbax writes under a temporary name and
renames.
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


class Checkpoints:
    """The checkpoints in a folder, one numbered folder per step; at most `keep` of them stay."""

    def __init__(self, folder: str | Path, keep: int = 2):
        self.folder = Path(folder).absolute()  # orbax asks for an absolute path
        self._forget_unfinished()
        logging.getLogger("absl").addFilter(_is_news)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep or None, cleanup_tmp_directories=True
        )
        try:
            self._manager = ocp.CheckpointManager(self.folder, options=options)
        except OSError as error:
            raise BadInput(
                f"{self.folder}: cannot hold checkpoints ({error}); change --workdir"
            ) from error

    def _forget_unfinished(self) -> None:
        left = [
            p.name
            for p in self.folder.glob("*")
            if not re.fullmatch(r"\d+", p.name) and "tmp" in p.name
        ]
        if left:
            warnings.warn(
                f"{self.folder}: {left[0]} was being written when the run ended; it is removed",
                stacklevel=3,
            )

    def save(self, step: int, state: Any, iterator: grain.DatasetIterator) -> None:
        """Saves the tree `state` after `step` steps; returns while the files are being written.

        Raises:
          BadInput: no room, for this one or for the one before, which was still being written.
            Whole ones stay.
        """
        if jax.default_backend() == "cpu":
            # on CPU the "copy to host" is a view, and the next step donates, hence overwrites, what
            # it looks at
            state = jax.tree.map(jnp.copy, state)
        # one place in the data for all processes, so that another number of them can go on from it
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(iterator.get_state())
        )
        with self._clear_errors():
            self._manager.save(step, args=args, force=True)

    def restore(self, like: Any, iterator: grain.DatasetIterator) -> tuple[int, Any] | None:
        """(step, state) of the newest whole checkpoint, or None; `iterator` is set to what follows
        it.

        One that cannot be read is removed with a warning, and the one before it is taken.

        Args:
          like: the state's tree, as arrays or as `jax.ShapeDtypeStruct` with shardings.
        """
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        for step in sorted(self._manager.all_steps(), reverse=True):
            args = ocp.args.Composite(
                state=ocp.args.StandardRestore(shapes), data=ocp.args.JsonRestore()
            )
            try:
                found = self._manager.restore(step, args=args)
                iterator.set_state(found["data"])
                return step, found["state"]
            except Exception as error:  # whatever a torn file makes the readers raise
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                warnings.warn(
                    f"{self.folder}/{step}: not a whole checkpoint ({reason[:200]}); it is removed"
                    " and the one before it is used",
                    stacklevel=2,
                )
                self._manager.delete(step)
        return None

    def preempted(self, step: int) -> bool:
        """Whether the cluster asked all processes to stop after `step`; always False where nothing
        can ask."""
        return jax.process_count() > 1 and self._manager.reached_preemption(step)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        """Waits for a save under way, also after an error."""
        try:
            with self._clear_errors():
                self._manager.wait_until_finished()
        finally:
            self._manager.close()

    @contextlib.contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # tensorstore says ValueError when a disk is full
            reason = str(error).partition("\n")[0]
            raise BadInput(
                f"{self.folder}: a checkpoint could not be written ({reason:.300}); whole ones are"
                " kept, make room and run the same command again"
            ) from error


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a log record is not orbax speaking of what it also raises, or of what
    `_forget_unfinished` said."""
    return f"{os.sep}orbax{os.sep}" not in record.pathname
