"""Llama-architecture language models (Llama 2 and 3, SmolLM2, TinyLlama and ours)."""

from pav_jax.models.llama.model import Llama, LlamaConfig, RopeScaling

__all__ = ["Llama", "LlamaConfig", "RopeScaling"]
