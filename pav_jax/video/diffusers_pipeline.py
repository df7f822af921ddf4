"""Any text-to-video or text-to-image pipeline of diffusers as a generator, on torch's own device
(extra `torch`).

Every video has its own `torch.Generator` on the processor, so that its noise depends on its seed
alone, and batches always have the same number of rows. What nobody sets is the pipeline's own
default. Pipelines name their arguments alike but for the number of frames; one whose call has none
of those names makes images, which are videos of one frame.

Shapes: B videos, T frames, H, W height and width in pixels.
"""

import difflib
import functools
import hashlib
import importlib.metadata
import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from pav_jax.checkpoints import embedded
from pav_jax.checkpoints.digest import add_files
from pav_jax.checkpoints.hub import REPOSITORY, local_folder
from pav_jax.errors import BadInput
from pav_jax.storage.json_files import read_json
from pav_jax.video import backends, generation, sampling
from pav_jax.video.generation import Generation

HASHED = (".json", ".safetensors", ".bin", ".model", ".txt")
DTYPES = ("float32", "bfloat16", "float16")
FRAMES = ("num_frames", "video_length")  # Latte and Text2Video-Zero have the second
OUTPUTS = ("frames", "videos", "images")  # where a pipeline's answer holds its pictures
FLAGGED = (  # of pipelines with a safety checker, which blackens what it flags
    "nsfw_content_detected"
)
STEP = "callback_on_step_end"


