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
    `tensor`), add to the tokens of all devices along `expert`; then these devices exchange the
    sums. Batches are sharded over `expert` too, so that no other work is done twice.

    Args:
      experts: those of the model; None: it has none, and the function is not called.
      mesh: where the model runs; None means JAX's default device.

    Raises:
      BadInput: the mesh's axis `expert` does not divide the experts, or there are none.
    """
    check_expert_axis(experts, mesh)
    if mesh is None or mesh.size == 1:
        return sum_experts
    return functools.partial(_sum_on_mesh, mesh)


def check_expert_axis(experts: Experts | None, mesh: Mesh | None) -> None:
    """Check that the mesh's axis `expert` divides the experts of a model.

    Args:
      experts: those of the model; None: it has none.
      mesh: where the model runs; None means JAX's default device.

    Raises:
      BadInput: it does not, or there are none.
    """
    size = 1 if mesh is None else mesh.shape["expert"]
    if size == 1:
        return
    problem = "the model has no experts; set it to 1"
    if experts is not None:
        if experts.num_experts % size == 0:
            return
        problem = f"does not divide the model's {experts.num_experts} experts; change it"
    raise BadInput(f"mesh.expert={size}: {problem}", field="mesh.expert")


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
    rows = tokens[0] if isinstance(tokens[0], tuple) else (tokens[0],)
    rows_are_sharded = expert is not None and expert in rows

    def sum_on_device(*arrays: Any) -> jax.Array:
        x_BxTxD, factors_BxTxC, ids_BxTxC, *own_weights = arrays
        if rows_are_sharded:
            gather = functools.partial(jax.lax.all_gather, axis_name=expert, tiled=True)
            x_BxTxD, factors_BxTxC, ids_BxTxC = map(gather, (x_BxTxD, factors_BxTxC, ids_BxTxC))
        first = 0 if expert is None else jax.lax.axis_index(expert) * own_weights[0].shape[0]
        out_BxTxD = sum_experts(
            x_BxTxD,
            factors_BxTxC,
            ids_BxTxC,
            *own_weights,
            activation=activation,
            first_expert=first,
        )
        if rows_are_sharded:
            out_BxTxD = jax.lax.psum_scatter(out_BxTxD, expert, tiled=True)
        elif expert is not None:
            out_BxTxD = jax.lax.psum(out_BxTxD, expert)
        return out_BxTxD if mlp is None else jax.lax.psum(out_BxTxD, mlp)

    sharded = jax.shard_map(
        sum_on_device, mesh=mesh, in_specs=specs, out_specs=tokens, check_vma=False
    )
    return sharded(x_BxTxD, factors_BxTxC, ids_BxTxC, *weights)
