"""The reward programs, traced from shapes: the functions, shardings and batch shapes that score
videos.

AES's head and the rewards of texts have no program here: the head is a few small matrix products,
and the language model of LIKELIHOOD is usually trained by the run itself.
"""

import math
from collections.abc import Callable, Sequence
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
from pav_jax.parallel import sharding_rules
from pav_jax.parallel.mesh import batch_shards, local_mesh, make_mesh
from pav_jax.preflight import judge_programs
from pav_jax.preflight.generator_programs import count_videos, load_family, video_size
from pav_jax.preflight.program import (
    Program,
    batch_shape,
    config_folder,
    param_shapes,
)
from pav_jax.preflight.reward_workload import LETTERS_PER_TOKEN, Workload, reward_program
from pav_jax.rewards import mps, videoscore
from pav_jax.rewards.clip_tower import IMAGES, TEXTS, contact_sheet
from pav_jax.rewards.idefics2_processor import ImageSettings
from pav_jax.rewards.motion import motion_scores
from pav_jax.rewards.options import (
    AestheticOptions,
    ClipAlignmentOptions,
    ClipConsistencyOptions,
    MotionOptions,
    MPSOptions,
    VideoScoreOptions,
)
from pav_jax.rewards.preprocess import Preprocess, clip_pixels
from pav_jax.rewards.registry import parse_entries
from pav_jax.video import pipeline_folder

FRAME_SEPARATOR_TOKENS = 3  # two fences and a space


def build(config: Any, host: Sequence[Any]) -> list[Program]:
    """The programs of all rewards, held-out evaluators included.

    Args:
      host: the devices of one host. A reward runs on the first, or on its own mesh over them.
    """
    _, _, settings = load_family(config)
    workload = Workload(
        video_size(config), count_videos(config), config.check.prompt_length, settings.fps
    )
    programs: list[Program] = []
    seen_paths: set[str] = set()
    for field in ("entries", "held_out"):
        for entry in parse_entries(config.rewards.to_dict()[field], field):
            if entry.kind not in BUILDERS:
                continue
            place = f"config.rewards.{field}.{entry.kind}"
            path = entry.values.get("path")
            folder = None
            if path is not None:
                if path in seen_paths:  # rewards with the same path share one model
                    continue
                seen_paths.add(path)
                folder = config_folder(path, f"{place}.path")
            mesh = local_mesh(entry.values.get("mesh"), f"{place}.mesh", host)
            mesh = mesh or make_mesh(devices=host[:1])
            programs += BUILDERS[entry.kind](entry.parsed, folder, mesh, workload)
    return programs


def _motion(options: MotionOptions, folder: None, mesh: Mesh, workload: Workload) -> list[Program]:
    del options, folder
    num_frames, height, width = workload.size
    video = batch_shape((*workload.size, 3), jnp.uint8, mesh)
    return [
        reward_program(
            "motion",
            f"a video of {num_frames} x {height} x {width}",
            workload.num_videos,
            mesh,
            lambda: motion_scores.trace(video),
        )
    ]


def _clip(
    options: AestheticOptions | ClipAlignmentOptions, folder: Path, mesh: Mesh, workload: Workload
) -> list[Program]:
    shown = np.empty((1, options.frames, *workload.size[1:], 3), np.uint8)
    if options.layout == "sheet":
        shown = contact_sheet(shown)
    return _clip_programs(shown.shape[1:4], options.dtype, folder, mesh, workload)


def _clip_consistency(
    options: ClipConsistencyOptions, folder: Path, mesh: Mesh, workload: Workload
) -> list[Program]:
    num_frames, height, width = workload.size
    shown = (num_frames if options.frames is None else options.frames, height, width)
    return _clip_programs(shown, options.dtype, folder, mesh, workload)


