"""Decoder language models: Llama, Qwen2, Qwen3, Qwen3-MoE, Mistral, Gemma 3, SmolLM3, Phi-3.

`config.py` has the sizes and switches, `model.py` and `layers.py` are the mathematics, `families/`
names the fields and tensors of each family's checkpoints, `hf.py` chooses the family, `flops.py`
counts operations.
"""

from pav_jax.models.decoder.config import DecoderConfig, Experts, LayerKind
from pav_jax.models.decoder.model import Decoder
from pav_jax.models.decoder.rotary import Rope

__all__ = ["Decoder", "DecoderConfig", "Experts", "LayerKind", "Rope"]