class DiffusersPipeline:
    """See `backends.Generator`.

    Attributes:
      pipeline: the diffusers pipeline; further settings of it (offloading, tiling, a scheduler) may be made there.
      options: further arguments of its call.
      problems: why rows of the last call cannot be used.
    """

    def __init__(
        self,
        pipeline: Any,
        settings: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        source: str = "pipeline",
        weights_digest: str = "",
    ):
        self.pipeline, self.source, self.options = pipeline, source, dict(options or {})
        self.settings = backends.checked_settings(source, settings or {})
        self.defaults = Generation().replace(source, **self.settings)
        self.problems: dict[int, str] = {}
        self._weights_digest = weights_digest
        self._parameters = inspect.signature(pipeline.__call__).parameters
        self._check_call()

    @classmethod
    def from_pretrained(
        cls,
        path: str,
        dtype: str = "bfloat16",
        options: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> "DiffusersPipeline":
        """Loads `diffusers:FOLDER` or `diffusers:owner/name` onto torch's accelerator, or the
        processor without one.

        Args:
          options: further arguments of the pipeline's call, such as max_sequence_length.
          settings: fields of `Generation`; they replace those of the folder's pav_generation.json.

        Raises:
          BadInput: torch or diffusers is not installed, or what is there is not a whole pipeline
            that reads prompts.
        """
        torch, diffusers = _libraries()
        if dtype not in DTYPES:
            raise BadInput(f"dtype={dtype!r}: choose one of {', '.join(DTYPES)}")
        name = str(path).removeprefix(backends.DIFFUSERS)
        folder = _folder(diffusers, name)
        _check_whole(diffusers, folder)
        file = folder / generation.FILE
        saved = read_json(file) if file.exists() else {}
        try:
            pipeline = diffusers.DiffusionPipeline.from_pretrained(
                folder, dtype=getattr(torch, dtype)
            )
            pipeline.to(
                torch.accelerator.current_accelerator()
                if torch.accelerator.is_available()
                else "cpu"
            )
        except torch.OutOfMemoryError as error:
            raise BadInput(
                f"{name}: does not fit into the memory of torch's device ({_line(error)})"
            ) from error
        except Exception as error:  # whatever a library raises over a broken checkpoint
            raise BadInput(
                f"{name}: diffusers cannot load this pipeline ({_line(error)})"
            ) from error
        pipeline.set_progress_bar_config(disable=True)
        settings = saved | {name: value for name, value in settings.items() if value is not None}
        return cls(pipeline, settings, options, name, _digest(folder))

    @functools.cached_property
    def fingerprint(self) -> str:
        """Changes with weights, configurations, number format and whatever is set of how they are
        used."""
        used = {
            name: value for name, value in self.settings.items() if name not in ("batch", "fps")
        }
        parts = [self._weights_digest, used, self.options, str(self.pipeline.dtype)]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[
            :16
        ]

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
        latents: Float[np.ndarray, "B ..."] | None = None,
        use_dynamic_cfg: bool | None = None,
        return_finite: bool = False,
        progress: backends.Progress | None = None,
    ) -> (
        UInt8[np.ndarray, "B T H W 3"]
        | tuple[UInt8[np.ndarray, "B T H W 3"], Bool[np.ndarray, "B"]]
    ):
        """As `VideoModel.generate`; `latents` are the pipeline's own.

        Raises:
          BadInput: something the pipeline does not take, or cannot make.
        """
        asked = backends.asked(
            self.settings,
            prompts,
            negative_prompt,
            seed,
            num_frames=num_frames,
            height=height,
            width=width,
            steps=steps,
            guidance_scale=guidance_scale,
            use_dynamic_cfg=use_dynamic_cfg,
        )
        self._arguments(asked)
        total, parts, self.problems = len(asked.prompts), [], {}
        for rows, wanted in sampling.batches(total, self.defaults.batch):
            done = sum(map(len, parts))
            step = functools.partial(_tell, progress, done, wanted, total) if progress else None
            frames_BxTxHxWx3 = self._call(
                asked.rows(rows), None if latents is None else latents[rows], done, wanted, step
            )
            asked.check_size(self._name, frames_BxTxHxWx3.shape[1:])
            parts.append(frames_BxTxHxWx3)
            if progress:
                progress(done + wanted, total)
        videos = np.concatenate(parts) if parts else backends.nothing(asked.settings)
        finite = np.asarray([row not in self.problems for row in range(total)], bool)
        return (videos, finite) if return_finite else videos

    # ------------------------------------------------------------------------------------- the call

    @property
    def _name(self) -> str:
        return f"{self.source} ({type(self.pipeline).__name__})"

    @property
    def _frames_argument(self) -> str | None:
        return next((name for name in FRAMES if name in self._parameters), None)

    def _check_call(self) -> None:
        parameters = {
            n: p for n, p in self._parameters.items() if n != "self" and p.kind is not p.VAR_KEYWORD
        }
        needed = [n for n, p in parameters.items() if p.default is p.empty and n != "prompt"]
        missing = [n for n in ("prompt", "generator", "output_type") if n not in parameters]
        if missing or needed:
            wants = f"it needs {', '.join(needed)}" if needed else f"its call takes no {missing[0]}"
            raise BadInput(
                f"{self._name}: {wants}; a generator makes videos or images from a prompt alone"
            )
        if any(p.kind is p.VAR_KEYWORD for p in self._parameters.values()):
            return
        if unknown := sorted(set(self.options) - set(parameters)):
            near = difflib.get_close_matches(unknown[0], parameters, n=1)
            raise BadInput(
                f"generator.options.{unknown[0]}: {self._name} takes no such argument"
                + (f"; did you mean {near[0]}?" if near else "")
            )

    def _arguments(self, asked: backends.Asked) -> dict[str, Any]:
        """The named arguments that the settings mean for this pipeline."""
        given = {k: v for k, v in asked.settings.items() if k not in ("batch", "fps")}
        frames = given.pop("num_frames", None)
        if frames is not None and self._frames_argument:
            given[self._frames_argument] = frames
        elif frames not in (None, 1):
            raise BadInput(
                f"num_frames={frames}: {self._name} makes images, which are videos of one frame;"
                " set it to 1 or leave it out"
            )
        if "steps" in given:
            given["num_inference_steps"] = given.pop("steps")
        if any(asked.negatives):
            given["negative_prompt"] = asked.negatives
        if unknown := [name for name in given if name not in self._parameters]:
            raise BadInput(f"{unknown[0]}: {self._name} has no such setting; leave it out")
        return self.options | given

    def _call(
        self, asked: backends.Asked, latents: np.ndarray | None, first: int, wanted: int, step: Any
    ) -> UInt8[np.ndarray, "B T H W 3"]:
        """The first `wanted` rows of one batch. `first`: the row of the whole request it begins
        with."""
        torch, _ = _libraries()
        arguments = self._arguments(asked) | {"prompt": asked.prompts, "output_type": "np"}
        arguments["generator"] = [torch.Generator("cpu").manual_seed(seed) for seed in asked.seeds]
        if latents is not None:
            arguments["latents"] = torch.as_tensor(np.asarray(latents))
        if step and STEP in self._parameters:
            arguments[STEP] = step
        try:
            output = self.pipeline(**arguments)
        except torch.OutOfMemoryError as error:
            raise BadInput(
                f"{self._name}: {len(asked.prompts)} videos at once do not fit into memory; lower "
                "generator.batch or the sizes"
            ) from error
        except (ValueError, TypeError, RuntimeError, AssertionError) as error:
            sizes = ", ".join(f"{n}={v}" for n, v in asked.settings.items() if n in backends.SIZES)
            if (
                isinstance(error, ValueError) or sizes
            ):  # its own checks; a shape that some layer cannot take
                raise BadInput(
                    f"{self._name} refuses{' ' + sizes + ':' if sizes else ''} {_line(error)}"
                ) from error
            raise
        values = _pictures(output, self._name)[:wanted]
        flagged = getattr(output, FLAGGED, None) or [False] * wanted
        for row, value in enumerate(values):
            if flagged[row]:
                self.problems[first + row] = "its safety checker blackened the picture"
            elif not np.isfinite(value).all():
                self.problems[first + row] = backends.NOT_FINITE
        if values.dtype == np.uint8:
            return values
        return (np.nan_to_num(values).clip(0, 1) * 255).round().astype(np.uint8)


