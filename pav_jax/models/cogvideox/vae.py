"""CogVideoX's causal 3-D variational autoencoder in Flax, channels last.

The published model never sees a whole clip: it works in temporal chunks (8 frames, or 2 latent
frames), each handing the last two frames of every causal convolution to the next. GroupNorm takes
its statistics per chunk, so chunks are part of the model's definition, and `chunked=True` is the
default. The remainder joins the first chunk: 9 frames are one chunk of 9 (3 latent frames, one
chunk), 17 frames are 9 + 8, 13 latent frames are 3 + 2 + 2 + 2 + 2 + 2.

Source: Yang et al., CogVideoX (arXiv 2408.06072), section 2.1; the arithmetic is that of
diffusers' AutoencoderKLCogVideoX.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from pav_jax.models.cogvideox.causal_conv import (
    CausalConv3d,
    ConvImpl,
    conv2d,
    in_chunks,
    per_frame,
)
from pav_jax.models.cogvideox.tiling import OVERLAP_HEIGHT, OVERLAP_WIDTH, Cut, decode_tiles

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
    """Sizes under diffusers' names; the defaults are those of CogVideoX-2B."""

    in_channels: int = 3
    out_channels: int = 3
    block_out_channels: tuple[int, ...] = (128, 256, 256, 512)
    latent_channels: int = 16
    layers_per_block: int = 3
    act_fn: str = "silu"
    norm_eps: float = 1e-6
    norm_num_groups: int = 32
    temporal_compression_ratio: float = 4
    sample_height: int = 480
    sample_width: int = 720
    scaling_factor: float = 1.15258426
    shift_factor: float | None = None
    latents_mean: tuple[float, ...] | None = None
    latents_std: tuple[float, ...] | None = None
    force_upcast: bool = True
    use_quant_conv: bool = False
    use_post_quant_conv: bool = False
    invert_scale_latents: bool = False

    @property
    def temporal_levels(self) -> int:
        """How many blocks compress time: log2 of the temporal ratio, at most one per resampling
        block."""
        return min(
            int(math.log2(self.temporal_compression_ratio)), len(self.block_out_channels) - 1
        )

    @property
    def spatial_ratio(self) -> int:
        return 2 ** (len(self.block_out_channels) - 1)

    def cuts(self) -> tuple[Cut, Cut]:
        """How a latent's rows and columns are cut into tiles."""
        return (
            Cut.of(self.sample_height, self.spatial_ratio, OVERLAP_HEIGHT),
            Cut.of(self.sample_width, self.spatial_ratio, OVERLAP_WIDTH),
        )

    def latent_frames(self, frames: int) -> int:
        """Latent frames of a clip of `frames` frames encoded in chunks."""
        count = 0
        for start, stop in chunk_bounds(frames, ENCODE_CHUNK):
            chunk = stop - start
            for _ in range(self.temporal_levels):
                chunk = (chunk + 1) // 2
            count += chunk
        return count

    def scale(self, latents: Array) -> Array:
        """Encoder output -> what the denoiser sees. `invert_scale_latents` is the image-to-video
        models' inverse."""
        return (
            latents / self.scaling_factor
            if self.invert_scale_latents
            else latents * self.scaling_factor
        )

    def unscale(self, latents: Array) -> Array:
        """Denoiser output -> decoder input. diffusers' pipeline always divides here, whatever the
        inverse flag says."""
        return latents / self.scaling_factor


def chunk_bounds(frames: int, size: int) -> list[tuple[int, int]]:
    """[start, stop) of each temporal chunk; frames left over by `size` are part of the first
    one."""
    count, rest = max(frames // size, 1), frames % size
    return [
        (size * i + (rest if i else 0), min(size * (i + 1) + rest, frames)) for i in range(count)
    ]


class GroupNorm(nn.Module):
    """Group normalisation over (T, H, W, C / groups) of one chunk, statistics in float32."""

    groups: int
    eps: float

    @nn.compact
    def __call__(self, x: Float[Array, "B T H W C"]) -> Array:
        C = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (C,))
        bias = self.param("bias", nn.initializers.zeros, (C,))
        x32 = x.astype(jnp.float32)
        # Pixels first, with channels kept apart: the reduction then runs along contiguous channels.
        mean = _group_mean(x32.mean((1, 2, 3)), self.groups)
        variance = _group_mean(
            jnp.square(x32 - mean[:, None, None, None]).mean((1, 2, 3)), self.groups
        )
        gain = jax.lax.rsqrt(variance + self.eps) * scale
        return ((x32 - mean[:, None, None, None]) * gain[:, None, None, None] + bias).astype(
            x.dtype
        )


