"""The video generator's programs, traced from shapes, and how many videos a run makes."""

import collections
import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from pav_jax.defaults import GENERATION_FIELDS
from pav_jax.errors import BadInput
from pav_jax.parallel import sharding_rules
from pav_jax.parallel.mesh import generator_meshes, make_mesh
from pav_jax.preflight.program import CostedPhase, Program, batch_shape, config_folder
from pav_jax.video import families, pipeline_folder, step_schedule, video_model
from pav_jax.video import sampling as video_sampling
from pav_jax.video.backend import is_backend_path
from pav_jax.video.generation_config import GenerationConfig
from pav_jax.video.generation_request import video_size as size_of_videos
from pav_jax.video.programs import (
    AUXILIARY_COMPONENTS,
    Programs,
    check_batch_size,
    tile_sizes,
)


def count_videos(config: Any) -> int:
    """Videos of a whole run: every prompt and its rewrites in evolve, the candidates in prefer."""
    evolve_prompts = config.evolve.max_prompts or config.check.num_examples
    prefer_prompts = config.prefer.max_prompts or config.check.num_examples
    evolved = evolve_prompts * (1 + config.evolve.rounds * config.evolve.num_rewrites)
    return evolved + prefer_prompts * config.prefer.num_return_sequences * config.rounds


def load_family(config: Any) -> tuple[Any, dict, GenerationConfig]:
    """The configuration's generator without weights.

    Returns:
      The family, the shapes of its parameters, and the generation settings.

    Raises:
      BadInput: the generator does not run in JAX, or its config.json files are not known.
    """
    path = config.generator.path
    if is_backend_path(path):
        raise BadInput(
            f"config.generator.path={path}: this generator runs in torch or on a server; pav check"
            " compiles only generators that run in JAX",
            field="generator.path",
        )
    folder = config_folder(path, "config.generator.path")
    family_class: Any = families.family_class(folder)
    family = family_class.outline(
        folder,
        video_model.DTYPES[config.generator.dtype],
        config.generator.scheduler,
        conv_impl="conv3d",  # "auto" would choose for this machine's CPU
    )
    settings = families.saved_settings(family_class, folder)
    overrides = {name: config.generator[name] for name in GENERATION_FIELDS}
    overrides["batch_size"] = config.generator.batch_size
    settings = settings.replace("generator", **overrides)
    pipeline_folder.check_tiling(family, settings.vae_tiling)
    step_schedule.check(settings)
    return family, family.param_shapes(), settings


def video_size(config: Any) -> tuple[int, int, int]:
    """Frames, height and width of the videos."""
    family, _, settings = load_family(config)
    return size_of_videos(family, settings)


def build(config: Any, host: Sequence[Any]) -> list[Program]:
    """The programs that make one batch of videos: text encoder, denoiser and VAE.

    Args:
      host: the devices of one host, over which the recipe distributes a batch.
    """
    return _GeneratorPrograms(config, host).programs()


