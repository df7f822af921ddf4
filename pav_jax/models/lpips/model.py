"""LPIPS: a perceptual distance of two images from the features of an image classifier.

At five depths of the classifier: the squared difference of the unit feature vectors, weighted by a
learned non-negative weight per channel, averaged over the image; then the sum over depths.

Sources: Zhang et al. 2018 (arXiv 1801.03924), section 3; richzhang/PerceptualSimilarity,
lpips/lpips.py (version 0.1).

Shapes: N images, H, W pixels, C channels.
"""

import dataclasses
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

# normalization per channel of pixels in [-1, 1]
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
EPSILON = 1e-10


@dataclasses.dataclass(frozen=True)
class Net:
    """A classifier's convolutions, each followed by a ReLU.

    Attributes:
      convs: (channels, window, stride, padding) of each.
      pools: indices of the convolutions that come after a max-pooling.
      window: of the max-pooling, whose stride is 2.
      compared: indices of the convolutions whose outputs are compared.
    """

    convs: tuple[tuple[int, int, int, int], ...]
    pools: tuple[int, ...]
    window: int
    compared: tuple[int, ...]


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
    """The distance; `features` and `distance` are its two steps, for images used several times."""

    net: Net

    def setup(self):
        """Create the net's convolutions, and a weight per channel at each compared depth."""
        self.convs = [
            nn.Conv(width, (window, window), stride, padding, name=f"conv_{i}")
            for i, (width, window, stride, padding) in enumerate(self.net.convs)
        ]
        self.channels = [
            self.param(f"channels_{k}", nn.initializers.ones, (self.net.convs[i][0],))
            for k, i in enumerate(self.net.compared)
        ]

    def features(
        self, images_NxHxWx3: Float[Array, "N H W 3"]
    ) -> Sequence[Float[Array, "N h w C"]]:
        """Return the unit feature vectors at the compared depths.

        Args:
          images_NxHxWx3: in [-1, 1].
        """
        x = (images_NxHxWx3 - jnp.asarray(SHIFT)) / jnp.asarray(SCALE)
        features = []
        for i, conv in enumerate(self.convs):
            if i in self.net.pools:
                x = nn.max_pool(x, (self.net.window, self.net.window), (2, 2))
            x = nn.relu(conv(x))
            if i in self.net.compared:
                features.append(x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + EPSILON))
        return features

    def distance(self, a: Sequence[Array], b: Sequence[Array]) -> Float[Array, "N"]:
        """Return the distance of two sets of features."""
        total = jnp.zeros(())
        for x, y, weight in zip(a, b, self.channels, strict=True):
            total = total + (jnp.square(x - y) * weight).sum(-1).mean((1, 2))
        return total

    def __call__(
        self, a_NxHxWx3: Float[Array, "N H W 3"], b_NxHxWx3: Float[Array, "N H W 3"]
    ) -> Float[Array, "N"]:
        """Return the distance of each image of `a` to that of `b`; both are in [-1, 1]."""
        return self.distance(self.features(a_NxHxWx3), self.features(b_NxHxWx3))
