"""The reward programs, traced from shapes: the functions, shardings and batch shapes that score
videos.

AES's head and FAITH have no program here: the head is a few small matrix products, and FAITH reads
text only.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from pav_jax.models.clip import hf as clip_hf
from pav_jax.models.clip.model import CLIP
from pav_jax.models.idefics2 import hf as idefics2_hf
from pav_jax.models.mps import MPSModel
from pav_jax.models.mps import hf as mps_hf
from pav_jax.models.weights import logical_axes
from pav_jax.parallel import sharding_rules
from pav_jax.parallel.mesh import batch_shards, local_mesh, make_mesh
from pav_jax.preflight.generator_programs import count_videos, video_size
from pav_jax.preflight.program import CostedPhase, Program, config_folder
from pav_jax.rewards import mps, videoscore
from pav_jax.rewards.clip_tower import IMAGES, TEXTS, contact_sheet
from pav_jax.rewards.idefics2_processor import ImageSettings
from pav_jax.rewards.motion import motion_scores
from pav_jax.rewards.preprocess import Preprocess, clip_pixels
from pav_jax.rewards.registry import parse_entries
from pav_jax.video import pipeline_folder

# Letters of a query per token. English text has more, so that rows are estimated too long rather
# than too short.
LETTERS_PER_TOKEN = 3
FRAME_SEPARATOR_TOKENS = 3  # two fences and a space


@dataclasses.dataclass(frozen=True)
class _Workload:
    """What the reward programs score.

    Attributes:
      size: frames, height and width of a video.
      num_videos: of the whole run.
      prompt_length: tokens of a prompt.
    """

    size: tuple[int, int, int]
    num_videos: int
    prompt_length: int


def build(config: Any, host: Sequence[Any]) -> list[Program]:
    """The programs of all rewards, held-out evaluators included.

    Args:
      host: the devices of one host. A reward runs on the first, or on its own mesh over them.
    """
    workload = _Workload(video_size(config), count_videos(config), config.check.prompt_length)
    programs: list[Program] = []
    seen_paths: set[str] = set()
    for field in ("entries", "held_out"):
        for entry in parse_entries(config.rewards.to_dict()[field], field):
            if entry.kind not in BUILDERS:
                continue
            options = {k: v for k, v in entry.values.items() if v is not None}
            place = f"config.rewards.{field}.{entry.kind}"
            path = options.get("path")
            if path is not None:
                if path in seen_paths:  # rewards with the same path share one model
                    continue
                seen_paths.add(path)
                options["folder"] = config_folder(path, f"{place}.path")
            mesh = local_mesh(options.pop("mesh", None), f"{place}.mesh", host)
            mesh = mesh or make_mesh(devices=host[:1])
            programs += BUILDERS[entry.kind](options, mesh, workload)
    return programs


def _param_shapes(layout: Any, sizes: Any, dtype: str, mesh: Mesh) -> dict:
    """The shapes of a model's parameters, with the shardings of their logical axes."""
    shapes = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s.shape, jnp.dtype(dtype)), layout.param_shapes(sizes)
    )
    shardings = sharding_rules.shardings(logical_axes(layout.weights(sizes)), shapes, mesh)
    return sharding_rules.sharded_shapes(shapes, shardings)


def _batch(mesh: Mesh, shape: Sequence[int], dtype: Any) -> jax.ShapeDtypeStruct:
    """The shape of an array whose first axis is the batch."""
    axes = ("batch", *(None,) * (len(shape) - 1))
    sharding = sharding_rules.sharding(axes, tuple(shape), mesh)
    return jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=sharding)


def _program(
    name: str, batch: str, num_runs: float, mesh: Mesh, trace: Callable[[], jax.stages.Traced]
) -> Program:
    phase = CostedPhase(name, None, math.ceil(num_runs))
    return Program(batch, (phase,), trace, num_chips=mesh.size)


def _motion(options: Mapping, mesh: Mesh, workload: _Workload) -> list[Program]:
    num_frames, height, width = workload.size
    video = _batch(mesh, (*workload.size, 3), jnp.uint8)
    return [
        _program(
            "motion",
            f"a video of {num_frames} x {height} x {width}",
            workload.num_videos,
            mesh,
            lambda: motion_scores.trace(video),
        )
    ]


