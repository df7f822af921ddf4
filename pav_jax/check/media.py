"""The generator's and the rewards' programs, traced from shapes as `rewriter.py` does its own."""

import math
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding
from ml_collections import ConfigDict

from pav_jax.check.program import Assumed, Part, Program, config_folder
from pav_jax.models.clip import hf as clip_hf
from pav_jax.models.clip.model import CLIP
from pav_jax.parallel import rules
from pav_jax.parallel.mesh import make_mesh, rows_mesh
from pav_jax.recipe import GENERATION_FIELDS
from pav_jax.rewards.clip_tower import IMAGES, TEXTS, contact_sheet
from pav_jax.rewards.motion import motion_scores
from pav_jax.rewards.preprocess import Preprocess, clip_pixels
from pav_jax.video import generation, video_model
from pav_jax.video import sampling as video_sampling
from pav_jax.video.parts import sizes


def videos(config: ConfigDict, assumed: Assumed) -> int:
    """How many videos the run makes: the prompts' own and their children in evolve, candidates in prefer."""
    evolved = (config.evolve.count or assumed.examples) * (1 + config.evolve.rounds * config.evolve.children)
    return evolved + (config.prefer.count or assumed.examples) * config.prefer.samples * config.rounds


def _family(config: ConfigDict) -> tuple[video_model.Family, dict, generation.Generation]:
    """(the generator without weights, shapes of its parameters, how it is used)."""
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


def rewards(config: ConfigDict, device: jax.Device, assumed: Assumed) -> list[Program]:
    """What scores a video, each on one chip, for rewards know no mesh. FAITH has no program: it reads words."""
    frames, height, width = video_size(config)
    count, here = videos(config, assumed), SingleDeviceSharding(device)
    found, seen = [], set()
    for kind, options in config.rewards.entries.to_dict().items():
        if kind == "motion":
            clip = jax.ShapeDtypeStruct((frames, height, width, 3), jnp.uint8, sharding=here)
            found.append(Program(f"a video of {frames} x {height} x {width}", (Part("motion", None, count),),
                                 lambda clip=clip: motion_scores.trace(clip), chips=1))
        path = (options or {}).get("path")
        if path is None or path in seen:  # one tower serves all rewards that name it
            continue
        seen.add(path)
        shown = np.empty((1, options.get("frames", 4), height, width, 3), np.uint8)
        if options.get("layout") == "sheet":
            shown = contact_sheet(shown)
        found += _clip(config_folder(path, f"config.rewards.entries.{kind}.path"), options.get("dtype", "float32"),
                       shown.shape[2:4], here, count * shown.shape[1], count)
    return found


def _clip(folder: Path, dtype: str, size: tuple[int, int], here: SingleDeviceSharding, images: int, texts: int
          ) -> list[Program]:
    config = sizes(clip_hf, folder)
    settings, model = Preprocess.from_folder(folder, config.vision.image_size), CLIP(config, dtype=jnp.dtype(dtype))
    params = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, dtype, sharding=here), clip_hf.param_shapes(config))
    pixels = jax.ShapeDtypeStruct((IMAGES, *size, 3), np.uint8, sharding=here)
    ids = jax.ShapeDtypeStruct((TEXTS, config.text.positions), np.int32, sharding=here)

    def image(params, frames):
        return model.apply({"params": params}, clip_pixels(frames, settings), method="encode_image")

    def text(params, ids):
        return model.apply({"params": params}, ids, method="encode_text")

    image_part = Part("CLIP images", None, math.ceil(images / IMAGES))
    text_part = Part("CLIP texts", None, math.ceil(texts / TEXTS))
    return [Program(f"{IMAGES} images of {size[0]} x {size[1]}", (image_part,),
                    lambda: jax.jit(image).trace(params, pixels), chips=1),
            Program(f"{TEXTS} texts", (text_part,), lambda: jax.jit(text).trace(params, ids), chips=1)]
