"""How the VAEs of the mini generators are trained, whatever their architecture: on 32 x 32 crops of
rendered clips."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pav_jax.mini.render import render, to_unit
from pav_jax.mini.training import fit
from pav_jax.mini.world import draw_scene

SCENES = 3072
BATCH, CROP = 8, 32
# draws every latent channel to mean 0 and deviation 1, and lets go of those that say nothing
KL_WEIGHT = 5e-4

# Luminance and two opponent colours. Most of a picture's variance is luminance, so a codec learns
# hue last; the weights make it learn red from orange early.
OPPONENT = np.array([[0.33, 1.0, 0.5], [0.33, -1.0, 0.5], [0.33, 0.0, -1.0]], np.float32)


def training_clips() -> np.ndarray:
    """uint8 [SCENES, 9, 64, 64, 3]."""
    rng = np.random.default_rng(11)
    return render([draw_scene(rng) for _ in range(SCENES)])


def fresh(vae: Any) -> dict:
    """Random parameters of a VAE for clips."""
    return jax.jit(vae.init)(jax.random.key(0), to_unit(np.zeros((1, 9, CROP, CROP, 3), np.uint8)))[
        "params"
    ]


def loss(vae: Any, params, video, key):
    """L1 and L2 of luminance and opponent colours, L1 of horizontal and vertical differences (edges
    are what a shape is), plus a little KL."""
    mean, logvar = vae.apply({"params": params}, video, method="encode")
    z = mean + jnp.exp(0.5 * logvar) * jax.random.normal(key, mean.shape)
    error = vae.apply({"params": params}, z, method="decode") - video
    colours = error @ OPPONENT
    edges = jnp.abs(jnp.diff(error, axis=2)).mean() + jnp.abs(jnp.diff(error, axis=3)).mean()
    kl = 0.5 * (mean**2 + jnp.exp(logvar) - 1 - logvar).mean()
    value = jnp.abs(colours).mean() + 2 * (colours**2).mean() + 0.5 * edges
    value += KL_WEIGHT * kl
    hue = (colours[..., 1:] ** 2).mean()
    return value, {"l1": jnp.abs(error).mean(), "mse": (error**2).mean(), "hue": hue, "kl": kl}


def train(name: str, vae: Any, params: dict, clips: np.ndarray, steps: int) -> dict:
    """`params` after `steps` steps on crops of `clips`, uint8 [N, 9, 64, 64, 3]."""
    optimizer = fit.adamw(1e-3, steps, weight_decay=0.0)

    def step(state, video, key):
        gradient, metrics = jax.grad(lambda p: loss(vae, p, to_unit(video), key), has_aux=True)(
            state["params"]
        )
        updates, opt = optimizer.update(gradient, state["opt"], state["params"])
        return {"params": optax.apply_updates(state["params"], updates), "opt": opt}, metrics

    def crops(i):
        rng = np.random.default_rng([12, i])
        picks = rng.integers(len(clips), size=BATCH)
        corners = rng.integers(65 - CROP, size=(BATCH, 2))
        return np.stack(
            [
                clips[s, :, y : y + CROP, x : x + CROP]
                for s, (y, x) in zip(picks, corners, strict=True)
            ]
        )

    state = {"params": params, "opt": optimizer.init(params)}
    return fit.fit(name, step, state, crops, steps)["params"]


def mean_latents(vae: Any, params: dict, clips: np.ndarray) -> np.ndarray:
    """float32 [N, 3, 16, 16, C], unscaled, of clips [N, 9, 64, 64, 3]."""
    encode = jax.jit(lambda p, v: vae.apply({"params": p}, to_unit(v), method="encode")[0])
    return np.concatenate(
        [np.asarray(encode(params, clips[i : i + 16])) for i in range(0, len(clips), 16)]
    )
