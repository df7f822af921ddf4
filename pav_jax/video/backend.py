"""What all generators that are loaded from a path share: `load_generator` in `loading.py` lists
them."""

import abc
import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pav_jax.errors import BadInput
from pav_jax.seeds import seeds_for_prompts
from pav_jax.video import memory, sampling
from pav_jax.video.generation_config import GenerationConfig
from pav_jax.video.generator import Generator, VideoBatch
from pav_jax.video.images import Images, PromptImage
from pav_jax.video.rewrites import Prompts, Seed, read_images, read_rewrites

DIFFUSERS = "diffusers:"
HTTP = ("http://", "https://")
SIZES = memory.FIELDS
USUAL_SIZE = (49, 480, 720)  # of the videos of models; only to name what is unusual
NOT_REQUEST_FIELDS = ("batch_size", "fps")  # settings of ours that no pipeline or endpoint reads

Progress = Callable[[float, int], None]  # (videos made, fractions included; videos requested)


class GeneratorBackend(Generator):
    """A generator that is loaded from a path and has the settings of a `GenerationConfig`."""

    settings: GenerationConfig

    @property
    def fps(self) -> float:
        """Frames per second of video files."""
        return self.settings.fps

    @abc.abstractmethod
    def generate_batch(
        self,
        prompts: Prompts,
        negative_prompt: str | Sequence[str] = "",
        *,
        seed: Seed = None,
        image: Images = None,
        progress: Progress | None = None,
        **settings: Any,
    ) -> VideoBatch:
        """Makes one video per prompt and says which of them failed.

        Args:
          prompts: texts, or rewrites of a booster, of which `text` is read.
          negative_prompt: what guidance moves away from: one text, or one per prompt; where it is
            empty, that of the rewrite.
          seed: one int for all videos, or one per prompt; None: the one that the user of a rewrite
            typed, or 0.
          image: a PIL image or the path of one, for all videos; or one, or None, per prompt. None:
            that of a rewrite.
          progress: called with the number of videos made so far, which may be fractional, and the
            number requested.
          settings: fields of `GenerationConfig` for this call; None keeps the generator's own.

        Raises:
          BadInput: the generator cannot do what the arguments ask for.
        """

    def start(
        self, prompts: Sequence[str], seed: Sequence[int], image: Images = None
    ) -> Callable[[], VideoBatch]:
        """Returns a function that makes the videos when it is called."""
        return lambda: self.generate_batch(prompts, seed=seed, image=image)


def is_backend_path(path: Any) -> bool:
    """Whether the path names a generator that does not run in JAX."""
    return str(path).startswith((DIFFUSERS, *HTTP))


@dataclasses.dataclass(frozen=True)
class BackendRequest:
    """A checked call: per prompt one negative prompt, one seed and one image or None, and the
    settings that are set.

    `settings` holds only fields that the user has set; the others are left to the back end.
    """

    prompts: list[str]
    negative_prompts: list[str]
    seeds: list[int]
    settings: dict[str, Any]
    images: list[PromptImage | None]

    def select(self, rows: Sequence[int]) -> "BackendRequest":
        """The request for some of the rows."""
        return dataclasses.replace(
            self,
            prompts=[self.prompts[i] for i in rows],
            seeds=[self.seeds[i] for i in rows],
            negative_prompts=[self.negative_prompts[i] for i in rows],
            images=[self.images[i] for i in rows],
        )

    def check_size(self, source: str, shape: Sequence[int]) -> None:
        """Raises BadInput if a video [T, H, W, 3] has another size than the settings request."""
        for name, actual in zip(SIZES, shape, strict=False):
            expected = self.settings.get(name)
            if expected not in (None, actual):
                raise BadInput(
                    f"{source}: {name}={expected} was requested but the model returned {actual};"
                    f" set generator.{name} to a size that this model makes, or leave it out",
                    source="generator",
                    field=name,
                )


def make_request(
    settings: Mapping[str, Any],
    prompts: Prompts,
    negative_prompt: str | Sequence[str],
    seed: Seed,
    overrides: Mapping[str, Any],
    image: Images = None,
) -> BackendRequest:
    """Checks the arguments of a call.

    Args:
      settings: of the generator.
      overrides: settings of this call.

    Raises:
      BadInput: a prompt that is not a string, a setting of the wrong type, an image that cannot be
        read, or sequences of different lengths.
    """
    texts, negative_prompt, seed = read_rewrites(prompts, negative_prompt, seed)
    negative_prompts = sampling.per_prompt("negative_prompt", negative_prompt, len(texts))
    for text in (*texts, *negative_prompts):
        if not isinstance(text, str):
            raise BadInput(f"prompts: {text!r} is not a string", field="prompts")
    request = BackendRequest(
        [sampling.valid_unicode(text) for text in texts],
        [sampling.valid_unicode(text) for text in negative_prompts],
        seeds_for_prompts(seed, len(texts)),
        {**settings, **explicit_settings("generate", overrides)},
        read_images(prompts, image),
    )
    _check_memory(request.settings)
    return request


def _check_memory(settings: Mapping[str, Any]) -> None:
    """Check that the frames of a batch fit into the system's memory, as far as sizes are set.

    Raises:
      BadInput: they do not.
    """
    size = [settings.get(name) or 1 for name in SIZES]
    batch_size = settings.get("batch_size", 1)
    needed = memory.video_bytes(size, batch_size)
    memory.check_fits(needed, memory.system_bytes(), size, USUAL_SIZE, batch_size)


def explicit_settings(source: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The checked `fields` of `GenerationConfig` that are set; None and False are not.

    Raises:
      BadInput: an unknown field or one of another type.
    """
    checked = GenerationConfig().replace(source, **fields)
    explicit = {
        name: getattr(checked, name)
        for name, value in fields.items()
        if value is not None and value is not False
    }
    explicit.pop("cache_ratios", None)  # a measurement of the model, not a setting
    return explicit


def short_digest(parts: Sequence[Any]) -> str:
    """A fingerprint of `parts`, which are written as JSON."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def request_fields(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a pipeline or endpoint reads."""
    return {name: value for name, value in settings.items() if name not in NOT_REQUEST_FIELDS}


def empty_batch(settings: Mapping[str, Any]) -> VideoBatch:
    """The result of a call without prompts."""
    return VideoBatch(np.zeros((0, *(settings.get(name) or 1 for name in SIZES), 3), np.uint8), [])
