"""Attention that never holds its logits in memory: Pallas' splash kernel on TPU, cuDNN's on GPU
(Dao et al. 2022).

`splash_attention` and `cudnn_attention` have the signature of `attention.dot_product_attention` and
call it for what their kernel does not do: a mask that is not `Causal`, a bias, lengths or dtypes
the kernel has no tiles for. `parallel/attention.py` chooses among them; `splash_full_attention` is
for `parallel/sequence_attention.py`.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pav_jax.models.attention.dot_product import Causal, FirstKeys, dot_product_attention

TILE = 128  # lengths are multiples of the TPU's lanes
BLOCK = 512  # of queries and keys worked on at once: larger blocks read keys from memory less often


def splash_attention(
    q_BxTxNxH,
    k_BxSxKxH,
    v_BxSxKxH,
    mask: Any = None,
    bias: Any = None,
    scale: float | None = None,
    shard_kernel: Callable[..., jax.Array] | None = None,
    interpret: bool = False,
) -> jax.Array:
    """Grouped-query attention of a `Causal` mask by Pallas' kernel, forward and backward.

    Args:
      shard_kernel: (kernel, arrays) -> the kernel's result, with each device working on its own
        rows and heads; None on one device.
      interpret: runs the kernel's steps without a TPU, slowly: for tests.
    """
    t, h = q_BxTxNxH.shape[1], q_BxTxNxH.shape[3]
    if not isinstance(mask, Causal) or bias is not None or t % TILE or t != k_BxSxKxH.shape[1]:
        return dot_product_attention(q_BxTxNxH, k_BxSxKxH, v_BxSxKxH, mask, bias, scale)
    q_BxTxNxH = q_BxTxNxH * (h**-0.5 if scale is None else scale)
    arrays = [q_BxTxNxH, k_BxSxKxH, v_BxSxKxH]
    if mask.segment_ids_BxT is not None:
        arrays.append(mask.segment_ids_BxT)
    kernel = functools.partial(_splash_kernel, interpret=interpret)
    return kernel(*arrays) if shard_kernel is None else shard_kernel(kernel, arrays)


def _splash_kernel(
    q_BxTxNxH, k_BxTxKxH, v_BxTxKxH, segment_ids_BxT=None, *, interpret: bool
) -> jax.Array:
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel as splash,
    )  # slow to import
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_mask as splash_mask,
    )

    t, n = q_BxTxNxH.shape[1:3]
    block = max(size for size in range(TILE, min(BLOCK, t) + 1, TILE) if t % size == 0)
    sizes = splash.BlockSizes(
        block_q=block,
        block_kv=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_q_dq=block,
        block_kv_dq=block,
    )
    kernel = splash.make_splash_mha(
        splash_mask.MultiHeadMask([splash_mask.CausalMask((t, t))] * n),
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )
    heads_first = [x.swapaxes(1, 2) for x in (q_BxTxNxH, k_BxTxKxH, v_BxTxKxH)]
    if segment_ids_BxT is None:
        out_BxNxTxH = jax.vmap(kernel)(*heads_first)
    else:
        out_BxNxTxH = jax.vmap(kernel)(
            *heads_first, splash.SegmentIds(segment_ids_BxT, segment_ids_BxT)
        )
    return out_BxNxTxH.swapaxes(1, 2).astype(v_BxTxKxH.dtype)


def splash_full_attention(
    q_BxTxNxH, k_BxSxNxH, v_BxSxNxH, mask: FirstKeys | None = None, interpret: bool = False
) -> jax.Array:
    """Attention of every query to every key, or to those of the mask, by Pallas' kernel, forward
    only, for lengths of
    any kind: they are filled up to whole blocks.

    Args:
      interpret: as of `splash_attention`.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel as splash,
    )  # slow to import
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_mask as splash_mask,
    )

    t, (s, n, h) = q_BxTxNxH.shape[1], k_BxSxNxH.shape[1:]
    (block_q, padded_t), (block_kv, padded_s) = (_whole_blocks(length) for length in (t, s))
    kernel = splash.make_splash_mha_single_device(
        splash_mask.MultiHeadMask([splash_mask.FullMask((padded_t, padded_s))] * n),
        block_sizes=splash.BlockSizes(block_q=block_q, block_kv=block_kv),
        interpret=interpret,
    )
    heads_first = [
        jnp.pad(x, ((0, 0), (0, padded - x.shape[1]), (0, 0), (0, 0))).swapaxes(1, 2)
        for x, padded in (
            (q_BxTxNxH * h**-0.5, padded_t),
            (k_BxSxNxH, padded_s),
            (v_BxSxNxH, padded_s),
        )
    ]
    # keys that are not seen are another segment than all queries; queries that were filled up are
    # cut off
    seen = s if mask is None else mask.count
    segments = splash.SegmentIds(
        jnp.ones(padded_t, jnp.int32), (jnp.arange(padded_s) < seen).astype(jnp.int32)
    )
    out_BxNxTxH = jax.vmap(lambda q, k, v: kernel(q, k, v, segments))(*heads_first)
    return out_BxNxTxH.swapaxes(1, 2)[:, :t].astype(v_BxSxNxH.dtype)


def _whole_blocks(length: int) -> tuple[int, int]:
    """The block's size and the length filled up to whole ones."""
    block = min(BLOCK, -(-length // TILE) * TILE)
    return block, -(-length // block) * block


def cudnn_attention(
    q_BxTxNxH, k_BxSxKxH, v_BxSxKxH, mask: Any = None, bias: Any = None, scale: float | None = None
) -> jax.Array:
    """Grouped-query attention of a `Causal` mask by cuDNN, which has 16-bit kernels only."""
    t = q_BxTxNxH.shape[1]
    sixteen = q_BxTxNxH.dtype in (jnp.bfloat16, jnp.float16)
    if not isinstance(mask, Causal) or bias is not None or not sixteen or t != k_BxSxKxH.shape[1]:
        return dot_product_attention(q_BxTxNxH, k_BxSxKxH, v_BxSxKxH, mask, bias, scale)
    segments = None if mask.segment_ids_BxT is None else mask.array(t)
    return jax.nn.dot_product_attention(
        q_BxTxNxH,
        k_BxSxKxH,
        v_BxSxKxH,
        mask=segments,
        scale=scale,
        is_causal=segments is None,
        implementation="cudnn",
    )
