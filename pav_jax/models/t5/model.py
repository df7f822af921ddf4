"""The T5 encoder: pre-norm blocks without biases, relative position bias, unscaled attention.

Sources: Raffel et al. 2020 (arXiv 1910.10683); version 1.1 (gated GELU) after Shazeer 2020 (arXiv
2002.05202); UMT5, whose layers have a position bias each, Chung et al. 2023 (arXiv 2304.09151);
transformers' `T5EncoderModel` and `UMT5EncoderModel`.

Shapes: B batch, T tokens, D width, N heads, H head size, E = N * H, F feed-forward width.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Annotated, Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from pav_jax.models.attention.dot_product import dot_product_attention
from pav_jax.models.layers import ACTIVATIONS, RMSNorm, scan_layers
from pav_jax.typed_fields import Depth, NonNegative, Range, TokenId


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Sizes and options of one encoder; defaults: T5 v1.1 XXL.

    Attributes:
      gated: gated feed-forward; False is the single up projection of T5 1.0.
      layer_bias: UMT5: every layer has its own position bias; False: all layers share one.
    """

    vocab_size: int = 32128
    width: int = 4096
    head_size: int = 64
    heads: int = 64
    layers: Depth = 24
    ff_width: int = 10240
    position_buckets: Annotated[int, Range(4, 2**16)] = 32
    position_max_distance: Annotated[int, Range(4, 2**24)] = 128
    norm_epsilon: NonNegative = 1e-6
    activation: str = "gelu_new"
    gated: bool = True
    layer_bias: bool = False
    pad_id: TokenId = 0
    eos_id: TokenId = 1


def bucket_table(tokens: int, buckets: int, max_distance: int) -> Int[np.ndarray, "T T"]:
    """Return the bucket of every (query, key) pair (arXiv 1910.10683, section 2.1).

    Half of the buckets are for each direction; near distances have a bucket each, further ones
    share logarithmic buckets up to `max_distance`. Computed in float32, so that distances on the
    edge of a bucket are assigned as in the original.
    """
    offset_TxT = np.arange(tokens)[None, :] - np.arange(tokens)[:, None]  # key minus query
    buckets //= 2
    exact = buckets // 2
    distance_TxT = np.abs(offset_TxT)
    ratio_TxT = np.maximum(distance_TxT, 1).astype(np.float32) / np.float32(exact)
    log_range = np.float32(math.log(max_distance / exact))
    steps_TxT = np.log(ratio_TxT) / log_range * np.float32(buckets - exact)
    far_TxT = np.minimum(exact + steps_TxT.astype(np.int64), buckets - 1)
    return np.where(distance_TxT < exact, distance_TxT, far_TxT) + (offset_TxT > 0) * buckets


def position_bias(module: nn.Module, config: T5Config, tokens: int) -> Float[Array, "1 N T T"]:
    """Return the bias of the attention logits; its table is a parameter of `module`."""
    bias_KxN = module.param(
        "position_bias", nn.initializers.normal(0.02), (config.position_buckets, config.heads)
    )
    buckets_TxT = bucket_table(tokens, config.position_buckets, config.position_max_distance)
    return bias_KxN.astype(jnp.float32)[buckets_TxT].transpose(2, 0, 1)[None]


