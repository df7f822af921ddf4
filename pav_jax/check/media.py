"""The generator's and the rewards' programs, traced from shapes as `rewriter.py` does its own."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding
from ml_collections import ConfigDict

from pav_jax.check.program import Assumed, Part, Program, config_folder
from pav_jax.checkpoints.safetensors import read_json
from pav_jax.models.clip import hf as clip_hf
from pav_jax.models.clip.model import CLIP
from pav_jax.models.cogvideox import transformer_hf, vae_hf
from pav_jax.models.cogvideox.transformer import CogVideoXTransformer
from pav_jax.models.cogvideox.vae import CogVideoXVAE
from pav_jax.models.t5 import T5Encoder
from pav_jax.models.t5 import hf as t5_hf
from pav_jax.parallel import rules
from pav_jax.parallel.mesh import generator_meshes, make_mesh
from pav_jax.recipe import GENERATION_FIELDS
from pav_jax.rewards.clip_tower import IMAGES, TEXTS, contact_sheet
from pav_jax.rewards.motion import motion_scores
from pav_jax.rewards.preprocess import Preprocess, clip_pixels
from pav_jax.video import generation, schedulers, video_model
from pav_jax.video import sampling as video_sampling
from pav_jax.video.cogvideox import CogVideoX
from pav_jax.video.programs import SIDE, Programs


def videos(config: ConfigDict, assumed: Assumed) -> int:
    """How many videos the run makes: the prompts' own and their children in evolve, candidates in prefer."""
    evolved = (config.evolve.count or assumed.examples) * (1 + config.evolve.rounds * config.evolve.children)
    return evolved + (config.prefer.count or assumed.examples) * config.prefer.samples * config.rounds


def _family(config: ConfigDict) -> tuple[CogVideoX, dict, generation.Generation]:
    """(the generator without weights, shapes of its parameters, how it is used)."""
    folder = config_folder(config.generator.path, "config.generator.path")
    dtype = video_model.DTYPES[config.generator.dtype]
    layouts = {"text_encoder": t5_hf, "transformer": transformer_hf, "vae": vae_hf}
    text, denoiser, vae = (_sizes(layout, folder / part) for part, layout in layouts.items())
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


def _sizes(layout: Any, folder: Path) -> Any:
    """The configuration in a model's folder, read by its own `hf.py`."""
    path = folder / "config.json"
    return layout.config_from_hf(read_json(path), str(path))


def video_size(config: ConfigDict) -> tuple[int, int, int]:
    """Frames, height and width of the videos."""
    family, _, used = _family(config)
    given = (used.num_frames, used.height, used.width)
    return tuple(one or default for one, default in zip(given, family.default_size(), strict=True))


def generator(config: ConfigDict, host: Sequence[jax.Device], assumed: Assumed) -> list[Program]:
    """A batch of videos on the chips of one host as the recipe shares them: reading texts, denoising, decoding."""
    family, shapes, used = _family(config)
    sizes = video_size(config)
    latent_shape, keep = family.latent_shape(*sizes)
    scales = video_sampling.guidance_scales(family.scheduler.timesteps(used.steps), used.guidance_scale,
                                            used.use_dynamic_cfg)
    chosen = config.generator
    mesh, side = generator_meshes(used.batch, chosen.mesh, chosen.side_devices, host)
    mesh = mesh or make_mesh(devices=host[:1])
    side = side or mesh
    family = family.on_mesh(mesh, side, chosen.sequence_attention, used.cfg_parallel)
    programs, axes, rows = Programs(family, mesh, side), family.axes(), used.batch

    def params(name: str) -> dict:
        where = rules.shardings(axes[name], shapes[name], side if name in SIDE else mesh)
        return {name: rules.placed_shapes(shapes[name], where)}

    def placed(shape: tuple[int, ...], dtype: Any, mesh: Any) -> jax.ShapeDtypeStruct:
        where = rules.sharding(("batch",) + (None,) * (len(shape) - 1), shape, mesh)
        return jax.ShapeDtypeStruct(shape, dtype, sharding=where)

    def encoder() -> jax.stages.Traced:
        return programs.encoder.trace(params("text_encoder"), placed((rows, family.text_tokens), jnp.int32, side))

    def denoiser() -> jax.stages.Traced:
        text = placed((rows, family.text_tokens, family.text_encoder.config.width), family.text_encoder.dtype, mesh)
        keys = jax.eval_shape(lambda: video_sampling.video_keys((0,) * rows))
        negative = text if used.guidance_scale > 1 else None
        return programs.denoiser.trace(params("transformer"), text, negative, None, keys, scales,
                                       latent_shape=latent_shape, keep=keep)

    def vae() -> jax.stages.Traced:
        return programs.decoder.trace(params("vae"), placed((rows, keep, *latent_shape[1:]), jnp.float32, side),
                                      tiled=used.vae_tiling)

    runs = math.ceil(videos(config, assumed) / rows)
    batch = f"{rows} videos of {sizes[0]} x {sizes[1]} x {sizes[2]}, {used.steps} steps"
    return [Program(f"{rows} texts of {family.text_tokens} tokens", (Part("text encoder", None, runs),), encoder,
                    side.size),
            Program(batch, (Part("denoiser", None, runs),), denoiser, mesh.size),
            Program(f"{rows} videos of {sizes[0]} x {sizes[1]} x {sizes[2]}" + ", in tiles" * used.vae_tiling,
                    (Part("VAE", None, runs),), vae, side.size)]


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
    config = _sizes(clip_hf, folder)
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
