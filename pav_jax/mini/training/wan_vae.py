"""Trains the second mini generator's VAE and writes checkpoints/generator_wan/vae:

    python -m pav_jax.mini.training.wan_vae

Wan 2.1's architecture, compressing 4 x 4 x 4 into 16 channels, trained as the first one (`vae`).
"""

import dataclasses
from collections.abc import Iterable

import numpy as np

from pav_jax.checkpoints import folder
from pav_jax.checkpoints.embedded import CHECKPOINTS
from pav_jax.mini.training import fit, vae_trainer
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
ANCHOR = 10.0  # many times a colour, so that a pixel's norm hardly depends on its colours
# Signals that pass from the first step; each has a channel and one with its negative.
COLOURS = range(3)
CHANGES = range(3, 6)
FOLDER = CHECKPOINTS / "generator_wan" / "vae"


def linear_params(params: dict) -> dict:
    """Initialises the network as a linear codec, to which training adds the details: of each
    4 x 4 x 4 block the mean colour passes, and how much its last two frames differ from its first
    two.

    Residual branches and attention start at zero, resampling convolutions as averages, other
    convolutions with the identity on the channels that both sides have. The norm of a pixel would
    remove its brightness. Therefore two channels of the main path are the constants `ANCHOR` and
    -`ANCHOR`: they determine the pixel's norm, and the scale of the norm layer undoes it. As
    silu(x) - silu(-x) = x, each signal has a channel with its negative, and the last convolutions
    read their difference.

    Args:
      params: random parameters, from `vae_trainer.init_params`.
    """
    return vae_trainer.map_params(_initial_value, params)


def _initial_value(path: str, x: np.ndarray) -> np.ndarray:
    part, name = path.split("/", 1)
    is_encoder = part == "encoder"
    if part in ("quant_conv", "post_quant_conv"):
        return np.eye(x.shape[-1])[None, None, None] if name == "kernel" else x * 0
    if name.endswith(("conv2/kernel", "proj/kernel")):
        return x * 0
    if name.endswith(("norm1/scale", "norm_out/scale", "attention/norm/scale")):
        x = np.full_like(x, (2 / len(x)) ** 0.5)
        x[:-2] *= ANCHOR
    elif name == "conv_in/bias":
        x[-2:] = ANCHOR, -ANCHOR
    elif is_encoder and name == "conv_out/bias":
        x[CONFIG.z_dim :] = -5  # log variance of the latent
    elif name.endswith("kernel") and _is_on_main_path(name):
        return _main_path_kernel(name, x, is_encoder)
    return x


def _is_on_main_path(name: str) -> bool:
    in_residual_branch = "resnets" in name and "shortcut" not in name
    return not in_residual_branch and "attention" not in name


def _main_path_kernel(name: str, x: np.ndarray, is_encoder: bool) -> np.ndarray:
    if name.startswith("conv_"):
        return _end_convolution(x, is_encoder, is_input=name == "conv_in/kernel")
    x = x * 0.3
    if "time_conv" in name:
        deepest_block = "blocks_1" if is_encoder else "blocks_0"
        return _time_convolution(x, is_encoder, is_deepest=deepest_block in name)
    if "shortcut" in name:
        _clear_signals(x)
        x[0, 0, 0] += _aligned_identity(*x.shape[-2:])
        return x
    is_deepest = is_encoder and "blocks_1" in name
    _clear_signals(x, CHANGES if is_deepest else ())
    if is_encoder:  # the stride-2 grid starts at the first pixel
        window = np.outer([1, 1, 0], [1, 1, 0]) / 4
    else:  # pixels were repeated; this interpolates
        window = np.outer([1, 2, 1], [1, 2, 1]) / 16
    identity = _aligned_identity(*x.shape[-2:])
    if is_deepest:
        identity[:, _channels(CHANGES)] = 0  # the first frame of a clip has no change
    return x + window[:, :, None, None] * identity


