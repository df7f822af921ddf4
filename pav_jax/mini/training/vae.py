"""Trains the mini generator's VAE and writes checkpoints/generator/vae:

    python -m pav_jax.mini.training.vae

CogVideoX's architecture, compressing 4 x 4 x 4 into 16 channels. It has no attention, so that a
model trained on 32 x 32 crops works on whole frames.
"""

import dataclasses

import numpy as np

from pav_jax.checkpoints import folder
from pav_jax.checkpoints.embedded import CHECKPOINTS
from pav_jax.mini.training import fit, vae_trainer
from pav_jax.models.cogvideox import vae_hf
from pav_jax.models.cogvideox.vae import CogVideoXVAE, CogVideoXVAEConfig

CONFIG = CogVideoXVAEConfig(
    block_out_channels=(16, 16, 48),
    latent_channels=16,
    layers_per_block=1,
    norm_num_groups=2,
    sample_height=64,
    sample_width=64,
    scaling_factor=1.0,
)
STEPS = 1000
ANCHOR = 3.0  # value of the constant channels: several times a colour's deviation
FOLDER = CHECKPOINTS / "generator" / "vae"
# Weights of a smoothing and of an averaging convolution. The stride-2 grid of the averaging one
# starts at the first pixel.
SMOOTH = np.outer([1, 2, 1], [1, 2, 1]) / 16
BOX = np.outer([1, 1, 0], [1, 1, 0]) / 4


def pyramid_params(params: dict) -> dict:
    """Initialises the network as an averaging pyramid, so that colours pass from the first step and
    training adds the details.

    Residual branches start at zero, resampling convolutions as averages, spatial norms as plain
    group norms (gain 1 and shift 0 whatever the latent), other convolutions with the identity on
    the channels that both sides have. A group norm would remove brightness and hue. Therefore two
    channels of every group of the main path are the constants `ANCHOR` and -`ANCHOR`: they
    determine the group's deviation, so that the norm is a fixed gain. As silu(x) - silu(-x) = x,
    each colour has a channel with its negative, and the last convolutions read their difference,
    which is linear.

    Args:
      params: random parameters, from `vae_trainer.init_params`.
    """
    return vae_trainer.map_params(_initial_value, params)


def _initial_value(path: str, value: np.ndarray) -> np.ndarray:
    if path.endswith(("conv_y/kernel", "conv_b/kernel")):
        value *= 0.1
    elif path.endswith("conv_y/bias"):
        value += 1
    elif "resnets" in path and path.endswith("conv2/kernel"):
        value *= 0
    elif path.endswith(("sampler/kernel", "conv_shortcut/kernel")):
        _set_resampling(path, value)
    elif path.endswith(("conv_in/kernel", "conv_out/kernel")):
        _set_end_convolution(path, value)
    elif path == "encoder/conv_out/bias":
        value[CONFIG.latent_channels :] = -5  # log variance of the latent
    elif path.endswith("conv_in/bias"):
        value[_constant_channels(len(value))] = [ANCHOR, -ANCHOR] * CONFIG.norm_num_groups
    return value


def _set_resampling(path: str, kernel: np.ndarray) -> None:
    """Averages, or the identity in a shortcut, plus small random weights."""
    kernel *= 0.3
    # Colours and constants pass through the identity only.
    kernel[..., [*range(6), *_constant_channels(kernel.shape[-1])]] = 0
    if "sampler" in path:
        window = BOX if "downsampler" in path else SMOOTH
        kernel += window[:, :, None, None] * np.eye(*kernel.shape[-2:])
    else:
        kernel[0, 0, 0] += _aligned_identity(*kernel.shape[-2:])


def _set_end_convolution(path: str, kernel: np.ndarray) -> None:
    """The first or the last convolution of a part: colours to pairs of channels, or back."""
    is_input = path.endswith("conv_in/kernel")
    now = kernel.shape[0] - 1  # the last time tap is the current frame
    middle = kernel.shape[1] // 2
    # Larger weights in the encoder, so that latents besides the colours carry information.
    kernel *= 3.0 if path.startswith("encoder") else 0.3
    if is_input:
        kernel[..., _constant_channels(kernel.shape[-1])] = 0
    else:
        kernel[:, :, :, _constant_channels(kernel.shape[-2])] = 0
    for colour in range(3):
        pair = (colour, 3 + colour)
        if is_input:
            kernel[..., pair] = 0
            kernel[now, middle, middle, colour, pair] = 1, -1
        else:
            kernel[..., colour] = 0
            # the inverse of the norm's gain
            gain = ANCHOR * (2 / (kernel.shape[-2] / CONFIG.norm_num_groups)) ** 0.5
            kernel[now, middle, middle, pair, colour] = gain, -gain
    if path == "encoder/conv_out/kernel":
        kernel[..., CONFIG.latent_channels :] *= 0.01


def _constant_channels(channels: int) -> list[int]:
    """The last two channels of every group."""
    size = channels // CONFIG.norm_num_groups
    return [g * size + i for g in range(CONFIG.norm_num_groups) for i in (size - 2, size - 1)]


def _aligned_identity(channels_in: int, channels_out: int) -> np.ndarray:
    """[in, out]: constant channels to constant channels, the others in order."""
    constants_in = _constant_channels(channels_in)
    constants_out = _constant_channels(channels_out)
    others_in = [i for i in range(channels_in) if i not in constants_in]
    others_out = [i for i in range(channels_out) if i not in constants_out]
    matrix = np.zeros((channels_in, channels_out))
    for i, o in zip(constants_in, constants_out, strict=True):
        matrix[i, o] = 1
    for i, o in zip(others_in, others_out, strict=False):
        matrix[i, o] = 1
    return matrix


def main() -> None:
    """Trains the VAE and writes the checkpoint."""
    fit.use_all_cores()
    vae = CogVideoXVAE(CONFIG)
    clips = vae_trainer.training_clips()
    params = pyramid_params(vae_trainer.init_params(vae))
    params = vae_trainer.train_vae("vae_crops", vae, params, clips, STEPS)
    save(vae, params, clips[:256])


def save(vae: CogVideoXVAE, params: dict, clips: np.ndarray) -> None:
    """Writes the checkpoint. Its `scaling_factor` brings the whole latent to unit deviation."""
    latents = vae_trainer.mean_latents(vae, params, clips)
    config = dataclasses.replace(CONFIG, scaling_factor=round(float(1 / latents.std()), 4))
    folder.save(vae_hf, FOLDER, config, fit.to_bf16(params))
    axes = (0, 1, 2, 3)
    print(
        f"{FOLDER}: per channel mean {latents.mean(axes).round(2)}, deviation"
        f" {latents.std(axes).round(2)}"
    )


if __name__ == "__main__":
    main()
