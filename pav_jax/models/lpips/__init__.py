"""LPIPS, a learned perceptual distance of two images (Zhang et al. 2018, arXiv 1801.03924)."""

from pav_jax.models.lpips.model import LPIPS, NETS

__all__ = ["LPIPS", "NETS"]
