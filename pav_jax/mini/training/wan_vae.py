"""Trains the second mini generator's VAE: `python -m pav_jax.mini.training.wan_vae` writes
checkpoints/generator_wan/vae.

Wan 2.1's architecture, compressing 4 x 4 x 4 into 16 channels, trained as the first one's is.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from pav_jax.checkpoints import folder
from pav_jax.checkpoints.embedded import CHECKPOINTS
from pav_jax.mini import codec
from pav_jax.mini.training import fit
from pav_jax.models.wan import vae_hf
from pav_jax.models.wan.vae import WanVAE, WanVAEConfig

CONFIG = WanVAEConfig(
    base_dim=16,
    z_dim=16,
    dim_mult=(1, 2, 2),
    num_res_blocks=1,
    temperal_downsample=(True, True),
    latents_mean=(0.0,) * 16,
    latents_std=(1.0,) * 16,
)
STEPS = 800
ANCHOR = 10.0  # many times a colour, so that a pixel's length hardly depends on its colours
COLOURS, CHANGES = (
    range(3),
    range(3, 6),
)  # signals that pass from the first step, each with its negative beside it
FOLDER = CHECKPOINTS / "generator_wan" / "vae"


def linear_start(params: dict) -> dict:
    """Starts the network as a plain codec: of each 4 x 4 x 4 block the mean colour passes through,
    and how much its last two frames differ from its first two; detail is learnt.

    Residual branches and attention start at zero, resampling convolutions as averages, other
    convolutions with the identity on the channels both sides have. A pixel's norm would take its
    brightness away, so two channels of the main
    path are constants, `ANCHOR` and minus it: the pixel's length is then theirs, and the norm's own
      scale undoes it.
    And silu(x) - silu(-x) = x, so each signal runs beside its negative and the last convolutions
    read the difference.
    """
    flat = traverse_util.flatten_dict(params, sep="/")
    for path, value in flat.items():
        flat[path] = jnp.asarray(_started(path, np.array(value)))
    return traverse_util.unflatten_dict(flat, sep="/")


def _started(path: str, x: np.ndarray) -> np.ndarray:
    part, name = path.split("/", 1)
    encoding = part == "encoder"
    if part in ("quant_conv", "post_quant_conv"):
        return np.eye(x.shape[-1])[None, None, None] if name == "kernel" else x * 0
    if name.endswith(("conv2/kernel", "proj/kernel")):
        return x * 0
    if name.endswith(("norm1/scale", "norm_out/scale", "attention/norm/scale")):
        x = np.full_like(x, (2 / len(x)) ** 0.5)
        x[:-2] *= ANCHOR
        return x
    if name == "conv_in/bias":
        x[-2:] = ANCHOR, -ANCHOR
    if encoding and name == "conv_out/bias":
        x[CONFIG.z_dim :] = -5  # log variance of the latent
    if (
        not name.endswith("kernel")
        or "resnets" in name
        and "shortcut" not in name
        or "attention" in name
    ):
        return x
    if name.startswith("conv_"):
        return _end(x, encoding, into=name == "conv_in/kernel")
    if "time_conv" in name:
        return _time(
            x * 0.3, encoding, deepest="blocks_1" in name if encoding else "blocks_0" in name
        )
    x *= 0.3
    if "shortcut" in name:
        _clear(x)
        x[0, 0, 0] += _aligned(*x.shape[-2:])
        return x
    deepest = encoding and "blocks_1" in name
    _clear(x, CHANGES if deepest else ())
    # downwards the stride-2 grid starts at the first pixel; upwards pixels were doubled, and this
    # interpolates
    window = np.outer([1, 1, 0], [1, 1, 0]) / 4 if encoding else np.outer([1, 2, 1], [1, 2, 1]) / 16
    same = _aligned(*x.shape[-2:])
    if deepest:
        same[:, _channels(CHANGES)] = 0  # a clip's first frame has none
    return x + window[:, :, None, None] * same


def _end(kernel: np.ndarray, encoding: bool, into: bool) -> np.ndarray:
    """The first or the last convolution of a part: signals to pairs of channels, or back."""
    present = (2, 1, 1)  # the last time tap, the middle of the window
    kernel = kernel * (
        3.0 if encoding else 0.3
    )  # so that latents besides the signals say something
    if into:
        kernel[..., -2:] = 0
    else:
        kernel[..., -2:, :] = 0
    for signal in (*COLOURS, *CHANGES) if encoding != into else COLOURS:
        pair = _channels([signal])
        if into:
            kernel[..., pair] = 0
            kernel[(*present, signal, pair)] = 1, -1
        else:
            kernel[..., signal] = 0
            kernel[(*present, pair, signal)] = 1, -1
    if encoding and not into:
        kernel[..., CONFIG.z_dim :] *= 0.01
    return kernel


def _time(kernel: np.ndarray, encoding: bool, deepest: bool) -> np.ndarray:
    """Two frames into their mean, or one into two of the same; at the deepest level their halved
    difference too."""
    same = _aligned(kernel.shape[-2], kernel.shape[-2])
    colours, changes = _channels(COLOURS), _channels(CHANGES)
    if encoding:
        _clear(kernel, CHANGES if deepest else ())
        kernel[1:, 0, 0] += same / 2
        if deepest:
            kernel[..., changes] = 0
            kernel[1, 0, 0, colours, changes], kernel[2, 0, 0, colours, changes] = -0.5, 0.5
        return kernel
    frames = np.split(kernel, 2, axis=-1)
    for frame, sign in zip(frames, (-1, 1), strict=True):
        _clear(frame)
        frame[2, 0, 0] += same
        if deepest:
            frame[2, 0, 0, changes, colours] = sign
    return np.concatenate(frames, axis=-1)


def _channels(signals) -> list[int]:
    """Each signal and its negative."""
    return [c for s in signals for c in (2 * s, 2 * s + 1)]


def _clear(kernel: np.ndarray, changes=()) -> None:
    """Signals and constants only come through what is set for them."""
    kernel[..., [*_channels([*COLOURS, *changes]), -2, -1]] = 0


def _aligned(channels_in: int, channels_out: int) -> np.ndarray:
    """[in, out]: constants, the last two, to constants, the others in order."""
    matrix = np.eye(channels_in - 2, channels_out - 2)
    return np.block(
        [[matrix, np.zeros((channels_in - 2, 2))], [np.zeros((2, channels_out - 2)), np.eye(2)]]
    )


def main() -> None:
    fit.use_every_core()
    vae, clips = WanVAE(CONFIG, unroll=True), codec.training_clips()
    params = codec.train("wan_vae", vae, linear_start(codec.fresh(vae)), clips, STEPS)
    save(vae, params, clips[:256])


def save(vae: WanVAE, params: dict, clips: np.ndarray) -> None:
    """Writes the folder. Every latent channel is brought to mean zero and all of them together to
    unit deviation, half by the channel's own: the few that hold the colours stay larger, so that
    the denoiser learns them first.
    """
    latents = codec.mean_latents(vae, params, clips)
    mean, own = latents.mean((0, 1, 2, 3)), latents.std((0, 1, 2, 3))
    mean, deviation = (
        tuple(round(float(one), 4) for one in x) for x in (mean, np.sqrt(own * own.mean()))
    )
    config = dataclasses.replace(CONFIG, latents_mean=mean, latents_std=deviation)
    folder.save(vae_hf, FOLDER, config, fit.to_bf16(params))
    print(f"{FOLDER}: per channel mean {mean}, deviation {deviation}")


if __name__ == "__main__":
    main()
