"""The interface of every generator, and adapters to it.

Shapes: B videos, T frames, H, W height and width in pixels.
"""

import abc
import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from pav_jax.errors import BadInput
from pav_jax.video.audio import Audio
from pav_jax.video.generation_config import GenerationConfig
from pav_jax.video.images import Images, as_images, check_images

NOT_FINITE = "the video is not finite"

VideoFunction = Callable[..., np.ndarray]  # (prompts, seeds), and `image` where it takes one


@dataclasses.dataclass(frozen=True)
class GeneratedVideo:
    """One video of a `VideoBatch`.

    Attributes:
      frames: uint8 [T, H, W, 3].
      error: one line that says why the video cannot be used; None if it can.
      audio: its sound; None without one.
    """

    frames: UInt8[np.ndarray, "T H W 3"]
    error: str | None = None
    audio: Audio | None = None


@dataclasses.dataclass(frozen=True)
class VideoBatch:
    """The videos of one call and what went wrong with them.

    Attributes:
      videos: uint8 [B, T, H, W, 3]. A row with an error holds a placeholder or unusable frames.
      errors: one entry per video: None, or one line that says why the video cannot be used.
      audio: one entry per video: its sound, or None; () where no video has any.
    """

    videos: UInt8[np.ndarray, "B T H W 3"]
    errors: list[str | None]
    audio: Sequence[Audio | None] = ()

    def __getitem__(self, row: int) -> GeneratedVideo:
        """The video of one row."""
        audio = self.audio[row] if self.audio else None
        return GeneratedVideo(self.videos[row], self.errors[row], audio)

    @classmethod
    def from_frames(cls, frames: np.ndarray, source: str, count: int) -> "VideoBatch":
        """Checks what a generator returned.

        Args:
          frames: [B, T, H, W, 3], integers, or floats in 0..255. A video with NaN or infinity gets
            an error.
          source: what made the frames, for error messages.
          count: the number of videos that were requested.

        Raises:
          BadInput: the array has another shape.
        """
        frames = np.asarray(frames)
        if frames.ndim != 5 or frames.shape[-1] != 3 or len(frames) != count:
            raise BadInput(
                f"{source}: generate returned an array of shape {list(frames.shape)} for {count}"
                f" prompts; return uint8 [{count}, frames, height, width, 3]",
                source=source,
                field="generate",
            )
        errors: list[str | None] = [None] * count
        if not np.issubdtype(frames.dtype, np.integer):
            errors = [None if np.isfinite(video).all() else NOT_FINITE for video in frames]
            frames = np.nan_to_num(frames).clip(0, 255)
        return cls(frames.astype(np.uint8, copy=False), errors)


@runtime_checkable
class Generator(Protocol):
    """One video per prompt. Subclass it to use your own generator in any stage:

        class Noise(pav.Generator):
            fingerprint = "noise-1"

            def generate(self, prompts, *, seed):
                return np.stack([
                    np.random.default_rng(s).integers(256, size=(8, 64, 64, 3), dtype=np.uint8)
                    for s in seed
                ])

    A video may depend on its prompt, its seed and the generator's settings, but not on the other
    videos of the call. Only `fingerprint` and `generate` are required. A generator of videos from
    images has the argument `image` as well; others leave it out, and images are refused.

    Attributes:
      fingerprint: identifies everything that determines a video besides its prompt, image and
        seed, such as weights and settings. Stages reuse the stored videos and scores of the same
        fingerprint.
      fps: frames per second of video files.
      settings: the sampling settings; None where the generator has none of these.
    """

    fingerprint: str
    fps: float = 8.0
    settings: GenerationConfig | None = None

    @abc.abstractmethod
    def generate(
        self, prompts: Sequence[str], *, seed: Sequence[int], image: Images = None
    ) -> UInt8[np.ndarray, "B T H W 3"]:
        """Makes one video for each prompt and its seed.

        Args:
          image: a PIL image or the path of one; or a sequence with one, or None, per prompt.
            `pav_jax.video.images.as_images` reads them; stages pass what it returns.
        """
        ...

    def start(
        self, prompts: Sequence[str], seed: Sequence[int], image: Images = None
    ) -> Callable[[], VideoBatch]:
        """Starts a batch and returns a function that waits for its videos.

        Stages start the next batch before they wait for the previous one. The default has nothing
        to overlap: it calls `generate` when the videos are waited for.

        Raises:
          BadInput: there is an image, and the generator takes none.
        """
        images = as_images(image, len(prompts))
        check_images(self, images)
        arguments: dict[str, Any] = {"image": images} if any(images) else {}

        def wait() -> VideoBatch:
            frames = self.generate(prompts, seed=seed, **arguments)
            return VideoBatch.from_frames(frames, type(self).__name__, len(prompts))

        return wait

    def with_settings(self, **fields: Any) -> "Generator":
        """A generator with the same weights and other settings, for example for previews.

        Args:
          fields: fields of `GenerationConfig`.

        Raises:
          BadInput: the settings of this generator cannot be changed, which is the default.
        """
        raise BadInput(
            f"{type(self).__name__}: the settings of this generator cannot be changed"
            f" ({', '.join(fields)})",
            source="generator",
        )

    def cost(self) -> float | None:
        """Relative cost of one video: steps x frames x pixels; None if unknown."""
        used = self.settings
        if used is None or not used.num_frames or not used.height or not used.width:
            return None
        return float(used.num_inference_steps * used.num_frames * used.height * used.width)


class FunctionGenerator(Generator):
    """A plain function `(prompts, seeds) -> videos` as a generator; `image=` where it has that."""

    def __init__(self, function: VideoFunction, fingerprint: str | None = None):
        self.function = function
        name = getattr(function, "__qualname__", type(function).__name__)
        self.fingerprint = fingerprint or f"{function.__module__}.{name}"

    @property
    def takes_image(self) -> bool:
        """Whether the function has an argument `image`."""
        try:
            return "image" in inspect.signature(self.function).parameters
        except (TypeError, ValueError):  # some callables have no signature
            return False

    def generate(
        self, prompts: Sequence[str], *, seed: Sequence[int], image: Images = None
    ) -> np.ndarray:
        """What the function returns; `VideoBatch.from_frames` checks it."""
        images = as_images(image, len(prompts))
        check_images(self, images)
        arguments: dict[str, Any] = {"image": images} if any(images) else {}
        return self.function(prompts, seed, **arguments)


def as_generator(obj: Any, fingerprint: str | None = None) -> Generator:
    """Returns `obj` if it is a `Generator`, and wraps a plain function.

    Args:
      obj: a `Generator`, or a function `(prompts, seeds) -> uint8 [B, T, H, W, 3]`.
      fingerprint: of a function; its module and name by default. Pass a new one when the function
        changes, otherwise stored videos are reused.

    Raises:
      BadInput: anything else.
    """
    if isinstance(obj, type):
        raise BadInput(
            f"generator: {obj.__name__} is a class; pass an instance of it", source="generator"
        )
    if isinstance(obj, Generator):
        if not isinstance(getattr(obj, "fingerprint", None), str):
            raise BadInput(
                f"generator: {type(obj).__name__} has no fingerprint; set the attribute"
                " `fingerprint` to a string",
                source="generator",
                field="fingerprint",
            )
        return obj
    if callable(obj):
        return FunctionGenerator(cast(VideoFunction, obj), fingerprint)
    raise BadInput(
        f"generator: {type(obj).__name__} is neither a generator nor a function; subclass"
        " pav_jax.Generator",
        source="generator",
    )
