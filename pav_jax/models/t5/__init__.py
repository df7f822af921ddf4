"""T5 v1.1 and UMT5 text encoders."""

from pav_jax.models.t5.model import T5Config, T5Encoder

__all__ = ["T5Config", "T5Encoder"]
