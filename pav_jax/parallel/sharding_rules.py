"""One table from logical axes to mesh axes; parameters, adapters, optimizer state and batches all
follow it.

Models name the axes of their arrays ("embed", "heads", ...) and know nothing of meshes; this table
decides where they go.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# logical axis -> mesh axis or axes. What is not named here is replicated.
RULES: dict[str, str | tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
    "rows": "data",  # of a batch whose width is over fsdp
    "length": "sequence",
    "tiles": ("data", "fsdp", "tensor", "sequence"),  # of a picture, decoded each on its own
    "embed": "fsdp",
    "vocab": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "mlp": "tensor",
}


def partition_spec(
    axes: Sequence[str | None],
    shape: Sequence[int],
    mesh: Mesh,
    rules: Mapping[str, str | tuple[str, ...]] = RULES,
) -> PartitionSpec:
    """Where an array with logical `axes` and `shape` lies on `mesh`.

    An axis that the mesh does not divide stays whole (a tiny model on a big mesh is slow, not
    wrong); of several mesh axes it is spread over the first ones, as many as divide it. A mesh axis
    is used once per array, by the first logical axis that claims it.
    """
    used: set[str] = set()
    entries: list[str | tuple[str, ...] | None] = []
    for name, size in zip(axes, shape, strict=True):
        target = rules.get(name) if name is not None else None
        names = (target,) if isinstance(target, str) else tuple(target or ())
        names = tuple(n for n in names if n not in used and mesh.shape[n] > 1)
        while size % math.prod(mesh.shape[n] for n in names):
            names = names[:-1]
        if not names:
            entries.append(None)
            continue
        used.update(names)
        entries.append(names if len(names) > 1 else names[0])
    return PartitionSpec(*entries)


def sharding(axes: Sequence[str | None], shape: Sequence[int], mesh: Mesh) -> NamedSharding:
    """Where one array lies."""
    return NamedSharding(mesh, partition_spec(axes, shape, mesh))


def shardings(axes: Any, tree: Any, mesh: Mesh) -> Any:
    """The tree of shardings for `tree` (arrays or shapes).

    Args:
      axes: shaped like `tree`, with a tuple of logical axis names at each leaf; an empty tuple, or
        None, replicates.
    """

    def one(leaf: Any, names: Sequence[str | None] | None) -> NamedSharding:
        return NamedSharding(
            mesh, partition_spec(names, leaf.shape, mesh) if names else PartitionSpec()
        )

    leaves, structure = jax.tree.flatten(tree)
    names = jax.tree.leaves(axes, is_leaf=lambda x: x is None or isinstance(x, tuple))
    if len(names) != len(leaves):
        raise ValueError(f"{len(leaves)} arrays, logical axes for {len(names)}")
    return structure.unflatten([one(leaf, n) for leaf, n in zip(leaves, names, strict=True)])


def shard(tree: Any, axes: Any, mesh: Mesh) -> Any:
    """Places `tree` on `mesh` as the table says."""
    return put(tree, shardings(axes, tree, mesh))


def put(tree: Any, where: Any) -> Any:
    """Places arrays that every process has on the shardings of the tree `where`; each process
    copies only its parts."""
    if jax.process_count() == 1:
        return jax.device_put(tree, where)

    def one(x: Any, sharding: NamedSharding) -> jax.Array:
        if (
            isinstance(x, jax.Array) and not x.is_fully_addressable
        ):  # placed before, over all processes
            return x
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(one(jax.random.key_data(x), replicated(sharding.mesh)))
        host = np.asarray(x)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(one, tree, where)


@dataclasses.dataclass(frozen=True)
class Place:
    """For a model's `place`: inside a program, an array with logical axes lies on `mesh` as the
    table says."""

    mesh: Mesh

    def __call__(self, x: jax.Array, axes: Sequence[str | None]) -> jax.Array:
        return jax.lax.with_sharding_constraint(
            x, NamedSharding(self.mesh, partition_spec(axes, x.shape, self.mesh))
        )


def placed_shapes(tree: Any, where: Any) -> Any:
    """What an array of each shape of `tree` would be on its sharding of the tree `where`, without
    making it."""
    return jax.tree.map(
        lambda leaf, one: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=one), tree, where
    )


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(shape: Sequence[int], mesh: Mesh) -> NamedSharding:
    """Of a batch's array: the first axis is "batch", the last (where there are more) "length"."""
    axes = ("batch",) + (None,) * max(0, len(shape) - 2) + (("length",) if len(shape) > 1 else ())
    return NamedSharding(mesh, partition_spec(axes, shape, mesh))


def shard_batch(batch: Mapping[str, Any], mesh: Mesh) -> dict[str, jax.Array]:
    """Makes global arrays of this process's rows, laid out as `batch_sharding` says.

    Works with one process and with many; each process passes its own rows only.
    """

    def place(rows: Any) -> jax.Array:
        whole = (rows.shape[0] * jax.process_count(), *rows.shape[1:])
        return jax.make_array_from_process_local_data(batch_sharding(whole, mesh), rows, whole)

    return {name: place(rows) for name, rows in batch.items()}
