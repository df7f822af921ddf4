"""One table from logical axes to mesh axes, for parameters, adapters, optimizer state and batches.

Models name the axes of their arrays ("embed", "heads", ...) and know nothing of meshes; this table
decides how each array is sharded.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from pav_jax.parallel.mesh import BATCH_AXES

# logical axis -> mesh axis or axes; any other logical axis is replicated
RULES: dict[str, str | tuple[str, ...]] = {
    "batch": BATCH_AXES,
    "batch_of_experts": ("data", "fsdp"),  # rows that the devices along `expert` share
    "rows": "data",  # of a batch whose feature axis is sharded over fsdp
    "length": "sequence",
    "tiles": ("data", "fsdp", "tensor", "sequence"),  # tiles of an image, decoded independently
    "embed": "fsdp",
    "vocab": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "mlp": "tensor",
    "expert": "expert",
}


def partition_spec(
    axes: Sequence[str | None],
    shape: Sequence[int],
    mesh: Mesh,
    rules: Mapping[str, str | tuple[str, ...]] = RULES,
) -> PartitionSpec:
    """Return how an array with logical `axes` and `shape` is partitioned over `mesh`.

    An axis that the mesh does not divide is replicated (a tiny model on a big mesh is slow, not
    wrong). Of several mesh axes, the leading ones whose product divides the size are used. Each
    mesh axis is used once per array, by the first logical axis that maps to it.
    """
    used: set[str] = set()
    entries: list[str | tuple[str, ...] | None] = []
    for name, size in zip(axes, shape, strict=True):
        target = rules.get(name, ()) if name is not None else ()
        candidates = [target] if isinstance(target, str) else target
        names = [n for n in candidates if n not in used and mesh.shape[n] > 1]
        while size % math.prod(mesh.shape[n] for n in names):
            names = names[:-1]
        if not names:
            entries.append(None)
            continue
        used.update(names)
        entries.append(tuple(names) if len(names) > 1 else names[0])
    return PartitionSpec(*entries)


def sharding(axes: Sequence[str | None], shape: Sequence[int], mesh: Mesh) -> NamedSharding:
    """Return the sharding of one array with logical `axes` and `shape`."""
    return NamedSharding(mesh, partition_spec(axes, shape, mesh))


def shardings(axes: Any, tree: Any, mesh: Mesh) -> Any:
    """Return the tree of shardings for `tree`.

    Args:
      axes: shaped like `tree`, with a tuple of logical axis names at each leaf; an empty tuple or
        None replicates the leaf.
      tree: arrays or shapes.
    """

    def leaf_sharding(leaf: Any, names: Sequence[str | None] | None) -> NamedSharding:
        spec = partition_spec(names, leaf.shape, mesh) if names else PartitionSpec()
        return NamedSharding(mesh, spec)

    leaves, structure = jax.tree.flatten(tree)
    names = jax.tree.leaves(axes, is_leaf=lambda x: x is None or isinstance(x, tuple))
    if len(names) != len(leaves):
        raise ValueError(f"{len(leaves)} arrays, but logical axes for {len(names)}")
    return structure.unflatten([leaf_sharding(*pair) for pair in zip(leaves, names, strict=True)])


def shard(tree: Any, axes: Any, mesh: Mesh) -> Any:
    """Put the arrays of `tree` on `mesh`, sharded by their logical `axes`."""
    return device_put_global(tree, shardings(axes, tree, mesh))


def device_put_global(tree: Any, target: Any) -> Any:
    """Put arrays that every process holds on shardings that may span processes.

    Each process copies only the parts of its own devices.

    Args:
      tree: the same arrays in every process; an array that already spans processes stays as it is.
      target: shardings, shaped like `tree`.
    """
    if jax.process_count() == 1:
        return jax.device_put(tree, target)

    def put(x: Any, sharding: NamedSharding) -> jax.Array:
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            return x
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            key_sharding = NamedSharding(sharding.mesh, PartitionSpec())
            return jax.random.wrap_key_data(put(jax.random.key_data(x), key_sharding))
        host = np.asarray(x)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(put, tree, target)


@dataclasses.dataclass(frozen=True)
class ShardingConstraint:
    """A model's `constrain` function: shards an intermediate array by its logical axes."""

    mesh: Mesh

    def __call__(self, x: jax.Array, axes: Sequence[str | None]) -> jax.Array:
        """Return `x`, constrained to the sharding of logical `axes` on the mesh."""
        return jax.lax.with_sharding_constraint(x, sharding(axes, x.shape, self.mesh))


def sharded_shapes(tree: Any, target: Any) -> Any:
    """Return the shapes of `tree` with the shardings of the tree `target`, making no array."""

    def with_sharding(leaf: Any, sharding: Sharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(with_sharding, tree, target)


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding that gives every device of `mesh` the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(shape: Sequence[int], mesh: Mesh) -> NamedSharding:
    """Return the sharding of a batch's array: "batch" first and, with two axes or more, "length"
    last."""
    length = ("length",) if len(shape) > 1 else ()
    axes = ("batch", *(None,) * max(0, len(shape) - 2), *length)
    return sharding(axes, shape, mesh)


def shard_batch(batch: Mapping[str, Any], mesh: Mesh) -> dict[str, jax.Array]:
    """Make global arrays of every process's rows, sharded as `batch_sharding` says.

    Args:
      batch: this process's rows of each array.
    """

    def global_array(rows: Any) -> jax.Array:
        shape = (rows.shape[0] * jax.process_count(), *rows.shape[1:])
        return jax.make_array_from_process_local_data(batch_sharding(shape, mesh), rows, shape)

    return {name: global_array(rows) for name, rows in batch.items()}
