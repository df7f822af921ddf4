"""I3D: Inception v1 with its windows inflated to three dimensions, for inference only.

Sources: Carreira & Zisserman 2017 (arXiv 1705.07750); deepmind/kinetics-i3d, i3d.py. Batch norms
use the running statistics, there is no dropout, and padding is TensorFlow's "SAME".

Shapes: B videos, T frames, H, W pixels, C channels, K classes.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

EPSILON = 1e-3  # of Sonnet's batch norm
# branch widths of a block: a 1 x 1 x 1 window; before and after a 3 x 3 x 3 window, twice; after a
# max-pooling
Block = tuple[int, int, int, int, int, int]


# (window, stride) of the max-pooling before each stage; the last one is for all further stages
STAGE_POOLS = (((1, 3, 3), (1, 2, 2)), ((3, 3, 3), (2, 2, 2)), ((2, 2, 2), (2, 2, 2)))


@dataclasses.dataclass(frozen=True)
class I3DConfig:
    """Sizes; defaults: the published ones.

    Attributes:
      stem: widths of the three convolutions before the blocks.
      stages: blocks of one resolution; frames, height and width are halved between stages.
      classes: 400 of Kinetics.
      window: of the average pooling after the last block, (frames, height, width).
    """

    stem: tuple[int, int, int] = (64, 64, 192)
    stages: tuple[tuple[Block, ...], ...] = (
        ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
        (
            (192, 96, 208, 16, 48, 64),
            (160, 112, 224, 24, 64, 64),
            (128, 128, 256, 24, 64, 64),
            (112, 144, 288, 32, 64, 64),
            (256, 160, 320, 32, 128, 128),
        ),
        ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
    )
    classes: int = 400
    window: tuple[int, int, int] = (2, 7, 7)


class Unit(nn.Module):
    """Convolution, batch norm without a scale, ReLU."""

    width: int
    window: int = 1
    stride: int = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        window = (self.window,) * 3
        conv = nn.Conv(self.width, window, self.stride, "SAME", use_bias=False, name="conv")
        x = conv(x)
        mean = self.param("mean", nn.initializers.zeros, (self.width,))
        var = self.param("var", nn.initializers.ones, (self.width,))
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        return nn.relu((x - mean) * jax.lax.rsqrt(var + EPSILON) + bias)


class Inception(nn.Module):
    """Four parallel branches, concatenated on channels."""

    widths: Block

    @nn.compact
    def __call__(self, x: Array) -> Array:
        a, b_in, b, c_in, c, d = self.widths
        pooled = _pool(x, (3, 3, 3), (1, 1, 1))
        return jnp.concatenate(
            [
                Unit(a, name="branch_0")(x),
                Unit(b, 3, name="branch_1")(Unit(b_in, name="branch_1_in")(x)),
                Unit(c, 3, name="branch_2")(Unit(c_in, name="branch_2_in")(x)),
                Unit(d, name="branch_3")(pooled),
            ],
            axis=-1,
        )


class I3D(nn.Module):
    """Videos in [-1, 1] to the logits of the Kinetics classes, averaged over time."""

    config: I3DConfig = I3DConfig()

    @nn.compact
    def __call__(self, videos_BxTxHxWx3: Float[Array, "B T H W 3"]) -> Float[Array, "B K"]:
        first, second, third = self.config.stem
        x = Unit(first, 7, 2, name="stem_0")(videos_BxTxHxWx3)
        x = Unit(second, name="stem_1")(_pool(x, (1, 3, 3), (1, 2, 2)))
        x = Unit(third, 3, name="stem_2")(x)
        for i, blocks in enumerate(self.config.stages):
            x = _pool(x, *STAGE_POOLS[min(i, len(STAGE_POOLS) - 1)])
            for j, widths in enumerate(blocks):
                x = Inception(widths, name=f"block_{i}_{j}")(x)
        x = nn.avg_pool(x, self.config.window, (1, 1, 1), "VALID")
        return nn.Dense(self.config.classes, name="logits")(x).mean((1, 2, 3))


def _pool(x: Array, window: tuple[int, int, int], stride: tuple[int, int, int]) -> Array:
    return nn.max_pool(x, window, stride, "SAME")
