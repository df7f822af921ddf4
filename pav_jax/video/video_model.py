"""Any text-to-video model of a JAX family: load a diffusers folder, generate videos, save it again.

Shapes: B videos; T, H, W frames, height, width in pixels; t, h, w, C those of the latent and its
channels.
"""

import collections
import copy
import dataclasses
import functools
import itertools
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from pav_jax.checkpoints.hub import local_folder
from pav_jax.errors import BadInput
from pav_jax.seeds import seeds_for_prompts
from pav_jax.storage.folders import output_folder
from pav_jax.storage.json_files import write_json
from pav_jax.video import backend, generation_config, pipeline_folder, sampling, step_schedule
from pav_jax.video.backend import Progress
from pav_jax.video.families import family_class, saved_settings
from pav_jax.video.family import Family
from pav_jax.video.generation_config import GenerationConfig
from pav_jax.video.generation_request import GenerationRequest, make_request, video_size
from pav_jax.video.generator import NOT_FINITE, VideoBatch
from pav_jax.video.images import Images, check_images
from pav_jax.video.programs import (
    Programs,
    check_batch_size,
    check_swapping,
    component_shardings,
)
from pav_jax.video.rewrites import Prompts, Seed, read_images, read_rewrites
from pav_jax.video.weights_digest import HASHED_SUFFIXES, digest_folder, digest_params

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}


