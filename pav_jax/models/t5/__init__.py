"""T5 and UMT5 text encoders: `model.py` is the mathematics, `hf.py` names the weights."""

from pav_jax.models.t5.model import T5Config, T5Encoder

__all__ = ["T5Config", "T5Encoder"]
