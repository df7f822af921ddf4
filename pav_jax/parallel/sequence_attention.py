"""Bidirectional attention of a model whose tokens are sharded over the mesh's `sequence` axis.

No device holds all keys of all heads.

- Ring: keys and values travel round the devices; each device attends to one shard at a time (Liu et
  al. 2023, arXiv 2310.01889).
- Ulysses: tokens are exchanged for heads before and after, so each device has all tokens of its
  heads (Jacobs et al. 2023, arXiv 2309.14509). It sends less and runs any kernel, but needs at
  least as many heads as devices.

Letters: B batch, T tokens, N heads, H head size; a device has b, t, n of them.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from pav_jax.errors import BadInput
from pav_jax.models.attention.blockwise import Partial, add_keys, blockwise_attention
from pav_jax.models.attention.dot_product import FirstKeys
from pav_jax.models.attention.flash import splash_full_attention
from pav_jax.models.attention.rows import row_attention
from pav_jax.parallel.mesh import mesh_platform
from pav_jax.parallel.sharding_rules import partition_spec

NAMES = ("auto", "ring", "ulysses")
AXIS = "sequence"
KERNEL_BY_PLATFORM = {"tpu": splash_full_attention, "cpu": row_attention}


def make_sequence_attention_fn(mesh: Mesh | None, name: str = "auto") -> Callable[..., jax.Array]:
    """Return an attention function (q, k, v, mask) -> output with bounded memory.

    Its arrays are [B, T, N, H]; keys and values may have another length than queries; the mask is
    None or `FirstKeys`. One device runs Pallas' kernel on TPU, `row_attention` on CPU and
    `blockwise_attention` elsewhere.

    Args:
      name: how sharded tokens attend to each other: ring, ulysses, or auto, which is ulysses if the
        heads can be divided.

    Raises:
      BadInput: an unknown name; or, when the function is called, ulysses for heads that the mesh
        does not divide.
    """
    if name not in NAMES:
        raise BadInput(
            f"sequence_attention={name!r} is none of {', '.join(NAMES)}; choose one",
            field="sequence_attention",
        )
    kernel = KERNEL_BY_PLATFORM.get(mesh_platform(mesh), blockwise_attention)
    if mesh is None or mesh.size == 1:
        return kernel
    return functools.partial(_attend_on_mesh, mesh, name, kernel)


def _attend_on_mesh(
    mesh: Mesh,
    name: str,
    kernel: Callable,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: FirstKeys | None = None,
) -> jax.Array:
    spec = partition_spec(("batch", "length", "heads", None), q.shape, mesh)
    batch, length, heads, _ = spec
    if k.shape[1] != q.shape[1]:
        length = None  # the keys are a text: it is short, and every device has all of it
    if length is None:
        shard_fn = functools.partial(kernel, mask=mask)
    else:
        device_heads = q.shape[2] // (mesh.shape["tensor"] if heads else 1)
        if _use_ulysses(name, mesh, q.shape[2], device_heads):
            shard_fn = functools.partial(_ulysses, kernel=kernel, mask=mask)
        else:
            num_keys = k.shape[1] if mask is None else mask.count
            shard_fn = functools.partial(_ring, devices=mesh.shape[AXIS], num_keys=num_keys)
    keys_spec = PartitionSpec(batch, length, heads, None)
    sharded = jax.shard_map(
        shard_fn, mesh=mesh, in_specs=(spec, keys_spec, keys_spec), out_specs=spec, check_vma=False
    )
    return sharded(q, k, v)


def _use_ulysses(name: str, mesh: Mesh, heads: int, device_heads: int) -> bool:
    divisible = device_heads % mesh.shape[AXIS] == 0
    if name == "ulysses" and not divisible:
        raise BadInput(
            f"sequence_attention='ulysses': {heads} heads on a mesh of"
            f" tensor={mesh.shape['tensor']} do not divide by sequence={mesh.shape[AXIS]}; choose"
            " ring",
            field="sequence_attention",
        )
    return divisible and name != "ring"


def _ulysses(
    q_btnh: jax.Array,
    k_btnh: jax.Array,
    v_btnh: jax.Array,
    *,
    kernel: Callable,
    mask: FirstKeys | None,
) -> jax.Array:
    all_tokens = [
        jax.lax.all_to_all(x, AXIS, split_axis=2, concat_axis=1, tiled=True)
        for x in (q_btnh, k_btnh, v_btnh)
    ]
    out = kernel(*all_tokens, mask=mask)
    return jax.lax.all_to_all(out, AXIS, split_axis=1, concat_axis=2, tiled=True)


def _ring(
    q_btnh: jax.Array, k_btnh: jax.Array, v_btnh: jax.Array, *, devices: int, num_keys: int
) -> jax.Array:
    """Attend to the shards of all devices in turn.

    Args:
      num_keys: how many of all tokens are real; the others are padding at the end.
    """
    t = q_btnh.shape[1]
    q_btnh = q_btnh * q_btnh.shape[3] ** -0.5
    device = jax.lax.axis_index(AXIS)
    to_next = [(i, (i + 1) % devices) for i in range(devices)]

    def attend(partial: Partial, keys: tuple[jax.Array, jax.Array], step) -> Partial:
        index_t = (device - step) % devices * t + jnp.arange(t)  # of these keys among all
        mask = (index_t < num_keys)[None, None, None]
        return add_keys(partial, q_btnh, keys[0], keys[1], mask)

    def attend_and_send(carry: tuple, step) -> tuple[tuple, None]:
        partial, keys = carry
        # the next keys travel while the device works on these
        next_keys = jax.tree.map(lambda x: jax.lax.ppermute(x, AXIS, to_next), keys)
        return (attend(partial, keys, step), next_keys), None

    carry = (Partial.empty(q_btnh), (k_btnh, v_btnh))
    (partial, keys), _ = jax.lax.scan(attend_and_send, carry, jnp.arange(devices - 1))
    return attend(partial, keys, devices - 1).result(v_btnh.dtype)