def _clip(options: Mapping, mesh: Mesh, workload: _Workload) -> list[Program]:
    folder = Path(options["folder"])
    dtype = options.get("dtype", "float32")
    shown = np.empty((1, options.get("frames", 4), *workload.size[1:], 3), np.uint8)
    if options.get("layout") == "sheet":
        shown = contact_sheet(shown)
    images_per_video = shown.shape[1]
    height, width = shown.shape[2:4]
    sizes = pipeline_folder.read_config(clip_hf, folder)
    settings = Preprocess.from_folder(folder, sizes.vision.image_size)
    model = CLIP(sizes, dtype=jnp.dtype(dtype))
    params = _param_shapes(clip_hf, sizes, dtype, mesh)
    frames = _batch(mesh, (IMAGES, height, width, 3), np.uint8)
    ids = _batch(mesh, (TEXTS, sizes.text.positions), np.int32)

    def encode_image(params, frames):
        return model.apply({"params": params}, clip_pixels(frames, settings), method="encode_image")

    def encode_text(params, ids):
        return model.apply({"params": params}, ids, method="encode_text")

    return [
        _program(
            "CLIP images",
            f"{IMAGES} images of {height} x {width}",
            workload.num_videos * images_per_video / IMAGES,
            mesh,
            lambda: jax.jit(encode_image).trace(params, frames),
        ),
        _program(
            "CLIP texts",
            f"{TEXTS} texts",
            workload.num_videos / TEXTS,
            mesh,
            lambda: jax.jit(encode_text).trace(params, ids),
        ),
    ]


def _clip_all_frames(options: Mapping, mesh: Mesh, workload: _Workload) -> list[Program]:
    return _clip({"frames": workload.size[0], **options}, mesh, workload)


def _mps(options: Mapping, mesh: Mesh, workload: _Workload) -> list[Program]:
    folder = Path(options["folder"])
    dtype = options.get("dtype", "float32")
    num_frames = options.get("frames", 4)
    _, height, width = workload.size
    sizes = pipeline_folder.read_config(mps_hf, folder)
    clip = sizes.clip
    batch_size = mps.batch_size_on(mesh)
    settings = Preprocess.from_folder(folder, clip.vision.image_size)
    model = MPSModel(sizes, dtype=jnp.dtype(dtype))
    params = _param_shapes(mps_hf, sizes, dtype, mesh)
    condition = jax.ShapeDtypeStruct(
        (clip.text.positions, clip.projection_dim),
        jnp.float32,
        sharding=sharding_rules.replicated(mesh),
    )
    frames = _batch(mesh, (batch_size, num_frames, height, width, 3), np.uint8)
    ids = _batch(mesh, (batch_size, clip.text.positions), np.int32)
    return [
        _program(
            "MPS",
            f"{batch_size} videos, {num_frames} frames of {height} x {width}",
            workload.num_videos / batch_size,
            mesh,
            lambda: mps.program(model, settings).trace(params, condition, frames, ids),
        )
    ]


def _videoscore(options: Mapping, mesh: Mesh, workload: _Workload) -> list[Program]:
    folder = Path(options["folder"])
    dtype = options.get("dtype", "float32")
    sizes = pipeline_folder.read_config(idefics2_hf, folder)
    model = videoscore.make_model(sizes, dtype, mesh)
    params = _param_shapes(idefics2_hf, sizes, dtype, mesh)
    max_frames = options.get("frames") or videoscore.FRAMES[str(options.get("version", "1"))]
    num_frames = min(max_frames, workload.size[0])
    batch_size = batch_shards(mesh) * options.get("batch_size", 1)
    height, width = ImageSettings.from_folder(folder).target(*workload.size[1:])
    pixels = _batch(mesh, (videoscore.IMAGES * batch_size, height, width, 3), np.float32)
    query = videoscore.read_query(options.get("query") or videoscore.QUERY)
    latents = sizes.perceiver.latents
    num_tokens = workload.prompt_length + len(query) // LETTERS_PER_TOKEN
    num_tokens += num_frames * (latents + FRAME_SEPARATOR_TOKENS)
    length = math.ceil(num_tokens / videoscore.TOKENS) * videoscore.TOKENS
    decoder_inputs = (
        _batch(mesh, (batch_size, length), np.int32),
        _batch(mesh, (batch_size, length), np.bool_),
        _batch(mesh, (batch_size, num_frames * latents, sizes.text.hidden_size), np.float32),
    )
    vision_params = {part: params[part] for part in videoscore.VISION_PARTS}
    return [
        _program(
            "VideoScore, frames",
            f"{pixels.shape[0]} frames of {height} x {width}",
            workload.num_videos * num_frames / pixels.shape[0],
            mesh,
            lambda: videoscore.program(model, "encode_images").trace(vision_params, pixels),
        ),
        _program(
            "VideoScore, decoder",
            f"{batch_size} videos of {num_frames} frames, as {length} tokens",
            workload.num_videos / batch_size,
            mesh,
            lambda: videoscore.program(model, "score").trace(params, *decoder_inputs),
        ),
    ]


BUILDERS = {
    "aesthetic": _clip,
    "clip_alignment": _clip,
    "clip_consistency": _clip_all_frames,
    "motion": _motion,
    "mps": _mps,
    "videoscore": _videoscore,
}