def _group_mean(x_BxC: Array, groups: int) -> Array:
    """Mean within each group of channels, repeated back to every channel."""
    B, C = x_BxC.shape
    return jnp.repeat(x_BxC.reshape(B, groups, C // groups).mean(-1), C // groups, axis=1)


class SpatialNorm(nn.Module):
    """Group norm whose gain and shift are 1x1 convolutions of the latent, repeated to the size of
    `x` (Zheng et al., MoVQ, arXiv 2209.09002, equation 5). Its epsilon is 1e-6 whatever the
    configuration says.
    """

    groups: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, z: Array) -> Array:
        # The two products commute with repetition, so they run at latent size.
        gain, _ = CausalConv3d(x.shape[-1], 1, dtype=self.dtype, name="conv_y")(z)
        shift, _ = CausalConv3d(x.shape[-1], 1, dtype=self.dtype, name="conv_b")(z)
        normed = GroupNorm(self.groups, 1e-6, name="norm_layer")(x)
        return normed * _repeat_to(gain, x.shape) + _repeat_to(shift, x.shape)


def _repeat_to(z: Array, shape: tuple[int, ...]) -> Array:
    """Nearest-neighbour enlargement of [B, t, h, w, C] to T, H, W; of an odd T the first frame
    stays single."""
    T, H, W = shape[1:4]
    z = jnp.repeat(jnp.repeat(z, H // z.shape[2], axis=2), W // z.shape[3], axis=3)
    if T > 1 and T % 2:
        return jnp.concatenate([z[:, :1], _repeat_time(z[:, 1:], T - 1)], axis=1)
    return _repeat_time(z, T)


def _repeat_time(z: Array, T: int) -> Array:
    return z if z.shape[1] == T else jnp.repeat(z, T // z.shape[1], axis=1)


class ResnetBlock(nn.Module):
    """norm, activation, convolution, twice, plus the input. With `z` the norms are spatial
    norms."""

    config: CogVideoXVAEConfig
    features: int
    conv_impl: ConvImpl
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, z: Array | None, cache: dict | None) -> tuple[Array, dict]:
        cache, new = cache or {}, {}
        groups, act = self.config.norm_num_groups, ACTIVATIONS[self.config.act_fn]

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


class Conv2d(nn.Module):
    """3x3 convolution of single frames."""

    features: int
    stride: int
    padding: tuple
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        kernel = self.param("kernel", init, (3, 3, x.shape[-1], self.features)).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        return per_frame(lambda frames: conv2d(frames, kernel, self.stride, self.padding), x) + bias


def pool_time(x: Array) -> Array:
    """Averages pairs of frames; of an odd count the first frame stays alone."""
    first, rest = (x[:, :1], x[:, 1:]) if x.shape[1] % 2 else (x[:, :0], x)
    B, T = rest.shape[:2]
    pooled = rest.reshape(B, T // 2, 2, *rest.shape[2:]).mean(2)
    return jnp.concatenate([first, pooled], axis=1)


def double(x: Array, time: bool) -> Array:
    """Nearest-neighbour doubling of height and width, and of time where asked: an odd T becomes 2T
    - 1."""
    B, T, H, W, C = x.shape
    frames = T if not time or T == 1 else 2 * T - T % 2
    return (
        _repeat_to(x, (B, frames, 2 * H, 2 * W, C))
        if time
        else jnp.repeat(jnp.repeat(x, 2, axis=2), 2, axis=3)
    )


class Block(nn.Module):
    """Residual blocks, then a down- or upsampling convolution where `resample` says so."""

    config: CogVideoXVAEConfig
    features: int
    layers: int
    resample: str  # "", "down" or "up"
    compress_time: bool
    conv_impl: ConvImpl
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, z: Array | None, cache: dict | None) -> tuple[Array, dict]:
        cache, new = cache or {}, {}
        for i in range(self.layers):
            name = f"resnets_{i}"
            block = ResnetBlock(self.config, self.features, self.conv_impl, self.dtype, name=name)
            x, new[name] = block(x, z, cache.get(name))
        if self.resample == "down":
            x = pool_time(x) if self.compress_time else x
            # Padded below and to the right only, as the stride-2 grid starts at the first pixel.
            x = Conv2d(self.features, 2, ((0, 1), (0, 1)), self.dtype, name="downsampler")(x)
        elif self.resample == "up":
            x = Conv2d(self.features, 1, ((1, 1), (1, 1)), self.dtype, name="upsampler")(
                double(x, self.compress_time)
            )
        return x, new


class Coder(nn.Module):
    """The encoder ("down") or the decoder ("up") for one chunk. The decoder's norms also read the
    latent itself."""

    config: CogVideoXVAEConfig
    direction: str
    conv_impl: ConvImpl
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, cache: dict | None) -> tuple[Array, dict]:
        config, cache, new = self.config, cache or {}, {}
        down = self.direction == "down"
        widths = config.block_out_channels if down else config.block_out_channels[::-1]
        z = None if down else x

        def conv(name, features, h):
            h, new[name] = CausalConv3d(features, 3, self.conv_impl, self.dtype, name=name)(
                h, cache.get(name)
            )
            return h

        def block(name, h, *sizes):
            h, new[name] = Block(config, *sizes, self.conv_impl, self.dtype, name=name)(
                h, z, cache.get(name)
            )
            return h

        def middle(h, features):
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
            x = SpatialNorm(config.norm_num_groups, self.dtype, name="norm_out")(x, z)
        features = 2 * config.latent_channels if down else config.out_channels
        return conv("conv_out", features, nn.silu(x)), new


class CogVideoXVAE(nn.Module):
    """The whole autoencoder. `model.init(key, video)` makes all parameters; then

    `model.apply({"params": p}, video, method="encode")`,
    `model.apply({"params": p}, z, method="decode")`.
    """

    config: CogVideoXVAEConfig
    dtype: Any = jnp.float32
    conv_impl: ConvImpl = "auto"  # "auto": "conv2d_taps" on a CPU, "conv3d" elsewhere
    # keeps an array where its logical axes belong; it spreads `tiles_at_once` tiles, of all clips,
    # and the others wait
    constrain: Callable[[Array, tuple[str | None, ...]], Array] = lambda x, axes: x
    tiles_at_once: int = 1

    def setup(self):
        config = self.config
        self.encoder = Coder(config, "down", self.conv_impl, self.dtype)
        self.decoder = Coder(config, "up", self.conv_impl, self.dtype)
        if config.use_quant_conv:
            self.quant_conv = CausalConv3d(2 * config.out_channels, 1, dtype=self.dtype)
        if config.use_post_quant_conv:
            self.post_quant_conv = CausalConv3d(config.out_channels, 1, dtype=self.dtype)

    def __call__(self, video: Float[Array, "B T H W 3"]) -> tuple[Array, Array, Array]:
        """Reconstruction from the mean latent, with the mean and the log variance."""
        mean, logvar = self.encode(video)
        return self.decode(mean), mean, logvar

    def encode(self, video: Float[Array, "B T H W 3"], chunked: bool = True) -> tuple[Array, Array]:
        """Video in [-1, 1] -> mean and log variance of the latent, both float32 [B, t, h, w, C],
        unscaled.

        H and W must be multiples of `config.spatial_ratio`. `chunked=False` takes the clip as a
        single chunk, which equals diffusers only where there is one chunk (fewer than 16 frames).
        """
        moments = self._in_chunks(
            self.encoder, video.astype(self.dtype), ENCODE_CHUNK if chunked else video.shape[1]
        )
        if self.config.use_quant_conv:
            moments, _ = self.quant_conv(moments)
        mean, logvar = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
        return mean, jnp.clip(
            logvar, -30.0, 20.0
        )  # the range diffusers' DiagonalGaussianDistribution keeps

    def decode(
        self, z: Float[Array, "B t h w C"], chunked: bool = True, tiled: bool = False
    ) -> Float[Array, "B T H W 3"]:
        """Unscaled latent -> video in about [-1, 1] (not clipped), float32.

        `chunked=False` takes the latent as a single chunk, which equals diffusers only up to 3
        latent frames. `tiled=True` decodes overlapping tiles of what is larger than one, as
        diffusers does after `enable_tiling()`.
        """
        z = z.astype(self.dtype)
        if self.config.use_post_quant_conv:
            z, _ = self.post_quant_conv(z)
        rows, columns = self.config.cuts()
        if tiled and (z.shape[2] > rows.tile or z.shape[3] > columns.tile):
            return decode_tiles(self._one_by_one, z, rows, columns)
        return self._in_chunks(self.decoder, z, DECODE_CHUNK if chunked else z.shape[1]).astype(
            jnp.float32
        )

    def _one_by_one(self, tiles_nxBxtxhxwxC: Array) -> Array:
        """Decodes tiles of one size, as rows of a batch where there are fewer clips than
        `tiles_at_once`."""
        n, B = tiles_nxBxtxhxwxC.shape[:2]
        together = math.gcd(n, max(self.tiles_at_once // B, 1))
        groups = tiles_nxBxtxhxwxC.reshape(
            n // together, together * B, *tiles_nxBxtxhxwxC.shape[2:]
        )
        axes = ("tiles", None, None, None, None)

        def body(vae, carry, z):
            frames = vae._in_chunks(vae.decoder, vae.constrain(z, axes), DECODE_CHUNK)
            return carry, vae.constrain(frames.astype(jnp.float32), axes)

        scan = nn.scan(body, variable_broadcast="params", split_rngs={"params": False})
        _, frames = scan(self, (), groups)
        return frames.reshape(n, B, *frames.shape[2:])

    def _in_chunks(self, coder: nn.Module, x: Array, size: int) -> Array:
        return in_chunks(coder, x, chunk_bounds(x.shape[1], size)[0][1], size)
