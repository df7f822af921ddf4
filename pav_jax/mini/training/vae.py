"""Trains the mini generator's VAE: `python -m pav_jax.mini.training.vae` writes
checkpoints/generator/vae.

CogVideoX's architecture, compressing 4 x 4 x 4 into 16 channels. It is trained on 32 x 32 crops:
there is no attention, so a codec learnt on crops works on whole pictures.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from pav_jax.checkpoints import folder
from pav_jax.checkpoints.embedded import CHECKPOINTS
from pav_jax.mini import codec
from pav_jax.mini.training import fit
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
ANCHOR = 3.0  # several times a colour's deviation
FOLDER = CHECKPOINTS / "generator" / "vae"


def pyramid(params: dict) -> dict:
    """Starts the network as a plain averaging pyramid: colours pass through from the first step,
    and detail is learnt.

    Residual branches start at zero, resampling convolutions as averages, spatial norms as plain
    group norms (gain 1 and shift 0 whatever the latent), other convolutions with the identity on
    the channels both sides have. A group norm would take brightness and hue away, so two channels
    of every group of the main path are constants, `ANCHOR` and
    minus it: the group's deviation is then theirs and the norm a fixed gain. And silu(x) - silu(-x)
      = x, so each colour
    runs beside its negative: the last convolutions read their difference, which is linear.
    """
    flat = traverse_util.flatten_dict(params, sep="/")
    smooth = np.outer([1, 2, 1], [1, 2, 1]) / 16
    box = np.outer([1, 1, 0], [1, 1, 0]) / 4  # the stride-2 grid starts at the first pixel
    for path, value in flat.items():
        kernel = np.array(value)
        if path.endswith(("conv_y/kernel", "conv_b/kernel")):
            kernel *= 0.1
        elif path.endswith("conv_y/bias"):
            kernel += 1
        elif "resnets" in path and path.endswith("conv2/kernel"):
            kernel *= 0
        elif path.endswith(("sampler/kernel", "conv_shortcut/kernel")):
            kernel *= 0.3
            kernel[..., [*range(6), *_constant(kernel.shape[-1])]] = (
                0  # these only come through the identity
            )
            if "sampler" in path:
                same = np.eye(*kernel.shape[-2:])
                kernel += (box if "downsampler" in path else smooth)[:, :, None, None] * same
            else:
                kernel[0, 0, 0] += _aligned(*kernel.shape[-2:])
        elif path.endswith(("conv_in/kernel", "conv_out/kernel")):
            # the last time tap and the middle of the window are the present pixel
            into, (now, middle) = (
                path.endswith("conv_in/kernel"),
                (kernel.shape[0] - 1, kernel.shape[1] // 2),
            )
            kernel *= (
                3.0 if path.startswith("encoder") else 0.3
            )  # so that latents besides the colours say something
            if into:
                kernel[..., _constant(kernel.shape[-1])] = 0
            else:
                kernel[:, :, :, _constant(kernel.shape[-2])] = 0
            for colour in range(3):
                pair = (colour, 3 + colour)
                if into:
                    kernel[..., pair] = 0
                    kernel[now, middle, middle, colour, pair] = 1, -1
                else:
                    kernel[..., colour] = 0
                    gain = (
                        ANCHOR * (2 / (kernel.shape[-2] / CONFIG.norm_num_groups)) ** 0.5
                    )  # undoes the norm
                    kernel[now, middle, middle, pair, colour] = gain, -gain
            if path == "encoder/conv_out/kernel":
                kernel[..., CONFIG.latent_channels :] *= 0.01
        elif path == "encoder/conv_out/bias":
            kernel[CONFIG.latent_channels :] = -5  # log variance of the latent
        elif path.endswith("conv_in/bias"):
            kernel[_constant(len(kernel))] = [ANCHOR, -ANCHOR] * CONFIG.norm_num_groups
        flat[path] = jnp.asarray(kernel)
    return traverse_util.unflatten_dict(flat, sep="/")


def _constant(channels: int) -> list[int]:
    """The last two channels of every group."""
    size = channels // CONFIG.norm_num_groups
    return [g * size + i for g in range(CONFIG.norm_num_groups) for i in (size - 2, size - 1)]


def _aligned(channels_in: int, channels_out: int) -> np.ndarray:
    """[in, out]: constants to constants, the others in order."""
    constants = [_constant(n) for n in (channels_in, channels_out)]
    others = [
        [i for i in range(n) if i not in c]
        for n, c in zip((channels_in, channels_out), constants, strict=True)
    ]
    matrix = np.zeros((channels_in, channels_out))
    for i, o in [*zip(*constants, strict=True), *zip(*others, strict=False)]:
        matrix[i, o] = 1
    return matrix


def main() -> None:
    fit.use_every_core()
    vae, clips = CogVideoXVAE(CONFIG), codec.training_clips()
    params = codec.train("vae_crops", vae, pyramid(codec.fresh(vae)), clips, STEPS)
    save(vae, params, clips[:256])


def save(vae: CogVideoXVAE, params, clips) -> None:
    """Writes the folder; `scaling_factor` brings the whole latent to unit deviation."""
    latents = codec.mean_latents(vae, params, clips)
    config = dataclasses.replace(CONFIG, scaling_factor=round(float(1 / latents.std()), 4))
    folder.save(vae_hf, FOLDER, config, fit.to_bf16(params))
    axes = (0, 1, 2, 3)
    print(
        f"{FOLDER}: per channel mean {latents.mean(axes).round(2)}, deviation"
        f" {latents.std(axes).round(2)}"
    )


if __name__ == "__main__":
    main()
