"""How a VAE decodes latents to pixels: by several programs, each for a piece of the videos.

The TPU compiler spends seconds on every convolution of a program, so one program for a whole video
would compile for many minutes. A family's `decode` is host code that runs functions with a `Run`.

Shapes: B videos; T, H, W frames, height, width in pixels; t, h, w, C those of the latent and its
channels.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt8

# some frames, and in which videos they have neither NaN nor infinity
Pixels = tuple[UInt8[Array, "B _ H W 3"], Bool[Array, "B"]]
# the same where `pav check` traces the programs from shapes
ArrayOrShape = Array | jax.ShapeDtypeStruct
Latents = Float[ArrayOrShape, "B t h w C"]
PixelsOrShapes = tuple[UInt8[ArrayOrShape, "B _ H W 3"], Bool[ArrayOrShape, "B"]]


class Run(Protocol):
    """Runs a function as a program."""

    def __call__(
        self, name: str, function: Callable[..., Any], *arguments: Any, **static: Any
    ) -> Any:
        """The function's result.

        Args:
          name: of the program, in reports; runs with one name have arguments of the same shapes.
          function: of arrays; the memory of an argument called `cache` is used again.
          static: keyword-only arguments, which are constants of the program.
        """


def to_pixels(video: Float[Array, "B T H W 3"]) -> Pixels:
    """Decoded frames in about [-1, 1] as 8-bit integers."""
    finite = jnp.isfinite(video).all(axis=(1, 2, 3, 4))
    unit = jnp.clip(jnp.nan_to_num(video) * 0.5 + 0.5, 0.0, 1.0)
    return jnp.round(unit * 255.0).astype(jnp.uint8), finite


def whole_to_pixels(video: Array, latents: Float[Array, "B t h w C"]) -> Pixels:
    """`to_pixels` of whole videos; those of latents with NaN or infinity are not finite."""
    frames, finite = to_pixels(video)
    return frames, finite & jnp.isfinite(latents).all(axis=(1, 2, 3, 4))


def join_frames(
    latents: Float[Array, "B t h w C"], pieces: Sequence[Pixels], *, overlap: int = 0
) -> Pixels:
    """Joins the pixels of the latents' frames in time.

    Args:
      overlap: of the last piece with the one before it, in frames.
    """
    frames = [piece for piece, _ in pieces]
    frames[-1] = frames[-1][:, overlap:]
    finite = jnp.isfinite(latents).all(axis=(1, 2, 3, 4))
    for _, finite_piece in pieces:
        finite &= finite_piece
    return jnp.concatenate(frames, axis=1), finite


def chunk_name(start: int, size: tuple[int, int], level: int) -> str:
    """The name of a program: which chunk, and the resolution of a level.

    Args:
      start: the chunk's first latent frame.
      size: height and width of the latent.
      level: the resolution, from 0; each doubles both.
    """
    height, width = (length * 2**level for length in size)
    return f"{'next chunks' if start else 'first chunk'} at {height} x {width}"


def piece_axes(num_axes: int, first: str) -> tuple[str | None, ...]:
    """The logical axes of an array of a piece: frames, a value per video, or a layer's cache.

    Args:
      first: the axis of videos, or of the pieces of videos that are decoded together.
    """
    # the caches of a loop over blocks have a leading axis of blocks
    before = max(num_axes - 5, 0)
    return (*(None,) * before, first, *(None,) * (num_axes - before - 1))
