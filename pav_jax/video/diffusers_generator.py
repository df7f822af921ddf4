"""Any pipeline of diffusers that makes videos or images from a prompt, and perhaps from an image,
as a generator on torch's own device (extra `torch`).

Every video has its own `torch.Generator` on the CPU, so that its noise depends on its seed alone,
and batches always have the same number of rows. Settings that are not set keep the pipeline's
default. Pipelines agree on the names of their arguments except for the number of frames; a pipeline
whose call has none of those names makes images, which are videos of one frame. The scale of
guidance may be a setting of the pipeline's guider instead, as in HunyuanVideo 1.5 and in modular
pipelines.

Shapes: B videos, T frames, H, W height and width in pixels.
"""

import difflib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from pav_jax.errors import BadInput
from pav_jax.video import backend, diffusers_loading, sampling
from pav_jax.video.backend import BackendRequest, Progress
from pav_jax.video.diffusers_errors import one_line
from pav_jax.video.diffusers_output import batch_of_output
from pav_jax.video.generation_config import GenerationConfig
from pav_jax.video.generator import VideoBatch
from pav_jax.video.images import Images, check_images
from pav_jax.video.modular_pipeline import ModularCall
from pav_jax.video.rewrites import Prompts, Seed

FRAME_ARGUMENTS = ("num_frames", "video_length")  # Latte and Text2Video-Zero use the second
STEP_CALLBACK = "callback_on_step_end"
GUIDANCE = "guidance_scale"
IMAGE = "image"


