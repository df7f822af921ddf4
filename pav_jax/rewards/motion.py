"""TC and DD: temporal consistency and dynamic degree, from the frames alone.

Both restate dimensions of VBench (Huang et al. 2024, arXiv 2311.17982, sections 3.2 and A) without
its networks:

- TC follows "temporal flickering", 1 - mean |difference of neighbouring frames| / 255, and "motion
  smoothness". The difference is taken after block matching, and a frame's block may match either
  neighbour, so an object that moves, however sharp, or uncovers its background is no flicker. The
  jerk of the whole picture (how much its median displacement changes from one step to the next, as
  a share of the picture's side) is subtracted: a shaken camera is not consistent.
- DD follows "dynamic degree", the mean of the largest 5 % of displacements, per step and as a share
  of the search range (a tenth of the shorter side), where VBench counts videos above a threshold.
  In 0..1.

Block matching: overlapping blocks of 8 x 8 pixels every 4, full search, colours compared by mean
absolute difference; a displacement must lower the difference by a grey level per pixel of its
length, or noise would look like motion. Videos are first reduced so that the shorter side has 64
pixels.

Shapes: T frames, P pairs of frames, h w reduced pixels, y x blocks.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from pav_jax.rewards.fingerprint import fingerprint
from pav_jax.rewards.options import MotionOptions
from pav_jax.rewards.reward import PretrainedReward

SIDE = 64  # pixels of the shorter side that motion is measured at
BLOCK, STRIDE = 8, 4
REACH = 6  # largest displacement searched, in reduced pixels: a tenth of SIDE
PENALTY = 1.0  # grey levels per pixel of displacement
TOP = 0.05


@functools.cache
def block_matrix(size: int) -> np.ndarray:
    """[blocks, size]: row i averages pixels [4 i, 4 i + 8)."""
    starts = np.arange(0, size - BLOCK + 1, STRIDE)
    at = np.arange(size)[None, :]
    mask = (at >= starts[:, None]) & (at < starts[:, None] + BLOCK)
    return (mask / mask.sum(1, keepdims=True)).astype(np.float32)


def reduce(video: UInt8[Array, "T H W 3"]) -> Float[Array, "T h w 3"]:
    """Grey levels 0..255 with the shorter side at SIDE, averaged; smaller videos stay as they
    are."""
    T, H, W, _ = video.shape
    x, factor = video.astype(jnp.float32), SIDE / min(H, W)
    if factor >= 1:
        small = [(0, 0), (0, max(BLOCK - H, 0)), (0, max(BLOCK - W, 0)), (0, 0)]
        return jnp.pad(x, small, mode="edge")
    return jax.image.resize(
        x, (T, round(H * factor), round(W * factor), 3), "linear", antialias=True
    )


def match(
    from_CxPxhxw: Array, to_CxPxhxw: Array
) -> tuple[Float[Array, "P y x"], Float[Array, "P y x 2"]]:
    """For every block of `from`, the smallest mean absolute difference in `to` and the displacement
    (dy, dx) there.

    Colours are whole planes, added one by one, and block rows are sums of rows: on a CPU that is 8
    times faster than reductions over an axis of three.
    """
    _, P, h, w = from_CxPxhxw.shape
    columns = jnp.asarray(block_matrix(w)).T
    padded = jnp.pad(to_CxPxhxw, ((0, 0), (0, 0), (REACH, REACH), (REACH, REACH)), mode="edge")
    shape = (P, h // STRIDE - 1, columns.shape[1])
    steps = np.arange(-REACH, REACH + 1)
    shifts = np.stack(np.meshgrid(steps, steps, indexing="ij"), -1).reshape(-1, 2)
    shifts = shifts[
        np.argsort(np.hypot(*shifts.T), kind="stable")
    ]  # short ones first, so that they win ties

    def search(best, shift):
        cost, difference, flow = best
        moved = jax.lax.dynamic_slice(
            padded, (0, 0, shift[0] + REACH, shift[1] + REACH), from_CxPxhxw.shape
        )
        pixels_Pxhxw = sum(jnp.abs(moved[c] - from_CxPxhxw[c]) for c in range(3)) / 3
        strips = sum(
            pixels_Pxhxw[:, i : h - h % STRIDE : STRIDE] for i in range(STRIDE)
        )  # [P, h / 4, w]
        bands = (strips[:, :-1] + strips[:, 1:]) / BLOCK
        here = jnp.matmul(
            bands.reshape(-1, w), columns, precision=jax.lax.Precision.HIGHEST
        ).reshape(shape)
        length = jnp.sqrt(jnp.sum(jnp.square(shift.astype(jnp.float32))))
        better = here + PENALTY * length < cost
        new = (
            jnp.where(better, here + PENALTY * length, cost),
            jnp.where(better, here, difference),
            jnp.where(better[..., None], shift.astype(jnp.float32), flow),
        )
        return new, None

    start = (jnp.full(shape, jnp.inf), jnp.full(shape, jnp.inf), jnp.zeros((*shape, 2)))
    (_, difference, flow), _ = jax.lax.scan(search, start, jnp.asarray(shifts))
    return difference, flow


@jax.jit
def motion_scores(video: UInt8[Array, "T H W 3"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(TC, DD) of one video. A single frame has no answer: both are NaN."""
    T = video.shape[0]
    if T < 2:
        return jnp.float32(jnp.nan), jnp.float32(jnp.nan)
    x = reduce(video).transpose(3, 0, 1, 2)
    forward, flow = match(x[:, :-1], x[:, 1:])  # frame t in t + 1
    backward, _ = match(x[:, 1:], x[:, :-1])  # frame t + 1 in t
    inner = jnp.minimum(
        forward[1:], backward[:-1]
    )  # frames that have two neighbours need to match one
    difference_Txyx = jnp.concatenate([forward[:1], inner, backward[-1:]])
    side = min(x.shape[2:])
    whole = jnp.median(flow, axis=(1, 2))
    jerk = jnp.linalg.norm(jnp.diff(whole, axis=0), axis=-1).mean() / side if T > 2 else 0.0
    consistency = 1 - difference_Txyx.mean() / 255 - jerk
    speeds = jnp.sort(jnp.linalg.norm(flow, axis=-1).reshape(T - 1, -1), axis=1)
    count = max(1, round(TOP * speeds.shape[1]))
    return consistency, jnp.minimum(speeds[:, -count:].mean() / REACH, 1.0)


class Motion(PretrainedReward):
    """TC and DD behind the suite's protocol. Videos are measured one by one, so a score never sees
    its batch."""

    names = ("TC", "DD")
    options = MotionOptions
    fingerprint = fingerprint("motion")

    @classmethod
    def from_pretrained(cls) -> "Motion":
        """Make the reward; it has no checkpoint."""
        return cls()

    def score(
        self, videos: np.ndarray, prompts: Sequence[str], refined=None
    ) -> dict[str, np.ndarray]:
        pairs = np.array(
            [[float(v) for v in motion_scores(video)] for video in videos], np.float32
        ).reshape(-1, 2)
        return {"TC": pairs[:, 0], "DD": pairs[:, 1]}
