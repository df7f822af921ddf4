"""Attention that never holds its logits in memory: Pallas' splash kernel on TPU, cuDNN's on GPU (Dao et al. 2022).

Both have the signature of `attention.dot_product_attention` and call it for what their kernel does not do: a mask that
is not `Causal`, a bias, lengths or dtypes the kernel has no tiles for. `parallel/attention.py` chooses among them.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pav_jax.models.attention import Causal, FirstKeys, dot_product_attention

TILE = 128  # lengths are multiples of the TPU's lanes
BLOCK = 512  # of queries and keys worked on at once: larger blocks read keys from memory less often

def splash_attention(q_BxTxNxH, k_BxSxKxH, v_BxSxKxH, mask: Any = None, bias: Any = None, scale: float | None = None,
                     spread: Callable[..., jax.Array] | None = None, interpret: bool = False) -> jax.Array:
    """Grouped-query attention of a `Causal` mask by Pallas' kernel, forward and backward.

    Args:
      spread: (kernel, arrays) -> the kernel's result, each device working on its own rows and heads; None: one device.
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
    return kernel(*arrays) if spread is None else spread(kernel, arrays)


def _splash_kernel(q_BxTxNxH, k_BxTxKxH, v_BxTxKxH, segment_ids_BxT=None, *, interpret: bool) -> jax.Array:
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


def splash_full_attention(q_BxTxNxH, k_BxTxNxH, v_BxTxNxH, mask: FirstKeys | None = None, interpret: bool = False
                          ) -> jax.Array:
    """Self-attention without a causal mask by Pallas' kernel, forward only; any number of tokens: it is filled up.
    What the rows of a mask's padding give is not defined."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash  # slow to import
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as splash_mask

    t, n, h = q_BxTxNxH.shape[1:]
    block = min(BLOCK, -(-t // TILE) * TILE)
    filled = -(-t // block) * block
    heads_first = [jnp.pad(x, ((0, 0), (0, filled - t), (0, 0), (0, 0))).swapaxes(1, 2)
                   for x in (q_BxTxNxH * h**-0.5, k_BxTxNxH, v_BxTxNxH)]
    # tokens look at their own segment; what was filled up is another one
    segment_T = (jnp.arange(filled) >= (t if mask is None else mask.count)).astype(jnp.int32)
    kernel = splash.make_splash_mha(
        splash_mask.MultiHeadMask([splash_mask.FullMask((filled, filled))] * n),
        block_sizes=splash.BlockSizes(block_q=block, block_kv=block), head_shards=1, q_seq_shards=1,
        interpret=interpret)
    out_BxNxTxH = jax.vmap(kernel, (0, 0, 0, None))(*heads_first, splash.SegmentIds(segment_T, segment_T))
    return out_BxNxTxH.swapaxes(1, 2)[:, :t].astype(v_BxTxNxH.dtype)


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
