"""Frames to CLIP's input on the device: bicubic antialiased resize, centre crop, normalisation; and
which frames.

The resize follows Pillow's `Image.resize(..., BICUBIC)` on 8-bit images, which CLIP was trained
with: Keys' cubic with a = -0.5 (Keys 1981), widened by the reduction factor, along rows first, then
along columns, each pass rounded to 8 bits. Results differ from Pillow's by at most one grey level,
where its fixed-point sums round the other way.

Shapes: N images, H W pixels, T frames.
"""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from pav_jax.errors import BadInput
from pav_jax.storage.json_files import read_json

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of CLIP's training images, per channel
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """`resize`: the shorter side in pixels before the crop; `crop`: (height, width)."""

    resize: int
    crop: tuple[int, int]
    mean: tuple[float, ...] = OPENAI_MEAN
    std: tuple[float, ...] = OPENAI_STD

    @classmethod
    def from_folder(cls, folder: str | Path, image_size: int) -> "Preprocess":
        """Reads preprocessor_config.json where there is one; else `image_size` and OpenAI's
        constants.

        Raises:
          BadInput: the crop is not the square the model takes.
        """
        path = Path(folder) / "preprocessor_config.json"
        if not path.exists():
            return cls(image_size, (image_size, image_size))
        raw = read_json(path)
        size, crop = raw.get("size", image_size), raw.get("crop_size", image_size)
        resize = (
            size.get("shortest_edge", size.get("height", image_size))
            if isinstance(size, dict)
            else size
        )
        crop = (crop["height"], crop["width"]) if isinstance(crop, dict) else (crop, crop)
        if crop != (image_size, image_size):
            raise BadInput(
                f"{path}: crop_size is {list(crop)}, but the model takes {image_size} x"
                f" {image_size} pixels"
            )
        return cls(
            resize,
            crop,
            tuple(raw.get("image_mean", OPENAI_MEAN)),
            tuple(raw.get("image_std", OPENAI_STD)),
        )


def frame_indices(frames: int, count: int) -> np.ndarray:
    """`count` evenly spaced frame numbers: arange(0, T, T / count) cut to int; repeats where the
    clip is shorter."""
    return np.arange(0, frames, frames / count).astype(int)[:count]


@functools.cache
def resize_matrix(source: int, target: int) -> np.ndarray:
    """[target, source] weights of one bicubic pass, rows summing to 1, zero outside the filter's
    support."""
    scale = source / target
    width = max(scale, 1.0)
    centre = (np.arange(target)[:, None] + 0.5) * scale
    first = np.maximum((centre - 2 * width + 0.5).astype(int), 0)
    last = np.minimum((centre + 2 * width + 0.5).astype(int), source)
    at = np.arange(source)[None, :]
    x = np.abs((at - centre + 0.5) / width)
    weights = np.where(
        x < 1, (1.5 * x - 2.5) * x * x + 1, np.where(x < 2, ((-0.5 * x + 2.5) * x - 4) * x + 2, 0.0)
    )
    weights = np.where((at >= first) & (at < last), weights, 0.0)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def resize_bicubic(
    images_NxHxWx3: UInt8[Array, "N H W 3"], height: int, width: int
) -> Float[Array, "N h w 3"]:
    """Pillow's bicubic resize; float32 whole numbers in 0..255."""
    x = images_NxHxWx3.astype(jnp.float32)
    exact = functools.partial(
        jnp.einsum, precision=jax.lax.Precision.HIGHEST
    )  # default precision is bf16 on a TPU
    for axis, target, spec in ((2, width, "nhwc,vw->nhvc"), (1, height, "nhwc,vh->nvwc")):
        if x.shape[axis] != target:
            x = jnp.clip(
                jnp.floor(exact(spec, x, resize_matrix(x.shape[axis], target)) + 0.5), 0, 255
            )
    return x


def clip_pixels(
    images_NxHxWx3: UInt8[Array, "N H W 3"], settings: Preprocess
) -> Float[Array, "N h w 3"]:
    """uint8 images -> normalised pixels as the CLIP vision tower takes them. Jit-able; sizes are
    static."""
    height, width = images_NxHxWx3.shape[1:3]
    short = min(height, width)
    size = tuple(
        settings.resize if side == short else int(settings.resize * side / short)
        for side in (height, width)
    )
    x = resize_bicubic(images_NxHxWx3, *size)
    top, left = ((have - want) // 2 for have, want in zip(size, settings.crop, strict=True))
    if top < 0 or left < 0:
        grow = [
            (0, 0),
            *(
                (max(-o, 0), max(want - have + o, 0) if o < 0 else 0)
                for o, have, want in zip((top, left), size, settings.crop, strict=True)
            ),
            (0, 0),
        ]
        x, top, left = jnp.pad(x, grow), max(top, 0), max(left, 0)
    x = x[:, top : top + settings.crop[0], left : left + settings.crop[1]]
    return (x / 255 - jnp.asarray(settings.mean)) / jnp.asarray(settings.std)