class DiffusersGenerator(backend.GeneratorBackend):
    """A diffusers pipeline behind the `Generator` interface.

    Attributes:
      pipeline: the diffusers pipeline; configure offloading, tiling or a scheduler on it.
      options: further arguments of its call.
      settings: the sampling settings; those that nobody has set are the pipeline's own.
    """

    def __init__(
        self,
        pipeline: Any,
        settings: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        source: str = "pipeline",
        weights_digest: str = "",
    ):
        self.pipeline = pipeline
        self.source = source
        self.options = dict(options or {})
        self.explicit_settings = backend.explicit_settings(source, settings or {})
        self.settings = GenerationConfig().replace(source, **self.explicit_settings)
        self._weights_digest = weights_digest
        self._parameters = _call_parameters(pipeline)
        guider = getattr(pipeline, "guider", None)
        # guidance may be a component's, not an argument of the call: that of the folder
        self._guidance_scale = getattr(getattr(guider, "config", None), GUIDANCE, None)
        self._check_parameters()
        self._check_options()

    @classmethod
    def from_pretrained(
        cls,
        path: str,
        dtype: str = "bfloat16",
        options: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> "DiffusersGenerator":
        """Loads `diffusers:FOLDER` or `diffusers:owner/name` onto torch's accelerator, or the CPU
        without one.

        Args:
          options: further arguments of the pipeline's call, such as clean_caption.
          settings: fields of `GenerationConfig`; they replace those of the folder's
            pav_generation.json.

        Raises:
          BadInput: torch or diffusers is not installed, or the path is not a complete pipeline that
            generates from prompts.
        """
        loaded = diffusers_loading.load(path.removeprefix(backend.DIFFUSERS), dtype)
        overrides = {name: value for name, value in settings.items() if value is not None}
        settings = loaded.settings | overrides
        return cls(loaded.pipeline, settings, options, loaded.name, loaded.digest)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Changes with weights, configurations, dtype, settings and options."""
        settings = backend.request_fields(self.explicit_settings)
        dtype = str(self.pipeline.dtype)
        return backend.short_digest([self._weights_digest, settings, self.options, dtype])

    def generate(
        self,
        prompts: Prompts,
        negative_prompt: str | Sequence[str] = "",
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        max_sequence_length: int | None = None,
        seed: Seed = None,
        image: Images = None,
        latents: Float[np.ndarray, "B ..."] | None = None,
        use_dynamic_cfg: bool | None = None,
    ) -> UInt8[np.ndarray, "B T H W 3"]:
        """As `VideoModel.generate`; `latents` are the pipeline's own.

        Raises:
          BadInput: an argument that the pipeline does not take, or a video that it cannot make.
        """
        return self.generate_batch(
            prompts,
            negative_prompt,
            seed=seed,
            image=image,
            latents=latents,
            num_frames=num_frames,
            height=height,
            width=width,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            max_sequence_length=max_sequence_length,
            use_dynamic_cfg=use_dynamic_cfg,
        ).videos

    def generate_batch(
        self,
        prompts: Prompts,
        negative_prompt: str | Sequence[str] = "",
        *,
        seed: Seed = None,
        image: Images = None,
        latents: Float[np.ndarray, "B ..."] | None = None,
        progress: Progress | None = None,
        **settings: Any,
    ) -> VideoBatch:
        """See `GeneratorBackend`; progress moves with every denoising step.

        A video with an image is made by a call of its own: pipelines take several images in
        different ways, or not at all.
        """
        request = backend.make_request(
            self.explicit_settings, prompts, negative_prompt, seed, settings, image
        )
        check_images(self, request.images)
        self._call_arguments(request)  # raises before the first batch is made
        total = len(request.prompts)
        if not total:
            return backend.empty_batch(request.settings)
        batches: list[VideoBatch] = []
        done = 0
        order: list[int] = []
        for rows, count in _calls(request, self.settings.batch_size):
            callback = None
            if progress:
                callback = functools.partial(_report_step, progress, done, count, total)
            batch_latents = None if latents is None else latents[rows]
            batch = self._call(request.select(rows), batch_latents, count, callback)
            request.check_size(self.display_name, batch.videos.shape[1:])
            batches.append(batch)
            order += rows[:count]
            done += count
            if progress:
                progress(done, total)
        return _in_order(batches, order)

    @property
    def takes_image(self) -> bool:
        """Whether the pipeline's call has an argument `image`."""
        return IMAGE in self._parameters

    @property
    def needs_image(self) -> bool:
        """Whether the pipeline makes no video without an image."""
        parameter = self._parameters.get(IMAGE)
        is_option = IMAGE in self.options  # one image for all videos
        return parameter is not None and parameter.default is parameter.empty and not is_option

    # ---------------------------------------------------------------------------- the call

    @property
    def display_name(self) -> str:
        """The pipeline in messages: its folder and class."""
        pipeline = self.pipeline
        if isinstance(pipeline, ModularCall):
            pipeline = pipeline.pipeline
        return f"{self.source} ({type(pipeline).__name__})"

    @property
    def _frames_argument(self) -> str | None:
        return next((name for name in FRAME_ARGUMENTS if name in self._parameters), None)

    def _named_parameters(self) -> dict[str, inspect.Parameter]:
        return {
            name: parameter
            for name, parameter in self._parameters.items()
            if name != "self" and parameter.kind is not parameter.VAR_KEYWORD
        }

    def _check_parameters(self) -> None:
        """Raises BadInput for a pipeline that needs more than a prompt and an image."""
        parameters = self._named_parameters()
        required = [
            name
            for name, parameter in parameters.items()
            if parameter.default is parameter.empty and name not in ("prompt", IMAGE)
        ]
        missing = [n for n in ("prompt", "generator", "output_type") if n not in parameters]
        if not missing and not required:
            return
        reason = f"its call has no argument {missing[0]}" if missing else ""
        if required:
            reason = f"it needs {', '.join(required)}"
        raise BadInput(
            f"{self.display_name}: {reason}; a generator makes videos or images from a prompt,"
            " and from an image where there is one",
            source="generator",
            field="path",
        )

    def _check_options(self) -> None:
        """Raises BadInput for an option that is not an argument of the call."""
        parameters = self._named_parameters()
        if any(p.kind is p.VAR_KEYWORD for p in self._parameters.values()):
            return
        for name in sorted(set(self.options) - set(parameters)):
            similar = difflib.get_close_matches(name, parameters, n=1)
            hint = f"; did you mean {similar[0]}?" if similar else ""
            raise BadInput(
                f"generator.options.{name}: {self.display_name} takes no such argument{hint}",
                source="generator",
                field=f"options.{name}",
            )

    def _call_arguments(self, request: BackendRequest) -> dict[str, Any]:
        """The arguments of the call that stand for the settings and negative prompts."""
        arguments = backend.request_fields(request.settings)
        num_frames = arguments.pop("num_frames", None)
        if num_frames is not None and self._frames_argument:
            arguments[self._frames_argument] = num_frames
        elif num_frames not in (None, 1):
            raise BadInput(
                f"num_frames={num_frames}: {self.display_name} makes images, which are videos of"
                " one frame; set it to 1 or leave it out",
                source="generator",
                field="num_frames",
            )
        if any(request.negative_prompts):
            arguments["negative_prompt"] = request.negative_prompts
        if GUIDANCE not in self._parameters and self._guidance_scale is not None:
            arguments.pop(GUIDANCE, None)  # `_set_guider` sets it
        for name in arguments:
            if name not in self._parameters:
                raise BadInput(
                    f"{name}: {self.display_name} has no such setting; leave it out",
                    source="generator",
                    field=name,
                )
        return self.options | arguments

    def _call(
        self,
        request: BackendRequest,
        latents: np.ndarray | None,
        count: int,
        step_callback: Callable | None,
    ) -> VideoBatch:
        """Runs the pipeline for one padded batch and returns its first `count` rows."""
        torch, _ = diffusers_loading.import_libraries()
        arguments = self._call_arguments(request)
        arguments |= {"prompt": request.prompts, "output_type": "np"}
        arguments["generator"] = [
            torch.Generator("cpu").manual_seed(seed) for seed in request.seeds
        ]
        if request.images[0] is not None:  # the only one of this call
            arguments[IMAGE] = request.images[0].load()
        if latents is not None:
            arguments["latents"] = torch.as_tensor(np.asarray(latents))
        self._set_guider(request)
        if step_callback and STEP_CALLBACK in self._parameters:
            arguments[STEP_CALLBACK] = step_callback
        try:
            output = self.pipeline(**arguments)
        except torch.OutOfMemoryError as error:
            raise BadInput(
                f"{self.display_name}: {len(request.prompts)} videos at once do not fit into"
                " memory; lower generator.batch_size or the sizes",
                source="generator",
                field="batch_size",
            ) from error
        except (ValueError, TypeError, RuntimeError, AssertionError, NameError) as error:
            self._raise_refusal(request, error)
            raise
        return batch_of_output(self.pipeline, output, self.display_name, count)

    def _set_guider(self, request: BackendRequest) -> None:
        """Gives the pipeline's guider the scale of the request, or that of its folder."""
        if GUIDANCE in self._parameters or self._guidance_scale is None:
            return
        scale = request.settings.get(GUIDANCE, self._guidance_scale)
        if self.pipeline.guider.config[GUIDANCE] != scale:
            self.pipeline.guider = self.pipeline.guider.new(**{GUIDANCE: scale})

    def _raise_refusal(self, request: BackendRequest, error: Exception) -> None:
        """Raises BadInput where the pipeline's exception is about its input: a check of its own, or
        sizes with which some layer fails."""
        sizes = ", ".join(f"{n}={v}" for n, v in request.settings.items() if n in backend.SIZES)
        # a block of a modular pipeline may use a value that another one left out: a NameError
        if isinstance(error, (ValueError, NameError)) or sizes:
            subject = f" {sizes}:" if sizes else ""
            raise BadInput(
                f"{self.display_name} refuses{subject} {one_line(error)}",
                source="generator",
            ) from error


def _call_parameters(pipeline: Any) -> Mapping[str, inspect.Parameter]:
    """The arguments of a pipeline's call; those of a modular one depend on its blocks."""
    if isinstance(pipeline, ModularCall):
        return pipeline.parameters
    return inspect.signature(pipeline.__call__).parameters


def _calls(request: BackendRequest, batch_size: int) -> Iterator[tuple[list[int], int]]:
    """The rows of each call of the pipeline, padded, and how many of them are not padding."""
    plain = [row for row, image in enumerate(request.images) if image is None]
    for rows, count in sampling.batches(len(plain), batch_size):
        yield [plain[row] for row in rows], count
    for row, image in enumerate(request.images):
        if image is not None:
            yield [row], 1


def _in_order(batches: Sequence[VideoBatch], order: Sequence[int]) -> VideoBatch:
    """The videos of several calls, of which `order` has the rows.

    Raises:
      BadInput: they differ in size, which may follow that of the image.
    """
    sizes = {batch.videos.shape[1:] for batch in batches}
    if len(sizes) > 1:
        shown = " and ".join(f"{t} x {h} x {w}" for t, h, w, _ in sorted(sizes)[:2])
        raise BadInput(
            f"image: videos of different sizes ({shown}); set generator.height, width and"
            " num_frames",
            source="generator",
            field="height",
        )
    position = np.argsort(order)
    errors = [error for batch in batches for error in batch.errors]
    audio = [sound for batch in batches for sound in batch.audio]
    return VideoBatch(
        np.concatenate([batch.videos for batch in batches])[position],
        [errors[i] for i in position],
        [audio[i] for i in position] if audio else (),
    )


def _report_step(
    progress: Progress,
    done: int,
    count: int,
    total: int,
    pipeline: Any,
    step: int,
    _timestep: Any,
    tensors: dict,
) -> dict:
    """Reports progress; diffusers calls this after every denoising step."""
    if steps := getattr(pipeline, "num_timesteps", None):
        # below 1: decoding is still to come
        progress(done + count * min((step + 1) / steps, 1) * 0.99, total)
    return tensors
