"""Llama-architecture language models (Llama 2 and 3, SmolLM2, TinyLlama and the embedded ones).

`model.py` is the mathematics, `hf.py` names the weights of a checkpoint, `flops.py` counts
operations.
"""

from pav_jax.models.llama.model import Llama, LlamaConfig, RopeScaling

__all__ = ["Llama", "LlamaConfig", "RopeScaling"]
