"""Fits the mini aesthetic head and writes checkpoints/clip/aesthetic_head:

    python -m pav_jax.mini.training.aesthetic

LAION's architecture: one linear layer on the unit-length CLIP image embedding, fitted in closed
form (ridge regression) to the formula of `aesthetic_formula.py` on renders and their VAE
reconstructions. About two minutes on two CPU cores.
"""

import numpy as np

from pav_jax.checkpoints.embedded import CHECKPOINTS
from pav_jax.mini.render import render
from pav_jax.mini.training import fit
from pav_jax.mini.training.aesthetic_formula import aesthetic
from pav_jax.mini.training.clip import FOLDER, FRAMES_SHOWN, make_reconstruct
from pav_jax.mini.world import draw_scene
from pav_jax.rewards.aesthetic import HEAD_FOLDER, HeadConfig, save_head
from pav_jax.rewards.clip_tower import ClipTower

NUM_RENDERS = 2048
NUM_RECONSTRUCTED = 512
NUM_TEST = 256
RIDGE = 1e-3


def main() -> None:
    """Fits the head and prints the share of variance that it explains."""
    fit.use_all_cores()
    rng = np.random.default_rng(51)
    videos = render([draw_scene(rng) for _ in range(NUM_RENDERS + NUM_TEST)])
    videos = np.concatenate([make_reconstruct()(videos[:NUM_RECONSTRUCTED]), videos])
    x = ClipTower.load(FOLDER).embed_frames(videos, FRAMES_SHOWN, "sheet")[:, 0].astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    y = aesthetic(videos).astype(np.float64)

    train = slice(0, len(y) - NUM_TEST)
    test = slice(len(y) - NUM_TEST, None)
    x_mean = x[train].mean(0)
    y_mean = y[train].mean()
    centred = x[train] - x_mean
    gram = centred.T @ centred + RIDGE * len(centred) * np.eye(x.shape[1]) * centred.var()
    weight = np.linalg.solve(gram, centred.T @ (y[train] - y_mean))
    bias = y_mean - x_mean @ weight
    residual = y[test] - (x[test] @ weight + bias)
    print(
        f"aesthetic head: explains {1 - residual.var() / y[test].var():.3f} of the variance on"
        f" {NUM_TEST} unseen renders"
    )
    params = {
        "layer_0": {
            "kernel": weight[:, None].astype(np.float32),
            "bias": np.array([bias], np.float32),
        }
    }
    save_head(CHECKPOINTS / "clip" / HEAD_FOLDER, HeadConfig("linear", x.shape[1]), params)


if __name__ == "__main__":
    main()