def _clip_programs(
    images: Sequence[int], dtype: str, folder: Path, mesh: Mesh, workload: Workload
) -> list[Program]:
    """The two towers of CLIP; `images` are number, height and width of a video's images."""
    images_per_video, height, width = images
    sizes = pipeline_folder.read_config(clip_hf, folder)
    settings = Preprocess.from_folder(folder, sizes.vision.image_size)
    model = CLIP(sizes, dtype=jnp.dtype(dtype))
    params = param_shapes(clip_hf, sizes, dtype, mesh)
    frames = batch_shape((IMAGES, height, width, 3), np.uint8, mesh)
    ids = batch_shape((TEXTS, sizes.text.positions), np.int32, mesh)

    def encode_image(params, frames):
        return model.apply({"params": params}, clip_pixels(frames, settings), method="encode_image")

    def encode_text(params, ids):
        return model.apply({"params": params}, ids, method="encode_text")

    return [
        reward_program(
            "CLIP images",
            f"{IMAGES} images of {height} x {width}",
            workload.num_videos * images_per_video / IMAGES,
            mesh,
            lambda: jax.jit(encode_image).trace(params, frames),
        ),
        reward_program(
            "CLIP texts",
            f"{TEXTS} texts",
            workload.num_videos / TEXTS,
            mesh,
            lambda: jax.jit(encode_text).trace(params, ids),
        ),
    ]


def _mps(options: MPSOptions, folder: Path, mesh: Mesh, workload: Workload) -> list[Program]:
    num_frames = options.frames
    _, height, width = workload.size
    sizes = pipeline_folder.read_config(mps_hf, folder)
    clip = sizes.clip
    batch_size = mps.batch_size_on(mesh)
    settings = Preprocess.from_folder(folder, clip.vision.image_size)
    model = MPSModel(sizes, dtype=jnp.dtype(options.dtype))
    params = param_shapes(mps_hf, sizes, options.dtype, mesh)
    condition = jax.ShapeDtypeStruct(
        (clip.text.positions, clip.projection_dim),
        jnp.float32,
        sharding=sharding_rules.replicated(mesh),
    )
    frames = batch_shape((batch_size, num_frames, height, width, 3), np.uint8, mesh)
    ids = batch_shape((batch_size, clip.text.positions), np.int32, mesh)
    return [
        reward_program(
            "MPS",
            f"{batch_size} videos, {num_frames} frames of {height} x {width}",
            workload.num_videos / batch_size,
            mesh,
            lambda: mps.program(model, settings).trace(params, condition, frames, ids),
        )
    ]


def _videoscore(
    options: VideoScoreOptions, folder: Path, mesh: Mesh, workload: Workload
) -> list[Program]:
    sizes = pipeline_folder.read_config(idefics2_hf, folder)
    model = videoscore.make_model(sizes, options.dtype, mesh)
    params = param_shapes(idefics2_hf, sizes, options.dtype, mesh)
    max_frames = options.frames or videoscore.FRAMES[options.version]
    num_frames = min(max_frames, workload.size[0])
    batch_size = batch_shards(mesh) * options.batch_size
    height, width = ImageSettings.from_folder(folder).target(*workload.size[1:])
    pixels = batch_shape((videoscore.IMAGES * batch_size, height, width, 3), np.float32, mesh)
    query = videoscore.read_query(options.query or videoscore.QUERY)
    latents = sizes.perceiver.latents
    num_tokens = workload.prompt_length + len(query) // LETTERS_PER_TOKEN
    num_tokens += num_frames * (latents + FRAME_SEPARATOR_TOKENS)
    length = math.ceil(num_tokens / videoscore.TOKENS) * videoscore.TOKENS
    decoder_inputs = (
        batch_shape((batch_size, length), np.int32, mesh),
        batch_shape((batch_size, length), np.bool_, mesh),
        batch_shape((batch_size, num_frames * latents, sizes.text.hidden_size), np.float32, mesh),
    )
    vision_params = {part: params[part] for part in videoscore.VISION_PARTS}
    return [
        reward_program(
            "VideoScore, frames",
            f"{pixels.shape[0]} frames of {height} x {width}",
            workload.num_videos * num_frames / pixels.shape[0],
            mesh,
            lambda: videoscore.program(model, "encode_images").trace(vision_params, pixels),
        ),
        reward_program(
            "VideoScore, decoder",
            f"{batch_size} videos of {num_frames} frames, as {length} tokens",
            workload.num_videos / batch_size,
            mesh,
            lambda: videoscore.program(model, "score").trace(params, *decoder_inputs),
        ),
    ]


BUILDERS: dict[str, Callable[..., list[Program]]] = {
    "aesthetic": _clip,
    "clip_alignment": _clip,
    "clip_consistency": _clip_consistency,
    "hpsv3": judge_programs.hpsv3_programs,
    "motion": _motion,
    "mps": _mps,
    "videoreward": judge_programs.videoreward_programs,
    "videoscore": _videoscore,
    "videoscore_qwen2_vl": judge_programs.videoscore_programs,
}