def _tell(
    progress: backends.Progress,
    done: int,
    rows: int,
    total: int,
    pipeline: Any,
    step: int,
    _timestep: Any,
    tensors: dict,
) -> dict:
    """diffusers calls this after every denoising step."""
    if steps := getattr(pipeline, "num_timesteps", None):
        progress(
            done + rows * min((step + 1) / steps, 1) * 0.99, total
        )  # decoding is still to come
    return tensors


def _pictures(output: Any, name: str) -> np.ndarray:
    """[B, T, H, W, 3], float in 0..1 or uint8, from a pipeline's answer to output_type "np"."""
    found = next(
        (value for field in OUTPUTS if (value := getattr(output, field, None)) is not None), None
    )
    if found is None:
        raise BadInput(
            f"{name}: its answer holds none of {', '.join(OUTPUTS)}; it makes neither videos nor"
            " images"
        )
    values = np.asarray(found)
    if values.ndim == 4:
        values = values[:, None]
    if values.ndim != 5 or values.shape[-1] not in (1, 3, 4):
        raise BadInput(
            f"{name}: its answer has the shape {list(values.shape)}; videos [B, T, H, W, 3] or"
            " images [B, H, W, 3] are wanted"
        )
    return np.repeat(values, 3, axis=-1) if values.shape[-1] == 1 else values[..., :3]


# --------------------------------------------------------------------------------------- the folder


def _libraries() -> tuple[Any, Any]:
    try:
        import diffusers
        import torch
    except ImportError as error:
        raise BadInput(
            f"the diffusers back end needs torch and diffusers ({error}); pip install"
            " 'pav-jax[torch]'"
        ) from error
    return torch, diffusers


def _folder(diffusers: Any, name: str) -> Path:
    """The folder `name`, or the hub's pipeline of that name: only the files that diffusers would
    load."""
    if name.startswith(embedded.PREFIX) or Path(name).is_dir():
        return local_folder(name)
    if not REPOSITORY.fullmatch(name):
        raise BadInput(
            f"{name}: no such folder; give a diffusers pipeline's folder or its hub name"
            " (owner/name)"
        )
    try:
        return Path(diffusers.DiffusionPipeline.download(name))
    except Exception as error:  # the hub's and the network's many ways
        raise BadInput(
            f"{name}: no such folder, and it could not be downloaded from the Hugging Face"
            f" Hub ({type(error).__name__}); check the name and the network"
        ) from error


def _check_whole(diffusers: Any, folder: Path) -> None:
    """Raises BadInput for a class that diffusers does not have or a component that is not there."""
    file = folder / "model_index.json"
    index = read_json(file)
    name = index.get("_class_name")
    if not isinstance(name, str) or not hasattr(diffusers, name):
        known = [n for n in dir(diffusers) if n.endswith("Pipeline")]
        near = difflib.get_close_matches(str(name), known, n=3)
        version = importlib.metadata.version("diffusers")
        raise BadInput(
            f"{file}: _class_name is {name!r}, which diffusers {version} does not have"
            + (f"; it has {', '.join(near)}" if near else "; a newer diffusers may")
        )
    parts = _components(index)
    if missing := [n for n in parts if not (folder / n).is_dir()]:
        raise BadInput(
            f"{folder}: the folder {missing[0]!r} is missing; this {name} has {', '.join(parts)}"
        )


def _components(index: Mapping[str, Any]) -> list[str]:
    """The folders that a model_index.json names; a component may be left out as [null, null]."""
    return [
        n
        for n, kind in index.items()
        if isinstance(kind, list) and len(kind) == 2 and kind[1] is not None
    ]


def _digest(folder: Path) -> str:
    """Hash of model_index.json and of every component's files."""
    digest = hashlib.sha256()
    add_files(digest, folder / "model_index.json", HASHED)
    for part in sorted(_components(read_json(folder / "model_index.json"))):
        digest.update(part.encode())
        add_files(digest, folder / part, HASHED)
    return digest.hexdigest()


def _line(error: BaseException) -> str:
    """What a library says, cut to a line of sensible length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
