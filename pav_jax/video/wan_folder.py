"""What a Wan folder says beside its components: which Wan it holds, and how its scheduler is named.

Source: diffusers' `WanPipeline`.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pav_jax.errors import BadInput
from pav_jax.storage.json_files import read_json
from pav_jax.typed_fields import Fraction, read_fields
from pav_jax.video import pipeline_folder

INDEX = "model_index.json"
EXPERTS = ("transformer", "transformer_2")  # for high and for low noise
# the name of each scheduler's shift of the noise levels, and fields it needs to sample a flow
FLOW_SETTINGS = {
    "UniPCMultistepScheduler": (
        "flow_shift",
        dict(use_flow_sigmas=True, prediction_type="flow_prediction"),
    ),
    "FlowMatchEulerDiscreteScheduler": ("shift", {}),
}


@dataclasses.dataclass(frozen=True)
class _Options:
    boundary_ratio: Fraction | None = None
    expand_timesteps: bool = False


@dataclasses.dataclass(frozen=True)
class WanIndex:
    """The fields of model_index.json that say which Wan a folder holds, with diffusers' defaults.

    Attributes:
      boundary_ratio: of 2.2 A14B: the fraction of the training timesteps from which the first
        expert denoises.
      expand_timesteps: of 2.2 TI2V-5B.
      present: the denoisers that are not null.
      source: the file.
    """

    boundary_ratio: Fraction | None = None
    expand_timesteps: bool = False
    present: frozenset[str] = frozenset()
    source: str = INDEX

    @classmethod
    def read(cls, folder: Path) -> "WanIndex":
        """Raises BadInput if a field is of another type or out of range."""
        source = str(folder / INDEX)
        fields = read_json(folder / INDEX)
        options = read_fields(_Options, fields, source)
        # an index of few fields, as those that come with this package, means Wan 2.1's denoiser
        entries = {"transformer": ["diffusers"]} | fields
        present = frozenset(name for name in EXPERTS if _is_present(entries.get(name)))
        return cls(options.boundary_ratio, options.expand_timesteps, present, source)

    def experts(self) -> tuple[str, ...]:
        """The folders of the denoisers that sampling uses, the one for high noise first.

        Raises:
          BadInput: a denoiser is missing for a part of the timesteps.
        """
        ratio = self.boundary_ratio
        needed = set(EXPERTS)
        if ratio is None or ratio == 0:
            needed = {"transformer"}
        elif ratio == 1 and "transformer" not in self.present:
            needed = {"transformer_2"}
        for name in sorted(needed - self.present, reverse=True):
            message = f"{name} is null, and the model cannot denoise without it"
            if ratio is not None:
                share = f"below {ratio:g}" if name == "transformer_2" else f"of {ratio:g} and more"
                message = (
                    f"boundary_ratio is {ratio:g}, but there is no {name} for the timesteps"
                    f" {share}; download it, or set boundary_ratio to null if this is a Wan 2.1"
                )
            raise BadInput(f"{self.source}: {message}", source=self.source, field=name)
        return tuple(name for name in EXPERTS if name in needed)


def _is_present(entry: Any) -> bool:
    """Whether a component of model_index.json is not null: null is [null, null]."""
    return isinstance(entry, list) and any(entry)


def scheduler_settings(folder: Path, scheduler: Mapping[str, Any] | str | None) -> dict[str, Any]:
    """The folder's scheduler configuration, or `scheduler`; a class name keeps the folder's
    settings, under the names that this class has for them."""
    settings = pipeline_folder.scheduler_settings(folder, scheduler)
    if not isinstance(scheduler, str):
        return settings
    previous = pipeline_folder.scheduler_settings(folder, None).get("_class_name")
    return flow_settings(settings, previous)


def with_flow_shift(settings: Mapping[str, Any], shift: float) -> dict[str, Any]:
    """The settings with another shift; those of a scheduler that is refused later as they are."""
    name, _ = FLOW_SETTINGS.get(settings.get("_class_name", ""), (None, {}))
    return dict(settings) if name is None else {**settings, name: shift}


def flow_settings(settings: Mapping[str, Any], previous_class: str | None) -> dict[str, Any]:
    """Translates scheduler settings to the fields of the class that they now name.

    Args:
      settings: written for `previous_class`, with another `_class_name`.
    """
    new_class = settings["_class_name"]
    previous = FLOW_SETTINGS.get(previous_class or "")
    new = FLOW_SETTINGS.get(new_class)
    if previous is None or new is None or previous_class == new_class:
        return dict(settings)
    previous_shift, _ = previous
    new_shift, required = new
    others = {name: value for name, value in settings.items() if name != previous_shift}
    return others | required | {new_shift: settings.get(previous_shift, 1.0)}
