"""What Wan 2.2's autoencoder has beside convolutions, all of it without parameters: patches of
pixels as channels, and shortcuts around the stages of encoder and decoder.

Source: diffusers' `AutoencoderKLWan`, whose order of channels the checkpoints rely on.

Letters: B clips, T frames, H and W pixels, C channels.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def patchify(x: Float[Array, "B T H W C"], patch: int) -> Float[Array, "B T h w D"]:
    """Arrange patches of `patch` x `patch` pixels as channels: color, then column, then row."""
    B, T, H, W, C = x.shape
    x = x.reshape(B, T, H // patch, patch, W // patch, patch, C)
    x = x.transpose(0, 1, 2, 4, 6, 5, 3)
    return x.reshape(B, T, H // patch, W // patch, C * patch**2)


def unpatchify(x: Float[Array, "B T h w D"], patch: int) -> Float[Array, "B T H W C"]:
    """Invert `patchify`."""
    B, T, H, W, C = x.shape
    x = x.reshape(B, T, H, W, C // patch**2, patch, patch)
    x = x.transpose(0, 1, 2, 6, 3, 5, 4)
    return x.reshape(B, T, H * patch, W * patch, C // patch**2)


def average_down(
    x: Float[Array, "B T H W C"], features: int, time: int, space: int
) -> Float[Array, "B t h w features"]:
    """Arrange blocks of frames and pixels as channels, and average neighbouring channels.

    Args:
      features: channels of the result; they divide the channels of the blocks.
      time, space: frames, and rows and columns, of a block. Frames are padded with zeros in front.
    """
    x = jnp.pad(x, ((0, 0), (-x.shape[1] % time, 0), (0, 0), (0, 0), (0, 0)))
    B, T, H, W, C = x.shape
    blocks = x.reshape(B, T // time, time, H // space, space, W // space, space, C)
    blocks = blocks.transpose(0, 1, 3, 5, 7, 2, 4, 6)
    return blocks.reshape(*blocks.shape[:4], features, -1).mean(axis=-1)


def duplicate_up(
    x: Float[Array, "B T H W C"], features: int, time: int, space: int, first: bool
) -> Float[Array, "B t h w features"]:
    """Repeat channels, and arrange them as blocks of frames and pixels.

    Args:
      features: channels of the result; C divides the channels of the blocks.
      time, space: frames, and rows and columns, of a block.
      first: x begins with the clip's first frame, which becomes one frame: those before the last
        of its block are dropped.
    """
    B, T, H, W, C = x.shape
    x = jnp.repeat(x, features * time * space**2 // C, axis=-1)
    x = x.reshape(B, T, H, W, features, time, space, space)
    x = x.transpose(0, 1, 5, 2, 6, 3, 7, 4)
    x = x.reshape(B, T * time, H * space, W * space, features)
    return x[:, time - 1 :] if first else x
