"""MPS, the multi-dimensional preference score: a CLIP whose image tokens read the prompt's
tokens."""

from pav_jax.models.mps.model import CrossConfig, MPSConfig, MPSModel

__all__ = ["CrossConfig", "MPSConfig", "MPSModel"]