class _GeneratorPrograms:
    """Traces the programs of `pav_jax.video.programs`."""

    def __init__(self, config: Any, host: Sequence[Any]):
        options = config.generator
        family, self.param_shapes, self.settings = load_family(config)
        self.batch_size = self.settings.batch_size
        self.num_text_tokens = family.sequence_length(self.settings.max_sequence_length)
        self.size = size_of_videos(family, self.settings)
        self.latent_shape, self.num_latent_frames = family.latent_shape(*self.size)
        mesh, auxiliary_mesh = generator_meshes(
            self.batch_size, options.mesh, options.encoder_vae_devices, host
        )
        self.mesh = mesh or make_mesh(devices=host[:1])
        self.auxiliary_mesh = auxiliary_mesh or self.mesh
        cfg_parallel = self.settings.cfg_parallel
        self.family = family.on_mesh(
            self.mesh, self.auxiliary_mesh, options.sequence_attention, cfg_parallel
        )
        check_batch_size(self.mesh, self.auxiliary_mesh, self.batch_size, cfg_parallel)
        self.compiled = Programs(self.family, self.mesh, self.auxiliary_mesh)
        self.num_runs = math.ceil(count_videos(config) / self.batch_size)

    def programs(self) -> list[Program]:
        rows = self.batch_size
        num_frames, height, width = self.size
        videos = f"{rows} videos of {num_frames} x {height} x {width}"
        steps = f"{self.settings.num_inference_steps} steps"
        texts = f"{rows} texts of {self.num_text_tokens} tokens"
        return [
            self._program("text encoder", texts, self._trace_encoder, self.auxiliary_mesh),
            self._program("denoiser", f"{videos}, {steps}", self._trace_denoiser, self.mesh),
            *self._decoder_programs(videos),
        ]

    def _program(self, name: str, batch: str, trace: Any, mesh: Mesh) -> Program:
        return Program(batch, (CostedPhase(name, None, self.num_runs),), trace, mesh.size)

    def _decoder_programs(self, videos: str) -> list[Program]:
        """The VAE's programs: one, or those for the chunks of tiles and the one that joins them."""
        mesh = self.auxiliary_mesh
        latents = self._latents()
        if not tile_sizes(self.family, latents.shape, self.settings.vae_tiling):
            return [self._program("VAE", videos, self._trace_decoder, mesh)]
        runs: collections.Counter = collections.Counter()
        traces: dict[tuple, jax.stages.Traced] = {}
        earlier: dict[tuple, list] = {}  # frames in memory when the last run starts
        frames: list = []

        def decode_chunk(batch: int, start: int, cache: Any, **static: Any) -> Any:
            key = (*static["size"], "next chunks" if cache else "first chunk")
            if key not in traces:
                arguments = (self._params("vae"), latents, batch, start, cache)
                traces[key] = self.compiled.tile_decoder.trace(*arguments, **static)
            runs[key] += 1
            earlier[key] = list(frames)
            chunk, cache = jax.tree.map(self._shard_tiles, traces[key].out_info)
            frames.append(chunk)
            return chunk, cache

        decoded = self.family.decode_tiles(decode_chunk, latents.shape)
        programs = []
        for key, traced in traces.items():
            name = f"VAE, tiles of {key[0]} x {key[1]}, {key[2]}"
            program = self._program(name, videos, lambda traced=traced: traced, mesh)
            phase = CostedPhase(name, None, runs[key] * self.num_runs)
            programs.append(
                dataclasses.replace(program, phases=(phase,), earlier_results=earlier[key])
            )
        trace = functools.partial(self.compiled.tile_joiner.trace, latents, decoded)
        return [*programs, self._program("VAE, joining tiles", videos, trace, mesh)]

    def _shard_tiles(self, shape: Any) -> jax.ShapeDtypeStruct:
        """The frames or the cache of a chunk of tiles, with the sharding that the VAE gives it."""
        # the caches of a loop over blocks have a leading axis of blocks
        axes = (None,) * (len(shape.shape) - 5) + ("tiles", None, None, None, None)
        sharding = sharding_rules.sharding(axes, shape.shape, self.auxiliary_mesh)
        return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)

    def _params(self, name: str) -> dict:
        """The shapes of one component's parameters, with their shardings."""
        mesh = self.auxiliary_mesh if name in AUXILIARY_COMPONENTS else self.mesh
        shapes = self.param_shapes[name]
        shardings = sharding_rules.shardings(self.family.axes()[name], shapes, mesh)
        return {name: sharding_rules.sharded_shapes(shapes, shardings)}

    def _encoder_inputs(self) -> tuple[dict, jax.ShapeDtypeStruct]:
        shape = (self.batch_size, self.num_text_tokens)
        return self._params("text_encoder"), batch_shape(shape, jnp.int32, self.auxiliary_mesh)

    def _trace_encoder(self) -> jax.stages.Traced:
        return self.compiled.encoder.trace(*self._encoder_inputs())

    def _trace_denoiser(self) -> jax.stages.Traced:
        settings = self.settings
        text = jax.eval_shape(self.family.encode_text, *self._encoder_inputs())
        text = batch_shape(text.shape, text.dtype, self.mesh)
        keys = jax.eval_shape(lambda: video_sampling.video_keys((0,) * self.batch_size))
        scales = video_sampling.guidance_scales(
            self.family.scheduler.timesteps(settings.num_inference_steps),
            settings.guidance_scale,
            settings.use_dynamic_cfg,
        )
        return self.compiled.denoiser.trace(
            self._params("transformer"),
            text,
            text if settings.guidance_scale > 1 else None,
            None,
            keys,
            scales,
            latent_shape=self.latent_shape,
            decoded_latent_frames=self.num_latent_frames,
            step_schedule=step_schedule.make_step_schedule(settings),
        )

    def _latents(self) -> jax.ShapeDtypeStruct:
        shape = (self.batch_size, self.num_latent_frames, *self.latent_shape[1:])
        return batch_shape(shape, jnp.float32, self.auxiliary_mesh)

    def _trace_decoder(self) -> jax.stages.Traced:
        tiled = self.settings.vae_tiling
        return self.compiled.decoder.trace(self._params("vae"), self._latents(), tiled=tiled)
