"""LPIPS, the distance of two pictures to a network that learned to see (Zhang et al. 2018, arXiv
1801.03924)."""

from pav_jax.models.lpips.model import LPIPS, NETS

__all__ = ["LPIPS", "NETS"]
