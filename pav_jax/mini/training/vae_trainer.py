"""Trains the VAEs of the mini generators, for any architecture, on 32 x 32 crops of rendered
clips."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import Float, UInt8

from pav_jax.mini.render import render, to_unit
from pav_jax.mini.training import fit
from pav_jax.mini.world import draw_scene

NUM_CLIPS = 3072
BATCH_SIZE = 8
CROP = 32  # pixels
# Pulls every latent channel to mean 0 and deviation 1, and turns off channels without information.
KL_WEIGHT = 5e-4

# Luminance and two opponent colours. Most of a frame's variance is luminance, so that hue would be
# learned last; these weights let the model separate red from orange early.
OPPONENT = np.array([[0.33, 1.0, 0.5], [0.33, -1.0, 0.5], [0.33, 0.0, -1.0]], np.float32)

Clips = UInt8[np.ndarray, "N 9 64 64 3"]


def training_clips() -> Clips:
    """Renders the NUM_CLIPS training clips."""
    rng = np.random.default_rng(11)
    return render([draw_scene(rng) for _ in range(NUM_CLIPS)])


def init_params(vae: Any) -> dict:
    """Random parameters of a VAE for clips."""
    clip = to_unit(np.zeros((1, 9, CROP, CROP, 3), np.uint8))
    return jax.jit(vae.init)(jax.random.key(0), clip)["params"]


def map_params(initial_value: Callable[[str, np.ndarray], np.ndarray], params: dict) -> dict:
    """Replaces each parameter by `initial_value(path, copy of the parameter)`.

    Args:
      initial_value: takes a path such as "encoder/conv_in/kernel".
      params: random parameters, from `init_params`.
    """
    flat: dict[str, Any] = traverse_util.flatten_dict(params, sep="/")
    for path, value in flat.items():
        flat[path] = jnp.asarray(initial_value(path, np.array(value)))
    return traverse_util.unflatten_dict(flat, sep="/")


def vae_loss(vae: Any, params, video, key):
    """L1 and L2 of luminance and opponent colours, L1 of horizontal and vertical differences (for
    sharp edges), and a small KL term.

    Args:
      video: crops in [-1, 1], [B, T, CROP, CROP, 3].

    Returns:
      The loss and metrics.
    """
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


def train_vae(name: str, vae: Any, params: dict, clips: Clips, steps: int) -> dict:
    """Trains on random crops of clips.

    Args:
      name: of the state file.

    Returns:
      The parameters after `steps` steps.
    """
    optimizer = fit.adamw(1e-3, steps, weight_decay=0.0)

    def loss(params, video, key):
        return vae_loss(vae, params, to_unit(video), key)

    def make_batch(i):
        rng = np.random.default_rng([12, i])
        picks = rng.integers(len(clips), size=BATCH_SIZE)
        corners = rng.integers(65 - CROP, size=(BATCH_SIZE, 2))
        crops = [
            clips[pick, :, y : y + CROP, x : x + CROP]
            for pick, (y, x) in zip(picks, corners, strict=True)
        ]
        return np.stack(crops)

    return fit.minimize_with_keys(name, loss, optimizer, params, make_batch, steps)


def mean_latents(vae: Any, params: dict, clips: Clips) -> Float[np.ndarray, "N 3 16 16 C"]:
    """The unscaled mean latents of clips."""
    encode = jax.jit(lambda p, v: vae.apply({"params": p}, to_unit(v), method="encode")[0])
    chunks = [clips[i : i + 16] for i in range(0, len(clips), 16)]
    return np.concatenate([np.asarray(encode(params, chunk)) for chunk in chunks])
