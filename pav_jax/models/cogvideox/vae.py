"""CogVideoX's causal 3-D variational autoencoder, channels last.

The published model processes a clip in temporal chunks (8 frames, or 2 latent frames); each passes
the last two frames of every causal convolution to the next. GroupNorm takes its statistics per
chunk, so the chunks are part of the model's definition, and `chunked=True` is the default. The
remainder joins the first chunk: 9 frames are one chunk of 9 (3 latent frames, one chunk), 17 frames
are 9 + 8, 13 latent frames are 3 + 2 + 2 + 2 + 2 + 2.

Source: Yang et al. 2024 (arXiv 2408.06072), section 2.1, and diffusers' `AutoencoderKLCogVideoX`.

Letters: B clips, T frames, H and W pixels, C channels; t, h, w the same axes in latent space.
"""

import dataclasses
import functools
import math
from typing import Annotated, Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from pav_jax.models.causal_conv import (
    CausalConv3d,
    Conv2d,
    ConvImpl,
    GroupNorm,
    in_chunks,
    residual_blocks,
)
from pav_jax.models.cogvideox.tiling import (
    OVERLAP_HEIGHT,
    OVERLAP_WIDTH,
    TiledAxis,
    decode_tiles,
)
from pav_jax.models.layers import Constrain, unconstrained
from pav_jax.typed_fields import Depth, NonNegative, Positive, Range, Widths

ENCODE_CHUNK = 8  # frames per chunk (diffusers: num_sample_frames_batch_size)
DECODE_CHUNK = 2  # latent frames per chunk (diffusers: num_latent_frames_batch_size)

ACTIVATIONS = {
    "silu": nn.silu,
    "swish": nn.silu,
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "relu": nn.relu,
    "mish": lambda x: x * jnp.tanh(nn.softplus(x)),
}


@dataclasses.dataclass(frozen=True)
class CogVideoXVAEConfig:
    """Configuration with diffusers' field names; defaults: CogVideoX-2B."""

    in_channels: int = 3
    out_channels: int = 3
    block_out_channels: Widths = (128, 256, 256, 512)
    latent_channels: int = 16
    layers_per_block: Depth = 3
    act_fn: str = "silu"
    norm_eps: NonNegative = 1e-6
    norm_num_groups: int = 32
    temporal_compression_ratio: Annotated[float, Range(1, 2**16)] = 4
    sample_height: int = 480
    sample_width: int = 720
    scaling_factor: Positive = 1.15258426
    shift_factor: float | None = None
    latents_mean: tuple[float, ...] | None = None
    latents_std: tuple[Positive, ...] | None = None
    force_upcast: bool = True
    use_quant_conv: bool = False
    use_post_quant_conv: bool = False
    invert_scale_latents: bool = False

    @property
    def temporal_levels(self) -> int:
        """Number of blocks that halve the frames: log2 of the temporal ratio, at most all."""
        levels = int(math.log2(self.temporal_compression_ratio))
        return min(levels, len(self.block_out_channels) - 1)

    @property
    def spatial_ratio(self) -> int:
        """Pixels per latent row and column."""
        return 2 ** (len(self.block_out_channels) - 1)

    def tiled_axes(self) -> tuple[TiledAxis, TiledAxis]:
        """Return how a latent's rows and columns are divided into tiles."""
        return (
            TiledAxis.for_size(self.sample_height, self.spatial_ratio, OVERLAP_HEIGHT),
            TiledAxis.for_size(self.sample_width, self.spatial_ratio, OVERLAP_WIDTH),
        )

    def latent_frames(self, frames: int) -> int:
        """Return the number of latent frames of a clip of `frames` frames, encoded in chunks."""
        count = 0
        for start, stop in chunk_bounds(frames, ENCODE_CHUNK):
            chunk = stop - start
            for _ in range(self.temporal_levels):
                chunk = (chunk + 1) // 2
            count += chunk
        return count

    def scale(self, latents: Array) -> Array:
        """Scale the encoder's output for the denoiser.

        Image-to-video models divide instead of multiplying (`invert_scale_latents`).
        """
        if self.invert_scale_latents:
            return latents / self.scaling_factor
        return latents * self.scaling_factor

    def unscale(self, latents: Array) -> Array:
        """Scale the denoiser's output for the decoder.

        diffusers' pipeline always divides here, whatever `invert_scale_latents` says.
        """
        return latents / self.scaling_factor


def chunk_bounds(frames: int, size: int) -> list[tuple[int, int]]:
    """Return [start, stop) of each temporal chunk; the remainder joins the first one."""
    count = max(frames // size, 1)
    remainder = frames % size
    stops = [min(size * (i + 1) + remainder, frames) for i in range(count)]
    return list(zip([0, *stops[:-1]], stops, strict=True))


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
    """

    config: CogVideoXVAEConfig
    direction: str
    conv_impl: ConvImpl
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, cache: dict | None) -> tuple[Array, dict]:
        config = self.config
        cache = cache or {}
        new = {}
        down = self.direction == "down"
        widths = config.block_out_channels if down else config.block_out_channels[::-1]
        latent = x

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

        x = conv("conv_in", widths[0], x)
        x = x if down else middle(x, widths[0])
        layers = config.layers_per_block + (0 if down else 1)
        for i, width in enumerate(widths):
            resample = self.direction if i < len(widths) - 1 else ""
            x = block(f"blocks_{i}", x, width, layers, resample, i < config.temporal_levels)
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
        z = z.astype(self.dtype)
        if self.config.use_post_quant_conv:
            z, _ = self.post_quant_conv(z)
        rows, columns = self.config.tiled_axes()
        if tiled and (z.shape[2] > rows.tile or z.shape[3] > columns.tile):
            return decode_tiles(self._decode_tile_batches, z, rows, columns)
        video = self._in_chunks(self.decoder, z, DECODE_CHUNK if chunked else z.shape[1])
        return video.astype(jnp.float32)

    def _decode_tile_batches(self, tiles: Float[Array, "n B t h w C"]) -> Array:
        """Decode tiles of one size, `tiles_at_once` in a batch."""
        n, B = tiles.shape[:2]
        together = math.gcd(n, max(self.tiles_at_once // B, 1))
        batches = tiles.reshape(n // together, together * B, *tiles.shape[2:])
        axes = ("tiles", None, None, None, None)

        def body(vae: "CogVideoXVAE", carry: tuple, z: Array) -> tuple[tuple, Array]:
            frames = vae._in_chunks(vae.decoder, vae.constrain(z, axes), DECODE_CHUNK)
            return carry, vae.constrain(frames.astype(jnp.float32), axes)

        scan = nn.scan(body, variable_broadcast="params", split_rngs={"params": False})
        _, frames = scan(self, (), batches)
        return frames.reshape(n, B, *frames.shape[2:])

    def _in_chunks(self, coder: nn.Module, x: Array, size: int) -> Array:
        first_start, first_stop = chunk_bounds(x.shape[1], size)[0]
        return in_chunks(coder, x, first_stop - first_start, size)
