"""Text-to-video models, their samplers, and video files."""

from pav_jax.video.generation import Generation
from pav_jax.video.video_model import VideoModel

__all__ = ["Generation", "VideoModel"]