class SelfAttention(nn.Module):
    """Attention without scaling, with position bias."""

    config: T5Config
    dtype: Any
    attention_fn: Callable

    @nn.compact
    def __call__(self, x_BxTxD, mask_Bx1x1xT, bias):
        config = self.config
        inner = config.heads * config.head_size
        heads = (*x_BxTxD.shape[:2], config.heads, config.head_size)
        lecun = nn.initializers.lecun_normal()
        # the logits are not divided by sqrt(H), so the queries start smaller
        unscaled = nn.initializers.normal((config.width * config.head_size) ** -0.5)
        q_BxTxE, k_BxTxE, v_BxTxE = (
            nn.Dense(inner, use_bias=False, dtype=self.dtype, kernel_init=init, name=name)(x_BxTxD)
            for name, init in (("q", unscaled), ("k", lecun), ("v", lecun))
        )
        if config.layer_bias:
            bias = position_bias(self, config, x_BxTxD.shape[1])
        out_BxTxNxH = self.attention_fn(
            q_BxTxE.reshape(heads),
            k_BxTxE.reshape(heads),
            v_BxTxE.reshape(heads),
            mask=mask_Bx1x1xT,
            bias=bias,
            scale=1.0,
        )
        return nn.Dense(config.width, use_bias=False, dtype=self.dtype, name="o")(
            out_BxTxNxH.reshape(*x_BxTxD.shape[:2], inner)
        )


class FeedForward(nn.Module):
    """The feed-forward layer, gated or not."""

    config: T5Config
    dtype: Any

    @nn.compact
    def __call__(self, x_BxTxD):
        config = self.config

        def up(name: str) -> Array:
            dense = nn.Dense(config.ff_width, use_bias=False, dtype=self.dtype, name=name)
            return dense(x_BxTxD)

        act = ACTIVATIONS[config.activation]
        hidden_BxTxF = act(up("wi_0")) * up("wi_1") if config.gated else act(up("wi"))
        return nn.Dense(config.width, use_bias=False, dtype=self.dtype, name="wo")(hidden_BxTxF)


class Block(nn.Module):
    """One layer: attention, then feed-forward, each after a norm."""

    config: T5Config
    dtype: Any
    attention_fn: Callable

    @nn.compact
    def __call__(self, x_BxTxD, mask_Bx1x1xT, bias):
        epsilon = self.config.norm_epsilon
        attention = SelfAttention(self.config, self.dtype, self.attention_fn, name="attention")
        h_BxTxD = RMSNorm(epsilon, self.dtype, name="attention_norm")(x_BxTxD)
        x_BxTxD += attention(h_BxTxD, mask_Bx1x1xT, bias)
        h_BxTxD = RMSNorm(epsilon, self.dtype, name="ff_norm")(x_BxTxD)
        x_BxTxD += FeedForward(self.config, self.dtype, name="ff")(h_BxTxD)
        return x_BxTxD, None


class T5Encoder(nn.Module):
    """Encodes token ids to one vector per position.

    Attributes:
      dtype: of the matrix products; norms, logits and position bias are float32.
      remat, unroll: see `scan_layers`.
    """

    config: T5Config
    dtype: Any = jnp.float32
    attention_fn: Callable = dot_product_attention
    remat: bool = False
    unroll: int = 1

    @nn.compact
    def __call__(
        self,
        input_ids_BxT: Int[Array, "B T"],
        attention_mask_BxT: Bool[Array, "B T"] | Int[Array, "B T"] | None = None,
    ) -> Float[Array, "B T D"]:
        """Return the hidden states after the last norm.

        Args:
          attention_mask_BxT: 0 for padding, which is not attended to (Wan). None attends to padding
            as well (CogVideoX).
        """
        config = self.config
        x_BxTxD = nn.Embed(
            config.vocab_size,
            config.width,
            dtype=self.dtype,
            embedding_init=nn.initializers.normal(1.0),
            name="embed",
        )(input_ids_BxT)
        bias = None
        if not config.layer_bias:
            bias = position_bias(self, config, input_ids_BxT.shape[1])
        mask = None
        if attention_mask_BxT is not None:
            mask = attention_mask_BxT.astype(bool)[:, None, None, :]
        layers = scan_layers(Block, config.layers, self.unroll, self.remat)(
            config, self.dtype, self.attention_fn, name="layers"
        )
        x_BxTxD, _ = layers(x_BxTxD, mask, bias)
        return RMSNorm(config.norm_epsilon, self.dtype, name="final_norm")(x_BxTxD)
