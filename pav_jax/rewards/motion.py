"""TC and DD: temporal consistency and dynamic degree, computed from the frames alone.

Both follow dimensions of VBench (Huang et al. 2024, arXiv 2311.17982, sections 3.2 and A), without
its networks:

- TC follows "temporal flickering", 1 - mean |difference of neighbouring frames| / 255, and "motion
  smoothness". The difference is taken after block matching, and a block may match either
  neighbouring frame. So neither a moving object, however sharp, nor the background it uncovers
  counts as flicker. The jerk of the whole picture is subtracted, because a shaken camera is not
  consistent. Jerk is the change of the median displacement from one step to the next, as a fraction
  of the picture's side.
- DD follows "dynamic degree": the mean of the largest 5 % of displacements per step, as a fraction
  of the search range (a tenth of the shorter side), in 0..1. VBench counts the videos above a
  threshold instead.

Block matching: overlapping blocks of 8 x 8 pixels with stride 4, full search, mean absolute
difference of colours. A displacement must lower the difference by one grey level per pixel of its
length, otherwise noise would look like motion. Videos are first downscaled to a shorter side of 64
pixels.

Shapes: T frames, P pairs of frames, h w downscaled pixels, y x blocks.
"""

import functools
from collections.abc import Sequence
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from pav_jax.rewards.fingerprint import fingerprint
from pav_jax.rewards.options import MotionOptions
from pav_jax.rewards.reward import PretrainedReward, Scores, Videos

SIDE = 64  # shorter side of the downscaled frames, in pixels
BLOCK = 8  # side of a block, in pixels
STRIDE = 4  # pixels between neighbouring blocks
REACH = 6  # largest displacement searched, in downscaled pixels: a tenth of SIDE
PENALTY = 1.0  # grey levels per pixel of displacement
TOP = 0.05  # fraction of the displacements that DD averages


@functools.cache
def block_matrix(size: int) -> np.ndarray:
    """Averaging matrix [blocks, size]: row i averages the pixels [4 i, 4 i + 8)."""
    starts = np.arange(0, size - BLOCK + 1, STRIDE)
    at = np.arange(size)[None, :]
    mask = (at >= starts[:, None]) & (at < starts[:, None] + BLOCK)
    return (mask / mask.sum(1, keepdims=True)).astype(np.float32)


def downscale(video: UInt8[Array, "T H W 3"]) -> Float[Array, "T h w 3"]:
    """Resizes to a shorter side of SIDE pixels with antialiasing; smaller videos keep their size.

    Returns:
      Grey levels 0..255. Sides shorter than a block are padded to one.
    """
    T, H, W, _ = video.shape
    x = video.astype(jnp.float32)
    factor = SIDE / min(H, W)
    if factor >= 1:
        padding = [(0, 0), (0, max(BLOCK - H, 0)), (0, max(BLOCK - W, 0)), (0, 0)]
        return jnp.pad(x, padding, mode="edge")
    return jax.image.resize(
        x, (T, round(H * factor), round(W * factor), 3), "linear", antialias=True
    )


