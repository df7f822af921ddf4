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
  threshold instead. Frames that are shown at more than 8 per second are thinned out by their time
  stamps, and displacements are per eighth of a second, so DD is that of the motion, not of the
  file's frame rate.

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
from jaxtyping import Array, Float, Int, UInt8

from pav_jax.rewards.fingerprint import fingerprint
from pav_jax.rewards.options import MotionOptions
from pav_jax.rewards.reward import PretrainedReward, Scores, Videos

SIDE = 64  # shorter side of the downscaled frames, in pixels
BLOCK = 8  # side of a block, in pixels
STRIDE = 4  # pixels between neighbouring blocks
REACH = 6  # largest displacement searched, in downscaled pixels: a tenth of SIDE
PENALTY = 1.0  # grey levels per pixel of displacement
FRAME_RATE = 8.0  # frames per second that DD compares
PAIRS = 256  # pairs of neighbouring frames that are matched together
TOP = 0.05  # fraction of the displacements that DD averages


@functools.cache
def block_matrix(size: int) -> np.ndarray:
    """Averaging matrix [blocks, size]: row i averages the pixels [4 i, 4 i + 8)."""
    starts = np.arange(0, size - BLOCK + 1, STRIDE)
    at = np.arange(size)[None, :]
    mask = (at >= starts[:, None]) & (at < starts[:, None] + BLOCK)
    return (mask / mask.sum(1, keepdims=True)).astype(np.float32)


def downscale(
    video: UInt8[Array, "T H W 3"] | Float[Array, "T H W 3"],
) -> Float[Array, "T h w 3"]:
    """Resizes to a shorter side of SIDE pixels with antialiasing; smaller videos keep their size.

    A downscaled video stays as it is.

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


Frames = UInt8[Array, "T H W 3"] | Float[Array, "T H W 3"]
_reduce = jax.jit(downscale)


@jax.jit
def motion_scores(
    video: Frames, paces: Float[Array, "P"] | None = None
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(TC, DD) of one video; NaN for a single frame.

    Args:
      paces: factor of the displacements of each step in DD; None: 1.
    """
    T = video.shape[0]
    if T < 2:
        return jnp.float32(jnp.nan), jnp.float32(jnp.nan)
    x = downscale(video).transpose(3, 0, 1, 2)
    forward, flow = match(x[:, :-1], x[:, 1:])  # blocks of frame t in t + 1
    backward, _ = match(x[:, 1:], x[:, :-1])  # blocks of frame t + 1 in t
    return statistics(forward, backward, flow, min(x.shape[2:]), paces)


def statistics(
    forward: Float[Array, "P y x"],
    backward: Float[Array, "P y x"],
    flow: Float[Array, "P y x 2"],
    side: int,
    paces: Float[Array, "P"] | None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(TC, DD) of the matches of all pairs of neighbouring frames.

    Args:
      side: the shorter side of the downscaled frames, in pixels.
      paces: as in `motion_scores`.
    """
    pairs = len(flow)
    # an inner frame needs to match one of its two neighbours
    inner = jnp.minimum(forward[1:], backward[:-1])
    difference_Txyx = jnp.concatenate([forward[:1], inner, backward[-1:]])
    camera = jnp.median(flow, axis=(1, 2))
    jerk = jnp.linalg.norm(jnp.diff(camera, axis=0), axis=-1).mean() / side if pairs > 1 else 0.0
    consistency = 1 - difference_Txyx.mean() / 255 - jerk
    speeds = jnp.sort(jnp.linalg.norm(flow, axis=-1).reshape(pairs, -1), axis=1)
    if paces is not None:
        speeds = speeds * paces[:, None]
    count = max(1, round(TOP * speeds.shape[1]))
    return consistency, jnp.minimum(speeds[:, -count:].mean() / REACH, 1.0)


_match = jax.jit(match)
_statistics = jax.jit(statistics, static_argnums=3)


def long_motion_scores(video: Frames, paces: Float[Array, "P"] | None = None) -> tuple:
    """`motion_scores` in memory that does not grow with the search: PAIRS pairs at a time."""
    if len(video) <= PAIRS + 1:
        return motion_scores(video, paces)
    matches = []
    for start in range(0, len(video) - 1, PAIRS):
        # the last part overlaps the one before it, so that all have one shape
        first = min(start, len(video) - 1 - PAIRS)
        x = _reduce(video[first : first + PAIRS + 1]).transpose(3, 0, 1, 2)
        parts = (*_match(x[:, :-1], x[:, 1:]), _match(x[:, 1:], x[:, :-1])[0])
        matches.append([np.asarray(part)[start - first :] for part in parts])
    forward, flow, backward = (np.concatenate(parts) for parts in zip(*matches, strict=True))
    return _statistics(forward, backward, flow, min(x.shape[2:]), paces)


def thinned(times: Float[np.ndarray, "T"]) -> Int[np.ndarray, "n"]:
    """Indices of the frames that DD compares: the nearest to each eighth of a second."""
    if len(times) < 2:
        return np.arange(len(times))
    # a frame that is the nearest to any tick is so to the one before or after it
    before = np.floor((times - times[0]) * FRAME_RATE)
    ticks = np.unique([before, before + 1]) / FRAME_RATE
    ticks = ticks[ticks < times[-1] - times[0] + 0.5 / FRAME_RATE] + times[0]
    after = np.clip(np.searchsorted(times, ticks), 1, len(times) - 1)
    is_before_nearer = ticks - times[after - 1] <= times[after] - ticks
    return np.unique(after - is_before_nearer)


def timed_motion_scores(video: Frames, times: Float[np.ndarray, "T"]) -> tuple:
    """(TC of all frames, DD of the thinned ones) of one video.

    Args:
      times: when each frame is shown, in seconds, ascending.
    """
    indices = thinned(times)
    paces = 1 / FRAME_RATE / np.diff(times[indices])
    paces = None if np.allclose(paces, 1, atol=1e-6) else jnp.asarray(paces, jnp.float32)
    if len(indices) == len(video):
        return long_motion_scores(video, paces)
    consistency, _ = long_motion_scores(video)
    return consistency, long_motion_scores(video[indices], paces)[1]


class Motion(PretrainedReward):
    """The rewards TC and DD. Videos are measured one by one."""

    names = ("TC", "DD")
    options = MotionOptions
    fingerprint = fingerprint("motion")
    uses_times = True

    @classmethod
    def from_pretrained(cls) -> "Motion":
        """Makes the reward; it has no checkpoint."""
        return cls()

    def reduce_frame(self, frame: UInt8[np.ndarray, "H W 3"]) -> np.ndarray:
        """The downscaled frame, float32 [h, w, 3]."""
        return np.asarray(_reduce(frame[None])[0])

    def score(
        self,
        videos: Videos | Float[np.ndarray, "B T h w 3"],
        prompts: Sequence[str],
        refined: Sequence[str] | None = None,
        times: Float[np.ndarray, "B T"] | None = None,
    ) -> Scores:
        """Score videos [B, T, H, W, 3]; returns TC and DD, each [B].

        Args:
          times: when each frame is shown, in seconds; None: FRAME_RATE frames per second.
        """
        if times is None:
            pairs = [long_motion_scores(video) for video in videos]
        else:
            pairs = [timed_motion_scores(*item) for item in zip(videos, times, strict=True)]
        scores_Bx2 = np.array(pairs, np.float32).reshape(-1, 2)
        return {"TC": scores_Bx2[:, 0], "DD": scores_Bx2[:, 1]}
