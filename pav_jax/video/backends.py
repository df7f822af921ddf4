"""What the stages ask of a generator, and which back end a configuration's `generator.path` means.

`VideoModel` runs the families written here in JAX. Two back ends run everything else, and stages
cannot tell:

    diffusers:FOLDER-OR-HUB-ID    any text-to-video or text-to-image pipeline of diffusers, on
    torch's device http://... or https://...     any endpoint that keeps to the contract in
    `endpoint.py`

An image is a video of one frame.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool, UInt8

from pav_jax.errors import BadInput
from pav_jax.video import sampling
from pav_jax.video.generation import Generation

DIFFUSERS = "diffusers:"
HTTP = ("http://", "https://")
SIZES = ("num_frames", "height", "width")
NOT_FINITE = "the video is not finite"

Progress = Callable[[float, int], None]  # videos made, a part of one too, and videos asked for


class Generator(Protocol):
    """One video per prompt; a video depends on its prompt, seed and the settings, not on its
    neighbours.

    Attributes:
      fingerprint: names what the same prompt and seed would give again.
      defaults: `fps` and `batch` of it are always meant; a back end leaves other fields that nobody
        set to its model.
      problems: a back end may tell why rows of the last call were not made, by row.
    """

    fingerprint: str
    defaults: Generation

    def generate(
        self,
        prompts: str | Sequence[str],
        negative_prompt: str | Sequence[str] = "",
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int | Sequence[int] = 0,
        return_finite: bool = False,
        progress: Progress | None = None,
    ) -> (
        UInt8[np.ndarray, "B T H W 3"]
        | tuple[UInt8[np.ndarray, "B T H W 3"], Bool[np.ndarray, "B"]]
    ): ...


def is_back_end(path: Any) -> bool:
    return str(path).startswith((DIFFUSERS, *HTTP))


def problem(generator: Any, row: int) -> str:
    """Why the generator's last call has no usable video in `row`."""
    return (getattr(generator, "problems", None) or {}).get(row, NOT_FINITE)


# --------------------------------------------------------------------------- one call of a back end


@dataclasses.dataclass(frozen=True)
class Asked:
    """A checked call: one negative prompt and one seed per prompt, and the settings that somebody
    has set."""

    prompts: list[str]
    negatives: list[str]
    seeds: list[int]
    settings: dict[str, Any]

    def rows(self, rows: Sequence[int]) -> "Asked":
        return dataclasses.replace(
            self,
            prompts=[self.prompts[i] for i in rows],
            seeds=[self.seeds[i] for i in rows],
            negatives=[self.negatives[i] for i in rows],
        )

    def check_size(self, source: str, shape: Sequence[int]) -> None:
        """Raises BadInput where a video [T, H, W, 3] has another size than the settings name."""
        for name, got in zip(SIZES, shape, strict=False):
            if (wanted := self.settings.get(name)) not in (None, got):
                raise BadInput(
                    f"{source}: {name}={wanted} was asked for and {got} came; set generator.{name}"
                    " to a size that this model makes, or leave it out"
                )


def asked(
    settings: Mapping[str, Any],
    prompts: str | Sequence[str],
    negative_prompt: str | Sequence[str],
    seed: int | Sequence[int],
    **given: Any,
) -> Asked:
    """A call's arguments, over the `settings` of the model.

    Raises:
      BadInput: a prompt that is no text, a setting of another type, or numbers that do not fit each
        other.
    """
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    negatives = (
        [negative_prompt] * len(prompts)
        if isinstance(negative_prompt, str)
        else list(negative_prompt)
    )
    if len(negatives) != len(prompts):
        raise BadInput(
            f"negative_prompt: {len(negatives)} texts for {len(prompts)} prompts; give one, or one"
            " per prompt"
        )
    if bad := [p for p in (*prompts, *negatives) if not isinstance(p, str)]:
        raise BadInput(f"prompts: {bad[0]!r} is not a text")
    # lone surrogates have no UTF-8 form; they become "?", as in the records
    prompts, negatives = (
        [p.encode("utf-8", "replace").decode() for p in texts] for texts in (prompts, negatives)
    )
    return Asked(
        prompts,
        negatives,
        sampling.seeds_of(seed, len(prompts)),
        {**settings, **checked_settings("generate", given)},
    )


def checked_settings(source: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the fields of `Generation` that say something; a switch that is off says nothing.

    Raises:
      BadInput: an unknown field or one of another type.
    """
    checked = Generation().replace(source, **fields)
    said = {
        name: getattr(checked, name)
        for name, value in fields.items()
        if value is not None and value is not False
    }
    said.pop("cache_ratios", None)  # a measurement, not a setting
    return said


def nothing(settings: Mapping[str, Any]) -> UInt8[np.ndarray, "0 T H W 3"]:
    """The videos of no prompts."""
    return np.zeros((0, *(settings.get(name) or 1 for name in SIZES), 3), np.uint8)