def _end_convolution(kernel: np.ndarray, is_encoder: bool, is_input: bool) -> np.ndarray:
    """The first or the last convolution of a part: signals to pairs of channels, or back."""
    current = (2, 1, 1)  # the last time tap, the middle of the window
    # Larger weights in the encoder, so that latents besides the signals carry information.
    kernel = kernel * (3.0 if is_encoder else 0.3)
    if is_input:
        kernel[..., -2:] = 0
    else:
        kernel[..., -2:, :] = 0
    at_latent = is_encoder != is_input
    for signal in (*COLOURS, *CHANGES) if at_latent else COLOURS:
        pair = _channels([signal])
        if is_input:
            kernel[..., pair] = 0
            kernel[(*current, signal, pair)] = 1, -1
        else:
            kernel[..., signal] = 0
            kernel[(*current, pair, signal)] = 1, -1
    if is_encoder and not is_input:
        kernel[..., CONFIG.z_dim :] *= 0.01
    return kernel


def _time_convolution(kernel: np.ndarray, is_encoder: bool, is_deepest: bool) -> np.ndarray:
    """Two frames to their mean, or one frame to two copies; at the deepest level also half of the
    difference of the two frames."""
    identity = _aligned_identity(kernel.shape[-2], kernel.shape[-2])
    colours = _channels(COLOURS)
    changes = _channels(CHANGES)
    if is_encoder:
        _clear_signals(kernel, CHANGES if is_deepest else ())
        kernel[1:, 0, 0] += identity / 2
        if is_deepest:
            kernel[..., changes] = 0
            kernel[1, 0, 0, colours, changes] = -0.5
            kernel[2, 0, 0, colours, changes] = 0.5
        return kernel
    frames = np.split(kernel, 2, axis=-1)
    for frame, sign in zip(frames, (-1, 1), strict=True):
        _clear_signals(frame)
        frame[2, 0, 0] += identity
        if is_deepest:
            frame[2, 0, 0, changes, colours] = sign
    return np.concatenate(frames, axis=-1)


def _channels(signals: Iterable[int]) -> list[int]:
    """The channels of each signal and of its negative."""
    return [channel for signal in signals for channel in (2 * signal, 2 * signal + 1)]


def _clear_signals(kernel: np.ndarray, changes: Iterable[int] = ()) -> None:
    """Sets the random weights to zero of outputs that are colours, `changes` or constants."""
    kernel[..., [*_channels([*COLOURS, *changes]), -2, -1]] = 0


def _aligned_identity(channels_in: int, channels_out: int) -> np.ndarray:
    """[in, out]: the last two channels, which are constant, to the last two; the others in
    order."""
    matrix = np.eye(channels_in - 2, channels_out - 2)
    return np.block(
        [[matrix, np.zeros((channels_in - 2, 2))], [np.zeros((2, channels_out - 2)), np.eye(2)]]
    )


def main() -> None:
    """Trains the VAE and writes the checkpoint."""
    fit.use_all_cores()
    vae = WanVAE(CONFIG, unroll=True)
    clips = vae_trainer.training_clips()
    params = linear_params(vae_trainer.init_params(vae))
    params = vae_trainer.train_vae("wan_vae", vae, params, clips, STEPS)
    save(vae, params, clips[:256])


def save(vae: WanVAE, params: dict, clips: np.ndarray) -> None:
    """Writes the checkpoint.

    Every latent channel is normalised to mean zero, and all of them together to unit deviation:
    each is divided by the geometric mean of its own and the average deviation. The few channels
    with the colours stay larger, so that the denoiser learns them first.
    """
    latents = vae_trainer.mean_latents(vae, params, clips)
    axes = (0, 1, 2, 3)
    deviation = latents.std(axes)
    latents_mean = _rounded(latents.mean(axes))
    latents_std = _rounded(np.sqrt(deviation * deviation.mean()))
    config = dataclasses.replace(CONFIG, latents_mean=latents_mean, latents_std=latents_std)
    folder.save(vae_hf, FOLDER, config, fit.to_bf16(params))
    print(f"{FOLDER}: per channel mean {latents_mean}, deviation {latents_std}")


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    return tuple(round(float(value), 4) for value in values)


if __name__ == "__main__":
    main()
