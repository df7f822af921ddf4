"""The mixture of experts of a language model on a mesh."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec

from pav_jax.errors import BadInput
from pav_jax.models.decoder.config import Experts
from pav_jax.models.decoder.experts import sum_experts
from pav_jax.parallel.sharding_rules import partition_spec


def make_sum_experts_fn(
    experts: Experts | None, mesh: Mesh | None = None
) -> Callable[..., jax.Array]:
    """Return a function with the signature of `models.decoder.experts.sum_experts`.

    On a mesh each device computes what its experts (axis `expert`), and its units of them (axis
    `tensor`), add to its own tokens; the sum over those devices is exchanged.

    Args:
      experts: those of the model; None: it has none, and the function is not called.
      mesh: where the model runs; None means JAX's default device.

    Raises:
      BadInput: the mesh's axis `expert` does not divide the experts, or there are none.
    """
    if mesh is None or mesh.size == 1:
        return sum_experts
    num_experts = 0 if experts is None else experts.num_experts
    size = mesh.shape["expert"]
    if size > 1 and (num_experts == 0 or num_experts % size):
        problem = f"does not divide the model's {num_experts} experts; change it"
        if num_experts == 0:
            problem = "the model has no experts; set it to 1"
        raise BadInput(f"mesh.expert={size}: {problem}", field="mesh.expert")
    return functools.partial(_sum_on_mesh, mesh)


def _sum_on_mesh(
    mesh: Mesh,
    x_BxTxD: jax.Array,
    factors_BxTxC: jax.Array,
    ids_BxTxC: jax.Array,
    *weights: jax.Array,
    activation: str,
) -> jax.Array:
    """Run `sum_experts` in shard_map: XLA cannot partition rows that are sorted by expert.

    Args:
      *weights: gate and up [E, D, F], and down [E, F, D].
    """
    tokens = partition_spec(("batch", "length", None), x_BxTxD.shape, mesh)
    expert, _, mlp = partition_spec(("expert", None, "mlp"), weights[0].shape, mesh)
    inputs = PartitionSpec(expert, None, mlp)
    specs = (tokens, tokens, tokens, inputs, inputs, PartitionSpec(expert, mlp, None))

    def sum_on_device(*arrays: Any) -> jax.Array:
        first = 0 if expert is None else jax.lax.axis_index(expert) * arrays[3].shape[0]
        out = sum_experts(*arrays, activation=activation, first_expert=first)
        return jax.lax.psum(out, tuple(axis for axis in (expert, mlp) if axis is not None))

    sharded = jax.shard_map(
        sum_on_device, mesh=mesh, in_specs=specs, out_specs=tokens, check_vma=False
    )
    return sharded(x_BxTxD, factors_BxTxC, ids_BxTxC, *weights)
