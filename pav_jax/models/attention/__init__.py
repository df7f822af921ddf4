"""Attention functions with one signature: (q, k, v, mask) -> output.

A model takes its attention function as a field, so that one kernel can replace another.

- `dot_product`: the plain one. Language models on CPU, T5, CLIP, and wherever a kernel does not
  apply. It holds all logits in memory. The masks (`Causal`, `FirstKeys`) are here too.
- `flash`: kernels for training and decoding language models: Pallas' splash kernel on TPU, cuDNN's
  on GPU. `parallel.attention.make_attention_fn` chooses.
- `blockwise`: video tokens on any platform, with bounded memory: one block of queries and keys at a
  time. Also the building block of ring attention.
- `rows`: video tokens on CPU, and the Qwen2-VL reward models: head by head, a block of queries at a
  time, so that the logits stay in the cache. `parallel.sequence_attention` chooses between this,
  `blockwise` and the TPU kernel for video models, `parallel.attention` for reward models.
"""

from pav_jax.models.attention.dot_product import Causal, FirstKeys, dot_product_attention

__all__ = ["Causal", "FirstKeys", "dot_product_attention"]
