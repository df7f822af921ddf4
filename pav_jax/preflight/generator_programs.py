"""The generator's programs, traced from shapes as `rewriter.py` does its own, and how many videos
there are."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from pav_jax.components import GENERATION_FIELDS
from pav_jax.errors import BadInput
from pav_jax.parallel import sharding_rules
from pav_jax.parallel.mesh import generator_meshes, make_mesh
from pav_jax.preflight.program import Assumed, Part, Program, config_folder
from pav_jax.video import generation, pipeline_folder, step_schedule, video_model
from pav_jax.video import sampling as video_sampling
from pav_jax.video.backends import is_back_end
from pav_jax.video.programs import SIDE, Programs, check_rows


def videos(config: ConfigDict, assumed: Assumed) -> int:
    """How many videos the run makes: the prompts' own and their children in evolve, candidates in
    prefer."""
    evolved = (config.evolve.count or assumed.examples) * (
        1 + config.evolve.rounds * config.evolve.children
    )
    return (
        evolved + (config.prefer.count or assumed.examples) * config.prefer.samples * config.rounds
    )


def _family(config: ConfigDict) -> tuple[video_model.Family, dict, generation.Generation]:
    """(the generator without weights, shapes of its parameters, how it is used)."""
    if is_back_end(config.generator.path):
        raise BadInput(
            f"config.generator.path={config.generator.path}: this generator runs on torch or"
            " elsewhere; pav check compiles only those that run in JAX"
        )
    folder = config_folder(config.generator.path, "config.generator.path")
    kind = video_model.family_of(folder)
    # not "auto", which would look at this machine's processor
    family = kind.outline(
        folder,
        video_model.DTYPES[config.generator.dtype],
        config.generator.scheduler,
        conv_impl="conv3d",
    )
    used = video_model.saved_defaults(kind, folder)
    used = used.replace("generator", **{name: config.generator[name] for name in GENERATION_FIELDS})
    pipeline_folder.check_tiling(family, used.vae_tiling)
    step_schedule.check(used)
    return family, family.param_shapes(), used


def video_size(config: ConfigDict) -> tuple[int, int, int]:
    """Frames, height and width of the videos."""
    family, _, used = _family(config)
    given = (used.num_frames, used.height, used.width)
    return tuple(one or default for one, default in zip(given, family.default_size(), strict=True))


def generator(config: ConfigDict, host: Sequence[jax.Device], assumed: Assumed) -> list[Program]:
    """A batch of videos on the chips of one host as the recipe shares them: reading texts,
    denoising, decoding."""
    family, shapes, used = _family(config)
    size = video_size(config)
    latent_shape, keep = family.latent_shape(*size)
    scales = video_sampling.guidance_scales(
        family.scheduler.timesteps(used.steps), used.guidance_scale, used.use_dynamic_cfg
    )
    chosen = config.generator
    mesh, side = generator_meshes(used.batch, chosen.mesh, chosen.side_devices, host)
    mesh = mesh or make_mesh(devices=host[:1])
    side = side or mesh
    family = family.on_mesh(mesh, side, chosen.sequence_attention, used.cfg_parallel)
    check_rows(mesh, side, used.batch, used.cfg_parallel)
    programs, axes, rows = Programs(family, mesh, side), family.axes(), used.batch

    def params(name: str) -> dict:
        where = sharding_rules.shardings(axes[name], shapes[name], side if name in SIDE else mesh)
        return {name: sharding_rules.sharded_shapes(shapes[name], where)}

    def placed(shape: tuple[int, ...], dtype: Any, mesh: Any) -> jax.ShapeDtypeStruct:
        where = sharding_rules.sharding(("batch",) + (None,) * (len(shape) - 1), shape, mesh)
        return jax.ShapeDtypeStruct(shape, dtype, sharding=where)

    def texts() -> tuple[dict, jax.ShapeDtypeStruct]:
        return params("text_encoder"), placed((rows, family.text_tokens), jnp.int32, side)

    def encoder() -> jax.stages.Traced:
        return programs.encoder.trace(*texts())

    def denoiser() -> jax.stages.Traced:
        text = jax.eval_shape(family.encode_text, *texts())
        text = placed(text.shape, text.dtype, mesh)
        keys = jax.eval_shape(lambda: video_sampling.video_keys((0,) * rows))
        negative = text if used.guidance_scale > 1 else None
        return programs.denoiser.trace(
            params("transformer"),
            text,
            negative,
            None,
            keys,
            scales,
            latent_shape=latent_shape,
            keep=keep,
            shortcuts=step_schedule.planned(used),
        )

    def vae() -> jax.stages.Traced:
        return programs.decoder.trace(
            params("vae"),
            placed((rows, keep, *latent_shape[1:]), jnp.float32, side),
            tiled=used.vae_tiling,
        )

    runs = math.ceil(videos(config, assumed) / rows)
    batch = f"{rows} videos of {size[0]} x {size[1]} x {size[2]}, {used.steps} steps"
    return [
        Program(
            f"{rows} texts of {family.text_tokens} tokens",
            (Part("text encoder", None, runs),),
            encoder,
            side.size,
        ),
        Program(batch, (Part("denoiser", None, runs),), denoiser, mesh.size),
        Program(
            f"{rows} videos of {size[0]} x {size[1]} x {size[2]}" + ", in tiles" * used.vae_tiling,
            (Part("VAE", None, runs),),
            vae,
            side.size,
        ),
    ]
