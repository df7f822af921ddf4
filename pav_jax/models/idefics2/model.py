"""Idefics2 (Laurencon et al. 2024, arXiv 2405.02246) as a judge: text and pictures in, a few
numbers out.

A SigLIP tower sees each picture, a perceiver resampler turns its patches into S tokens, Mistral
reads them in place of the text's image tokens, and a linear head on the last token gives the
numbers. That is the class `Idefics2ForSequenceClassification` of TIGER-AI-Lab/Mantis, which
VideoScore (He et al. 2024, arXiv 2406.15252) is.

Shapes: B rows, T tokens, N images (of a row, or in all), H W pixels, C colours, S tokens per image,
I = N S, D width, K numbers.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pav_jax.models.attention.dot_product import dot_product_attention
from pav_jax.models.idefics2.mistral import Decoder
from pav_jax.models.idefics2.perceiver import Connector, PerceiverConfig
from pav_jax.models.idefics2.vision import VisionConfig, VisionTower, patch_mask
from pav_jax.models.llama.model import LlamaConfig


@dataclasses.dataclass(frozen=True)
class Idefics2Config:
    """Sizes of the parts; defaults: Idefics2-8B's. `labels`: how many numbers the head gives."""

    text: LlamaConfig
    vision: VisionConfig = VisionConfig()
    perceiver: PerceiverConfig = PerceiverConfig()
    sliding_window: int | None = 4096
    image_token_id: int = 32001
    labels: int = 5
    score_bias: bool = True


class Idefics2(nn.Module):
    """The whole judge. `model.init(key, ids, mask, pixels)`; then call it, or the methods through
    `apply(method=name)`.

    Attributes:
      dtype: compute type of the matrix products; norms, softmax, the head and what the methods
        return stay in float32.
      unroll: no loops over the layers (faster on CPU, slower to compile).
    """

    config: Idefics2Config
    dtype: Any = jnp.float32
    attention_fn: Callable = dot_product_attention
    unroll: bool = False
    constrain: Callable[[Array, tuple[str | None, ...]], Array] = lambda x, axes: (
        x
    )  # keeps x where its logical axes belong

    def setup(self):
        c, how = self.config, (self.dtype, self.attention_fn, self.unroll, self.constrain)
        self.vision = VisionTower(c.vision, *how)
        self.connector = Connector(
            c.perceiver, c.text.hidden_size, c.text.intermediate_size, c.text.hidden_act, *how
        )
        self.text = Decoder(c.text, c.sliding_window, c.image_token_id, *how)
        self.head = nn.Dense(c.labels, use_bias=c.score_bias)

    def __call__(
        self,
        input_ids_BxT: Int[Array, "B T"],
        mask_BxT: Bool[Array, "B T"],
        pixels_BxNxHxWxC: Float[Array, "B N H W C"],
        pixel_mask_BxNxHxW: Bool[Array, "B N H W"] | None = None,
    ) -> Float[Array, "B K"]:
        """The numbers of each row.

        Args:
          mask_BxT: True = a real token; padding may stand on either side.
          pixels_BxNxHxWxC: normalised; a row's pictures first, then padding up to N, which no image
            token may ask for.
          pixel_mask_BxNxHxW: True = picture; all where None.
        """
        b, n = pixels_BxNxHxWxC.shape[:2]
        flat = (
            None
            if pixel_mask_BxNxHxW is None
            else pixel_mask_BxNxHxW.reshape(b * n, *pixel_mask_BxNxHxW.shape[2:])
        )
        images = self.encode_images(
            pixels_BxNxHxWxC.reshape(b * n, *pixels_BxNxHxWxC.shape[2:]), flat
        )
        return self.judge(input_ids_BxT, mask_BxT, images.reshape(b, -1, images.shape[-1]))

    def encode_images(
        self,
        pixels_NxHxWxC: Float[Array, "N H W C"],
        pixel_mask_NxHxW: Bool[Array, "N H W"] | None = None,
    ) -> Float[Array, "N S D"]:
        """The resampler's tokens of each image."""
        if pixel_mask_NxHxW is None:
            pixel_mask_NxHxW = jnp.ones(pixels_NxHxWxC.shape[:3], bool)
        patches_Nxhxw = patch_mask(pixel_mask_NxHxW, self.config.vision.patch_size)
        seen_NxPxV = self.vision(pixels_NxHxWxC, patches_Nxhxw)
        mask_NxP = patches_Nxhxw.reshape(patches_Nxhxw.shape[0], -1)
        return self.connector(seen_NxPxV, mask_NxP).astype(jnp.float32)

    def hidden(
        self,
        input_ids_BxT: Int[Array, "B T"],
        mask_BxT: Bool[Array, "B T"],
        images_BxIxD: Float[Array, "B I D"],
    ) -> Float[Array, "B T D"]:
        """The decoder's output at every token; at padding it means nothing."""
        return self.text(input_ids_BxT, mask_BxT, images_BxIxD).astype(jnp.float32)

    def judge(
        self,
        input_ids_BxT: Int[Array, "B T"],
        mask_BxT: Bool[Array, "B T"],
        images_BxIxD: Float[Array, "B I D"],
    ) -> Float[Array, "B K"]:
        """The head's numbers at each row's last real token, given the tokens of its images in
        order."""
        hidden_BxTxD = self.hidden(input_ids_BxT, mask_BxT, images_BxIxD)
        last_B = mask_BxT.shape[1] - 1 - jnp.argmax(mask_BxT[:, ::-1], axis=1)
        last_BxD = jnp.take_along_axis(hidden_BxTxD, last_B[:, None, None], axis=1)[:, 0]
        return self.head(last_BxD).astype(jnp.float32)