def match(
    from_CxPxhxw: Array, to_CxPxhxw: Array
) -> tuple[Float[Array, "P y x"], Float[Array, "P y x 2"]]:
    """Finds the best match in `to` for every block of `from`.

    Colours are separate planes that are added one by one, and rows of blocks are sums of rows of
    pixels: on a CPU this is 8 times faster than reductions over an axis of length 3.

    Returns:
      The mean absolute difference of the best match, in grey levels, and its displacement (dy, dx)
      in pixels.
    """
    _, P, h, w = from_CxPxhxw.shape
    columns = jnp.asarray(block_matrix(w)).T
    padded = jnp.pad(to_CxPxhxw, ((0, 0), (0, 0), (REACH, REACH), (REACH, REACH)), mode="edge")
    shape = (P, h // STRIDE - 1, columns.shape[1])
    steps = np.arange(-REACH, REACH + 1)
    shifts = np.stack(np.meshgrid(steps, steps, indexing="ij"), -1).reshape(-1, 2)
    # short displacements first, so that they win ties
    shifts = shifts[np.argsort(np.hypot(*shifts.T), kind="stable")]

    def search(best, shift):
        cost, difference, flow = best
        shifted = jax.lax.dynamic_slice(
            padded, (0, 0, shift[0] + REACH, shift[1] + REACH), from_CxPxhxw.shape
        )
        colours = (jnp.abs(shifted[c] - from_CxPxhxw[c]) for c in range(3))
        pixels_Pxhxw = cast(Array, sum(colours)) / 3
        # sums of STRIDE rows, [P, h / STRIDE, w]; two of them are a row of blocks
        rows = (pixels_Pxhxw[:, i : h - h % STRIDE : STRIDE] for i in range(STRIDE))
        strips = cast(Array, sum(rows))
        bands = (strips[:, :-1] + strips[:, 1:]) / BLOCK
        blocks = jnp.matmul(
            bands.reshape(-1, w), columns, precision=jax.lax.Precision.HIGHEST
        ).reshape(shape)
        length = jnp.sqrt(jnp.sum(jnp.square(shift.astype(jnp.float32))))
        better = blocks + PENALTY * length < cost
        new = (
            jnp.where(better, blocks + PENALTY * length, cost),
            jnp.where(better, blocks, difference),
            jnp.where(better[..., None], shift.astype(jnp.float32), flow),
        )
        return new, None

    start = (jnp.full(shape, jnp.inf), jnp.full(shape, jnp.inf), jnp.zeros((*shape, 2)))
    (_, difference, flow), _ = jax.lax.scan(search, start, jnp.asarray(shifts))
    return difference, flow


@jax.jit
def motion_scores(video: UInt8[Array, "T H W 3"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(TC, DD) of one video; NaN for a single frame."""
    T = video.shape[0]
    if T < 2:
        return jnp.float32(jnp.nan), jnp.float32(jnp.nan)
    x = downscale(video).transpose(3, 0, 1, 2)
    forward, flow = match(x[:, :-1], x[:, 1:])  # blocks of frame t in t + 1
    backward, _ = match(x[:, 1:], x[:, :-1])  # blocks of frame t + 1 in t
    # an inner frame needs to match one of its two neighbours
    inner = jnp.minimum(forward[1:], backward[:-1])
    difference_Txyx = jnp.concatenate([forward[:1], inner, backward[-1:]])
    side = min(x.shape[2:])
    camera = jnp.median(flow, axis=(1, 2))
    jerk = jnp.linalg.norm(jnp.diff(camera, axis=0), axis=-1).mean() / side if T > 2 else 0.0
    consistency = 1 - difference_Txyx.mean() / 255 - jerk
    speeds = jnp.sort(jnp.linalg.norm(flow, axis=-1).reshape(T - 1, -1), axis=1)
    count = max(1, round(TOP * speeds.shape[1]))
    return consistency, jnp.minimum(speeds[:, -count:].mean() / REACH, 1.0)


class Motion(PretrainedReward):
    """The rewards TC and DD. Videos are measured one by one."""

    names = ("TC", "DD")
    options = MotionOptions
    fingerprint = fingerprint("motion")

    @classmethod
    def from_pretrained(cls) -> "Motion":
        """Makes the reward; it has no checkpoint."""
        return cls()

    def score(
        self, videos: Videos, prompts: Sequence[str], refined: Sequence[str] | None = None
    ) -> Scores:
        """Score videos [B, T, H, W, 3]; returns TC and DD, each [B]."""
        pairs = [[float(value) for value in motion_scores(video)] for video in videos]
        scores_Bx2 = np.array(pairs, np.float32).reshape(-1, 2)
        return {"TC": scores_Bx2[:, 0], "DD": scores_Bx2[:, 1]}
