"""Llama: a pre-norm decoder with rotary positions, grouped-query attention and SwiGLU.

Sources: Touvron et al. 2023 (arXiv 2302.13971); Grattafiori et al. 2024 (arXiv 2407.21783);
transformers' `LlamaForCausalLM`. The weights are named in `models/llama/hf.py`.

Letters: B batch, T tokens, S keys, D width, N query heads, K key/value heads, H head size, F
feed-forward, V vocabulary, L layers, R LoRA rank. Parameters of all layers are stacked:
`layers/...` arrays have L as their first axis.

A second collection, "lora", may hold `{a, b}` beside any dense layer's `kernel`; then y = xW +
lora_scale (xa)b (Hu et al. 2021, section 4.1). Without the collection the model is the frozen base.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pav_jax.models.attention.dot_product import Causal, dot_product_attention
from pav_jax.models.layers import ACTIVATIONS, BROADCAST, Constrain, RMSNorm, rotate, unconstrained
from pav_jax.typed_fields import Depth, NonNegative, OptionalTokenId, Positive, TokenId


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Llama 3.1's scaling of the low rotary frequencies; field names as in config.json."""

    factor: Positive
    low_freq_factor: Positive
    high_freq_factor: Positive
    original_max_position_embeddings: int


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """Sizes and options; field names as in config.json."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: Depth
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int = 2048
    rms_norm_eps: NonNegative = 1e-6
    rope_theta: Positive = 10000.0
    rope_scaling: RopeScaling | None = None
    hidden_act: str = "silu"
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    initializer_range: NonNegative = 0.02
    bos_token_id: OptionalTokenId | None = None
    eos_token_id: OptionalTokenId | tuple[TokenId, ...] | None = None
    pad_token_id: OptionalTokenId | None = None


# --------------------------------------------------------------------------------- rotary positions


def rotary_frequencies(config: LlamaConfig) -> Float[Array, "H2"]:
    """Return the radians per position of each rotated pair (Su et al. 2021, arXiv 2104.09864).

    Llama 3.1's rule (transformers' `rope_type="llama3"`) keeps high frequencies, divides low ones
    by `factor` and interpolates in between.
    """
    half = config.head_dim // 2
    freq_H2 = 1.0 / config.rope_theta ** (jnp.arange(half, dtype=jnp.float32) / half)
    scaling = config.rope_scaling
    if scaling is None:
        return freq_H2
    # full turns of each pair within the original context length
    turns_H2 = scaling.original_max_position_embeddings * freq_H2 / (2 * jnp.pi)
    low = scaling.low_freq_factor
    blend_H2 = (turns_H2 - low) / (scaling.high_freq_factor - low)
    blend_H2 = jnp.clip(blend_H2, 0.0, 1.0)
    return (1 - blend_H2) * freq_H2 / scaling.factor + blend_H2 * freq_H2


def rotary_table(config: LlamaConfig, positions_BxT: Int[Array, "B T"]) -> tuple[Array, Array]:
    """Return cos and sin of the rotation angles, each float32 [B, T, 1, H/2]."""
    angle = positions_BxT.astype(jnp.float32)[:, :, None, None] * rotary_frequencies(config)
    return jnp.cos(angle), jnp.sin(angle)


# -------------------------------------------------------------------------------------- packed rows


def segment_positions(segment_ids_BxT: Int[Array, "B T"]) -> Int[Array, "B T"]:
    """Return the position of each token within its segment, a run of equal ids."""
    index_T = jnp.arange(segment_ids_BxT.shape[1])
    starts = jnp.concatenate(
        [
            jnp.ones_like(segment_ids_BxT[:, :1], bool),
            segment_ids_BxT[:, 1:] != segment_ids_BxT[:, :-1],
        ],
        axis=1,
    )
    return index_T - jax.lax.cummax(jnp.where(starts, index_T, 0), axis=1)


# ------------------------------------------------------------------------------------------- layers


class LoRADense(nn.Module):
    """A dense layer with an optional LoRA update.

    y = xW (+ bias) (+ lora_scale (x a) b, if the "lora" collection holds `a` [in, R] and `b`
    [R, out]). Attributes as in `Llama`.
    """

    features: int
    use_bias: bool
    dtype: Any
    init_std: float
    lora_scale: float
    lora_dropout: float
    flat_rows: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "... I"], deterministic: bool = True
    ) -> Float[Array, "... O"]:
        rows = x.shape[:-1]
        if self.flat_rows:
            x = x.reshape(-1, x.shape[-1])
        kernel = self.param(
            "kernel",
            nn.initializers.normal(self.init_std),
            (x.shape[-1], self.features),
            jnp.float32,
        )
        y = x @ kernel.astype(self.dtype)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
            y = y + bias.astype(self.dtype)
        if self.has_variable("lora", "a"):
            a, b = (self.get_variable("lora", name).astype(self.dtype) for name in "ab")
            dropped = nn.Dropout(self.lora_dropout)(x, deterministic=deterministic)
            y = y + self.lora_scale * ((dropped @ a) @ b)
        return y.reshape(*rows, self.features)


class Attention(nn.Module):
    """Grouped-query self-attention.

    With a `cache`, the new keys and values are written into it at `slot`, and the queries attend to
    all of it.
    """

    config: LlamaConfig
    dense: Callable[..., nn.Module]
    attention_fn: Callable[..., Array]

    @nn.compact
    def __call__(self, x_BxTxD, rotary, mask, cache=None, slot=None, deterministic=True):
        c = self.config
        b, t, d = x_BxTxD.shape
        n = c.num_attention_heads
        k = c.num_key_value_heads
        h = c.head_dim
        dense = functools.partial(self.dense, use_bias=c.attention_bias)
        q_BxTxNxH = dense(n * h, name="q_proj")(x_BxTxD, deterministic).reshape(b, t, n, h)
        k_BxTxKxH = dense(k * h, name="k_proj")(x_BxTxD, deterministic).reshape(b, t, k, h)
        v_BxTxKxH = dense(k * h, name="v_proj")(x_BxTxD, deterministic).reshape(b, t, k, h)
        q_BxTxNxH = rotate(q_BxTxNxH, rotary)
        k_BxTxKxH = rotate(k_BxTxKxH, rotary)
        # Heads come before positions in the cache, so that the products of decoding read it in
        # order, without a transposed copy.
        kv = (k_BxTxKxH.swapaxes(1, 2), v_BxTxKxH.swapaxes(1, 2))
        if cache is not None:
            assert slot is not None, "a cache needs a slot"
            kv = tuple(
                jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), slot, axis=2)
                for old, new in zip(cache, kv, strict=True)
            )
        out_BxTxNxH = self.attention_fn(
            q_BxTxNxH, kv[0].swapaxes(1, 2), kv[1].swapaxes(1, 2), mask=mask
        )
        return dense(d, name="o_proj")(out_BxTxNxH.reshape(b, t, n * h), deterministic), kv


class MLP(nn.Module):
    """SwiGLU (Shazeer 2020, arXiv 2002.05202): down(act(gate(x)) * up(x))."""

    config: LlamaConfig
    dense: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x_BxTxD, deterministic=True):
        c = self.config
        dense = functools.partial(self.dense, use_bias=c.mlp_bias)
        gate_BxTxF = ACTIVATIONS[c.hidden_act](
            dense(c.intermediate_size, name="gate_proj")(x_BxTxD, deterministic)
        )
        up_BxTxF = dense(c.intermediate_size, name="up_proj")(x_BxTxD, deterministic)
        return dense(c.hidden_size, name="down_proj")(gate_BxTxF * up_BxTxF, deterministic)


class Block(nn.Module):
    """One decoder layer: (x, ...) -> (x, (keys, values), each [B, K, S, H])."""

    config: LlamaConfig
    dtype: Any = jnp.float32
    attention_fn: Callable[..., Array] = dot_product_attention
    lora_scale: float = 1.0
    lora_dropout: float = 0.0
    flat_rows: bool = False
    keep_cache: bool = True
    deterministic: bool = True

    @nn.compact
    def __call__(self, x_BxTxD, rotary, mask, cache=None, slot=None):
        c = self.config
        dense = functools.partial(
            LoRADense,
            dtype=self.dtype,
            init_std=c.initializer_range,
            flat_rows=self.flat_rows,
            lora_scale=self.lora_scale,
            lora_dropout=self.lora_dropout,
        )
        norm = functools.partial(RMSNorm, eps=c.rms_norm_eps, dtype=self.dtype)
        attention = Attention(c, dense, self.attention_fn, name="attention")
        out, kv = attention(
            norm(name="input_norm")(x_BxTxD), rotary, mask, cache, slot, self.deterministic
        )
        x_BxTxD = x_BxTxD + out
        x_BxTxD = x_BxTxD + MLP(c, dense, name="mlp")(
            norm(name="post_norm")(x_BxTxD), self.deterministic
        )
        return x_BxTxD, kv if self.keep_cache else None


# -------------------------------------------------------------------------------------------- model


class Llama(nn.Module):
    """The whole language model.

    Attributes:
      dtype: of the matrix products; norms, softmax and logits are float32.
      attention_fn: with the signature of `dot_product_attention`.
      lora_scale: lora_alpha / r.
      lora_dropout: on the input of the adapters; active with `deterministic=False` and
        `rngs={"dropout": key}`.
      remat: recompute each layer in the backward pass, except for what `remat_policy` saves.
      remat_policy: name in `jax.checkpoint_policies`.
      unroll: unroll the loop over the layers (faster on CPU, slower to compile).
      flat_rows: fold rows and positions into one axis in dense layers. The gradient of a weight is
        then one plain matrix product, twice as fast on CPU. Not for positions sharded over devices.
      constrain: shards activations by their logical axes.
    """

    config: LlamaConfig
    dtype: Any = jnp.float32
    attention_fn: Callable[..., Array] = dot_product_attention
    lora_scale: float = 1.0
    lora_dropout: float = 0.0
    remat: bool = True
    remat_policy: str = "nothing_saveable"
    unroll: bool = False
    flat_rows: bool = False
    constrain: Constrain = unconstrained

    @nn.compact
    def __call__(
        self,
        input_ids_BxT: Int[Array, "B T"],
        positions_BxT: Int[Array, "B T"] | None = None,
        segment_ids_BxT: Int[Array, "B T"] | None = None,
        *,
        return_hidden: bool = False,
        return_cache: bool = False,
        deterministic: bool = True,
    ) -> Any:
        """Return next-token logits.

        Args:
          positions_BxT: for the rotary embedding; None counts from the start of each segment.
          segment_ids_BxT: tokens attend only within their own segment. An attention mask of 0 and 1
            is valid (padding on either side is a segment of its own), and so are the numbers of
            documents packed into a row.
          return_hidden: return x [B, T, D] after the last norm instead of logits, to call `unembed`
            on parts of it.
          return_cache: also return keys and values, each [L, B, K, T, H].
          deterministic: no dropout.

        Returns:
          float32 logits [B, T, V] (or x); with `return_cache` the pair (logits, (keys, values)).
        """
        c = self.config
        if positions_BxT is None:
            positions_BxT = _default_positions(input_ids_BxT, segment_ids_BxT)
        x_BxTxD = self._embed(input_ids_BxT)
        policy = getattr(jax.checkpoint_policies, self.remat_policy)
        block = nn.remat(Block, prevent_cse=False, policy=policy) if self.remat else Block
        layers = nn.scan(
            block,
            variable_axes={"params": 0, "lora": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=BROADCAST,
            length=c.num_hidden_layers,
            unroll=c.num_hidden_layers if self.unroll else 1,
        )
        x_BxTxD, cache = layers(
            c,
            self.dtype,
            self.attention_fn,
            self.lora_scale,
            self.lora_dropout,
            self.flat_rows,
            return_cache,
            deterministic,
            name="layers",
        )(x_BxTxD, rotary_table(c, positions_BxT), Causal(segment_ids_BxT))
        x_BxTxD = RMSNorm(c.rms_norm_eps, self.dtype, name="norm")(x_BxTxD)
        out = x_BxTxD if return_hidden else unembed(self.variables["params"], x_BxTxD)
        return (out, cache) if return_cache else out

    def _embed(self, input_ids_BxT: Array) -> Float[Array, "B T D"]:
        """Look the tokens up, and declare the output matrix that `unembed` uses."""
        c = self.config
        init = nn.initializers.normal(c.initializer_range)
        embedding = self.param("embed", init, (c.vocab_size, c.hidden_size), jnp.float32)
        if not c.tie_word_embeddings:
            self.param("lm_head", init, (c.hidden_size, c.vocab_size), jnp.float32)
        # If the table's width is sharded, each device looks its columns up for all rows of the
        # batch; then the devices exchange columns for rows. Without the constraints XLA would
        # keep the width sharded, and every layer would sum over devices.
        ids = self.constrain(input_ids_BxT, ("rows", "length"))
        x_BxTxD = jnp.take(embedding, ids, axis=0).astype(self.dtype)
        x_BxTxD = self.constrain(x_BxTxD, ("rows", "length", "embed"))
        return self.constrain(x_BxTxD, ("batch", "length", None))

    @nn.nowrap
    def block(self) -> Block:
        """Return one layer by itself, to decode with unstacked parameters.

        Call it as `.apply({"params": layer}, x, ...)`.
        """
        return Block(
            self.config,
            self.dtype,
            self.attention_fn,
            self.lora_scale,
            self.lora_dropout,
            parent=None,
        )


def _default_positions(input_ids_BxT: Array, segment_ids_BxT: Array | None) -> Array:
    if segment_ids_BxT is not None:
        return segment_positions(segment_ids_BxT)
    return jnp.broadcast_to(jnp.arange(input_ids_BxT.shape[1]), input_ids_BxT.shape)


def unembed(params: Mapping, x: Float[Array, "... D"]) -> Float[Array, "... V"]:
    """Return float32 logits of final hidden states.

    The product runs in the dtype of `x` and accumulates in float32.
    """
    if "lm_head" in params:
        return jnp.matmul(x, params["lm_head"].astype(x.dtype), preferred_element_type=jnp.float32)
    return jnp.einsum(
        "...d,vd->...v", x, params["embed"].astype(x.dtype), preferred_element_type=jnp.float32
    )


def final_norm(
    config: LlamaConfig, params: Mapping, x: Float[Array, "... D"], dtype: Any
) -> Float[Array, "... D"]:
    """Apply the norm before `unembed`, in code that runs the layers one by one."""
    norm = RMSNorm(config.rms_norm_eps, dtype)
    return cast(Array, norm.apply({"params": params["norm"]}, x))
