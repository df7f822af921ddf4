"""CogVideoX's causal 3-D variational autoencoder, channels last.

The published model processes a clip in temporal chunks (8 frames, or 2 latent frames); each passes
the last two frames of every causal convolution to the next. GroupNorm takes its statistics per
chunk, so the chunks are part of the model's definition, and `chunked=True` is the default. The
remainder joins the first chunk: 9 frames are one chunk of 9 (3 latent frames, one chunk), 17 frames
are 9 + 8, 13 latent frames are 3 + 2 + 2 + 2 + 2 + 2.

Source: Yang et al. 2024 (arXiv 2408.06072), section 2.1, and diffusers' `AutoencoderKLCogVideoX`.

Letters: B clips, T frames, H and W pixels, C channels; t, h, w the same axes in latent space.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, cast

import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from pav_jax.models.causal_conv import (
    CausalConv3d,
    Conv2d,
    ConvImpl,
    GroupNorm,
    in_chunks,
    residual_blocks,
)
from pav_jax.models.cogvideox.vae_config import (
    DECODE_CHUNK,
    ENCODE_CHUNK,
    CogVideoXVAEConfig,
    chunk_bounds,
    decoder_chunks,
)
from pav_jax.models.layers import Constrain, unconstrained
from pav_jax.models.tiling import decode_tiles

ACTIVATIONS = {
    "silu": nn.silu,
    "swish": nn.silu,
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "relu": nn.relu,
    "mish": lambda x: x * jnp.tanh(nn.softplus(x)),
}


class SpatialNorm(nn.Module):
    """Group norm with gain and shift from the latent (MoVQ, arXiv 2209.09002, equation 5).

    They are 1x1 convolutions of the latent, repeated to the size of `x`. The epsilon is 1e-6
    whatever the configuration says.
    """

    groups: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, z: Array) -> Array:
        # 1x1 convolutions commute with repetition, so they run at latent size.
        gain, _ = CausalConv3d(x.shape[-1], 1, dtype=self.dtype, name="conv_y")(z)
        shift, _ = CausalConv3d(x.shape[-1], 1, dtype=self.dtype, name="conv_b")(z)
        normed = GroupNorm(self.groups, 1e-6, name="norm_layer")(x)
        return normed * _repeat_to(gain, x.shape) + _repeat_to(shift, x.shape)


def _repeat_to(z: Array, shape: tuple[int, ...]) -> Array:
    """Enlarge [B, t, h, w, C] to T, H, W by repetition; the first of an odd T is not repeated."""
    T, H, W = shape[1:4]
    z = jnp.repeat(jnp.repeat(z, H // z.shape[2], axis=2), W // z.shape[3], axis=3)
    if T > 1 and T % 2:
        return jnp.concatenate([z[:, :1], _repeat_time(z[:, 1:], T - 1)], axis=1)
    return _repeat_time(z, T)


def _repeat_time(z: Array, T: int) -> Array:
    return z if z.shape[1] == T else jnp.repeat(z, T // z.shape[1], axis=1)


class ResnetBlock(nn.Module):
    """Norm, activation, convolution, twice, plus the input; with `z` the norms are spatial."""

    config: CogVideoXVAEConfig
    features: int
    conv_impl: ConvImpl
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, z: Array | None, cache: dict | None) -> tuple[Array, dict]:
        cache = cache or {}
        new = {}
        groups = self.config.norm_num_groups
        act = ACTIVATIONS[self.config.act_fn]

        def norm(name, h):
            if z is None:
                return GroupNorm(groups, self.config.norm_eps, name=name)(h)
            return SpatialNorm(groups, self.dtype, name=name)(h, z)

        h = x
        for i in ("1", "2"):
            conv = CausalConv3d(self.features, 3, self.conv_impl, self.dtype, name=f"conv{i}")
            h, new[f"conv{i}"] = conv(act(norm(f"norm{i}", h)), cache.get(f"conv{i}"))
        if x.shape[-1] != self.features:
            x, _ = CausalConv3d(self.features, 1, dtype=self.dtype, name="conv_shortcut")(x)
        return x + h, new


def pool_time(x: Array) -> Array:
    """Average pairs of frames; the first frame of an odd count stays as it is."""
    odd = x.shape[1] % 2
    first = x[:, :odd]
    rest = x[:, odd:]
    B, T = rest.shape[:2]
    pooled = rest.reshape(B, T // 2, 2, *rest.shape[2:]).mean(2)
    return jnp.concatenate([first, pooled], axis=1)


def double(x: Array, time: bool) -> Array:
    """Double height and width by repetition, and with `time` the frames: an odd T gives 2T - 1."""
    if not time:
        return jnp.repeat(jnp.repeat(x, 2, axis=2), 2, axis=3)
    B, T, H, W, C = x.shape
    frames = 1 if T == 1 else 2 * T - T % 2
    return _repeat_to(x, (B, frames, 2 * H, 2 * W, C))


class Block(nn.Module):
    """Residual blocks, then a down- or upsampling convolution.

    Attributes:
      layers: number of residual blocks.
      resample: "", "down" or "up".
      compress_time: whether frames are resampled too.
    """

    config: CogVideoXVAEConfig
    features: int
    layers: int
    resample: str
    compress_time: bool
    conv_impl: ConvImpl
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, z: Array | None, cache: dict | None) -> tuple[Array, dict]:
        make = functools.partial(
            ResnetBlock, self.config, self.features, self.conv_impl, self.dtype
        )
        names = [f"resnets_{i}" for i in range(self.layers)]
        x, new = residual_blocks(self, make, names, x, cache or {}, z)
        if self.resample == "down":
            x = pool_time(x) if self.compress_time else x
            # padded below and to the right only: the stride-2 grid starts at the first pixel
            x = Conv2d(self.features, 2, ((0, 1), (0, 1)), self.dtype, name="downsampler")(x)
        elif self.resample == "up":
            x = Conv2d(self.features, 1, ((1, 1), (1, 1)), self.dtype, name="upsampler")(
                double(x, self.compress_time)
            )
        return x, new


class Coder(nn.Module):
    """The encoder ("down") or the decoder ("up") for one chunk.

    The decoder's norms also read the latent itself.

    Attributes:
      level: of the decoder, only that resolution, whose input is the preceding one's output; None:
        all.
    """

    config: CogVideoXVAEConfig
    direction: str
    conv_impl: ConvImpl
    dtype: Any
    level: int | None = None

    @nn.compact
    def __call__(
        self, x: Array, cache: dict | None, latent: Array | None = None
    ) -> tuple[Array, dict]:
        config = self.config
        cache = cache or {}
        new = {}
        down = self.direction == "down"
        widths = config.block_out_channels if down else config.block_out_channels[::-1]
        last = len(widths) - 1
        latent = x if latent is None else latent

        def conv(name: str, features: int, h: Array) -> Array:
            layer = CausalConv3d(features, 3, self.conv_impl, self.dtype, name=name)
            h, new[name] = layer(h, cache.get(name))
            return h

        def block(
            name: str, h: Array, features: int, layers: int, resample: str, compress_time: bool
        ) -> Array:
            sizes = (features, layers, resample, compress_time)
            layer = Block(config, *sizes, self.conv_impl, self.dtype, name=name)
            h, new[name] = layer(h, None if down else latent, cache.get(name))
            return h

        def middle(h: Array, features: int) -> Array:
            return block("mid_block", h, features, 2, "", False)

        if self.level in (None, 0):
            x = conv("conv_in", widths[0], x)
            x = x if down else middle(x, widths[0])
        layers = config.layers_per_block + (0 if down else 1)
        for i in range(last + 1) if self.level is None else [self.level]:
            resample = self.direction if i < last else ""
            x = block(f"blocks_{i}", x, widths[i], layers, resample, i < config.temporal_levels)
        if self.level not in (None, last):
            return x, new
        if down:
            x = GroupNorm(config.norm_num_groups, 1e-6, name="norm_out")(middle(x, widths[-1]))
        else:
            x = SpatialNorm(config.norm_num_groups, self.dtype, name="norm_out")(x, latent)
        features = 2 * config.latent_channels if down else config.out_channels
        return conv("conv_out", features, nn.silu(x)), new


class CogVideoXVAE(nn.Module):
    """The autoencoder.

    `model.init(key, video)` makes all parameters; then call
    `model.apply({"params": params}, video, method="encode")` or
    `model.apply({"params": params}, z, method="decode")`.

    Attributes:
      dtype: of the convolutions; group norms are float32.
      conv_impl: see `causal_conv.ConvImpl`.
      constrain: shards activations by their logical axes.
      tiles_at_once: tiles, of all clips, that are decoded together; `constrain` shards them.
    """

    config: CogVideoXVAEConfig
    dtype: Any = jnp.float32
    conv_impl: ConvImpl = "auto"
    constrain: Constrain = unconstrained
    tiles_at_once: int = 1

    def setup(self):
        """Create encoder, decoder and the quantization convolutions that the configuration has."""
        config = self.config
        self.encoder = Coder(config, "down", self.conv_impl, self.dtype)
        self.decoder = Coder(config, "up", self.conv_impl, self.dtype)
        if config.use_quant_conv:
            self.quant_conv = CausalConv3d(2 * config.out_channels, 1, dtype=self.dtype)
        if config.use_post_quant_conv:
            self.post_quant_conv = CausalConv3d(config.out_channels, 1, dtype=self.dtype)

    def __call__(self, video: Float[Array, "B T H W 3"]) -> tuple[Array, Array, Array]:
        """Return the reconstruction from the mean latent, the mean and the log variance."""
        mean, logvar = self.encode(video)
        return self.decode(mean), mean, logvar

    def encode(self, video: Float[Array, "B T H W 3"], chunked: bool = True) -> tuple[Array, Array]:
        """Encode a video in [-1, 1].

        Args:
          video: H and W are multiples of `config.spatial_ratio`.
          chunked: False takes the clip as a single chunk, which equals diffusers only for one chunk
            (fewer than 16 frames).

        Returns:
          Mean and log variance of the latent, both float32 [B, t, h, w, C], unscaled.
        """
        size = ENCODE_CHUNK if chunked else video.shape[1]
        moments = self._in_chunks(self.encoder, video.astype(self.dtype), size)
        if self.config.use_quant_conv:
            moments, _ = self.quant_conv(moments)
        mean, logvar = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
        # the range of diffusers' DiagonalGaussianDistribution
        return mean, jnp.clip(logvar, -30.0, 20.0)

    def decode(
        self, z: Float[Array, "B t h w C"], chunked: bool = True, tiled: bool = False
    ) -> Float[Array, "B T H W 3"]:
        """Decode an unscaled latent to a float32 video in about [-1, 1] (not clipped).

        Args:
          chunked: False takes the latent as a single chunk, which equals diffusers only up to 3
            latent frames.
          tiled: decode overlapping tiles if the latent is larger than one, as diffusers does after
            `enable_tiling()`.
        """
        size = DECODE_CHUNK if chunked else z.shape[1]
        grid = self.config.tile_grid(*z.shape[2:4])
        if tiled and not grid.is_single():
            decode = functools.partial(self.decode_tile_level, z)
            sizes = (self.tile_batches(z.shape), decoder_chunks(z.shape[1]), self.config.num_levels)
            return grid.join(decode_tiles(decode, *sizes))
        video = self._in_chunks(self.decoder, self._decoder_input(z), size)
        return video.astype(jnp.float32)

    def tile_batches(self, shape: Sequence[int]) -> dict[tuple[int, int], int]:
        """Return the number of batches of tiles of each size, for latents [B, t, h, w, C]."""
        grid = self.config.tile_grid(*shape[2:4])
        counts = {size: len(grid.positions(size)) for size in grid.sizes()}
        return {size: n // self._tiles_in_batch(n, shape[0]) for size, n in counts.items()}

    def _tiles_in_batch(self, n: int, B: int) -> int:
        return math.gcd(n, max(self.tiles_at_once // B, 1))

    def decode_tile_level(
        self,
        z: Float[Array, "B t h w C"],
        x: Float[Array, "clips T H W C"] | None,
        batch: Any,
        start: Any,
        cache: dict,
        size: tuple[int, int],
        length: int,
        level: int,
    ) -> tuple[Float[Array, "clips T H W C"], dict]:
        """Decode one temporal chunk of one batch of tiles at one resolution.

        See `tiling.decode_tiles`.

        Args:
          z: whole unscaled latents.
          x: the preceding level's output; None at level 0.
        """
        z = lax.dynamic_slice_in_dim(z, start, length, axis=1)
        tiles = self.config.tile_grid(*z.shape[2:4]).cut(z, size)
        n, B = tiles.shape[:2]
        together = self._tiles_in_batch(n, B)
        tiles = tiles.reshape(n // together, together * B, *tiles.shape[2:])[batch]
        latent = self._decoder_input(self.constrain(tiles, ("tiles", None, None, None, None)))
        decoder = self.decoder.clone(level=level, parent=None, name=None)
        variables = {"params": self.variables["params"]["decoder"]}
        output = decoder.apply(variables, latent if x is None else x, cache, latent)
        return cast(tuple[Array, dict], output)

    def _decoder_input(self, z: Array) -> Array:
        z = z.astype(self.dtype)
        return self.post_quant_conv(z)[0] if self.config.use_post_quant_conv else z

    def _in_chunks(self, coder: nn.Module, x: Array, size: int) -> Array:
        first_start, first_stop = chunk_bounds(x.shape[1], size)[0]
        return in_chunks(coder, x, first_stop - first_start, size)
