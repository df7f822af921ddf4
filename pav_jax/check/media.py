"""The generator's programs, traced from shapes as `rewriter.py` does its own, and how many videos there are."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from pav_jax.check.program import Assumed, Part, Program, config_folder
from pav_jax.errors import BadInput
from pav_jax.parallel import rules
from pav_jax.parallel.mesh import make_mesh, rows_mesh
from pav_jax.recipe import GENERATION_FIELDS
from pav_jax.video import generation, video_model
from pav_jax.video import sampling as video_sampling
from pav_jax.video.backends import is_back_end


def videos(config: ConfigDict, assumed: Assumed) -> int:
    """How many videos the run makes: the prompts' own and their children in evolve, candidates in prefer."""
    evolved = (config.evolve.count or assumed.examples) * (1 + config.evolve.rounds * config.evolve.children)
    return evolved + (config.prefer.count or assumed.examples) * config.prefer.samples * config.rounds


def _family(config: ConfigDict) -> tuple[video_model.Family, dict, generation.Generation]:
    """(the generator without weights, shapes of its parameters, how it is used)."""
    if is_back_end(config.generator.path):
        raise BadInput(f"config.generator.path={config.generator.path}: this generator runs on torch or elsewhere; pav "
                       "check compiles only those that run in JAX")
    folder = config_folder(config.generator.path, "config.generator.path")
    kind = video_model.family_of(folder)
    # not "auto", which would look at this machine's processor
    family = kind.outline(folder, video_model.DTYPES[config.generator.dtype], conv_impl="conv3d")
    used = video_model.saved_defaults(kind, folder)
    return family, family.param_shapes(), used.replace(
        "generator", **{name: config.generator[name] for name in GENERATION_FIELDS})


def video_size(config: ConfigDict) -> tuple[int, int, int]:
    """Frames, height and width of the videos."""
    family, _, used = _family(config)
    given = (used.num_frames, used.height, used.width)
    return tuple(one or default for one, default in zip(given, family.default_size(), strict=True))


def generator(config: ConfigDict, host: Sequence[jax.Device], assumed: Assumed) -> Program:
    """A batch of videos, from token ids to frames, on the chips of one host as the recipe shares them."""
    family, shapes, used = _family(config)
    size = video_size(config)
    latent_shape, keep = family.latent_shape(*size)
    scales = video_sampling.guidance_scales(family.scheduler.timesteps(used.steps), used.guidance_scale,
                                            used.use_dynamic_cfg)
    mesh = rows_mesh(used.batch, host) or make_mesh(devices=host[:1])

    family = video_model.for_devices(family, mesh)

    def trace() -> jax.stages.Traced:
        params = rules.placed_shapes(shapes, rules.shardings(family.axes(), shapes, mesh))
        rows = jax.ShapeDtypeStruct((used.batch, family.text_tokens), jnp.int32)
        negative = jax.ShapeDtypeStruct((1, family.text_tokens), jnp.int32) if used.guidance_scale > 1 else None
        keys = jax.eval_shape(lambda: video_sampling.video_keys((0,) * used.batch))
        program = jax.jit(family.sample, static_argnames=("latent_shape", "keep", "zero_uncond"))
        return program.trace(params, rules.placed_shapes(rows, rules.shardings(("batch", None), rows, mesh)), negative,
                             None, keys, scales, latent_shape=latent_shape, keep=keep, zero_uncond=used.zero_uncond)

    batch = f"{used.batch} videos of {size[0]} x {size[1]} x {size[2]}, {used.steps} steps"
    runs = math.ceil(videos(config, assumed) / used.batch)
    return Program(batch, (Part("generator", None, runs),), trace, chips=mesh.size)
