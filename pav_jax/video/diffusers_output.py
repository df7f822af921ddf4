"""What a diffusers pipeline returns, as frames and errors.

Shapes: B videos, T frames, H, W height and width in pixels.
"""

from typing import Any

import numpy as np
from jaxtyping import Shaped

from pav_jax.errors import BadInput
from pav_jax.video.audio import audio_of_output
from pav_jax.video.generator import NOT_FINITE, VideoBatch

OUTPUT_FIELDS = ("frames", "videos", "images")
# of pipelines with a safety checker, which blackens what it flags
SAFETY_FIELD = "nsfw_content_detected"
UNSAFE = "blackened by the pipeline's safety checker"


def batch_of_output(pipeline: Any, output: Any, name: str, count: int) -> VideoBatch:
    """The first `count` videos of a pipeline's output of output_type "np".

    Raises:
      BadInput: it holds neither videos nor images; `name` is what the message calls the pipeline.
    """
    frames = _frames_of_output(output, name)[:count]
    flagged = getattr(output, SAFETY_FIELD, None) or [False] * count
    finite = [bool(np.isfinite(video).all()) for video in frames]
    errors = [_row_error(flagged[row], finite[row]) for row in range(count)]
    if frames.dtype != np.uint8:
        frames = (np.nan_to_num(frames).clip(0, 1) * 255).round().astype(np.uint8)
    return VideoBatch(frames, errors, audio_of_output(pipeline, output, count))


def _row_error(flagged: bool, finite: bool) -> str | None:
    if flagged:
        return UNSAFE
    return None if finite else NOT_FINITE


def _frames_of_output(output: Any, name: str) -> Shaped[np.ndarray, "B T H W 3"]:
    """[B, T, H, W, 3], float in 0..1 or uint8, from a pipeline's output of output_type "np"."""
    candidates = (getattr(output, field, None) for field in OUTPUT_FIELDS)
    frames = next((value for value in candidates if value is not None), None)
    if frames is None:
        raise BadInput(
            f"{name}: its output has none of {', '.join(OUTPUT_FIELDS)}; it makes neither videos"
            " nor images"
        )
    values = np.asarray(frames)
    if values.ndim == 4:
        values = values[:, None]
    if values.ndim != 5 or values.shape[-1] not in (1, 3, 4):
        raise BadInput(
            f"{name}: its output has shape {list(values.shape)}; expected videos [B, T, H, W, 3] or"
            " images [B, H, W, 3]"
        )
    return np.repeat(values, 3, axis=-1) if values.shape[-1] == 1 else values[..., :3]
