"""The rewards' programs, traced from shapes: the very functions, shardings and batch shapes that
score.

AES's head and FAITH have none here: the one is a few small products, the other reads words.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from pav_jax.models.clip import hf as clip_hf
from pav_jax.models.clip.model import CLIP
from pav_jax.models.idefics2 import hf as idefics2_hf
from pav_jax.models.mps import MPSModel
from pav_jax.models.mps import hf as mps_hf
from pav_jax.models.weights import logical_axes
from pav_jax.parallel import sharding_rules
from pav_jax.parallel.mesh import batch_shards, local_mesh, make_mesh
from pav_jax.preflight.generator_programs import video_size, videos
from pav_jax.preflight.program import Assumed, Part, Program, config_folder
from pav_jax.rewards import mps, videoscore
from pav_jax.rewards.clip_tower import IMAGES, TEXTS, contact_sheet
from pav_jax.rewards.idefics2_processor import ImageSettings
from pav_jax.rewards.motion import motion_scores
from pav_jax.rewards.preprocess import Preprocess, clip_pixels
from pav_jax.rewards.suite import listed
from pav_jax.video import pipeline_folder

LETTERS = (
    3  # of a query in one token: English has more, so that rows are rather too long than too short
)


def rewards(config: ConfigDict, host: Sequence[jax.Device], assumed: Assumed) -> list[Program]:
    """What scores a video, judges held out too: on one chip, or on an entry's own mesh over the
    chips of one host."""
    size, count = video_size(config), videos(config, assumed)
    found, seen = [], set()
    for field in ("entries", "held_out"):
        for entry in listed(config.rewards.to_dict()[field]):
            options = {name: value for name, value in entry.items() if value is not None}
            kind = options.pop("name")
            if kind not in PROGRAMS:
                continue
            if (path := options.get("path")) is not None:
                if path in seen:  # one tower serves all rewards that name it
                    continue
                seen.add(path)
                options["folder"] = config_folder(path, f"config.rewards.{field}.{kind}.path")
            mesh = local_mesh(
                options.pop("mesh", None), f"config.rewards.{field}.{kind}.mesh", host
            )
            found += PROGRAMS[kind](
                options, size, mesh or make_mesh(devices=host[:1]), count, assumed
            )
    return found


def _placed(layout: Any, sizes: Any, dtype: str, mesh: Mesh) -> dict:
    """The parameters of a model as shapes, laid out by their logical axes."""
    shapes = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s.shape, jnp.dtype(dtype)), layout.param_shapes(sizes)
    )
    return sharding_rules.sharded_shapes(
        shapes, sharding_rules.shardings(logical_axes(layout.weights(sizes)), shapes, mesh)
    )


def _rows(mesh: Mesh, shape: Sequence[int], dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(
        shape,
        dtype,
        sharding=sharding_rules.sharding(("batch", *(None,) * (len(shape) - 1)), shape, mesh),
    )


def _program(
    name: str, batch: str, runs: float, mesh: Mesh, trace: Callable[[], jax.stages.Traced]
) -> Program:
    return Program(batch, (Part(name, None, math.ceil(runs)),), trace, chips=mesh.size)


def _motion(
    options: Mapping, size: tuple[int, int, int], mesh: Mesh, count: int, assumed: Assumed
) -> list[Program]:
    clip = _rows(mesh, (*size, 3), jnp.uint8)
    return [
        _program(
            "motion",
            f"a video of {size[0]} x {size[1]} x {size[2]}",
            count,
            mesh,
            lambda: motion_scores.trace(clip),
        )
    ]


def _clip(
    options: Mapping, size: tuple[int, int, int], mesh: Mesh, count: int, assumed: Assumed
) -> list[Program]:
    folder, dtype = Path(options["folder"]), options.get("dtype", "float32")
    shown = np.empty((1, options.get("frames", 4), *size[1:], 3), np.uint8)
    if options.get("layout") == "sheet":
        shown = contact_sheet(shown)
    images, (height, width) = shown.shape[1], shown.shape[2:4]
    sizes = pipeline_folder.sizes(clip_hf, folder)
    settings, model = (
        Preprocess.from_folder(folder, sizes.vision.image_size),
        CLIP(sizes, dtype=jnp.dtype(dtype)),
    )
    params = _placed(clip_hf, sizes, dtype, mesh)
    frames = _rows(mesh, (IMAGES, height, width, 3), np.uint8)
    ids = _rows(mesh, (TEXTS, sizes.text.positions), np.int32)

    def image(params, frames):
        return model.apply({"params": params}, clip_pixels(frames, settings), method="encode_image")

    def text(params, ids):
        return model.apply({"params": params}, ids, method="encode_text")

    return [
        _program(
            "CLIP images",
            f"{IMAGES} images of {height} x {width}",
            count * images / IMAGES,
            mesh,
            lambda: jax.jit(image).trace(params, frames),
        ),
        _program(
            "CLIP texts",
            f"{TEXTS} texts",
            count / TEXTS,
            mesh,
            lambda: jax.jit(text).trace(params, ids),
        ),
    ]


def _mps(
    options: Mapping, size: tuple[int, int, int], mesh: Mesh, count: int, assumed: Assumed
) -> list[Program]:
    folder, dtype = Path(options["folder"]), options.get("dtype", "float32")
    sizes = pipeline_folder.sizes(mps_hf, folder)
    clip, rows = sizes.clip, mps.rows_of(mesh)
    settings, model = (
        Preprocess.from_folder(folder, clip.vision.image_size),
        MPSModel(sizes, dtype=jnp.dtype(dtype)),
    )
    params, frames = _placed(mps_hf, sizes, dtype, mesh), options.get("frames", 4)
    condition = jax.ShapeDtypeStruct(
        (clip.text.positions, clip.projection_dim),
        jnp.float32,
        sharding=sharding_rules.replicated(mesh),
    )
    shown = _rows(mesh, (rows, frames, *size[1:], 3), np.uint8)
    ids = _rows(mesh, (rows, clip.text.positions), np.int32)
    return [
        _program(
            "MPS",
            f"{rows} videos, {frames} frames of {size[1]} x {size[2]}",
            count / rows,
            mesh,
            lambda: mps.program(model, settings).trace(params, condition, shown, ids),
        )
    ]


def _videoscore(
    options: Mapping, size: tuple[int, int, int], mesh: Mesh, count: int, assumed: Assumed
) -> list[Program]:
    folder, dtype = Path(options["folder"]), options.get("dtype", "float32")
    sizes = pipeline_folder.sizes(idefics2_hf, folder)
    model, params = (
        videoscore.make_model(sizes, dtype, mesh),
        _placed(idefics2_hf, sizes, dtype, mesh),
    )
    limit = options.get("frames") or videoscore.FRAMES[str(options.get("version", "1"))]
    frames, rows = min(limit, size[0]), batch_shards(mesh) * options.get("batch", 1)
    height, width = ImageSettings.from_folder(folder).target(*size[1:])
    pixels = _rows(mesh, (videoscore.IMAGES * rows, height, width, 3), np.float32)
    query = videoscore.read_query(options.get("query") or videoscore.QUERY)
    latents = sizes.perceiver.latents
    tokens = (
        assumed.prompt_length + len(query) // LETTERS + frames * (latents + 3)
    )  # two fences and a space
    length = math.ceil(tokens / videoscore.TOKENS) * videoscore.TOKENS
    asked = [
        _rows(mesh, (rows, length), np.int32),
        _rows(mesh, (rows, length), np.bool_),
        _rows(mesh, (rows, frames * latents, sizes.text.hidden_size), np.float32),
    ]
    eyes = {part: params[part] for part in videoscore.EYES}
    return [
        _program(
            "VideoScore, frames",
            f"{pixels.shape[0]} frames of {height} x {width}",
            count * frames / pixels.shape[0],
            mesh,
            lambda: videoscore.program(model, "encode_images").trace(eyes, pixels),
        ),
        _program(
            "VideoScore, decoder",
            f"{rows} videos of {frames} frames, as {length} tokens",
            count / rows,
            mesh,
            lambda: videoscore.program(model, "judge").trace(params, *asked),
        ),
    ]


def _every_frame(options: Mapping, size: tuple[int, int, int], *rest: Any) -> list[Program]:
    return _clip({"frames": size[0], **options}, size, *rest)


PROGRAMS = {
    "aesthetic": _clip,
    "clip_alignment": _clip,
    "clip_consistency": _every_frame,
    "motion": _motion,
    "mps": _mps,
    "videoscore": _videoscore,
}
