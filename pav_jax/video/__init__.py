"""Text-to-video models, their samplers, and video files."""

from pav_jax.video.generation_config import GenerationConfig
from pav_jax.video.generator import Generator, VideoBatch, as_generator
from pav_jax.video.loading import load_generator
from pav_jax.video.video_model import VideoModel

__all__ = [
    "GenerationConfig",
    "Generator",
    "VideoBatch",
    "VideoModel",
    "as_generator",
    "load_generator",
]
