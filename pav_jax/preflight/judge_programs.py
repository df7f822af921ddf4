"""The programs of the rewards that are based on Qwen2-VL with a head: VideoReward, HPSv3 and
VideoScore-Qwen2-VL."""

import dataclasses
import math
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from pav_jax.models.qwen2_vl import hf
from pav_jax.parallel.mesh import batch_shards
from pav_jax.preflight.program import Program, batch_shape, param_shapes
from pav_jax.preflight.reward_workload import LETTERS_PER_TOKEN, Workload, reward_program
from pav_jax.rewards import hpsv3, qwen2_vl_judge, videoreward, videoscore, videoscore_qwen2_vl
from pav_jax.rewards.options import HPSv3Options, VideoRewardOptions, VideoScoreQwen2VLOptions
from pav_jax.rewards.qwen2_vl_processor import (
    CHAT,
    PixelSettings,
    sampled_frames,
    target_size,
)
from pav_jax.video import pipeline_folder

Options = VideoRewardOptions | HPSv3Options | VideoScoreQwen2VLOptions


@dataclasses.dataclass(frozen=True)
class _Rows:
    """What one row of a judge holds.

    Attributes:
      num_frames: of the video.
      per_video: rows per video.
      text: of the template.
      reads: tokens that are read.
      pixels: limits of a frame.
    """

    num_frames: int
    per_video: int
    text: str
    reads: int
    pixels: tuple[int, int]


def videoreward_programs(
    options: VideoRewardOptions, folder: Path, mesh: Mesh, workload: Workload
) -> list[Program]:
    """The programs of VideoReward."""
    settings = videoreward.Settings.from_folder(folder)
    frames = options.frames or len(sampled_frames(workload.size[0], workload.fps, settings.fps))
    limit = settings.max_pixels
    rows = _Rows(
        min(frames, workload.size[0]),
        1,
        qwen2_vl_judge.read_template(options.template or videoreward.TEMPLATE, "videoreward"),
        len(videoreward.NAMES),
        (min(videoreward.MIN_PIXELS, limit), limit),
    )
    return _programs("VideoReward", options, rows, folder, mesh, workload)


def hpsv3_programs(
    options: HPSv3Options, folder: Path, mesh: Mesh, workload: Workload
) -> list[Program]:
    """The programs of HPSv3."""
    text = qwen2_vl_judge.read_template(options.template or hpsv3.TEMPLATE, "hpsv3")
    per_video = min(options.frames, workload.size[0])
    rows = _Rows(1, per_video, text, 1, (options.pixels, options.pixels))
    return _programs("HPSv3", options, rows, folder, mesh, workload)


def videoscore_programs(
    options: VideoScoreQwen2VLOptions, folder: Path, mesh: Mesh, workload: Workload
) -> list[Program]:
    """The programs of VideoScore-Qwen2-VL."""
    fps = videoscore_qwen2_vl.FPS
    frames = options.frames or len(sampled_frames(workload.size[0], workload.fps, fps))
    text = videoscore.read_query(options.query or videoscore.QUERY)
    limit = options.max_pixels
    limits = (min(videoreward.MIN_PIXELS, limit), limit)
    rows = _Rows(min(frames, workload.size[0]), 1, text, 1, limits)
    return _programs("VideoScore-Qwen2-VL", options, rows, folder, mesh, workload)


def _programs(
    name: str, options: Options, rows: _Rows, folder: Path, mesh: Mesh, workload: Workload
) -> list[Program]:
    sizes = pipeline_folder.read_config(hf, folder)
    vision = sizes.vision
    model = qwen2_vl_judge.make_model(sizes, options.dtype, mesh)
    params = param_shapes(hf, sizes, options.dtype, mesh)
    batch_size = batch_shards(mesh) * options.batch_size
    factor = vision.patch_size * vision.merge_size
    height, width = target_size(*workload.size[1:], factor, *rows.pixels)
    pairs = -(-rows.num_frames // vision.temporal_patch_size)
    vectors = pairs * height * width // factor**2
    letters = len(CHAT) + len(rows.text)
    num_tokens = workload.prompt_length + letters // LETTERS_PER_TOKEN + vectors
    length = math.ceil(num_tokens / qwen2_vl_judge.TOKENS) * qwen2_vl_judge.TOKENS
    frames = batch_shape(
        (qwen2_vl_judge.PAIRS * batch_size, vision.temporal_patch_size, height, width, 3),
        np.uint8,
        mesh,
    )
    inputs = (
        batch_shape((batch_size, length), np.int32, mesh),
        batch_shape((batch_size, length), np.bool_, mesh),
        batch_shape((batch_size, length, 3), np.int32, mesh),
        batch_shape((batch_size, vectors, sizes.text.hidden_size), jnp.float32, mesh),
        batch_shape((batch_size, rows.reads), np.int32, mesh),
    )
    vision_params = {part: params[part] for part in qwen2_vl_judge.VISION_PARTS}
    settings = PixelSettings.from_folder(folder, sizes)
    num_rows = workload.num_videos * rows.per_video
    return [
        reward_program(
            f"{name}, frames",
            f"{frames.shape[0]} x {vision.temporal_patch_size} frames of {height} x {width}",
            num_rows * pairs / frames.shape[0],
            mesh,
            lambda: qwen2_vl_judge.encode_program(model, settings).trace(vision_params, frames),
        ),
        reward_program(
            f"{name}, decoder",
            f"{batch_size} rows of {rows.num_frames} frames, as {length} tokens",
            num_rows / batch_size,
            mesh,
            lambda: qwen2_vl_judge.decode_program(model).trace(params, *inputs),
        ),
    ]
