"""Text-to-video models, their samplers, and video files.

Each name is imported from its module on first use, so that a module such as `images` loads no
models.
"""

from typing import TYPE_CHECKING

from pav_jax.lazy_names import lazy_names

if TYPE_CHECKING:
    from pav_jax.video.generation_config import GenerationConfig
    from pav_jax.video.generator import Generator, VideoBatch, as_generator
    from pav_jax.video.loading import load_generator
    from pav_jax.video.video_model import VideoModel

_SOURCES = {
    "GenerationConfig": "generation_config",
    "Generator": "generator",
    "VideoBatch": "generator",
    "VideoModel": "video_model",
    "as_generator": "generator",
    "load_generator": "loading",
}

__all__ = [
    "GenerationConfig",
    "Generator",
    "VideoBatch",
    "VideoModel",
    "as_generator",
    "load_generator",
]

__getattr__ = lazy_names(__name__, _SOURCES)
