"""Renders scenes as videos of nine frames with 64 x 64 pixels, from signed distance fields."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, UInt8

from pav_jax.mini.world import FRAMES, HEIGHT, MOTIONS, WIDTH, Scene

PALETTE = np.array(  # one row per colour of world.COLOURS, sRGB in 0..1
    [
        [0.90, 0.10, 0.12],
        [0.12, 0.30, 0.95],
        [0.10, 0.70, 0.20],
        [0.98, 0.88, 0.10],
        [0.55, 0.15, 0.75],
        [1.00, 0.52, 0.05],
        [0.97, 0.97, 0.97],
        [1.00, 0.50, 0.72],
    ],
    np.float32,
)
RADIUS = np.array([0.46, 0.57, 0.70], np.float32)  # per size; the frame spans -1..1
LIGHT = np.array([0.42, 0.72, 1.0], np.float32)  # per level of light: factor of every pixel
# Per level of contrast: share of mid-grey mixed in.
FLATNESS = np.array([0.55, 0.25, 0.0], np.float32)
# Per level of grain: standard deviation of the luminance noise.
GRAIN = np.array([0.09, 0.03, 0.0], np.float32)
# Per level of focus: standard deviation in pixels.
BLUR = np.array([1.9, 0.85, 0.0], np.float32)
# Per world.CAMERAS: how far a pan moves, and by how much a zoom scales, over the clip.
CAMERA_PATHS = (0.0, 0.6, -0.45)
# Per level of steadiness: standard deviation of the frame offset; 2 / 64 is one pixel.
SHAKE = np.array([0.06, 0.02, 0.0], np.float32)


def _box(x, y, w, h):
    return jnp.maximum(jnp.abs(x) - w, jnp.abs(y) - h)


def _star(x, y):
    # Folds the plane into one tenth of the star, where its outline is the line from a tip (1, 0) to
    # an inner corner.
    wedge = 2 * jnp.pi / 5
    angle = jnp.abs((jnp.arctan2(x, y) + wedge / 2) % wedge - wedge / 2)
    radius = jnp.hypot(x, y)
    u = radius * jnp.cos(angle)
    v = radius * jnp.sin(angle)
    cx = 0.46 * np.cos(wedge / 2)
    cy = 0.46 * np.sin(wedge / 2)
    length = np.hypot(1 - cx, cy)
    return ((u - 1) * cy + v * (1 - cx)) / length


def _heart(x, y):
    lobes = jnp.hypot(jnp.abs(x) - 0.42, y - 0.34) - 0.50
    tip = jnp.maximum((jnp.abs(x) - (y + 0.9) * 0.98) * 0.7, y - 0.40)
    return jnp.minimum(lobes, jnp.maximum(tip, -y - 0.95))


_SHAPES = (  # signed distance (negative inside) in subject units, one per world.SUBJECTS
    lambda x, y: jnp.hypot(x, y) - 0.88,
    lambda x, y: _box(x, y, 0.76, 0.76),
    _star,
    _heart,
    lambda x, y: jnp.abs(jnp.hypot(x, y) - 0.66) - 0.24,
    lambda x, y: jnp.maximum(jnp.abs(x) * 0.866 + (y + 0.2) * 0.5, -(y + 0.2)) - 0.52,
    lambda x, y: jnp.maximum(jnp.hypot(x, y) - 0.92, 0.72 - jnp.hypot(x - 0.45, y - 0.12)),
    lambda x, y: jnp.minimum(_box(x, y, 0.92, 0.30), _box(x, y, 0.30, 0.92)),
)


def _pose(motion, t):
    """Centre (x, y up) and scale of the subject at time t in 0..1. It moves along the axes of the
    frame."""
    offset = 0.9 * t - 0.45
    zero = jnp.zeros_like(t)
    unit = jnp.ones_like(t)
    poses = {
        "right": (offset, zero, unit),
        "left": (-offset, zero, unit),
        "rise": (zero, offset, unit),
        "fall": (zero, -offset, unit),
        "bounce": (zero, -0.45 + 0.9 * jnp.sin(jnp.pi * t), unit),
        "grow": (zero, zero, 0.45 + 0.95 * t),
        "shrink": (zero, zero, 1.4 - 0.95 * t),
    }
    return [jnp.stack(column)[motion] for column in zip(*(poses[m] for m in MOTIONS), strict=True)]


def path(scene: Scene) -> Float[np.ndarray, "T 5"]:
    """The motion of a scene in each frame.

    Returns:
      The subject's centre (x, y up), its radius, and how far the camera has panned and zoomed.
    """
    x, y, scale = _poses()[scene.motion]
    t = np.linspace(0, 1, FRAMES)
    pan, zoom = (CAMERA_PATHS[i] * t if scene.camera == i else 0.0 * t for i in (1, 2))
    return np.stack([x, y, RADIUS[scene.size] * scale, pan, zoom], axis=-1)


@functools.cache
def _poses() -> Float[np.ndarray, "motions 3 T"]:
    return np.array([_pose(motion, jnp.linspace(0, 1, FRAMES)) for motion in range(len(MOTIONS))])


def _background(kind, x, y):
    """RGB of a background at world coordinates (x, y up). The six backgrounds differ clearly in
    colour and texture."""

    def rgb(*channels):
        return jnp.asarray(channels, jnp.float32)

    hill = y < -0.15 + 0.12 * jnp.sin(2.3 * x + 1)
    meadow = jnp.where(hill[..., None], rgb(0.35, 0.62, 0.22), rgb(0.62, 0.84, 0.97))
    meadow = meadow - 0.10 * (hill & (jnp.sin(17 * x) * jnp.sin(19 * y) > 0.45))[..., None]
    wave = jnp.sin(9 * y + 1.6 * jnp.sin(4 * x))
    sea = rgb(0.05, 0.35, 0.55) + 0.12 * wave[..., None] * rgb(0.6, 1.0, 1.0)
    dune = y < 0.10 + 0.22 * jnp.sin(1.9 * x)
    near = y < -0.35 + 0.18 * jnp.sin(2.7 * x + 2)
    desert = jnp.where(dune[..., None], rgb(0.87, 0.70, 0.42), rgb(0.97, 0.88, 0.74))
    desert = jnp.where(near[..., None], rgb(0.74, 0.55, 0.30), desert)
    cell_x = jnp.floor(x * 3)
    cell_y = jnp.floor(y * 3)
    hashed = jnp.sin(cell_x * 12.99 + cell_y * 78.23) * 43758.5
    hashed = hashed - jnp.floor(hashed)
    spot = jnp.hypot(x * 3 - cell_x - 0.5, y * 3 - cell_y - 0.5)
    night = jnp.where(
        ((hashed > 0.66) & (spot < 0.2))[..., None], rgb(1.0, 0.98, 0.85), rgb(0.05, 0.06, 0.18)
    )
    row = jnp.floor(y * 2.5)
    mortar = (y * 2.5 - row < 0.14) | ((x * 1.25 + 0.5 * (row % 2)) % 1 < 0.07)
    brick = jnp.where(mortar[..., None], rgb(0.72, 0.68, 0.64), rgb(0.52, 0.24, 0.18))
    studio = rgb(0.62, 0.63, 0.66) * (0.78 + 0.22 * jnp.exp(-(x**2 + y**2)))[..., None]
    studio = studio - 0.08 * (jnp.abs((x * 1.5) % 1 - 0.5) < 0.05)[..., None]
    return jnp.stack([meadow, sea, desert, night, brick, studio])[kind]


def _gaussian_rows(sigma, size):
    """Matrix [size, size] that blurs along one axis; the identity for sigma 0."""
    index = jnp.arange(size)
    weights = jnp.exp(-0.5 * ((index[:, None] - index[None, :]) / jnp.maximum(sigma, 1e-2)) ** 2)
    return weights / weights.sum(-1, keepdims=True)


def _render_one(scene):
    """One scene of `scene_arrays` as frames uint8 [T, H, W, 3] and the subject's mask [T, H, W]."""
    k_position, k_shake, k_grain = jax.random.split(jax.random.key(scene["seed"]), 3)
    light, contrast, grain, focus, steadiness = (scene["quality"][i] for i in range(5))
    t = jnp.linspace(0, 1, FRAMES)
    shake = jnp.asarray(SHAKE)[steadiness] * jax.random.normal(k_shake, (FRAMES, 2))
    # which part of the background is in view
    position = jax.random.uniform(k_position, minval=-3, maxval=3)

    axis = (jnp.arange(WIDTH) + 0.5) / WIDTH * 2 - 1
    x = axis[None, None, :] + shake[:, 0, None, None]
    y = -((jnp.arange(HEIGHT) + 0.5) / HEIGHT * 2 - 1)[None, :, None] + shake[:, 1, None, None]

    # The camera moves the background only: the subject is near and stays in view.
    zoom = jnp.where(scene["camera"] == 2, 1.2 + CAMERA_PATHS[2] * t, 1.0)[:, None, None]
    pan = jnp.where(scene["camera"] == 1, CAMERA_PATHS[1] * t, 0.0)[:, None, None]
    background = _background(scene["background"], x * zoom + pan + position, y * zoom)

    frame, distance = _draw_subject(scene, background, x, y, t)
    frame = _apply_picture_quality(frame, k_grain, light, contrast, grain, focus)
    return jnp.round(jnp.clip(frame, 0, 1) * 255).astype(jnp.uint8), distance < 0


