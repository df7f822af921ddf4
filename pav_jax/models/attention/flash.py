"""Attention kernels that never store their logits: Pallas' splash kernel on TPU, cuDNN's on GPU.

Source: Dao et al. 2022 (arXiv 2205.14135). `splash_attention` and `cudnn_attention` have the
signature of `dot_product_attention` and call it for what their kernel does not support: a mask that
is not `Causal`, a bias, other lengths or dtypes. `parallel/attention.py` chooses among them;
`splash_full_attention` is for `parallel/sequence_attention.py`.

Letters: B batch, T queries, S keys, N query heads, K key/value heads, H head size.
"""

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp

from pav_jax.models.attention.dot_product import Causal, FirstKeys, dot_product_attention

TILE = 128  # lanes of a TPU: lengths are multiples of it
# queries and keys per step of the kernel; larger blocks read the keys from memory less often
BLOCK = 512


def _import_splash() -> tuple[ModuleType, ModuleType]:
    """Import Pallas' kernel and its masks, which is slow and needed on TPU only."""
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel,
        splash_attention_mask,
    )

    return splash_attention_kernel, splash_attention_mask


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
    """Compute grouped-query attention under a `Causal` mask by Pallas' kernel, with gradients.

    Args:
      mask, bias, scale: as in `dot_product_attention`.
      shard_kernel: (kernel, arrays) -> the kernel's result, with each device working on its own
        rows and heads; None on one device.
      interpret: emulate the kernel without a TPU, slowly; for tests.
    """
    t = q_BxTxNxH.shape[1]
    h = q_BxTxNxH.shape[3]
    if not isinstance(mask, Causal) or bias is not None or t % TILE or t != k_BxSxKxH.shape[1]:
        return dot_product_attention(q_BxTxNxH, k_BxSxKxH, v_BxSxKxH, mask, bias, scale)
    q_BxTxNxH = q_BxTxNxH * (h**-0.5 if scale is None else scale)
    arrays = [q_BxTxNxH, k_BxSxKxH, v_BxSxKxH]
    if mask.segment_ids_BxT is not None:
        arrays.append(mask.segment_ids_BxT)
    kernel = functools.partial(_splash_kernel, window=mask.window, interpret=interpret)
    return kernel(*arrays) if shard_kernel is None else shard_kernel(kernel, arrays)


def _splash_kernel(
    q_BxTxNxH, k_BxTxKxH, v_BxTxKxH, segment_ids_BxT=None, *, window: int | None, interpret: bool
) -> jax.Array:
    splash, splash_mask = _import_splash()
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
    if window is None:
        head_mask = splash_mask.CausalMask((t, t))
    else:  # keys from t - (window - 1) to t
        head_mask = splash_mask.LocalMask((t, t), (window - 1, 0), 0)
    kernel = splash.make_splash_mha(
        splash_mask.MultiHeadMask([head_mask] * n),
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
    """Compute bidirectional attention by Pallas' kernel, without gradients.

    Lengths are arbitrary; they are padded to whole blocks.

    Args:
      mask: the keys to attend to; None means all.
      interpret: as in `splash_attention`.
    """
    splash, splash_mask = _import_splash()
    t = q_BxTxNxH.shape[1]
    s, n, h = k_BxSxNxH.shape[1:]
    block_q, padded_t = _block_and_padded_length(t)
    block_kv, padded_s = _block_and_padded_length(s)
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
    # masked keys belong to another segment than all queries; padded queries are dropped
    num_keys = s if mask is None else mask.count
    segments = splash.SegmentIds(
        jnp.ones(padded_t, jnp.int32), (jnp.arange(padded_s) < num_keys).astype(jnp.int32)
    )
    out_BxNxTxH = jax.vmap(lambda q, k, v: kernel(q, k, v, segments))(*heads_first)
    return out_BxNxTxH.swapaxes(1, 2)[:, :t].astype(v_BxSxNxH.dtype)


def _block_and_padded_length(length: int) -> tuple[int, int]:
    """Return the block size for `length`, and `length` rounded up to whole blocks."""
    block = min(BLOCK, -(-length // TILE) * TILE)
    return block, -(-length // block) * block


def cudnn_attention(
    q_BxTxNxH, k_BxSxKxH, v_BxSxKxH, mask: Any = None, bias: Any = None, scale: float | None = None
) -> jax.Array:
    """Compute grouped-query attention under a `Causal` mask by cuDNN's 16-bit kernels.

    Args:
      mask, bias, scale: as in `dot_product_attention`.
    """
    t = q_BxTxNxH.shape[1]
    is_16_bit = q_BxTxNxH.dtype in (jnp.bfloat16, jnp.float16)
    if not isinstance(mask, Causal) or bias is not None or not is_16_bit or t != k_BxSxKxH.shape[1]:
        return dot_product_attention(q_BxTxNxH, k_BxSxKxH, v_BxSxKxH, mask, bias, scale)
    is_plain = mask.segment_ids_BxT is None and mask.window is None
    segments = None if is_plain else mask.array(t)
    return jax.nn.dot_product_attention(
        q_BxTxNxH,
        k_BxSxKxH,
        v_BxSxKxH,
        mask=segments,
        scale=scale,
        is_causal=segments is None,
        implementation="cudnn",
    )
