"""Wan's causal 3-D variational autoencoders, channels last: 2.1's, and the residual one of Wan 2.2
TI2V-5B, which sees patches of pixels and has shortcuts around its stages.

A clip is processed in chunks: the first frame alone, then four frames (one latent frame) at a time;
each chunk passes the last two input frames of every temporal convolution to the next. Norms are per
pixel and attention is within a frame, so the chunks do not change the result; they bound the
memory. When decoding, the temporal resampling convolutions have zeros in place of the first frame.

Source: Wan Team 2025 (arXiv 2503.20314), section 4.1, and diffusers' `AutoencoderKLWan`.

Letters: B clips, T frames, H and W pixels, C channels; t, h, w the same axes in latent space.
"""

import functools
from typing import Any, cast

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from pav_jax.models.causal_conv import ConvImpl, in_chunks, residual_blocks
from pav_jax.models.wan.vae_config import WanVAEConfig
from pav_jax.models.wan.vae_layers import (
    CausalConv3d,
    Downsample,
    FrameAttention,
    Norm,
    Pointwise,
    ResnetBlock,
    Upsample,
)
from pav_jax.models.wan.vae_shortcuts import average_down, duplicate_up, patchify, unpatchify

ENCODE_CHUNK = 4  # frames per chunk after the first frame


class Coder(nn.Module):
    """The encoder ("down") or the decoder ("up") for one chunk; the first has an empty cache.

    Attributes:
      level: only that resolution, whose input is the preceding one's output; None: all.
    """

    config: WanVAEConfig
    direction: str
    conv_impl: ConvImpl
    dtype: Any
    level: int | None = None

    @nn.compact
    def __call__(self, x: Array, cache: dict) -> tuple[Array, dict]:
        config = self.config
        new = {}
        down = self.direction == "down"

        def run(name, module, h):
            h, new[name] = module(h, cache.get(name, {}))
            return h

        def conv(name, features, h):
            h, new[name] = CausalConv3d(features, self.conv_impl, self.dtype, name=name)(
                h, cache.get(name)
            )
            return h

        def resnet(name, features, h):
            return run(name, ResnetBlock(features, self.conv_impl, self.dtype, name=name), h)

        def middle(h):
            h = resnet("mid_resnets_0", h.shape[-1], h)
            return resnet(
                "mid_resnets_1", h.shape[-1], FrameAttention(self.dtype, name="mid_attention")(h)
            )

        last = len(config.dim_mult) - 1
        if self.level in (None, 0):
            x = conv("conv_in", coder_widths(config, self.direction)[0], x)
            x = x if down else middle(x)
        for i in range(last + 1) if self.level is None else [self.level]:
            x = self._stage(i, x, cache, new)
        if self.level not in (None, last):
            return x, new
        x = middle(x) if down else x
        features = 2 * config.z_dim if down else config.out_channels
        return conv("conv_out", features, nn.silu(Norm(name="norm_out")(x))), new

    def _stage(self, i: int, x: Array, cache: dict, new: dict) -> Array:
        """Apply the residual blocks and the resampling of resolution `i`; fills `new`."""
        config = self.config
        down = self.direction == "down"
        widths = coder_widths(config, self.direction)
        width = widths[1 + i] if down else widths[i]
        start = x
        make = functools.partial(ResnetBlock, width, self.conv_impl, self.dtype)
        resnets = config.num_res_blocks if down else config.num_res_blocks + 1
        names = [f"blocks_{i}_resnets_{j}" for j in range(resnets)]
        name = f"blocks_{i}_resnets"
        x, new[name] = residual_blocks(self, make, names, x, cache.get(name, {}))
        is_last = i == len(config.dim_mult) - 1
        times = config.temperal_downsample if down else config.temperal_downsample[::-1]
        time = not is_last and times[i]
        if not is_last:
            name = f"blocks_{i}_resample"
            if down:
                resample = Downsample(time, self.dtype, name=name)
            else:
                features = width if config.is_residual else width // 2
                resample = Upsample(features, time, self.dtype, name=name)
            x, new[name] = resample(x, cache.get(name, {}))
        if not config.is_residual or (is_last and not down):
            return x
        factors = 2 if time else 1, 1 if is_last else 2
        if down:
            return x + average_down(start, width, *factors)
        return x + duplicate_up(start, width, *factors, first=not cache)


