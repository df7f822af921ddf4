"""Waiting for other processes before the first collective operation, however late they are.

On CPU, JAX's collectives use Gloo. The first program that reduces over a set of devices connects
their processes, and Gloo gives up when one of them does not follow within 30 s, a limit that JAX
has no option for: a process that compiles, or makes a video, takes longer. Once the connection
exists, programs may be minutes apart. So processes wait for each other at a barrier of JAX's
coordination service, which needs no device, and then make the connections with tiny programs.
"""

import collections
import itertools

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from orbax.checkpoint import multihost

# Far longer than any stage: the loss of a process ends the others, see `peers`.
WAIT_TIMEOUT_S = 7 * 24 * 3600

_num_waits: collections.Counter[str] = collections.Counter()


def wait_for_processes(name: str) -> None:
    """Wait until every process has called this with the same name as often as this one.

    No device is used, and the other processes may be hours late.
    """
    if jax.process_count() == 1:
        return
    _num_waits[name] += 1
    wait = multihost.get_barrier_sync_fn()
    wait(key=f"pav {name} {_num_waits[name]}", timeout_ms=WAIT_TIMEOUT_S * 1000)


def connect_devices(mesh: Mesh) -> None:
    """Connect the processes of a mesh for reductions over any of its axes; all call it together.

    Does nothing in a program of one process, and on a TPU, whose network needs no set-up.
    """
    if jax.process_count() == 1 or mesh.devices.flat[0].platform != "cpu":
        return
    wait_for_processes("mesh")
    axes = [name for name, size in mesh.shape.items() if size > 1]
    for count in range(1, len(axes) + 1):
        for chosen in itertools.combinations(axes, count):
            jax.block_until_ready(_reduce_over(mesh, chosen))


def _reduce_over(mesh: Mesh, axes: tuple[str, ...]) -> jax.Array:
    def reduce() -> jax.Array:
        return jax.lax.psum(jnp.ones(()), axes)

    return jax.jit(jax.shard_map(reduce, mesh=mesh, in_specs=(), out_specs=PartitionSpec()))()
