"""LPIPS: at five depths of an image classifier, the squared difference of unit feature vectors,
weighed by a learned non-negative weight of each channel, averaged over the picture and summed
(Zhang et al. 2018, section 3).

Source: richzhang/PerceptualSimilarity, lpips/lpips.py (version 0.1). Shapes: N images, H W pixels,
C channels.
"""

import dataclasses
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of pixels in -1..1, per channel
EPSILON = 1e-10


@dataclasses.dataclass(frozen=True)
class Net:
    """A classifier's convolutions, each followed by a ReLU.

    Attributes:
      convs: (channels, window, stride, padding) of each.
      pools: the convolutions before which the picture is max-pooled.
      window: of that pooling, whose stride is 2.
      seen: the convolutions whose output is compared.
    """

    convs: tuple[tuple[int, int, int, int], ...]
    pools: tuple[int, ...]
    window: int
    seen: tuple[int, ...]


_WIDTHS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
NETS = {
    "alexnet": Net(
        ((64, 11, 4, 2), (192, 5, 1, 2), (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1)),
        (1, 2),
        3,
        (0, 1, 2, 3, 4),
    ),
    "vgg16": Net(tuple((width, 3, 1, 1) for width in _WIDTHS), (2, 4, 7, 10), 2, (1, 3, 6, 9, 12)),
}


class LPIPS(nn.Module):
    """`features` of one set of images, `distance` of two sets of features."""

    net: Net

    def setup(self):
        self.convs = [
            nn.Conv(width, (window, window), stride, padding, name=f"conv_{i}")
            for i, (width, window, stride, padding) in enumerate(self.net.convs)
        ]
        self.channels = [
            self.param(f"channels_{k}", nn.initializers.ones, (self.net.convs[i][0],))
            for k, i in enumerate(self.net.seen)
        ]

    def features(
        self, images_NxHxWx3: Float[Array, "N H W 3"]
    ) -> Sequence[Float[Array, "N h w C"]]:
        """Unit vectors at the compared depths. `images`: -1..1."""
        x = (images_NxHxWx3 - jnp.asarray(SHIFT)) / jnp.asarray(SCALE)
        found = []
        for i, conv in enumerate(self.convs):
            if i in self.net.pools:
                x = nn.max_pool(x, (self.net.window, self.net.window), (2, 2))
            x = nn.relu(conv(x))
            if i in self.net.seen:
                found.append(x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + EPSILON))
        return found

    def distance(self, a: Sequence[Array], b: Sequence[Array]) -> Float[Array, "N"]:
        return sum(
            (jnp.square(x - y) * weight).sum(-1).mean((1, 2))
            for x, y, weight in zip(a, b, self.channels, strict=True)
        )

    def __call__(
        self, a_NxHxWx3: Float[Array, "N H W 3"], b_NxHxWx3: Float[Array, "N H W 3"]
    ) -> Float[Array, "N"]:
        return self.distance(self.features(a_NxHxWx3), self.features(b_NxHxWx3))
