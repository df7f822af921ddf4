"""T5 v1.1 text encoder."""

from pav_jax.models.t5.model import T5Config, T5Encoder

__all__ = ["T5Config", "T5Encoder"]
