"""How a generator samples unless a call says otherwise: `pav_generation.json` next to a pipeline's
model_index.json."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from pav_jax.config_fields import option
from pav_jax.errors import BadInput

FILE = "pav_generation.json"
# above these, programs and shapes cannot even be evaluated in a reasonable time
MAX_NUM_FRAMES = 1024
MAX_SIDE = 8192  # pixels
MAX_STEPS = 10_000
MAX_BATCH_SIZE = 4096
CACHE_FIELDS = ("cache_threshold", "cache_max_skips", "cache_retention", "cache_ratios")


@dataclasses.dataclass(frozen=True)
class GenerationConfig:
    """Sampling settings. The defaults are those of diffusers for CogVideoX."""

    num_frames: int | None = option(
        None, "frames of a video; None: the model's", minimum=1, maximum=MAX_NUM_FRAMES
    )
    height: int | None = option(None, "in pixels; None: the model's", minimum=1, maximum=MAX_SIDE)
    width: int | None = option(None, "in pixels; None: the model's", minimum=1, maximum=MAX_SIDE)
    num_inference_steps: int = option(50, "denoising steps", minimum=1, maximum=MAX_STEPS)
    guidance_scale: float = option(6.0, "of classifier-free guidance; 1 or less: off", minimum=0)
    guidance_scale_2: float | None = option(
        None, "of the second expert of a Wan that has two; None: guidance_scale", minimum=0
    )
    use_dynamic_cfg: bool = option(False, "CogVideoX's dynamic guidance scale")
    max_sequence_length: int | None = option(
        None, "text tokens; None: 226 for CogVideoX, 512 for Wan, 300 for Open-Sora", minimum=1
    )
    zero_uncond: bool = option(
        False, "the unconditional branch sees zeros instead of the encoded negative prompt"
    )
    vae_tiling: bool = option(
        False, "decode overlapping tiles, as diffusers' enable_vae_tiling(): less memory"
    )
    guidance_start: float = option(
        0.0, "fraction of the steps before which there is no guidance", minimum=0, maximum=1
    )
    guidance_stop: float = option(
        1.0, "fraction of the steps from which there is no guidance", minimum=0, maximum=1
    )
    cache_threshold: float = option(
        0.0, "estimated error that may accumulate while residuals are reused; 0: off", minimum=0
    )
    cache_max_skips: int = option(3, "steps in a row that may reuse a residual", minimum=1)
    cache_retention: float = option(
        0.2, "fraction of the steps, from the first, that are always computed", minimum=0, maximum=1
    )
    cache_ratios: tuple[float, ...] | None = option(
        None, "the model's curve, as `pav cache-curve` measures it, for any number of steps"
    )
    cfg_parallel: bool = option(
        False, "run the branches of guidance on two halves of the mesh's data axis"
    )
    fps: int = option(8, "frames per second of video files; the model does not read it", minimum=1)
    batch_size: int = option(1, "videos in one compiled program", minimum=1, maximum=MAX_BATCH_SIZE)

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
        if self.guidance_scale_2 is None:
            hidden.add("guidance_scale_2")
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
    expected = type(default)
    if default is None:
        expected = float if name == "guidance_scale_2" else int
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, expected) or (expected is int and isinstance(value, bool)):
        raise BadInput(
            f"{source}: {name}={value!r}; expected a value of type {expected.__name__}",
            source=source,
            field=name,
        )
    if expected is float and not math.isfinite(value):
        raise BadInput(
            f"{source}: {name}={value}; it must be a finite number", source=source, field=name
        )
    low = fields[name].metadata["minimum"]
    high = fields[name].metadata["maximum"]
    if high is None:
        high = math.inf
    if expected in (int, float) and low is not None and not low <= value <= high:
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
