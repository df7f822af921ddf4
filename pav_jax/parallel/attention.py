"""Choose the attention function of a language model, and run its kernel on a mesh."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from pav_jax.errors import BadInput
from pav_jax.models.attention.dot_product import Causal, dot_product_attention
from pav_jax.models.attention.flash import cudnn_attention, splash_attention
from pav_jax.models.attention.rows import causal_row_attention, row_attention
from pav_jax.parallel.mesh import mesh_platform
from pav_jax.parallel.sharding_rules import partition_spec

NAMES = ("auto", "plain", "splash", "cudnn")
NAME_BY_PLATFORM = {"tpu": "splash", "gpu": "cudnn"}


def make_attention_fn(name: str, mesh: Mesh | None = None) -> Callable[..., jax.Array]:
    """Return an attention function with the signature of `dot_product_attention`.

    Args:
      name: plain, splash, cudnn, or auto: splash on TPU, cudnn on GPU, plain elsewhere.
      mesh: where the model runs; None means JAX's default device.

    Raises:
      BadInput: an unknown name.
    """
    if name not in NAMES:
        raise BadInput(
            f"attention={name!r} is none of {', '.join(NAMES)}; choose one", field="attention"
        )
    if name == "auto":
        name = NAME_BY_PLATFORM.get(mesh_platform(mesh), "plain")
    if name == "plain":
        return dot_product_attention
    if name == "cudnn":
        return cudnn_attention
    if mesh is None or mesh.size == 1:
        return splash_attention
    return functools.partial(
        splash_attention, shard_kernel=functools.partial(shard_rows_and_heads, mesh)
    )


def make_judge_attention_fn(mesh: Mesh | None) -> Callable[..., jax.Array]:
    """Return the attention function of a reward model, whose masks are None or `Causal`.

    On CPU it keeps the logits of a thousand tokens in the cache, see `models.attention.rows`.

    Args:
      mesh: over which rows, or rows and heads, are sharded; None: one device.
    """
    if mesh_platform(mesh) != "cpu":
        return dot_product_attention
    return functools.partial(_attend_in_cache, None if mesh is None or mesh.size == 1 else mesh)


def _attend_in_cache(
    mesh: Mesh | None,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: Causal | None = None,
    scale: float | None = None,
) -> jax.Array:
    if scale is not None:
        q = q * (scale * q.shape[-1] ** 0.5)  # the functions below scale by H ** -0.5
    arrays = [q, k, v]
    if mask is not None:
        ids_BxT = mask.segment_ids_BxT
        arrays.append(jnp.zeros(q.shape[:2], jnp.int32) if ids_BxT is None else ids_BxT)

    def attend(q, k, v, ids_BxT=None):
        if mask is None:
            return row_attention(q, k, v)
        return causal_row_attention(q, k, v, Causal(ids_BxT, mask.window))

    return attend(*arrays) if mesh is None else shard_rows_and_heads(mesh, attend, arrays)


def shard_rows_and_heads(
    mesh: Mesh, kernel: Callable[..., jax.Array], arrays: Sequence[jax.Array]
) -> jax.Array:
    """Run `kernel` in shard_map, so that each device works on its own rows and heads.

    XLA cannot partition a Pallas kernel by itself.

    Args:
      kernel: takes the shards of `arrays`, returns those of the outputs [B, T, N, H].
      arrays: queries [B, T, N, H], keys and values [B, T, K, H], and, for packed rows, segment ids
        [B, T].
    """
    # query heads are sharded like the key heads that they attend to
    heads = partition_spec(("batch", None, "kv_heads", None), arrays[1].shape, mesh)
    segments = partition_spec(("batch", None), arrays[0].shape[:2], mesh)
    specs = (heads, heads, heads, segments)[: len(arrays)]
    sharded = jax.shard_map(kernel, mesh=mesh, in_specs=specs, out_specs=heads, check_vma=False)
    return sharded(*arrays)
