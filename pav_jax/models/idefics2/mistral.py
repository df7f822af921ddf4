"""Idefics2's language model: Mistral, whose image tokens are replaced by the resampler's output.

Mistral is Llama's layers with a sliding attention window. Source: Jiang et al. 2023 (arXiv
2310.06825).

Shapes: B rows, T tokens, I image tokens of a row at most, D width.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pav_jax.models.decoder.config import DecoderConfig
from pav_jax.models.decoder.layers import Block
from pav_jax.models.decoder.rotary import rotary_table
from pav_jax.models.layers import Constrain, RMSNorm, scan_layers


def sliding_mask(mask_BxT: Bool[Array, "B T"], window: int | None) -> Bool[Array, "B 1 T T"]:
    """Return the causal mask with a sliding window; True = attend.

    Args:
      mask_BxT: True = a real token.
      window: token t attends to tokens s with t - window < s <= t; None: all s <= t.
    """
    t = jnp.arange(mask_BxT.shape[1])
    in_window = t[None, :] <= t[:, None]
    if window is not None:
        in_window &= t[None, :] > t[:, None] - window
    return in_window[None, None] & mask_BxT[:, None, None, :]


def insert_images(
    x_BxTxD: Float[Array, "B T D"],
    is_image_BxT: Bool[Array, "B T"],
    images_BxIxD: Float[Array, "B I D"],
) -> Float[Array, "B T D"]:
    """Replace the k-th image token of each row by the k-th of the row's image vectors."""
    index_BxT = jnp.clip(jnp.cumsum(is_image_BxT, axis=1) - 1, 0, images_BxIxD.shape[1] - 1)
    image_BxTxD = jnp.take_along_axis(images_BxIxD, index_BxT[:, :, None], axis=1)
    return jnp.where(is_image_BxT[:, :, None], image_BxTxD.astype(x_BxTxD.dtype), x_BxTxD)


class Decoder(nn.Module):
    """Tokens to hidden states after the last norm; parameters are named as in `models.decoder`."""

    config: DecoderConfig
    sliding_window: int | None
    image_token_id: int
    dtype: Any
    attention_fn: Callable
    unroll: bool
    constrain: Constrain

    @nn.compact
    def __call__(
        self,
        input_ids_BxT: Int[Array, "B T"],
        mask_BxT: Bool[Array, "B T"],
        images_BxIxD: Float[Array, "B I D"],
    ) -> Float[Array, "B T D"]:
        c = self.config
        b, t = input_ids_BxT.shape
        embedding = self.param(
            "embed", nn.initializers.normal(c.initializer_range), (c.vocab_size, c.hidden_size)
        )
        # Devices exchange columns of the embedding for rows, as in `models.decoder`.
        ids_BxT = self.constrain(input_ids_BxT, ("rows", None))
        x_BxTxD = self.constrain(
            jnp.take(embedding, ids_BxT, axis=0).astype(self.dtype), ("rows", None, "embed")
        )
        x_BxTxD = self.constrain(x_BxTxD, ("batch", None, None))
        x_BxTxD = insert_images(x_BxTxD, input_ids_BxT == self.image_token_id, images_BxIxD)
        # Rotary attention depends on distances only, so padding on the left may be counted.
        positions_BxT = jnp.broadcast_to(jnp.arange(t), (b, t))
        rotary = rotary_table(c.rope, c.head_dim, positions_BxT)
        num_layers = c.num_hidden_layers
        layers = scan_layers(Block, num_layers, num_layers if self.unroll else 1)
        x_BxTxD, _ = layers(c, self.dtype, self.attention_fn, keep_cache=False, name="layers")(
            x_BxTxD, rotary, sliding_mask(mask_BxT, self.sliding_window)
        )
        return RMSNorm(c.rms_norm_eps, self.dtype, name="norm")(x_BxTxD)
