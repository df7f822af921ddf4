"""I3D, an action classifier whose features measure sets of videos (Carreira & Zisserman 2017)."""

from pav_jax.models.i3d.model import I3D, I3DConfig

__all__ = ["I3D", "I3DConfig"]
