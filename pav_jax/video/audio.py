"""The sound of a generated video.

Shapes: B videos, C channels, N samples.
"""

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

log = logging.getLogger(__name__)
MAX_CHANNELS = 2
# where diffusers' pipelines say how many samples a second has: a component's configuration (the
# vocoder of LTX-2, else the audio VAE), or a property of the pipeline
RATE_FIELDS = (("vocoder", "output_sampling_rate"), ("audio_vae", "sample_rate"))
RATE_PROPERTY = "audio_sampling_rate"


@dataclasses.dataclass(frozen=True)
class Audio:
    """A waveform.

    Attributes:
      samples: float32 [C, N] in [-1, 1]; one or two channels.
      sample_rate: samples per second.
    """

    samples: Float[np.ndarray, "C N"]
    sample_rate: int


def audio_of_output(pipeline: Any, output: Any, count: int) -> list[Audio | None]:
    """The sound of each video in a diffusers pipeline's output.

    Args:
      pipeline: which says how many samples a second has.
      output: with a waveform [B, N] or [B, C, N] in its field `audio`, or without one.
      count: the number of videos.

    Returns:
      None for a video without sound: the pipeline makes none, or does not say at which rate.
    """
    waveform = getattr(output, "audio", None)
    if waveform is None:
        return [None] * count
    rate = _sample_rate(pipeline)
    if rate is None:
        log.warning("%s: sound of unknown rate is left out", type(pipeline).__name__)
        return [None] * count
    return [Audio(_samples(row), rate) for row in _rows(waveform)[:count]]


def _rows(waveform: Any) -> Sequence[Any]:
    """The waveform of each video."""
    if hasattr(waveform, "detach"):  # a torch tensor, on any device and in any dtype
        waveform = waveform.detach().float().cpu().numpy()
    return waveform


def _samples(row: Any) -> np.ndarray:
    """float32 [C, N] of one waveform [N] or [C, N]."""
    samples = np.asarray(_rows(row), np.float32)
    samples = samples.reshape(-1, samples.shape[-1])[:MAX_CHANNELS]
    return np.nan_to_num(samples).clip(-1.0, 1.0)


def _sample_rate(pipeline: Any) -> int | None:
    for component, field in RATE_FIELDS:
        config = getattr(getattr(pipeline, component, None), "config", None)
        if rate := getattr(config, field, None):
            return int(rate)
    rate = getattr(pipeline, RATE_PROPERTY, None)
    return int(rate) if rate else None
