"""Qwen2-VL with a reward head: text and frames in, scores at a few tokens out.

Sources: Wang et al. 2024 (arXiv 2409.12191) and transformers' `Qwen2VLModel`; the class
`Qwen2VLRewardModelBT` of KwaiVGI/VideoAlign (arXiv 2501.13918).

Shapes: B rows, T tokens, N pairs of frames, t frames of a pair, H, W pixels, C colours, M vectors
of a pair, I vision tokens of a row, D width, R tokens to read, O scores of a token.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pav_jax.models.attention.dot_product import dot_product_attention
from pav_jax.models.layers import Constrain, unconstrained
from pav_jax.models.qwen2_vl.config import HeadConfig, Qwen2VLConfig
from pav_jax.models.qwen2_vl.text import TextModel
from pav_jax.models.qwen2_vl.vision import VisionTower


class Head(nn.Module):
    """Hidden vectors to scores, in float32."""

    config: HeadConfig

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... O"]:
        x = x.astype(jnp.float32)
        last = len(self.config.widths) - 1
        for i, width in enumerate(self.config.widths):
            x = nn.Dense(width, use_bias=self.config.bias, name=f"layer_{i}")(x)
            x = x if i == last else jax.nn.relu(x)
        return x.astype(jnp.float32)


class Qwen2VL(nn.Module):
    """The whole model.

    Call its methods through `model.apply(variables, ..., method=name)`.

    Attributes:
      dtype: of the matrix products; norms, softmax, the head and the returned arrays are float32.
      unroll: no loops over the layers (faster on CPU, slower to compile).
      constrain: shards activations by their logical axes.
    """

    config: Qwen2VLConfig
    dtype: Any = jnp.float32
    attention_fn: Callable = dot_product_attention
    unroll: bool = False
    constrain: Constrain = unconstrained

    def setup(self):
        """Create the vision tower, the language model and the head."""
        options = (self.dtype, self.attention_fn, self.unroll, self.constrain)
        self.vision = VisionTower(self.config.vision, *options)
        self.text = TextModel(self.config, *options)
        self.head = Head(self.config.head)

    def __call__(
        self,
        input_ids_BxT: Int[Array, "B T"],
        mask_BxT: Bool[Array, "B T"],
        positions_BxTx3: Int[Array, "B T 3"],
        frames_BxNxtxHxWxC: Float[Array, "B N t H W C"],
        read_at_BxR: Int[Array, "B R"],
    ) -> Float[Array, "B R O"]:
        """Return the scores of each row at its tokens `read_at`; arguments as in the methods."""
        b = frames_BxNxtxHxWxC.shape[0]
        frames = frames_BxNxtxHxWxC.reshape(-1, *frames_BxNxtxHxWxC.shape[2:])
        vectors = self.encode_frames(frames)
        vision_BxIxD = vectors.reshape(b, -1, vectors.shape[-1])
        return self.score(input_ids_BxT, mask_BxT, positions_BxTx3, vision_BxIxD, read_at_BxR)

    def encode_frames(self, frames_NxtxHxWxC: Float[Array, "N t H W C"]) -> Float[Array, "N M D"]:
        """Return the vectors of each pair of frames, row by row."""
        return self.vision(frames_NxtxHxWxC).astype(jnp.float32)

    def hidden(
        self,
        input_ids_BxT: Int[Array, "B T"],
        mask_BxT: Bool[Array, "B T"],
        positions_BxTx3: Int[Array, "B T 3"],
        vision_BxIxD: Float[Array, "B I D"],
    ) -> Float[Array, "B T D"]:
        """Return the language model's output at every token; it is undefined at padding.

        Args:
          mask_BxT: True = a real token; padding may be on either side.
          positions_BxTx3: in time, height and width, see `positions`.
          vision_BxIxD: the vectors of each row, in order.
        """
        return self.text(input_ids_BxT, mask_BxT, positions_BxTx3, vision_BxIxD).astype(jnp.float32)

    def score(
        self,
        input_ids_BxT: Int[Array, "B T"],
        mask_BxT: Bool[Array, "B T"],
        positions_BxTx3: Int[Array, "B T 3"],
        vision_BxIxD: Float[Array, "B I D"],
        read_at_BxR: Int[Array, "B R"],
    ) -> Float[Array, "B R O"]:
        """Return the head's output at the tokens with the indices `read_at`."""
        hidden_BxTxD = self.hidden(input_ids_BxT, mask_BxT, positions_BxTx3, vision_BxIxD)
        return self.head(jnp.take_along_axis(hidden_BxTxD, read_at_BxR[:, :, None], axis=1))
