"""Idefics2's language model: Mistral (Jiang et al. 2023, arXiv 2310.06825), which is Llama's layers
under a sliding window, reading image tokens' places from the resampler instead of from its own
table.

Shapes: B rows, T tokens, I image tokens of a row at most, D width.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pav_jax.models.layers import RMSNorm
from pav_jax.models.llama.model import Block, LlamaConfig, rotary_table


def sliding_mask(mask_BxT: Bool[Array, "B T"], window: int | None) -> Bool[Array, "B 1 T T"]:
    """True = attend: token t sees real tokens s with t - window < s <= t; all s <= t where `window`
    is None."""
    t = jnp.arange(mask_BxT.shape[1])
    near = t[None, :] <= t[:, None]
    if window is not None:
        near &= t[None, :] > t[:, None] - window
    return near[None, None] & mask_BxT[:, None, None, :]


def place_images(
    x_BxTxD: Float[Array, "B T D"],
    is_image_BxT: Bool[Array, "B T"],
    images_BxIxD: Float[Array, "B I D"],
) -> Float[Array, "B T D"]:
    """The k-th image token of each row takes the k-th vector of the row's `images`."""
    order_BxT = jnp.clip(jnp.cumsum(is_image_BxT, axis=1) - 1, 0, images_BxIxD.shape[1] - 1)
    taken_BxTxD = jnp.take_along_axis(images_BxIxD, order_BxT[:, :, None], axis=1)
    return jnp.where(is_image_BxT[:, :, None], taken_BxTxD.astype(x_BxTxD.dtype), x_BxTxD)


class Decoder(nn.Module):
    """Tokens to hidden states after the last norm; parameters are named as in
    `llama.model.Llama`."""

    config: LlamaConfig
    sliding_window: int | None
    image_token_id: int
    dtype: Any
    attention_fn: Callable
    unroll: bool
    constrain: Callable

    @nn.compact
    def __call__(
        self,
        input_ids_BxT: Int[Array, "B T"],
        mask_BxT: Bool[Array, "B T"],
        images_BxIxD: Float[Array, "B I D"],
    ) -> Float[Array, "B T D"]:
        c, (b, t) = self.config, input_ids_BxT.shape
        embedding = self.param(
            "embed", nn.initializers.normal(c.initializer_range), (c.vocab_size, c.hidden_size)
        )
        # Width is exchanged for rows, as in `llama.model.Llama`: then the layers' weights come to
        # the rows.
        ids_BxT = self.constrain(input_ids_BxT, ("rows", None))
        x_BxTxD = self.constrain(
            jnp.take(embedding, ids_BxT, axis=0).astype(self.dtype), ("rows", None, "embed")
        )
        x_BxTxD = self.constrain(x_BxTxD, ("batch", None, None))
        x_BxTxD = place_images(x_BxTxD, input_ids_BxT == self.image_token_id, images_BxIxD)
        # Only distances count in rotary positions, so padding on the left need not be counted out.
        rotary = rotary_table(c, jnp.broadcast_to(jnp.arange(t), (b, t)))
        layers = nn.scan(
            Block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=c.num_hidden_layers,
            unroll=c.num_hidden_layers if self.unroll else 1,
        )
        x_BxTxD, _ = layers(c, self.dtype, self.attention_fn, keep_cache=False, name="layers")(
            x_BxTxD, rotary, sliding_mask(mask_BxT, self.sliding_window)
        )
        return RMSNorm(c.rms_norm_eps, self.dtype, name="norm")(x_BxTxD)
