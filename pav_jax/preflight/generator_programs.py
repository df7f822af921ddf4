"""The video generator's programs, traced from shapes, and how many videos a run makes."""

import dataclasses
import functools
import math
import weakref
from collections.abc import Callable, Sequence
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
from pav_jax.video.decoding import piece_axes
from pav_jax.video.generation_config import GenerationConfig
from pav_jax.video.generation_request import video_size as size_of_videos
from pav_jax.video.programs import (
    AUXILIARY_COMPONENTS,
    Programs,
    check_batch_size,
    check_swapping,
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
        family_class.scheduler_settings(
            folder, config.generator.scheduler, config.generator.flow_shift
        ),
        conv_impl="conv3d",  # "auto" would choose for this machine's CPU
    )
    settings = families.saved_settings(family_class, folder)
    overrides = {name: config.generator[name] for name in GENERATION_FIELDS}
    overrides["batch_size"] = config.generator.batch_size
    settings = settings.replace("generator", **overrides)
    pipeline_folder.check_tiling(family, settings.vae_tiling)
    step_schedule.check(settings)
    family.check_settings(settings)
    if config.generator.swap_experts:
        check_swapping(family)
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
        self.compiled = Programs(self.family, self.mesh, self.auxiliary_mesh, options.swap_experts)
        self.num_runs = math.ceil(count_videos(config) / self.batch_size)

    def programs(self) -> list[Program]:
        rows = self.batch_size
        num_frames, height, width = self.size
        videos = f"{rows} videos of {num_frames} x {height} x {width}"
        steps = f"{self.settings.num_inference_steps} steps"
        texts = f"{rows} texts of {self.num_text_tokens} tokens"
        return [
            self._program("text encoder", texts, self._trace_encoder, self.auxiliary_mesh),
            *self._denoiser_programs(f"{videos}, {steps}"),
            *self._decoder_programs(videos),
        ]

    def _program(self, name: str, batch: str, trace: Any, mesh: Mesh) -> Program:
        return Program(batch, (CostedPhase(name, None, self.num_runs),), trace, mesh.size)

    def _decoder_programs(self, videos: str) -> list[Program]:
        """The programs of the VAE, each for some pieces of the videos."""
        recorder = _DecoderRecorder(self.compiled, self.auxiliary_mesh)
        tiled = self.settings.vae_tiling
        self.family.decode(self._params("vae"), self._latents(), tiled, recorder.run)
        programs = []
        for runs in recorder.runs.values():
            phase = CostedPhase(f"VAE, {runs.name}", None, runs.count * self.num_runs)
            trace = functools.partial(lambda traced: traced, runs.traced)
            program = Program(videos, (phase,), trace, self.auxiliary_mesh.size, runs.earlier)
            programs.append(program)
        return programs

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

    def _denoiser_programs(self, batch: str) -> list[Program]:
        """One program of all denoisers, or one for each that is swapped in."""
        if not self.compiled.swap_denoisers:
            return [self._program("denoiser", batch, self._trace_denoiser, self.mesh)]
        programs = []
        carry = None
        for part in self.family.denoiser_steps(self.settings.num_inference_steps):
            traced = self._trace_part(part, carry)
            steps = f"{batch}, from {part.first} to {part.stop}"
            trace = functools.partial(lambda traced: traced, traced)
            programs.append(self._program(part.denoiser, steps, trace, self.mesh))
            carry = jax.tree.map(self._carried, traced.out_info)
        return programs

    def _trace_denoiser(self) -> jax.stages.Traced:
        params: dict = {}
        for name in self.family.denoisers:
            params |= self._params(name)
        return self.compiled.denoiser.trace(
            params, *self._denoiser_inputs(), **self._static_inputs()
        )

    def _trace_part(self, part: Any, carry: Any) -> jax.stages.Traced:
        return self.compiled.part_denoiser.trace(
            self._params(part.denoiser),
            carry,
            *self._denoiser_inputs(),
            part=part,
            **self._static_inputs(),
        )

    def _denoiser_inputs(self) -> tuple[Any, ...]:
        """Texts, those of the other branch, no latents, keys and guidance scales."""
        settings = self.settings
        text = jax.eval_shape(self.family.encode_text, *self._encoder_inputs())
        text = batch_shape(text.shape, text.dtype, self.mesh)
        keys = jax.eval_shape(lambda: video_sampling.video_keys((0,) * self.batch_size))
        negative = text if settings.guidance_scale > 1 else None
        return text, negative, None, keys, self.family.guidance_scales(settings)

    def _static_inputs(self) -> dict[str, Any]:
        parts = self.family.denoiser_steps(self.settings.num_inference_steps)
        switches = [part.first for part in parts]
        return dict(
            latent_shape=self.latent_shape,
            decoded_latent_frames=self.num_latent_frames,
            step_schedule=step_schedule.make_step_schedule(self.settings, switches),
        )

    def _carried(self, shape: Any) -> jax.ShapeDtypeStruct:
        """What the steps of one denoiser pass to the next, sharded as latents are."""
        axes = piece_axes(len(shape.shape), "batch")
        sharding = sharding_rules.sharding(axes, shape.shape, self.mesh)
        return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)

    def _latents(self) -> jax.ShapeDtypeStruct:
        shape = (self.batch_size, self.num_latent_frames, *self.latent_shape[1:])
        return batch_shape(shape, jnp.float32, self.auxiliary_mesh)


class _Result(jax.ShapeDtypeStruct):
    """The shape of a program's result. Unlike its base class it can be referred to weakly."""


@dataclasses.dataclass
class _Runs:
    """The runs of one program.

    Attributes:
      earlier: shapes of the results in memory when the last run starts, besides its arguments.
    """

    name: str
    traced: jax.stages.Traced
    count: int = 0
    earlier: Sequence[jax.ShapeDtypeStruct] = ()


class _DecoderRecorder:
    """Traces the programs of a family's `decode` and counts their runs."""

    def __init__(self, compiled: Programs, mesh: Mesh):
        self.runs: dict[tuple, _Runs] = {}
        self._compiled = compiled
        self._mesh = mesh
        self._results: list[weakref.ref[_Result]] = []

    def run(self, name: str, function: Callable, *arguments: Any, **static: Any) -> Any:
        """See `decoding.Run`: takes and returns shapes instead of arrays."""
        leaves, structure = jax.tree.flatten(arguments)
        shapes = [x.shape for x in leaves if isinstance(x, jax.ShapeDtypeStruct)]
        key = (name, structure, *shapes)
        if key not in self.runs:
            traced = self._compiled.decoder(function).trace(*arguments, **static)
            self.runs[key] = _Runs(name, traced)
        runs = self.runs[key]
        runs.count += 1
        # what the caller no longer refers to is not in memory
        results = [result for ref in self._results if (result := ref()) is not None]
        used = {id(leaf) for leaf in leaves}
        runs.earlier = [
            jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
            for x in results
            if id(x) not in used
        ]
        output = jax.tree.map(self._result, runs.traced.out_info)
        self._results = [weakref.ref(x) for x in (*results, *jax.tree.leaves(output))]
        return output

    def _result(self, shape: Any) -> _Result:
        axes = piece_axes(len(shape.shape), self._compiled.family.piece_axis)
        sharding = sharding_rules.sharding(axes, shape.shape, self._mesh)
        return _Result(shape.shape, shape.dtype, sharding=sharding)
