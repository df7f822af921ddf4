"""Attention that never holds its logits in memory: Pallas' splash kernel on TPU, cuDNN's on GPU (Dao et al. 2022).

Both have the signature of `attention.dot_product_attention` and call it for what their kernel does not do: a mask that
is not `Causal`, a bias, lengths or dtypes the kernel has no tiles for.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from pav_jax.errors import BadInput
from pav_jax.models.attention import Causal, dot_product_attention

NAMES = ("auto", "plain", "splash", "cudnn")
TILE = 128  # lengths are multiples of the TPU's lanes
BLOCK = 512  # of queries and keys worked on at once: larger blocks read keys from memory less often

Attention = Callable[..., jax.Array]


def named(name: str, mesh: Mesh | None = None, platform: str | None = None) -> Attention:
    """The attention function of that name; auto is splash on TPU, cudnn on GPU, plain elsewhere.

    Args:
      mesh: what the model is spread over; rows lie over data and fsdp, heads over tensor.
      platform: "tpu", "gpu" or "cpu"; None: the mesh's, or JAX's default.

    Raises:
      BadInput: an unknown name.
    """
    if name not in NAMES:
        raise BadInput(f"attention={name!r} is none of {', '.join(NAMES)}")
    if name == "auto":
        where = platform or (mesh.devices.flat[0].platform if mesh is not None else jax.default_backend())
        name = {"tpu": "splash", "gpu": "cudnn", "cuda": "cudnn"}.get(where, "plain")
    if name == "splash":
        return functools.partial(splash_attention, mesh=mesh)
    return cudnn_attention if name == "cudnn" else dot_product_attention


def splash_attention(q_BxTxNxH, k_BxSxKxH, v_BxSxKxH, mask: Any = None, bias: Any = None, scale: float | None = None,
                     mesh: Mesh | None = None, interpret: bool = False) -> jax.Array:
    """Grouped-query attention of a `Causal` mask by Pallas' kernel, forward and backward.

    Args:
      mesh: the kernel then runs inside shard_map, each device on its own rows and heads.
      interpret: runs the kernel's steps without a TPU, slowly: for tests.
    """
    b, t, n, h = q_BxTxNxH.shape
    k = k_BxSxKxH.shape[2]
    if not isinstance(mask, Causal) or bias is not None or t % TILE or t != k_BxSxKxH.shape[1]:
        return dot_product_attention(q_BxTxNxH, k_BxSxKxH, v_BxSxKxH, mask, bias, scale)
    q_BxTxNxH = q_BxTxNxH * (h**-0.5 if scale is None else scale)
    arrays = [q_BxTxNxH, k_BxSxKxH, v_BxSxKxH]
    if mask.segment_ids_BxT is not None:
        arrays.append(mask.segment_ids_BxT)
    local = functools.partial(_splash_local, interpret=interpret)
    if mesh is None or mesh.size == 1:
        return local(*arrays)
    rows = _dividing(("data", "fsdp"), b, mesh)
    heads = _dividing(("tensor",), k, mesh)
    wide = PartitionSpec(rows, None, heads, None)
    specs = (wide, wide, wide, PartitionSpec(rows, None))[: len(arrays)]
    return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=wide, check_vma=False)(*arrays)


def _splash_local(q_BxTxNxH, k_BxTxKxH, v_BxTxKxH, segment_ids_BxT=None, *, interpret: bool) -> jax.Array:
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash  # slow to import
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as splash_mask

    t, n = q_BxTxNxH.shape[1:3]
    block = max(size for size in range(TILE, min(BLOCK, t) + 1, TILE) if t % size == 0)
    sizes = splash.BlockSizes(block_q=block, block_kv=block, block_q_dkv=block, block_kv_dkv=block, block_q_dq=block,
                              block_kv_dq=block)
    kernel = splash.make_splash_mha(splash_mask.MultiHeadMask([splash_mask.CausalMask((t, t))] * n), block_sizes=sizes,
                                    head_shards=1, q_seq_shards=1, interpret=interpret)
    heads_first = [x.swapaxes(1, 2) for x in (q_BxTxNxH, k_BxTxKxH, v_BxTxKxH)]
    if segment_ids_BxT is None:
        out_BxNxTxH = jax.vmap(kernel)(*heads_first)
    else:
        out_BxNxTxH = jax.vmap(kernel)(*heads_first, splash.SegmentIds(segment_ids_BxT, segment_ids_BxT))
    return out_BxNxTxH.swapaxes(1, 2).astype(v_BxTxKxH.dtype)


def _dividing(axes: tuple[str, ...], size: int, mesh: Mesh) -> tuple[str, ...] | None:
    """The mesh axes among `axes`, where together they divide `size`; else the array stays whole."""
    parts = 1
    for axis in axes:
        parts *= mesh.shape[axis]
    return axes if size % parts == 0 else None


def cudnn_attention(q_BxTxNxH, k_BxSxKxH, v_BxSxKxH, mask: Any = None, bias: Any = None,
                    scale: float | None = None) -> jax.Array:
    """Grouped-query attention of a `Causal` mask by cuDNN, which has 16-bit kernels only."""
    t = q_BxTxNxH.shape[1]
    sixteen = q_BxTxNxH.dtype in (jnp.bfloat16, jnp.float16)
    if not isinstance(mask, Causal) or bias is not None or not sixteen or t != k_BxSxKxH.shape[1]:
        return dot_product_attention(q_BxTxNxH, k_BxSxKxH, v_BxSxKxH, mask, bias, scale)
    segments = None if mask.segment_ids_BxT is None else mask.array(t)
    return jax.nn.dot_product_attention(q_BxTxNxH, k_BxSxKxH, v_BxSxKxH, mask=segments, scale=scale,
                                        is_causal=segments is None, implementation="cudnn")
