"""Idefics2 with a regression head: text and images in, a few scores out.

A SigLIP tower encodes each image, a perceiver resampler turns its patches into S tokens, Mistral
reads them in place of the text's image tokens, and a linear head on the last token gives the
scores.

Sources: Laurencon et al. 2024 (arXiv 2405.02246); the class `Idefics2ForSequenceClassification` of
TIGER-AI-Lab/Mantis, which is VideoScore's (He et al. 2024, arXiv 2406.15252).

Shapes: B rows, T tokens, N images (of a row, or in all), H, W pixels, C colours, P patches of V
features, S tokens per image, I = N S, D width, K scores.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pav_jax.models.attention.dot_product import dot_product_attention
from pav_jax.models.decoder import DecoderConfig
from pav_jax.models.idefics2.mistral import Decoder
from pav_jax.models.idefics2.perceiver import Connector, PerceiverConfig
from pav_jax.models.idefics2.vision import VisionConfig, VisionTower, patch_mask
from pav_jax.models.layers import Constrain, unconstrained
from pav_jax.typed_fields import TokenId


@dataclasses.dataclass(frozen=True)
class Idefics2Config:
    """Sizes of the parts; defaults: Idefics2-8B.

    Attributes:
      labels: number of scores.
      score_bias: whether the head has a bias.
    """

    text: DecoderConfig
    vision: VisionConfig = VisionConfig()
    perceiver: PerceiverConfig = PerceiverConfig()
    sliding_window: int | None = 4096
    image_token_id: TokenId = 32001
    labels: int = 5
    score_bias: bool = True


class Idefics2(nn.Module):
    """The whole model.

    Call `model.init(key, ids, mask, pixels)`, then the methods through
    `model.apply(variables, ..., method=name)`.

    Attributes:
      dtype: of the matrix products; norms, softmax, the head and the returned arrays are float32.
      unroll: no loops over the layers (faster on CPU, slower to compile).
      constrain: shards activations by their logical axes.
    """

    config: Idefics2Config
    dtype: Any = jnp.float32
    attention_fn: Callable = dot_product_attention
    unroll: bool = False
    constrain: Constrain = unconstrained

    def setup(self):
        """Create vision tower, connector, decoder, and the head with one score per label."""
        c = self.config
        text = c.text
        options = (self.dtype, self.attention_fn, self.unroll, self.constrain)
        self.vision = VisionTower(c.vision, *options)
        self.connector = Connector(
            c.perceiver, text.hidden_size, text.intermediate_size, text.hidden_act, *options
        )
        self.text = Decoder(text, c.sliding_window, c.image_token_id, *options)
        self.head = nn.Dense(c.labels, use_bias=c.score_bias)

    def __call__(
        self,
        input_ids_BxT: Int[Array, "B T"],
        mask_BxT: Bool[Array, "B T"],
        pixels_BxNxHxWxC: Float[Array, "B N H W C"],
        pixel_mask_BxNxHxW: Bool[Array, "B N H W"] | None = None,
    ) -> Float[Array, "B K"]:
        """Return the scores of each row.

        Args:
          mask_BxT: True = a real token; padding may be on either side.
          pixels_BxNxHxWxC: normalized; a row's images first, then padding images up to N, for which
            there must be no image token.
          pixel_mask_BxNxHxW: True = image; None means all.
        """
        b, n = pixels_BxNxHxWxC.shape[:2]
        pixel_mask = pixel_mask_BxNxHxW
        if pixel_mask is not None:
            pixel_mask = pixel_mask.reshape(b * n, *pixel_mask.shape[2:])
        pixels = pixels_BxNxHxWxC.reshape(b * n, *pixels_BxNxHxWxC.shape[2:])
        images = self.encode_images(pixels, pixel_mask)
        return self.score(input_ids_BxT, mask_BxT, images.reshape(b, -1, images.shape[-1]))

    def encode_images(
        self,
        pixels_NxHxWxC: Float[Array, "N H W C"],
        pixel_mask_NxHxW: Bool[Array, "N H W"] | None = None,
    ) -> Float[Array, "N S D"]:
        """Return the resampler's tokens of each image."""
        if pixel_mask_NxHxW is None:
            pixel_mask_NxHxW = jnp.ones(pixels_NxHxWxC.shape[:3], bool)
        patches_Nxhxw = patch_mask(pixel_mask_NxHxW, self.config.vision.patch_size)
        features_NxPxV = self.vision(pixels_NxHxWxC, patches_Nxhxw)
        mask_NxP = patches_Nxhxw.reshape(patches_Nxhxw.shape[0], -1)
        return self.connector(features_NxPxV, mask_NxP).astype(jnp.float32)

    def hidden(
        self,
        input_ids_BxT: Int[Array, "B T"],
        mask_BxT: Bool[Array, "B T"],
        images_BxIxD: Float[Array, "B I D"],
    ) -> Float[Array, "B T D"]:
        """Return the decoder's output at every token; it is undefined at padding."""
        return self.text(input_ids_BxT, mask_BxT, images_BxIxD).astype(jnp.float32)

    def score(
        self,
        input_ids_BxT: Int[Array, "B T"],
        mask_BxT: Bool[Array, "B T"],
        images_BxIxD: Float[Array, "B I D"],
    ) -> Float[Array, "B K"]:
        """Return the head's output at each row's last real token.

        Args:
          images_BxIxD: the tokens of the row's images, in order.
        """
        hidden_BxTxD = self.hidden(input_ids_BxT, mask_BxT, images_BxIxD)
        last_B = mask_BxT.shape[1] - 1 - jnp.argmax(mask_BxT[:, ::-1], axis=1)
        last_BxD = jnp.take_along_axis(hidden_BxTxD, last_B[:, None, None], axis=1)[:, 0]
        return self.head(last_BxD).astype(jnp.float32)