def coder_widths(config: WanVAEConfig, direction: str) -> tuple[int, ...]:
    """Return the channels of each block; the encoder's first convolution comes before them."""
    if direction == "down":
        return tuple(config.base_dim * m for m in (1, *config.dim_mult))
    return tuple((config.decoder_base_dim or config.base_dim) * m for m in config.dim_mult[::-1])


class WanVAE(nn.Module):
    """The autoencoder.

    `model.init(key, video)` makes all parameters; then call
    `model.apply({"params": params}, video, method="encode")` or
    `model.apply({"params": params}, z, method="decode")`.

    Attributes:
      dtype: of the convolutions; norms are float32.
      conv_impl: see `causal_conv.ConvImpl`.
      unroll: no loop over the chunks (see `in_chunks`), for training on CPU.
    """

    config: WanVAEConfig
    dtype: Any = jnp.float32
    conv_impl: ConvImpl = "auto"
    unroll: bool = False

    def setup(self):
        """Create encoder, decoder and the pointwise quantization layers."""
        self.encoder = Coder(self.config, "down", self.conv_impl, self.dtype)
        self.decoder = Coder(self.config, "up", self.conv_impl, self.dtype)
        self.quant_conv = Pointwise(2 * self.config.z_dim, self.dtype)
        self.post_quant_conv = Pointwise(self.config.z_dim, self.dtype)

    def __call__(self, video: Float[Array, "B T H W 3"]) -> tuple[Array, Array, Array]:
        """Return the reconstruction from the mean latent, the mean and the log variance."""
        mean, logvar = self.encode(video)
        return self.decode(mean), mean, logvar

    def encode(self, video: Float[Array, "B T H W 3"]) -> tuple[Array, Array]:
        """Encode a video in [-1, 1].

        Args:
          video: H and W are multiples of `config.spatial_ratio`; as in diffusers, frames after the
            last whole chunk are dropped.

        Returns:
          Mean and log variance of the latent, both float32 [B, t, h, w, C], unscaled.
        """
        patches = patchify(video.astype(self.dtype), self.config.patch)
        chunks = in_chunks(self.encoder, patches, 1, ENCODE_CHUNK, self.unroll)
        moments = self.quant_conv(chunks).astype(jnp.float32)
        mean, logvar = jnp.split(moments, 2, axis=-1)
        # the range of diffusers' DiagonalGaussianDistribution
        return mean, jnp.clip(logvar, -30.0, 20.0)

    def decode(self, z: Float[Array, "B t h w C"]) -> Float[Array, "B T H W 3"]:
        """Decode an unscaled latent to a float32 video in about [-1, 1].

        It is not clipped, so that non-finite values can be detected.
        """
        video = in_chunks(self.decoder, self.post_quant_conv(z), 1, 1, self.unroll)
        return unpatchify(video.astype(jnp.float32), self.config.patch)

    def decode_level(self, x: Array, cache: dict, level: int) -> tuple[Array, dict]:
        """Decode one latent frame at one resolution; all of them after each other, and
        `vae_shortcuts.unpatchify`, are `decode`.

        Args:
          x: the unscaled latent frame [B, 1, h, w, C], or the preceding level's output.
          cache: as returned for the preceding latent frame; empty for the clip's first one.
          level: the resolution, from 0.

        Returns:
          The next level's input, or float32 patches of pixels, and the next latent frame's cache.
        """
        x = x if level else self.post_quant_conv(x)
        decoder = self.decoder.clone(level=level, parent=None, name=None)
        variables = {"params": self.variables["params"]["decoder"]}
        x, cache = cast(tuple[Array, dict], decoder.apply(variables, x, cache))
        return x.astype(jnp.float32) if level == len(self.config.dim_mult) - 1 else x, cache
