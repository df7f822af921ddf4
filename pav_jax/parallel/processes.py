"""Several processes as one JAX program: start-up, barriers, work sharing and global arrays."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from pav_jax.errors import BadInput

# Other processes run the same command when either of these is set: the coordinator's address
# (process 0), together with the number of processes and this one's index; or PAV_DISTRIBUTED=1,
# which lets JAX detect the hosts of a TPU or of a cluster.
COORDINATOR_ADDRESS_ENV = "JAX_COORDINATOR_ADDRESS"
NUM_PROCESSES_ENV = "JAX_NUM_PROCESSES"
PROCESS_ID_ENV = "JAX_PROCESS_ID"
AUTODETECT_ENV = "PAV_DISTRIBUTED"

# A process without a heartbeat for this long counts as dead, and all the others exit.
HEARTBEAT_TIMEOUT_S = 20
# How long a process that has finished or failed waits for the others before it exits.
SHUTDOWN_TIMEOUT_S = 40

Item = TypeVar("Item")


def initialize_distributed() -> None:
    """Connect to the other processes if the environment names any.

    Call it before anything else that uses JAX.

    Raises:
      BadInput: the coordinator's address is set without the number and index of processes.
    """
    timeouts: dict[str, Any] = {
        "heartbeat_timeout_seconds": HEARTBEAT_TIMEOUT_S,
        "shutdown_timeout_seconds": SHUTDOWN_TIMEOUT_S,
    }
    if address := os.environ.get(COORDINATOR_ADDRESS_ENV):
        num_processes = _integer_variable(NUM_PROCESSES_ENV)
        process_id = _integer_variable(PROCESS_ID_ENV)
        jax.distributed.initialize(address, num_processes, process_id, **timeouts)
    elif os.environ.get(AUTODETECT_ENV):
        jax.distributed.initialize(**timeouts)


def _integer_variable(name: str) -> int:
    value = os.environ.get(name, "")
    if not value.isdigit():
        raise BadInput(
            f"{name}={value!r}: {COORDINATOR_ADDRESS_ENV} is set, so set this to an integer too",
            source="environment",
            field=name,
        )
    return int(value)


def barrier(name: str) -> None:
    """Wait until every process has called this with the same name."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


@contextlib.contextmanager
def first_process_first(name: str) -> Iterator[None]:
    """Run the block in process 0, then in the others, which can read the files it wrote.

    Args:
      name: of the barrier.
    """
    if jax.process_index():
        barrier(name)
    yield
    if jax.process_index() == 0:
        barrier(name)


def run_on_first_process(name: str, work: Callable[[], Any]) -> None:
    """Run `work` in process 0 alone; every process returns when it is done.

    Args:
      name: of the barrier.
    """
    if jax.process_index() == 0:
        work()
    barrier(name)


def largest_of_processes(number: int) -> int:
    """The largest of the numbers that the processes passed; all call it together."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.process_allgather(np.int32(number)).max())


def call_after_barrier(name: str, read: Callable[[], None]) -> None:
    """Wait for the other processes, then call `read` for the files they wrote.

    Does nothing in a program of one process, which has its own results in memory.

    Args:
      name: of the barrier.
    """
    if jax.process_count() > 1:
        barrier(name)
        read()


def shard_for_process(items: Sequence[Item]) -> list[Item]:
    """Return this process's share of `items`; every item belongs to exactly one process."""
    return list(items[jax.process_index() :: jax.process_count()])


def gather_to_host(tree: Any) -> Any:
    """Gather global arrays, so that every process has all of each; all processes call it together.

    Args:
      tree: arrays; those that this process can already read whole are returned unchanged.
    """

    def gather(x: Any) -> Any:
        if not isinstance(x, jax.Array) or x.is_fully_addressable:
            return x
        if x.is_fully_replicated:
            return np.asarray(x.addressable_data(0))
        return multihost_utils.process_allgather(x, tiled=True)

    return jax.tree.map(gather, tree) if jax.process_count() > 1 else tree