def _draw_subject(scene, background, x, y, t):
    """Returns the frames with the subject, and its signed distance in pixels."""
    cx, cy, scale = (v[:, None, None] for v in _pose(scene["motion"], t))
    radius = jnp.asarray(RADIUS)[scene["size"]] * scale
    px, py = jnp.broadcast_arrays((x - cx) / radius, (y - cy) / radius)
    distance = jax.lax.switch(scene["subject"], _SHAPES, px, py) * radius * WIDTH / 2
    body = jnp.asarray(PALETTE)[scene["colour"]]
    shine = jnp.exp(-((px + 0.30) ** 2 + (py - 0.32) ** 2) / 0.05)
    stripes = 0.5 + 0.5 * jnp.sign(jnp.sin(9.5 * (px + 0.35 * py)))
    fill = jnp.stack(
        [
            jnp.broadcast_to(body, (*px.shape, 3)),
            body + (1 - body) * 0.95 * shine[..., None],
            body * (1 - 0.55 * stripes[..., None]),
        ]
    )[scene["material"]]
    cover = jnp.clip(0.5 - distance, 0, 1)[..., None]
    outline = jnp.clip(1.2 - jnp.abs(distance), 0, 1)[..., None] * 0.75
    frame = background * (1 - cover) + fill * cover
    frame = frame * (1 - outline * jnp.clip(1.5 - distance, 0, 1)[..., None])
    return frame, distance


