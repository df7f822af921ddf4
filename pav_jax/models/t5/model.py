"""The T5 encoder: pre-norm blocks without biases, relative position bias, no scaling of the
attention scores.

Sources: Raffel et al. 2020 (arXiv 1910.10683); version 1.1 (gated GELU) after Shazeer 2020 (arXiv
2002.05202); UMT5, whose layers have a position bias each, Chung et al. 2023 (arXiv 2304.09151).

Shapes: B batch, T tokens, D width, N heads, H head size, E = N * H, F feed-forward width.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from pav_jax.models.attention.dot_product import dot_product_attention
from pav_jax.models.layers import ACTIVATIONS, RMSNorm


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Sizes and choices of one encoder; `hf.py` reads them from a checkpoint's config.json.
    Defaults: v1.1 XXL."""

    vocab_size: int = 32128
    width: int = 4096
    head_size: int = 64
    heads: int = 64
    layers: int = 24
    ff_width: int = 10240
    position_buckets: int = 32
    position_max_distance: int = 128
    norm_epsilon: float = 1e-6
    activation: str = "gelu_new"
    gated: bool = True  # False: the single up projection of T5 1.0
    layer_bias: bool = (
        False  # True: UMT5, a position bias of its own in every layer instead of one for all
    )
    pad_id: int = 0
    eos_id: int = 1


def bucket_table(tokens: int, buckets: int, max_distance: int) -> Int[np.ndarray, "T T"]:
    """Bucket of every (query, key) pair: half for each direction, exact when near, logarithmic up
    to `max_distance`.

    Source: section 2.1 of arXiv 1910.10683; float32, so that distances on a bucket's edge fall as
      in the original.
    """
    offset_TxT = np.arange(tokens)[None, :] - np.arange(tokens)[:, None]  # key minus query
    buckets //= 2
    exact = buckets // 2
    distance_TxT = np.abs(offset_TxT)
    ratio_TxT = np.maximum(distance_TxT, 1).astype(np.float32) / np.float32(exact)
    steps_TxT = (
        np.log(ratio_TxT) / np.float32(math.log(max_distance / exact)) * np.float32(buckets - exact)
    )
    far_TxT = np.minimum(exact + steps_TxT.astype(np.int64), buckets - 1)
    return np.where(distance_TxT < exact, distance_TxT, far_TxT) + (offset_TxT > 0) * buckets


def position_bias(module: nn.Module, config: T5Config, tokens: int) -> Float[Array, "1 N T T"]:
    """What is added to the attention scores; its table is a parameter of `module`."""
    bias_KxN = module.param(
        "position_bias", nn.initializers.normal(0.02), (config.position_buckets, config.heads)
    )
    buckets_TxT = bucket_table(tokens, config.position_buckets, config.position_max_distance)
    return bias_KxN.astype(jnp.float32)[buckets_TxT].transpose(2, 0, 1)[None]


class SelfAttention(nn.Module):
    config: T5Config
    dtype: Any
    attention_fn: Callable

    @nn.compact
    def __call__(self, x_BxTxD, mask_Bx1x1xT, bias_1xNxTxT):
        config = self.config
        inner = config.heads * config.head_size
        heads = (*x_BxTxD.shape[:2], config.heads, config.head_size)
        lecun = nn.initializers.lecun_normal()
        unscaled = nn.initializers.normal(
            (config.width * config.head_size) ** -0.5
        )  # scores are not over sqrt(H)
        q_BxTxE, k_BxTxE, v_BxTxE = (
            nn.Dense(inner, use_bias=False, dtype=self.dtype, kernel_init=init, name=name)(x_BxTxD)
            for name, init in (("q", unscaled), ("k", lecun), ("v", lecun))
        )
        if config.layer_bias:
            bias_1xNxTxT = position_bias(self, config, x_BxTxD.shape[1])
        out_BxTxNxH = self.attention_fn(
            q_BxTxE.reshape(heads),
            k_BxTxE.reshape(heads),
            v_BxTxE.reshape(heads),
            mask=mask_Bx1x1xT,
            bias=bias_1xNxTxT,
            scale=1.0,
        )
        return nn.Dense(config.width, use_bias=False, dtype=self.dtype, name="o")(
            out_BxTxNxH.reshape(*x_BxTxD.shape[:2], inner)
        )


class FeedForward(nn.Module):
    config: T5Config
    dtype: Any

    @nn.compact
    def __call__(self, x_BxTxD):
        config = self.config
        up = lambda name: nn.Dense(config.ff_width, use_bias=False, dtype=self.dtype, name=name)(
            x_BxTxD
        )  # noqa: E731
        act = ACTIVATIONS[config.activation]
        hidden_BxTxF = act(up("wi_0")) * up("wi_1") if config.gated else act(up("wi"))
        return nn.Dense(config.width, use_bias=False, dtype=self.dtype, name="wo")(hidden_BxTxF)


class Block(nn.Module):
    config: T5Config
    dtype: Any
    attention_fn: Callable

    @nn.compact
    def __call__(self, x_BxTxD, mask_Bx1x1xT, bias_1xNxTxT):
        norm = lambda name, x: RMSNorm(self.config.norm_epsilon, self.dtype, name=name)(x)  # noqa: E731
        x_BxTxD += SelfAttention(self.config, self.dtype, self.attention_fn, name="attention")(
            norm("attention_norm", x_BxTxD), mask_Bx1x1xT, bias_1xNxTxT
        )
        x_BxTxD += FeedForward(self.config, self.dtype, name="ff")(norm("ff_norm", x_BxTxD))
        return x_BxTxD, None


class T5Encoder(nn.Module):
    """Token ids to one vector per position.

    Attributes:
      dtype: compute type of the matrix products; norms, scores and position bias stay in float32.
      remat: recompute each layer in the backward pass instead of keeping its activations.
      unroll: layers per step of the scan.
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
        """Without a mask padding is attended to, as CogVideoX wants it; with one, as Wan does, keys
        where it is 0 are not."""
        config = self.config
        x_BxTxD = nn.Embed(
            config.vocab_size,
            config.width,
            dtype=self.dtype,
            embedding_init=nn.initializers.normal(1.0),
            name="embed",
        )(input_ids_BxT)
        bias_1xNxTxT = (
            None if config.layer_bias else position_bias(self, config, input_ids_BxT.shape[1])
        )
        mask = (
            None
            if attention_mask_BxT is None
            else attention_mask_BxT.astype(bool)[:, None, None, :]
        )

        block = nn.remat(Block, prevent_cse=False) if self.remat else Block
        stack = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast, nn.broadcast),
            length=config.layers,
            unroll=self.unroll,
        )(config, self.dtype, self.attention_fn, name="layers")
        x_BxTxD, _ = stack(x_BxTxD, mask, bias_1xNxTxT)
        return RMSNorm(config.norm_epsilon, self.dtype, name="final_norm")(x_BxTxD)
