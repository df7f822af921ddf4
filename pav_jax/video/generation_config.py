"""How a generator is used unless a call says otherwise: `pav_generation.json` next to a pipeline's
model_index.json."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from pav_jax.errors import BadInput

FILE = "pav_generation.json"
# least and greatest value of the numbers that have such
RANGES = {
    "guidance_start": (0.0, 1.0),
    "guidance_stop": (0.0, 1.0),
    "cache_threshold": (0.0, math.inf),
    "cache_retention": (0.0, 1.0),
}
CACHE = ("cache_threshold", "cache_max_skips", "cache_retention", "cache_ratios")


@dataclasses.dataclass(frozen=True)
class GenerationConfig:
    """Sizes None: the sizes the model was trained on. The other defaults are diffusers' for
    CogVideoX.

    Attributes:
      batch: videos per program run; smaller requests are padded to it, larger ones are looped.
      vae_tiling: the VAE decodes overlapping tiles, as after diffusers' `enable_vae_tiling()`: less
        memory, and a slightly different picture.
      zero_uncond: the unconditional branch sees zeros instead of the encoded negative prompt.
      guidance_start, guidance_stop: shares of the steps, as of diffusers' guiders: before the first
        and from the second on there is no guidance and half the work.
      cache_threshold: above 0, steps whose residual is foreseen to hardly differ from the last
        computed one add that instead of running the layers (`residual_cache`); the estimated error
        that is allowed to add up.
      cache_max_skips: how many such steps may follow each other.
      cache_retention: share of the steps, the first ones, that are always computed.
      cache_ratios: the model's own curve, as `pav cache-curve` measures it; of any number of steps.
      cfg_parallel: the two branches of guidance lie on two halves of the mesh's `data` axis,
        instead of side by side.
      fps: for files; the model does not know of it.
    """

    num_frames: int | None = None
    height: int | None = None
    width: int | None = None
    steps: int = 50
    guidance_scale: float = 6.0
    use_dynamic_cfg: bool = False
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
    batch: int = 1

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], source: str = FILE) -> "GenerationConfig":
        """Raises BadInput for a field that is unknown or of another type."""
        return cls().replace(source, **fields)

    def replace(self, source: str, **fields: Any) -> "GenerationConfig":
        """A copy with those of `fields` that are not None; checked."""
        given = {name: value for name, value in fields.items() if value is not None}
        for name, value in given.items():
            if name not in self.__dataclass_fields__:
                raise BadInput(
                    f"{source}: unknown field {name!r}; known:"
                    f" {', '.join(self.__dataclass_fields__)}"
                )
            if name == "cache_ratios":
                given[name] = _ratios(value, source)
                continue
            default = self.__dataclass_fields__[name].default
            kind = int if default is None else type(default)
            if kind is float and isinstance(value, int) and not isinstance(value, bool):
                given[name] = value = float(value)
            if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
                raise BadInput(
                    f"{source}: {name}={value!r}; a value of type {kind.__name__} was expected"
                )
            if kind is int and value < 1:
                raise BadInput(f"{source}: {name}={value}; it must be at least 1")
            least, most = RANGES.get(name, (None, None))
            if least is not None and not least <= value <= most:
                raise BadInput(
                    f"{source}: {name}={value}; it must be {least:g} or more"
                    + (f", and {most:g} at most" if most < math.inf else "")
                )
        return dataclasses.replace(self, **given)

    def sampling_settings(self) -> dict[str, Any]:
        """The fields that change what is generated, not how it is batched, spread or filed."""
        unseen = ("batch", "fps", "cfg_parallel") + ("vae_tiling",) * (not self.vae_tiling)
        unseen += ("guidance_start", "guidance_stop") * (
            (self.guidance_start, self.guidance_stop) == (0, 1)
        )
        unseen += CACHE * (self.cache_threshold == 0)
        return {
            name: value for name, value in dataclasses.asdict(self).items() if name not in unseen
        }

    def saved(self) -> dict[str, Any]:
        """The fields of a folder's pav_generation.json."""
        fields = self.sampling_settings() | {
            "fps": self.fps,
            "batch": self.batch,
            "cache_ratios": self.cache_ratios,
        }
        return {name: value for name, value in fields.items() if value is not None}


def _ratios(value: Any, source: str) -> tuple[float, ...]:
    number = lambda x: isinstance(x, int | float) and not isinstance(x, bool) and 0 < x < math.inf  # noqa: E731
    if not isinstance(value, list | tuple) or len(value) < 2 or not all(map(number, value)):
        raise BadInput(
            f"{source}: cache_ratios={value!r}; a list of two or more positive numbers was expected"
        )
    return tuple(map(float, value))
