"""How a generator is used unless a call says otherwise: `pav_generation.json` next to a pipeline's model_index.json."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from pav_jax.errors import BadInput

FILE = "pav_generation.json"


@dataclasses.dataclass(frozen=True)
class Generation:
    """Sizes None: the sizes the model was trained on. The other defaults are diffusers' for CogVideoX.

    Attributes:
      batch: videos per program run; smaller requests are padded to it, larger ones are looped.
      vae_tiling: the VAE decodes overlapping tiles, as after diffusers' `enable_vae_tiling()`: less memory, and a
        slightly different picture.
      zero_uncond: the unconditional branch sees zeros instead of the encoded negative prompt.
      cfg_parallel: the two branches of guidance lie on two halves of the mesh's `data` axis, instead of side by side.
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
    cfg_parallel: bool = False
    fps: int = 8
    batch: int = 1

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], source: str = FILE) -> "Generation":
        """Raises BadInput for a field that is unknown or of another type."""
        return cls().replace(source, **fields)

    def replace(self, source: str, **fields: Any) -> "Generation":
        """A copy with those of `fields` that are not None; checked."""
        given = {name: value for name, value in fields.items() if value is not None}
        for name, value in given.items():
            if name not in self.__dataclass_fields__:
                raise BadInput(f"{source}: unknown field {name!r}; known: {', '.join(self.__dataclass_fields__)}")
            default = self.__dataclass_fields__[name].default
            kind = int if default is None else type(default)
            if kind is float and isinstance(value, int) and not isinstance(value, bool):
                given[name] = value = float(value)
            if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
                raise BadInput(f"{source}: {name}={value!r}; a value of type {kind.__name__} was expected")
            if kind is int and value < 1:
                raise BadInput(f"{source}: {name}={value}; it must be at least 1")
        return dataclasses.replace(self, **given)

    def sampling_settings(self) -> dict[str, Any]:
        """The fields that change what is generated, not how it is batched, spread or filed."""
        unseen = ("batch", "fps", "cfg_parallel") + ("vae_tiling",) * (not self.vae_tiling)
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in unseen}
