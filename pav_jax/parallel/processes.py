"""Many processes as one program: joining, taking turns at the shared folder, and arrays of several
hosts made whole."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from pav_jax.errors import BadInput

# Either says that other processes run the same command: the address of process 0, with the number
# of processes and this one's beside it; or a 1 that leaves it to JAX to find the hosts of a TPU or
# a cluster.
ADDRESS, NUMBER, INDEX, FOUND = (
    "JAX_COORDINATOR_ADDRESS",
    "JAX_NUM_PROCESSES",
    "JAX_PROCESS_ID",
    "PAV_DISTRIBUTED",
)
Item = TypeVar("Item")

SILENCE = 20  # seconds without a sign of life after which a process counts as dead, and all end
LEAVING = 40  # seconds that a process which is done, or failed, waits for the others


def join() -> None:
    """Waits for the other processes, where the environment says that there are any; before JAX does
    anything else.

    Raises:
      BadInput: an address without the two numbers.
    """
    limits = {"heartbeat_timeout_seconds": SILENCE, "shutdown_timeout_seconds": LEAVING}
    if address := os.environ.get(ADDRESS):
        numbers = [os.environ.get(name, "") for name in (NUMBER, INDEX)]
        for name, number in zip((NUMBER, INDEX), numbers, strict=True):
            if not number.isdigit():
                raise BadInput(
                    f"{name}={number!r}: {ADDRESS} is set, so set this to a whole number too"
                )
        jax.distributed.initialize(address, *map(int, numbers), **limits)
    elif os.environ.get(FOUND):
        jax.distributed.initialize(**limits)


def barrier(name: str) -> None:
    """Returns when all processes have called it with the same name."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


@contextlib.contextmanager
def first_process_first(name: str) -> Iterator[None]:
    """The block runs in process 0 and then in the others, which find what it left in the shared
    folder."""
    if jax.process_index():
        barrier(name)
    yield
    if jax.process_index() == 0:
        barrier(name)


def first_only(name: str, work: Callable[[], Any]) -> None:
    """Runs `work` in process 0 alone, and returns when it is done there: what it wrote is in the
    shared folder."""
    if jax.process_index() == 0:
        work()
    barrier(name)


def after_all(name: str, read: Callable[[], None]) -> None:
    """Where there are other processes: waits until they have done the work `name`, then calls
    `read`, for what they wrote."""
    if jax.process_count() > 1:
        barrier(name)
        read()


def share(items: Sequence[Item]) -> list[Item]:
    """This process's part of `items`: every item is one process's."""
    return list(items[jax.process_index() :: jax.process_count()])


def whole(tree: Any) -> Any:
    """`tree` with arrays that every process has all of; all processes call it together."""

    def one(x: Any) -> Any:
        if not isinstance(x, jax.Array) or x.is_fully_addressable:
            return x
        if x.is_fully_replicated:
            return np.asarray(x.addressable_data(0))
        return multihost_utils.process_allgather(x, tiled=True)

    return jax.tree.map(one, tree) if jax.process_count() > 1 else tree
