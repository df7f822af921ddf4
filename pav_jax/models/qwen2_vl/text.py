"""Qwen2-VL's language model: Qwen2 with M-RoPE, whose vision tokens are vectors of the tower.

Shapes: B rows, T tokens, I vision tokens of a row at most, D width.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pav_jax.models.attention.dot_product import Causal
from pav_jax.models.decoder.layers import Block
from pav_jax.models.idefics2.mistral import insert_images
from pav_jax.models.layers import Constrain, RMSNorm, scan_layers
from pav_jax.models.qwen2_vl.config import Qwen2VLConfig
from pav_jax.models.qwen2_vl.positions import mrope_tables


class TextModel(nn.Module):
    """Tokens to hidden states after the last norm; parameters are named as in `models.decoder`."""

    config: Qwen2VLConfig
    dtype: Any
    attention_fn: Callable
    unroll: bool
    constrain: Constrain

    @nn.compact
    def __call__(
        self,
        input_ids_BxT: Int[Array, "B T"],
        mask_BxT: Bool[Array, "B T"],
        positions_BxTx3: Int[Array, "B T 3"],
        vision_BxIxD: Float[Array, "B I D"],
    ) -> Float[Array, "B T D"]:
        c = self.config.text
        embedding = self.param(
            "embed", nn.initializers.normal(c.initializer_range), (c.vocab_size, c.hidden_size)
        )
        # Devices exchange columns of the embedding for rows, as in `models.decoder`.
        ids_BxT = self.constrain(input_ids_BxT, ("rows", None))
        x_BxTxD = self.constrain(
            jnp.take(embedding, ids_BxT, axis=0).astype(self.dtype), ("rows", None, "embed")
        )
        x_BxTxD = self.constrain(x_BxTxD, ("batch", None, None))
        is_vision_BxT = (input_ids_BxT == self.config.image_token_id) | (
            input_ids_BxT == self.config.video_token_id
        )
        x_BxTxD = insert_images(x_BxTxD, is_vision_BxT, vision_BxIxD)
        rotary = mrope_tables(c.rope, self.config.sections, c.head_dim, positions_BxTx3)
        num_layers = c.num_hidden_layers
        layers = scan_layers(Block, num_layers, num_layers if self.unroll else 1)
        mask = Causal(mask_BxT.astype(jnp.int32))
        x_BxTxD, _ = layers(c, self.dtype, self.attention_fn, keep_cache=False, name="layers")(
            x_BxTxD, rotary, mask
        )
        return RMSNorm(c.rms_norm_eps, self.dtype, name="norm")(x_BxTxD)