class VideoModel(backend.GeneratorBackend):
    """A text-to-video generator in JAX.

    Attributes:
      family: the parts and how they sample, such as `pav_jax.video.cogvideox.CogVideoX`.
      params: nested dict of arrays, one entry per part.
      settings: what `generate` uses where a call gives None.
    """

    takes_image = False

    def __init__(
        self,
        family: Family,
        params: Mapping,
        settings: GenerationConfig | None = None,
        mesh: jax.sharding.Mesh | None = None,
        weights_digest: str | None = None,
        auxiliary_mesh: jax.sharding.Mesh | None = None,
        sequence_attention: str = "auto",
        swap_experts: bool = False,
    ):
        self.settings = settings or family.generation
        self.mesh = mesh
        auxiliary_mesh = auxiliary_mesh or mesh
        cfg_parallel = self.settings.cfg_parallel
        if mesh is not None:
            check_batch_size(mesh, auxiliary_mesh, self.settings.batch_size, cfg_parallel)
        self.family = family.on_mesh(mesh, auxiliary_mesh, sequence_attention, cfg_parallel)
        if swap_experts:
            check_swapping(self.family)
        self.programs = Programs(self.family, mesh, auxiliary_mesh, swap_experts)
        self.params = self.programs.shard_params(params)
        self._weights_digest = weights_digest
        self._warned_of_truncation = False

    @classmethod
    def from_pretrained(
        cls,
        path_or_repo: str | os.PathLike,
        dtype: str = "bfloat16",
        mesh: jax.sharding.Mesh | None = None,
        scheduler: Mapping[str, Any] | str | None = None,
        flow_shift: float | None = None,
        auxiliary_mesh: jax.sharding.Mesh | None = None,
        sequence_attention: str = "auto",
        swap_experts: bool = False,
        **settings: Any,
    ) -> "VideoModel":
        """Loads a diffusers folder, a Hub repository or `mini:generator`; model_index.json names
        the family.

        Args:
          dtype: of the weights and the matrix products; "float32" is the fast one on a CPU.
          mesh: a mesh of `pav_jax.parallel.mesh`: videos are spread over `data` (and `fsdp` as far
            as it divides them), weights over `fsdp`, heads over `tensor`, tokens over `sequence`.
          scheduler: replaces the folder's: a class name (the settings stay), or a complete
            configuration.
          flow_shift: replaces the scheduler's shift of the noise levels, of Wan only.
          auxiliary_mesh: a mesh of other devices for text encoder and VAE, which then work while
            the denoiser does.
          sequence_attention: attention over tokens on several devices: ring, ulysses, or auto.
          swap_experts: of a Wan with two experts: keep their weights on the host, and copy each to
            the devices once a batch; else both stay on the devices.
          settings: fields of `GenerationConfig` that replace the folder's pav_generation.json.

        Raises:
          BadInput: the path is not a complete pipeline of a supported family.
        """
        if backend.is_backend_path(path_or_repo):
            raise BadInput(
                f"{path_or_repo}: VideoModel runs JAX families only; use pav_jax.load_generator",
                source=path_or_repo,
            )
        if dtype not in DTYPES:
            raise BadInput(
                f"dtype={dtype!r}: choose one of {', '.join(DTYPES)}",
                source="generator",
                field="dtype",
            )
        folder = local_folder(path_or_repo, [f"*{suffix}" for suffix in HASHED_SUFFIXES])
        kind = family_class(folder)
        used = saved_settings(kind, folder).replace("generator", **settings)
        pipeline_folder.check_tiling(kind, used.vae_tiling)
        step_schedule.check(used)
        kind.check_settings(used)
        if swap_experts:
            check_swapping(kind)
        scheduler = kind.scheduler_settings(folder, scheduler, flow_shift)
        where = component_shardings(mesh, auxiliary_mesh, kind.denoisers if swap_experts else ())
        family, params = kind.load(folder, DTYPES[dtype], scheduler, where)
        digest = digest_folder(folder)
        return cls(
            family, params, used, mesh, digest, auxiliary_mesh, sequence_attention, swap_experts
        )

    def save_pretrained(self, folder: str | Path, max_shard_size: str = "5GB") -> None:
        """Writes a diffusers folder that this class and diffusers load."""
        with output_folder(folder) as local:
            local.mkdir(parents=True, exist_ok=True)
            self.family.save(local, jax.device_get(self.params), max_shard_size)
            write_json(local / generation_config.FILE, self.settings.to_dict())

    def with_settings(self, **fields: Any) -> "VideoModel":
        """The same model with other fields of `GenerationConfig`; shares weights and compiled
        programs."""
        other = copy.copy(self)
        other.settings = self.settings.replace("generator", **fields)
        # the cached fingerprint is that of the old settings
        other.__dict__.pop("fingerprint", None)
        return other

    def cost(self) -> float:
        """Relative cost of one video: steps x frames x pixels."""
        frames, height, width = video_size(self.family, self.settings)
        return float(self.settings.num_inference_steps * frames * height * width)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Changes with weights, configurations, scheduler, dtype and sampling settings.

        It does not change with the folder's path, the batch size or the frame rate of files.
        """
        settings = self.settings.sampling_settings()
        # the name under which the fingerprints of existing videos have it
        settings["steps"] = settings.pop("num_inference_steps")
        parts = [
            self._weights_digest or digest_params(self.params),
            settings,
            dict(self.family.scheduler.config),
            jnp.dtype(self.family.transformer.dtype).name,
        ]
        if self.family.conditions is not None:
            parts.append(dataclasses.asdict(self.family.conditions))
        return backend.short_digest(parts)

    # ------------------------------------------------------------------------- generation

    def generate(
        self,
        prompts: Prompts,
        negative_prompt: str | Sequence[str] = "",
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_scale_2: float | None = None,
        max_sequence_length: int | None = None,
        seed: Seed = None,
        image: Images = None,
        latents: Float[np.ndarray, "B ..."] | None = None,
        use_dynamic_cfg: bool | None = None,
        zero_uncond: bool | None = None,
        vae_tiling: bool | None = None,
    ) -> UInt8[np.ndarray, "B T H W 3"]:
        """One video per prompt, which depends on its prompt, seed and the settings only.

        Args:
          prompts: texts, or rewrites of a booster, of which `text` is read.
          negative_prompt: what guidance moves away from: one text, or one per prompt; where it is
            empty, that of the rewrite.
          num_frames, height, width: size of the videos; height and width in pixels.
          guidance_scale: 1 or less switches guidance off.
          guidance_scale_2: of the second expert of a Wan that has two.
          max_sequence_length: text tokens that are read; longer prompts are truncated.
          seed: one int for all videos, or one per prompt; None: the one that the user of a rewrite
            typed, or 0.
          image: refused: these models make videos from texts alone.
          latents: initial noise in diffusers' axis order, instead of the seed's.

        Returns:
          uint8 [B, T, H, W, 3]. `generate_batch` also says which videos had NaN or infinity.

        Raises:
          BadInput: a size or number of steps that the model cannot make, or arguments that do not
            fit each other.
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
            guidance_scale_2=guidance_scale_2,
            max_sequence_length=max_sequence_length,
            use_dynamic_cfg=use_dynamic_cfg,
            zero_uncond=zero_uncond,
            vae_tiling=vae_tiling,
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
        """See `GeneratorBackend`; progress moves with every finished batch."""
        check_images(self, read_images(prompts, image))
        request = self.make_request(prompts, negative_prompt, seed, latents, **settings)
        return self._start(request, progress)()

    def start(
        self, prompts: Sequence[str], seed: int | Sequence[int] = 0, image: Images = None
    ) -> Callable[[], VideoBatch]:
        """Starts the first `settings.batch_size` videos and returns a function that waits for all.

        If the next batch is started before this one is waited for, it is denoised while this one
        is decoded.

        Raises:
          BadInput: as `generate`.
        """
        check_images(self, read_images(prompts, image))
        return self._start(self.make_request(prompts, seed=seed))

    def make_request(
        self,
        prompts: Prompts,
        negative_prompt: str | Sequence[str] = "",
        seed: Seed = None,
        latents: Any = None,
        **settings: Any,
    ) -> GenerationRequest:
        """Checks the arguments of `generate`; `encode_prompts` and `denoise` take the result."""
        texts, negative_prompt, seed = read_rewrites(prompts, negative_prompt, seed)
        for prompt in texts:
            if not isinstance(prompt, str):
                raise BadInput(f"prompts: {prompt!r} is not a string", field="prompts")
        used = self.settings.replace("generate", **settings)
        pipeline_folder.check_tiling(self.family, used.vae_tiling)
        step_schedule.check(used)
        seeds = seeds_for_prompts(seed, len(texts))
        length = self.family.sequence_length(used.max_sequence_length)
        token_ids = self._tokenize(texts, length)
        negative_token_ids = None
        if used.guidance_scale > 1:
            negative_token_ids = self._tokenize_negative(negative_prompt, len(texts), length)
        devices = None if self.mesh is None else list(self.mesh.devices.flat)
        return make_request(
            self.family, used, token_ids, negative_token_ids, seeds, latents, devices
        )

    def encode_prompts(
        self, request: GenerationRequest, rows: list[int]
    ) -> tuple[Float[Array, "B ..."], Float[Array, "B ..."] | None]:
        """The text embeddings of some rows: (the prompts', the other branch's with guidance)."""
        encode = functools.partial(self.programs.encode_texts, self.params, rows=len(rows))
        text = encode(request.token_ids[rows])
        if request.negative_token_ids is None:
            return text, None
        if request.settings.zero_uncond:
            return text, jnp.zeros_like(text)
        return text, encode(request.negative_token_ids[rows])

    def denoise(self, request: GenerationRequest, rows: list[int]) -> Float[Array, "B ..."]:
        """Clean latents [B, t, h, w, C] of rows; JAX may still be computing them."""
        text, negative = self.encode_prompts(request, rows)
        return self.programs.denoise(
            self.params,
            text,
            negative,
            None if request.latents is None else request.latents[rows],
            sampling.video_keys([request.seeds[row] for row in rows]),
            request.guidance_scales,
            request.latent_shape,
            request.decoded_latent_frames,
            request.step_schedule,
        )

    def _start(
        self, request: GenerationRequest, progress: Progress | None = None
    ) -> Callable[[], VideoBatch]:
        """Starts the first batch; the returned function keeps two in flight until all are done."""
        total = len(request.seeds)
        batches = sampling.batches(total, self.settings.batch_size)
        running = collections.deque(
            self._start_batch(request, rows, count) for rows, count in itertools.islice(batches, 1)
        )

        def wait() -> VideoBatch:
            finished = [VideoBatch(np.zeros((0, *request.size, 3), np.uint8), [])]
            done = 0
            while running:
                for rows, count in itertools.islice(batches, 1):
                    running.append(self._start_batch(request, rows, count))
                finished.append(running.popleft()())
                done += len(finished[-1].errors)
                if progress is not None:
                    progress(done, total)
            return VideoBatch(
                np.concatenate([batch.videos for batch in finished]),
                [error for batch in finished for error in batch.errors],
            )

        return wait

    def _start_batch(
        self, request: GenerationRequest, rows: list[int], count: int
    ) -> Callable[[], VideoBatch]:
        latents = self.denoise(request, rows)
        frames, finite = self.programs.decode(self.params, latents, request.settings.vae_tiling)

        def wait() -> VideoBatch:
            errors = [None if row else NOT_FINITE for row in np.asarray(finite)[:count]]
            return VideoBatch(np.asarray(frames)[:count], errors)

        return wait

    def _tokenize(self, prompts: Sequence[str], length: int) -> Int[np.ndarray, "B S"]:
        if not prompts:
            return np.zeros((0, length), np.int32)
        token_ids, truncated = self.family.tokenize(prompts, length)
        if truncated and not self._warned_of_truncation:
            self._warned_of_truncation = True
            warnings.warn(
                f"{len(truncated)} of {len(prompts)} prompts are longer than the {length} tokens"
                f" this model reads and were truncated; the first one is"
                f" {prompts[truncated[0]][:40]!r}...",
                stacklevel=3,
            )
        return token_ids

    def _tokenize_negative(
        self, negative_prompt: str | Sequence[str], count: int, length: int
    ) -> Int[np.ndarray, "B S"]:
        if isinstance(negative_prompt, str):
            return np.repeat(self._tokenize([negative_prompt], length), count, axis=0)
        texts = sampling.per_prompt("negative_prompt", negative_prompt, count)
        return self._tokenize(texts, length)
