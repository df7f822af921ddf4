"""MPS, the multi-dimensional preference score: CLIP, and a cross-attention to the prompt."""

from pav_jax.models.mps.model import CrossConfig, MPSConfig, MPSModel

__all__ = ["CrossConfig", "MPSConfig", "MPSModel"]
