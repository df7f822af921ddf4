"""Several processes as one JAX program: start-up, barriers, work sharing and global arrays."""

import atexit
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax._src import clusters
from jax.experimental import multihost_utils

from pav_jax.errors import BadInput
from pav_jax.parallel.collectives import wait_for_processes
from pav_jax.parallel.peers import START_TIMEOUT_S, Peers

# Other processes run the same command when either of these is set: the coordinator's address
# (process 0), together with the number of processes and this one's index; or PAV_DISTRIBUTED=1,
# which lets JAX detect the hosts of a TPU or of a cluster.
COORDINATOR_ADDRESS_ENV = "JAX_COORDINATOR_ADDRESS"
NUM_PROCESSES_ENV = "JAX_NUM_PROCESSES"
PROCESS_ID_ENV = "JAX_PROCESS_ID"
AUTODETECT_ENV = "PAV_DISTRIBUTED"

# JAX's own detection of a lost process, which calls `abort`; `peers` notices it long before. No
# heartbeat passes the tunnel of a process whose interpreter is busy, so this is long.
HEARTBEAT_TIMEOUT_S = 3600
SHUTDOWN_TIMEOUT_S = 40  # for the coordinator, when all processes have finished their work

Item = TypeVar("Item")


_peers: Peers | None = None  # None: a program of one process
# the address of the handler of SIGTERM that JAX's preemption service installs
_preemption_handler: int | None = None


def initialize_distributed(name: str = "pav") -> None:
    """Connect to the other processes if the environment names any.

    Call it before anything else that uses JAX. From then on the loss of a process ends the others,
    see `peers`.

    Args:
      name: of the command, for messages.

    Raises:
      BadInput: the coordinator's address is set without the number and index of processes, or is
        wrong.
      TemporaryFailure: the other processes could not be reached.
    """
    if address := os.environ.get(COORDINATOR_ADDRESS_ENV):
        num_processes = _integer_variable(NUM_PROCESSES_ENV)
        process_id = _integer_variable(PROCESS_ID_ENV)
    elif os.environ.get(AUTODETECT_ENV):
        address, num_processes, process_id = _detect_processes()
    else:
        return
    bind_address = None
    global _peers, _preemption_handler
    if num_processes > 1:
        _peers = Peers(process_id, num_processes, address, name)
        address = _peers.coordinator_address
        bind_address = address
    jax.distributed.initialize(
        address,
        num_processes,
        process_id,
        initialization_timeout=START_TIMEOUT_S,
        heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT_S,
        shutdown_timeout_seconds=SHUTDOWN_TIMEOUT_S,
        coordinator_bind_address=bind_address,
    )
    _preemption_handler = _set_sigterm_handler(None)
    atexit.register(_leave_at_exit)  # runs before JAX's own


def leave(status: int, text: str = "", reason: str = "") -> None:
    """Leave the other processes: wait for them, or tell them why this one stops.

    Does nothing in a program of one process. Returns only if `status` is 0.

    Args:
      status: the exit status.
      text, reason: see `Peers.stop`.
    """
    global _peers
    if _peers is None:
        return
    peers = _peers
    _peers = None
    if status:
        peers.stop(status, text, reason)
    peers.finish()
    jax.distributed.shutdown()


def _leave_at_exit() -> None:
    error = getattr(sys, "last_value", None)  # Python has printed it already
    if error is None:
        leave(0)
    else:
        leave(1, reason=f"{type(error).__name__}: {error}")


def _detect_processes() -> tuple[str, int, int]:
    """Return (address, number, index) as `jax.distributed.initialize()` finds them."""
    address, num_processes, process_id, _ = (
        clusters.ClusterEnv.auto_detect_unset_distributed_params(
            None, None, None, None, None, START_TIMEOUT_S
        )
    )
    if address is None or num_processes is None or process_id is None:
        raise BadInput(
            f"{AUTODETECT_ENV} is set, but JAX finds no TPU or cluster here; unset it, or set"
            f" {COORDINATOR_ADDRESS_ENV}, {NUM_PROCESSES_ENV} and {PROCESS_ID_ENV}",
            source="environment",
            field=AUTODETECT_ENV,
        )
    return address, num_processes, process_id


def _integer_variable(name: str) -> int:
    value = os.environ.get(name, "")
    if not value.isdigit():
        raise BadInput(
            f"{name}={value!r}: {COORDINATOR_ADDRESS_ENV} is set, so set this to an integer too",
            source="environment",
            field=name,
        )
    return int(value)


@contextlib.contextmanager
def preemption_notices() -> Iterator[None]:
    """In the block, SIGTERM does not end the process but notifies JAX's preemption service.

    The service tells all processes after which step to stop, see
    `multihost_utils.reached_preemption_sync_point`. Does nothing in a program of one process.
    """
    if _peers is None:
        yield
        return
    _set_sigterm_handler(_preemption_handler)
    try:
        yield
    finally:
        _set_sigterm_handler(None)


def _set_sigterm_handler(handler: int | None) -> int | None:
    """Set the handler of SIGTERM; the module `signal` knows handlers in Python only.

    Args:
      handler: the address of a C function; None ends the process, as is the default.

    Returns:
      The previous handler.
    """
    set_handler = ctypes.CDLL(None).signal
    set_handler.argtypes = (ctypes.c_int, ctypes.c_void_p)
    set_handler.restype = ctypes.c_void_p
    return set_handler(signal.SIGTERM, handler)


def barrier(name: str) -> None:
    """Wait until every process has called this with the same name."""
    if jax.process_count() > 1:
        wait_for_processes(name)
        multihost_utils.sync_global_devices(name)


def _allgather(arrays: Any, tiled: bool = False) -> Any:
    wait_for_processes("allgather")
    return multihost_utils.process_allgather(arrays, tiled=tiled)


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
    return int(_allgather(np.int32(number)).max())


def call_after_barrier(name: str, read: Callable[[], None]) -> None:
    """Wait for the other processes, then call `read` for the files they wrote.

    Does nothing in a program of one process, which has its own results in memory.

    Args:
      name: of the barrier.
    """
    if jax.process_count() > 1:
        barrier(name)
        read()


def any_process(flag: bool) -> bool:
    """Whether `flag` is true in any process; all processes call it together."""
    if jax.process_count() == 1:
        return flag
    return bool(_allgather(np.asarray(flag)).any())


def sum_of_processes(numbers: Sequence[int]) -> list[int]:
    """The sums over all processes of the numbers that each passed; all call it together."""
    if jax.process_count() == 1:
        return list(numbers)
    return _allgather(np.asarray(numbers, np.int32)).sum(axis=0).tolist()


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
        return _allgather(x, tiled=True)

    return jax.tree.map(gather, tree) if jax.process_count() > 1 else tree
