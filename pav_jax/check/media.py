"""The generator's programs, traced from shapes as `rewriter.py` does its own, and how many videos there are."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from pav_jax.check.program import Assumed, Part, Program, config_folder
from pav_jax.checkpoints.safetensors import read_json
from pav_jax.errors import BadInput
from pav_jax.models.cogvideox import transformer_hf, vae_hf
from pav_jax.models.cogvideox.transformer import CogVideoXTransformer
from pav_jax.models.cogvideox.vae import CogVideoXVAE
from pav_jax.models.t5 import T5Encoder
from pav_jax.models.t5 import hf as t5_hf
from pav_jax.parallel import rules
from pav_jax.parallel.mesh import make_mesh, rows_mesh
from pav_jax.recipe import GENERATION_FIELDS
from pav_jax.video import generation, schedulers, video_model
from pav_jax.video import sampling as video_sampling
from pav_jax.video.backends import is_back_end
from pav_jax.video.cogvideox import CogVideoX


def videos(config: ConfigDict, assumed: Assumed) -> int:
    """How many videos the run makes: the prompts' own and their children in evolve, candidates in prefer."""
    evolved = (config.evolve.count or assumed.examples) * (1 + config.evolve.rounds * config.evolve.children)
    return evolved + (config.prefer.count or assumed.examples) * config.prefer.samples * config.rounds


def _family(config: ConfigDict) -> tuple[CogVideoX, dict, generation.Generation]:
    """(the generator without weights, shapes of its parameters, how it is used)."""
    if is_back_end(config.generator.path):
        raise BadInput(f"config.generator.path={config.generator.path}: this generator runs on torch or elsewhere; pav "
                       "check compiles only those that run in JAX")
    folder = config_folder(config.generator.path, "config.generator.path")
    dtype = video_model.DTYPES[config.generator.dtype]
    layouts = {"text_encoder": t5_hf, "transformer": transformer_hf, "vae": vae_hf}
    text, denoiser, vae = (sizes_of(layout, folder / part) for part, layout in layouts.items())
    path = folder / "scheduler" / "scheduler_config.json"
    family = CogVideoX(None, T5Encoder(text, dtype), CogVideoXTransformer(denoiser, dtype),
                       CogVideoXVAE(vae, dtype, conv_impl="conv3d"),  # "auto" would look at this machine's processor
                       schedulers.load(read_json(path), str(path)))
    family.check_parts(str(folder))
    shapes = {part: layout.param_shapes(sizes)
              for (part, layout), sizes in zip(layouts.items(), (text, denoiser, vae), strict=True)}
    shapes = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, dtype), shapes)
    path = folder / generation.FILE
    used = generation.Generation.from_dict(read_json(path), str(path)) if path.exists() else generation.Generation()
    return family, shapes, used.replace("generator", **{name: config.generator[name] for name in GENERATION_FIELDS})


def sizes_of(layout: Any, folder: Path) -> Any:
    """The configuration in a model's folder, read by its own `hf.py`."""
    path = folder / "config.json"
    return layout.config_from_hf(read_json(path), str(path))


def video_size(config: ConfigDict) -> tuple[int, int, int]:
    """Frames, height and width of the videos."""
    family, _, used = _family(config)
    given = (used.num_frames, used.height, used.width)
    return tuple(one or default for one, default in zip(given, family.default_size(), strict=True))


def generator(config: ConfigDict, host: Sequence[jax.Device], assumed: Assumed) -> Program:
    """A batch of videos, from token ids to frames, on the chips of one host as the recipe shares them."""
    family, shapes, used = _family(config)
    sizes = video_size(config)
    latent_shape, keep = family.latent_shape(*sizes)
    scales = video_sampling.guidance_scales(family.scheduler.timesteps(used.steps), used.guidance_scale,
                                            used.use_dynamic_cfg)
    mesh = rows_mesh(used.batch, host) or make_mesh(devices=host[:1])

    def trace() -> jax.stages.Traced:
        params = rules.placed_shapes(shapes, rules.shardings(family.axes(), shapes, mesh))
        rows = jax.ShapeDtypeStruct((used.batch, family.text_tokens), jnp.int32)
        negative = jax.ShapeDtypeStruct((1, family.text_tokens), jnp.int32) if used.guidance_scale > 1 else None
        keys = jax.eval_shape(lambda: video_sampling.video_keys((0,) * used.batch))
        program = jax.jit(family.sample, static_argnames=("latent_shape", "keep", "zero_uncond"))
        return program.trace(params, rules.placed_shapes(rows, rules.shardings(("batch", None), rows, mesh)), negative,
                             None, keys, scales, latent_shape=latent_shape, keep=keep, zero_uncond=used.zero_uncond)

    batch = f"{used.batch} videos of {sizes[0]} x {sizes[1]} x {sizes[2]}, {used.steps} steps"
    runs = math.ceil(videos(config, assumed) / used.batch)
    return Program(batch, (Part("generator", None, runs),), trace, chips=mesh.size)
