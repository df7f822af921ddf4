"""Preprocessing of frames for CLIP on the device, and the choice of frames.

Bicubic antialiased resize, centre crop, normalisation. The resize follows Pillow's
`Image.resize(..., BICUBIC)` on 8-bit images, which CLIP was trained with: Keys' cubic with a = -0.5
(Keys 1981), widened by the reduction factor, first along rows, then along columns, each pass
rounded to 8 bits. Results differ from Pillow's by at most one grey level, where its fixed-point
sums round the other way.

Shapes: N images, H, W height and width in pixels, T frames.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from pav_jax.errors import BadInput
from pav_jax.storage.json_files import read_json
from pav_jax.typed_fields import Positive, Range, read_value

# mean and standard deviation per channel of CLIP's training images
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
# types of the fields of preprocessor_config.json
Side = Annotated[int, Range(1, 8192)]
Mean = tuple[float, float, float]
Std = tuple[Positive, Positive, Positive]


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """Settings of the preprocessing.

    Attributes:
      resize: pixels of the shorter side after the resize.
      crop: (height, width) of the centre crop.
      mean, std: per channel, subtracted from and divided into values in 0..1.
    """

    resize: int
    crop: tuple[int, int]
    mean: tuple[float, ...] = OPENAI_MEAN
    std: tuple[float, ...] = OPENAI_STD

    @classmethod
    def from_folder(cls, folder: str | Path, image_size: int) -> "Preprocess":
        """Reads preprocessor_config.json; without it, uses `image_size` and OpenAI's constants.

        Args:
          folder: of a CLIP checkpoint.
          image_size: side of the square that the model takes, in pixels.

        Raises:
          BadInput: the crop is not this square.
        """
        path = Path(folder) / "preprocessor_config.json"
        if not path.exists():
            return cls(image_size, (image_size, image_size))
        raw = read_json(path)
        size = raw.get("size", image_size)
        if isinstance(size, dict):
            size = size.get("shortest_edge", size.get("height", image_size))
        resize = read_value(size, Side, str(path), "size")
        crop = raw.get("crop_size", image_size)
        if isinstance(crop, dict):
            height = crop.get("height")
            width = crop.get("width")
        else:
            height = width = crop
        if (height, width) != (image_size, image_size):
            raise BadInput(
                f"{path}: crop_size is {[height, width]}, but the model takes {image_size} x"
                f" {image_size} pixels",
                path,
                "crop_size",
            )
        mean = read_value(raw.get("image_mean", OPENAI_MEAN), Mean, str(path), "image_mean")
        std = read_value(raw.get("image_std", OPENAI_STD), Std, str(path), "image_std")
        return cls(resize, (image_size, image_size), mean, std)


def frame_indices(num_frames: int, count: int) -> np.ndarray:
    """Indices of `count` evenly spaced frames: arange(0, T, T / count), rounded down.

    Frames repeat where a video has fewer than `count`.
    """
    return np.arange(0, num_frames, num_frames / count).astype(int)[:count]


def frames_at_most(num_frames: int, count: int) -> np.ndarray:
    """Indices of `count` evenly spaced frames, or of all where a video has fewer."""
    return frame_indices(num_frames, min(num_frames, count))


@functools.cache
def resize_matrix(source: int, target: int) -> np.ndarray:
    """Weights [target, source] of one bicubic pass; rows sum to 1."""
    scale = source / target
    width = max(scale, 1.0)
    centre = (np.arange(target)[:, None] + 0.5) * scale
    first = np.maximum((centre - 2 * width + 0.5).astype(int), 0)
    last = np.minimum((centre + 2 * width + 0.5).astype(int), source)
    pixel = np.arange(source)[None, :]
    x = np.abs((pixel - centre + 0.5) / width)
    outer = np.where(x < 2, ((-0.5 * x + 2.5) * x - 4) * x + 2, 0.0)
    weights = np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, outer)
    weights = np.where((pixel >= first) & (pixel < last), weights, 0.0)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def resize_bicubic(
    images_NxHxWx3: UInt8[Array | np.ndarray, "N H W 3"], height: int, width: int
) -> Float[Array, "N h w 3"]:
    """Pillow's bicubic resize; the result is float32 with whole numbers in 0..255."""
    x = jnp.asarray(images_NxHxWx3).astype(jnp.float32)
    # the default precision is bfloat16 on a TPU
    einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    for axis, target, spec in ((2, width, "nhwc,vw->nhvc"), (1, height, "nhwc,vh->nvwc")):
        if x.shape[axis] != target:
            resized = einsum(spec, x, resize_matrix(x.shape[axis], target))
            x = jnp.clip(jnp.floor(resized + 0.5), 0, 255)
    return x


def clip_pixels(
    images_NxHxWx3: UInt8[Array | np.ndarray, "N H W 3"], settings: Preprocess
) -> Float[Array, "N h w 3"]:
    """Normalised pixels for the CLIP vision tower. Can be jitted; sizes are static.

    An image that is smaller than the crop after the resize is padded with black.
    """
    height, width = images_NxHxWx3.shape[1:3]
    shorter = min(height, width)
    target_height = _resized_side(height, shorter, settings.resize)
    target_width = _resized_side(width, shorter, settings.resize)
    x = resize_bicubic(images_NxHxWx3, target_height, target_width)
    x = _centre_crop(x, 1, settings.crop[0])
    x = _centre_crop(x, 2, settings.crop[1])
    return (x / 255 - jnp.asarray(settings.mean)) / jnp.asarray(settings.std)


def _resized_side(side: int, shorter: int, target: int) -> int:
    return target if side == shorter else int(target * side / shorter)


def _centre_crop(x: Array, axis: int, size: int) -> Array:
    """Crops an axis to `size` around its centre, or pads it with zeros."""
    start = (x.shape[axis] - size) // 2
    if start < 0:
        padding = [(0, 0)] * x.ndim
        padding[axis] = (-start, size - x.shape[axis] + start)
        x = jnp.pad(x, padding)
        start = 0
    return jax.lax.slice_in_dim(x, start, start + size, axis=axis)