def _apply_picture_quality(frame, key, light, contrast, grain, focus):
    """Blurs, flattens, dims and adds grain, each by its level."""
    rows = _gaussian_rows(jnp.asarray(BLUR)[focus], HEIGHT)
    frame = jnp.einsum("ij,tjkc->tikc", rows, frame)
    frame = jnp.einsum("kl,tilc->tikc", rows, frame)
    flat = jnp.asarray(FLATNESS)[contrast]
    frame = (frame * (1 - flat) + 0.5 * flat) * jnp.asarray(LIGHT)[light]
    # Grain is two pixels coarse and constant through the clip, so that a video codec or VAE can
    # reproduce it.
    noise = jax.random.normal(key, (1, HEIGHT // 2, WIDTH // 2, 1))
    noise = jnp.repeat(jnp.repeat(noise, 2, axis=1), 2, axis=2)
    return frame + jnp.asarray(GRAIN)[grain] * noise


def scene_arrays(scenes: Sequence[Scene]) -> dict[str, np.ndarray]:
    """The scenes as a batch of integer arrays, [B] each and `quality` [B, 5]."""
    fields = (
        "subject",
        "colour",
        "size",
        "material",
        "motion",
        "background",
        "camera",
        "quality",
        "seed",
    )
    return {f: np.array([getattr(s, f) for s in scenes], np.int32) for f in fields}


# One scene at a time inside one program, so that `switch` evaluates only the requested shape.
_render_batch = jax.jit(lambda arrays: jax.lax.map(_render_one, arrays))


def render(scenes: Sequence[Scene], batch: int = 64) -> UInt8[np.ndarray, "B T H W 3"]:
    """Renders scenes.

    Args:
      batch: scenes in one run of the program; the last batch is padded.
    """
    return render_with_masks(scenes, batch)[0]


def render_with_masks(
    scenes: Sequence[Scene], batch: int = 64
) -> tuple[UInt8[np.ndarray, "B T H W 3"], Bool[np.ndarray, "B T H W"]]:
    """Renders scenes, and masks of the pixels that show the subject."""
    videos = []
    masks = []
    for start in range(0, len(scenes), batch):
        chunk = list(scenes[start : start + batch])
        padded = chunk + [chunk[-1]] * (batch - len(chunk))
        frames, mask = _render_batch(scene_arrays(padded))
        videos.append(np.asarray(frames)[: len(chunk)])
        masks.append(np.asarray(mask)[: len(chunk)])
    return np.concatenate(videos), np.concatenate(masks)


def to_unit(video: ArrayLike) -> Float[Array, "..."]:
    """Converts uint8 frames to the floats in [-1, 1] that a VAE reads."""
    return jnp.asarray(video).astype(jnp.float32) / 127.5 - 1
