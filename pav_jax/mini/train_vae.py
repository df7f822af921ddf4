"""Trains the mini generator's VAE: `python -m pav_jax.mini.train_vae` writes checkpoints/generator/vae.

CogVideoX's architecture, compressing 4 x 4 x 4 into 8 channels. It is trained on 24 x 24 crops: there is no attention,
so a codec learnt on crops works on whole pictures. It took 43 minutes on two busy CPU cores.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util

from pav_jax.embedded import CHECKPOINTS
from pav_jax.mini import fit
from pav_jax.mini.render import render, to_unit
from pav_jax.mini.world import draw_scene
from pav_jax.models.cogvideox import vae_hf
from pav_jax.models.cogvideox.vae import CogVideoXVAE, CogVideoXVAEConfig

CONFIG = CogVideoXVAEConfig(
    block_out_channels=(8, 32, 48), latent_channels=8, layers_per_block=1, norm_num_groups=2,
    sample_height=64, sample_width=64, scaling_factor=1.0,
)  # fmt: skip
SCENES = 3072
STEPS, BATCH, CROP = 3000, 8, 24
KL_WEIGHT = 1e-5  # keeps the latent bounded; the denoiser only needs it roughly normal
FOLDER = CHECKPOINTS / "generator" / "vae"


def pyramid(params: dict) -> dict:
    """Starts the network as a plain averaging pyramid: colours pass through from the first step, and detail is learnt.

    Residual branches start at zero, resampling convolutions as averages, other convolutions with the identity on the
    channels both sides have, and every spatial norm as a plain group norm (gain 1 and shift 0 whatever the latent).
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
        elif path.endswith(("sampler/kernel", "conv_shortcut/kernel", "conv_in/kernel", "conv_out/kernel")):
            same = np.eye(*kernel.shape[-2:])
            kernel *= 0.3
            if "sampler" in path:
                kernel += (box if "downsampler" in path else smooth)[:, :, None, None] * same
            else:  # the last time tap is the present frame
                middle = kernel.shape[1] // 2
                kernel[-1, middle, middle] += same
        flat[path] = jnp.asarray(kernel)
    return traverse_util.unflatten_dict(flat, sep="/")


# Luminance and two opponent colours. Most of a picture's variance is luminance, so a codec learns hue last; the weights
# make it learn red from orange early.
OPPONENT = np.array([[0.33, 1.0, 0.5], [0.33, -1.0, 0.5], [0.33, 0.0, -1.0]], np.float32)


def loss(vae: CogVideoXVAE, params, video, key):
    """L1 and L2 of luminance and opponent colours, L1 of horizontal and vertical differences (edges are what a shape
    is), plus a little KL."""
    mean, logvar = vae.apply({"params": params}, video, method="encode")
    z = mean + jnp.exp(0.5 * logvar) * jax.random.normal(key, mean.shape)
    error = vae.apply({"params": params}, z, method="decode") - video
    colours = error @ OPPONENT
    edges = jnp.abs(jnp.diff(error, axis=2)).mean() + jnp.abs(jnp.diff(error, axis=3)).mean()
    kl = 0.5 * (mean**2 + jnp.exp(logvar) - 1 - logvar).mean()
    value = jnp.abs(colours).mean() + 2 * (colours**2).mean() + 0.5 * edges + KL_WEIGHT * kl
    hue = (colours[..., 1:] ** 2).mean()
    return value, {"l1": jnp.abs(error).mean(), "mse": (error**2).mean(), "hue": hue, "kl": kl}


def main() -> None:
    vae = CogVideoXVAE(CONFIG)
    rng = np.random.default_rng(11)
    clips = render([draw_scene(rng) for _ in range(SCENES)])
    params = jax.jit(vae.init)(jax.random.key(0), to_unit(clips[:1, :, :32, :32]))["params"]
    params = pyramid(params)

    optimizer = fit.adamw(2.5e-3, STEPS, weight_decay=0.0)

    def step(state, video, key):
        gradient, metrics = jax.grad(lambda p: loss(vae, p, to_unit(video), key), has_aux=True)(state["params"])
        updates, opt = optimizer.update(gradient, state["opt"], state["params"])
        return {"params": optax.apply_updates(state["params"], updates), "opt": opt}, metrics

    def crops(i):
        rng = np.random.default_rng([12, i])
        picks = rng.integers(SCENES, size=BATCH)
        corners = rng.integers(65 - CROP, size=(BATCH, 2))
        return np.stack([clips[s, :, y : y + CROP, x : x + CROP] for s, (y, x) in zip(picks, corners, strict=True)])

    state = {"params": params, "opt": optimizer.init(params)}
    params = fit.fit("vae_crops", step, state, crops, STEPS)["params"]
    save(vae, params, clips[:256])


def save(vae: CogVideoXVAE, params, clips) -> None:
    """Writes the folder, every latent channel scaled to unit deviation."""
    encode = jax.jit(lambda p, v: vae.apply({"params": p}, to_unit(v), method="encode")[0])
    latents = np.concatenate([np.asarray(encode(params, clips[i : i + 16])) for i in range(0, len(clips), 16)])
    deviation = latents.std((0, 1, 2, 3))
    vae_hf.save(FOLDER, CONFIG, fit.to_bf16(rescaled(params, deviation)))
    print(f"{FOLDER}: latent deviation per channel was {deviation.round(2)}, is 1")


def rescaled(params: dict, deviation_C: np.ndarray) -> dict:
    """The same autoencoder with each latent channel divided by its deviation.

    The encoder's last convolution shrinks by it, and everything in the decoder that reads the latent grows by it, so a
    denoiser sees channels of one size without the codec changing.
    """
    C = len(deviation_C)
    flat = traverse_util.flatten_dict(params, sep="/")
    last = np.concatenate([1 / deviation_C, np.ones(C)])  # means, then log variances
    flat["encoder/conv_out/kernel"] = flat["encoder/conv_out/kernel"] * last
    shift = np.concatenate([np.zeros(C), -2 * np.log(deviation_C)])
    flat["encoder/conv_out/bias"] = flat["encoder/conv_out/bias"] * last + shift
    for path in flat:
        if path.startswith("decoder/") and (path.endswith(("conv_y/kernel", "conv_b/kernel"))
                                            or path == "decoder/conv_in/kernel"):  # fmt: skip
            flat[path] = flat[path] * deviation_C[:, None]
    return traverse_util.unflatten_dict(flat, sep="/")


if __name__ == "__main__":
    main()
