"""Full attention of a model whose tokens are spread over the mesh's `sequence` axis, with no device
holding all keys.

Ring: keys and values travel round the devices, each adds what it has not seen (Liu et al. 2023,
arXiv 2310.01889). Ulysses: tokens are exchanged for heads before and after, so each device has all
tokens of its heads (Jacobs et al. 2023, arXiv 2309.14509); it moves less and runs any kernel, but
needs as many heads as devices.

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
from pav_jax.parallel.sharding_rules import partition_spec

NAMES = ("auto", "ring", "ulysses")
AXIS = "sequence"


def make_sequence_attention_fn(mesh: Mesh | None, name: str = "auto") -> Callable[..., jax.Array]:
    """(q, k, v, mask) -> attention, all [B, T, N, H], keys and values perhaps of another length;
    the mask is None or
    `FirstKeys`. Memory stays bounded: by Pallas' kernel on TPU, elsewhere block after block, on a
      processor of its
    cache's size.

    Args:
      name: how tokens on several devices meet: ring, ulysses, or auto, which is ulysses where heads
        allow it.

    Raises:
      BadInput: an unknown name; or, when it is called, ulysses for heads that the mesh does not
        divide.
    """
    if name not in NAMES:
        raise BadInput(f"sequence_attention={name!r} is none of {', '.join(NAMES)}")
    platform = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
    local = {"tpu": splash_full_attention, "cpu": row_attention}.get(platform, blockwise_attention)
    return (
        local if mesh is None or mesh.size == 1 else functools.partial(_on_mesh, mesh, name, local)
    )


def _on_mesh(
    mesh: Mesh,
    name: str,
    local: Callable,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: FirstKeys | None = None,
) -> jax.Array:
    spec = keys = partition_spec(("batch", "length", "heads", None), q.shape, mesh)
    devices, apart = mesh.shape[AXIS], mesh.shape["tensor"] if spec[2] else 1
    if k.shape[1] != q.shape[1]:  # of a text: it is short, and every device has all of it
        keys = PartitionSpec(spec[0], None, *spec[2:])
    if keys[1] is None:  # every device has all keys of its rows and heads
        kernel = functools.partial(local, mask=mask)
    else:
        fits = q.shape[2] // apart % devices == 0
        if name == "ulysses" and not fits:
            raise BadInput(
                f"sequence_attention='ulysses': {q.shape[2]} heads on a mesh of"
                f" tensor={mesh.shape['tensor']} do not divide by sequence={devices}; choose ring"
            )
        if name == "ring" or not fits:
            kernel = functools.partial(
                _ring, devices=devices, count=q.shape[1] if mask is None else mask.count
            )
        else:
            kernel = functools.partial(_ulysses, local=local, mask=mask)
    return jax.shard_map(
        kernel, mesh=mesh, in_specs=(spec, keys, keys), out_specs=spec, check_vma=False
    )(q, k, v)


def _ulysses(
    q_btnh: jax.Array,
    k_btnh: jax.Array,
    v_btnh: jax.Array,
    *,
    local: Callable,
    mask: FirstKeys | None,
) -> jax.Array:
    all_tokens = [
        jax.lax.all_to_all(x, AXIS, split_axis=2, concat_axis=1, tiled=True)
        for x in (q_btnh, k_btnh, v_btnh)
    ]
    return jax.lax.all_to_all(
        local(*all_tokens, mask=mask), AXIS, split_axis=1, concat_axis=2, tiled=True
    )


def _ring(
    q_btnh: jax.Array, k_btnh: jax.Array, v_btnh: jax.Array, *, devices: int, count: int
) -> jax.Array:
    """Args:
    count: how many of all tokens are real; the rest are padding at the end.
    """
    t, h = q_btnh.shape[1], q_btnh.shape[3]
    q_btnh, here = q_btnh * h**-0.5, jax.lax.axis_index(AXIS)
    onward = [(i, (i + 1) % devices) for i in range(devices)]

    def add(seen: Partial, keys: tuple, turn) -> Partial:
        numbers = (here - turn) % devices * t + jnp.arange(t)  # of these keys, among all
        return add_keys(seen, q_btnh, *keys, (numbers < count)[None, None, None])

    def turn_once(carry, turn):
        seen, keys = carry
        coming = jax.tree.map(
            lambda x: jax.lax.ppermute(x, AXIS, onward), keys
        )  # travels while these are worked on
        return (add(seen, keys, turn), coming), None

    carry = (Partial.of_none(q_btnh), (k_btnh, v_btnh))
    (seen, keys), _ = jax.lax.scan(turn_once, carry, jnp.arange(devices - 1))
    return add(seen, keys, devices - 1).result(v_btnh.dtype)
