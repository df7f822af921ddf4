"""How a generator samples unless a call says otherwise: `pav_generation.json` next to a pipeline's
model_index.json."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from pav_jax.errors import BadInput

FILE = "pav_generation.json"
# smallest and largest value of fractions and thresholds
RANGES = {
    "guidance_start": (0.0, 1.0),
    "guidance_stop": (0.0, 1.0),
    "cache_threshold": (0.0, math.inf),
    "cache_retention": (0.0, 1.0),
}
CACHE_FIELDS = ("cache_threshold", "cache_max_skips", "cache_retention", "cache_ratios")


@dataclasses.dataclass(frozen=True)
class GenerationConfig:
    """Sampling settings. The defaults are those of diffusers for CogVideoX.

    Attributes:
      num_frames, height, width: size of the videos, in pixels; None: the size that the model was
        trained on.
      num_inference_steps: denoising steps.
      guidance_scale: of classifier-free guidance; 1 or less switches it off.
      use_dynamic_cfg: CogVideoX's dynamic guidance scale (`sampling.guidance_scales`).
      max_sequence_length: text tokens that the text encoder reads; None: the family's own (226 for
        CogVideoX, 512 for Wan, 300 for Open-Sora).
      zero_uncond: the unconditional branch sees zeros instead of the encoded negative prompt.
      vae_tiling: the VAE decodes overlapping tiles, as after diffusers' `enable_vae_tiling()`: less
        memory, and slightly different frames.
      guidance_start, guidance_stop: fractions of the steps, as of diffusers' guiders: outside of
        them there is no guidance and half the work.
      cache_threshold: the estimated error that may accumulate while steps reuse an earlier residual
        instead of running the layers (`residual_cache`); 0 computes every step.
      cache_max_skips: how many steps in a row may reuse a residual.
      cache_retention: fraction of the steps, from the first, that are always computed.
      cache_ratios: the model's own curve for any number of steps, as `pav cache-curve` measures it.
      cfg_parallel: the two branches of guidance run on two halves of the mesh's `data` axis,
        instead of side by side.
      fps: frames per second of video files; the model does not read it.
      batch_size: videos in one run of the compiled programs; smaller requests are padded to it,
        larger ones are split.
    """

    num_frames: int | None = None
    height: int | None = None
    width: int | None = None
    num_inference_steps: int = 50
    guidance_scale: float = 6.0
    use_dynamic_cfg: bool = False
    max_sequence_length: int | None = None
    zero_uncond: bool = False
    vae_tiling: bool = False
    guidance_start: float = 0.0
    guidance_stop: float = 1.0
    cache_threshold: float = 0.0
    cache_max_skips: int = 3
    cache_retention: float = 0.2
    cache_ratios: tuple[float, ...] | None = None
    cfg_parallel: bool = False
    fps: int = 8
    batch_size: int = 1

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], source: str = FILE) -> "GenerationConfig":
        """The settings in `fields`, checked.

        Raises:
          BadInput: an unknown field or a value of another type.
        """
        return cls().replace(source, **fields)

    def replace(self, source: str, **fields: Any) -> "GenerationConfig":
        """A copy with those of `fields` that are not None.

        Args:
          source: the file or section that the fields come from, for error messages.

        Raises:
          BadInput: an unknown field, a value of another type, or one out of range.
        """
        values = {
            name: _checked_value(name, value, source)
            for name, value in fields.items()
            if value is not None
        }
        return dataclasses.replace(self, **values)

    def sampling_settings(self) -> dict[str, Any]:
        """The fields that change what is generated, not how it is batched, distributed or saved.

        Fields of features that are switched off are left out.
        """
        hidden = {"batch_size", "fps", "cfg_parallel"}
        if self.max_sequence_length is None:
            hidden.add("max_sequence_length")
        if not self.vae_tiling:
            hidden.add("vae_tiling")
        if (self.guidance_start, self.guidance_stop) == (0, 1):
            hidden |= {"guidance_start", "guidance_stop"}
        if self.cache_threshold == 0:
            hidden |= set(CACHE_FIELDS)
        fields = dataclasses.asdict(self)
        return {name: value for name, value in fields.items() if name not in hidden}

    def to_dict(self) -> dict[str, Any]:
        """The fields of a folder's pav_generation.json."""
        fields = self.sampling_settings() | {
            "fps": self.fps,
            "batch_size": self.batch_size,
            "cache_ratios": self.cache_ratios,
        }
        return {name: value for name, value in fields.items() if value is not None}


def _checked_value(name: str, value: Any, source: str) -> Any:
    """The value as the field's type.

    Raises:
      BadInput: see `GenerationConfig.replace`.
    """
    fields = GenerationConfig.__dataclass_fields__
    if name not in fields:
        raise BadInput(
            f"{source}: unknown field {name!r}; known: {', '.join(fields)}",
            source=source,
            field=name,
        )
    if name == "cache_ratios":
        return _checked_ratios(value, source)
    default = fields[name].default
    expected = int if default is None else type(default)
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, expected) or (expected is int and isinstance(value, bool)):
        raise BadInput(
            f"{source}: {name}={value!r}; expected a value of type {expected.__name__}",
            source=source,
            field=name,
        )
    if expected is int and value < 1:
        raise BadInput(
            f"{source}: {name}={value}; it must be at least 1", source=source, field=name
        )
    low, high = RANGES.get(name, (None, math.inf))
    if low is not None and not low <= value <= high:
        upper = f" and at most {high:g}" if high < math.inf else ""
        raise BadInput(
            f"{source}: {name}={value}; it must be at least {low:g}{upper}",
            source=source,
            field=name,
        )
    return value


def _checked_ratios(value: Any, source: str) -> tuple[float, ...]:
    if not isinstance(value, list | tuple) or len(value) < 2 or not all(map(_is_positive, value)):
        raise BadInput(
            f"{source}: cache_ratios={value!r}; expected a list of two or more positive numbers",
            source=source,
            field="cache_ratios",
        )
    return tuple(map(float, value))


def _is_positive(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 < value < math.inf
