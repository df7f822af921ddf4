"""Llama (Touvron et al. 2023; Grattafiori et al. 2024): a pre-norm decoder with rotary positions,
grouped-query attention and SwiGLU.

Letters: B batch, T tokens, S keys, D width, N query heads, K key/value heads, H head size, F
feed-forward, V vocabulary, L layers, R LoRA rank. Parameters of all layers are stacked:
`layers/...` arrays lead with L.

A second collection, "lora", may hold `{a, b}` beside any dense layer's `kernel`; then y = xW +
lora_scale (xa)b (Hu et al. 2021, section 4.1). Without the collection the model is the frozen base.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pav_jax.models.attention.dot_product import Causal, dot_product_attention
from pav_jax.models.layers import ACTIVATIONS, RMSNorm, rotate


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Llama 3.1's stretching of the slow rotary frequencies; field names are those of
    config.json."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """Sizes; field names are those of config.json."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    hidden_act: str = "silu"
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    initializer_range: float = 0.02
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None


# --------------------------------------------------------------------------------- rotary positions


def rotary_frequencies(config: LlamaConfig) -> Float[Array, "H2"]:
    """Radians per position of each rotated pair (Su et al. 2021); Llama 3.1's rule keeps fast
    frequencies, divides slow ones by `factor` and blends between (Hugging Face
    `rope_type="llama3"`)."""
    half = config.head_dim // 2
    freq_H2 = 1.0 / config.rope_theta ** (jnp.arange(half, dtype=jnp.float32) / half)
    if (s := config.rope_scaling) is None:
        return freq_H2
    turns_H2 = (
        s.original_max_position_embeddings * freq_H2 / (2 * jnp.pi)
    )  # within the original context
    blend_H2 = (turns_H2 - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor)
    blend_H2 = jnp.clip(blend_H2, 0.0, 1.0)
    return (1 - blend_H2) * freq_H2 / s.factor + blend_H2 * freq_H2


def rotary_table(config: LlamaConfig, positions_BxT: Int[Array, "B T"]) -> tuple[Array, Array]:
    """cos and sin, float32 [B, T, 1, H/2]."""
    angle = positions_BxT.astype(jnp.float32)[:, :, None, None] * rotary_frequencies(config)
    return jnp.cos(angle), jnp.sin(angle)


# -------------------------------------------------------------------------------------- packed rows


def segment_positions(segment_ids_BxT: Int[Array, "B T"]) -> Int[Array, "B T"]:
    """Position of each token within its segment, a run of equal ids."""
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
    """y = xW (+ bias) (+ lora_scale (x a) b where the "lora" collection holds `a` [in, R] and `b`
    [R, out])."""

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
            y = y + self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32).astype(
                self.dtype
            )
        if self.has_variable("lora", "a"):
            a, b = (self.get_variable("lora", name).astype(self.dtype) for name in "ab")
            dropped = nn.Dropout(self.lora_dropout)(x, deterministic=deterministic)
            y = y + self.lora_scale * ((dropped @ a) @ b)
        return y.reshape(*rows, self.features)


class Attention(nn.Module):
    """Grouped-query self-attention. With `cache`, new keys and values go into it at `slot`, and all
    of it is seen."""

    config: LlamaConfig
    dense: Callable[..., nn.Module]
    attention_fn: Callable[..., Array]

    @nn.compact
    def __call__(self, x_BxTxD, rotary, mask, cache=None, slot=None, deterministic=True):
        c = self.config
        b, t, d = x_BxTxD.shape
        n, k, h = c.num_attention_heads, c.num_key_value_heads, c.head_dim
        dense = functools.partial(self.dense, use_bias=c.attention_bias)
        q_BxTxNxH = dense(n * h, name="q_proj")(x_BxTxD, deterministic).reshape(b, t, n, h)
        k_BxTxKxH = dense(k * h, name="k_proj")(x_BxTxD, deterministic).reshape(b, t, k, h)
        v_BxTxKxH = dense(k * h, name="v_proj")(x_BxTxD, deterministic).reshape(b, t, k, h)
        q_BxTxNxH, k_BxTxKxH = rotate(q_BxTxNxH, rotary), rotate(k_BxTxKxH, rotary)
        # heads before positions in the cache: then the decode products read it in order, without a
        # transposed copy
        kv = (k_BxTxKxH.swapaxes(1, 2), v_BxTxKxH.swapaxes(1, 2))
        if cache is not None:
            put = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=slot, axis=2)
            kv = tuple(put(old, new.astype(old.dtype)) for old, new in zip(cache, kv, strict=True))
        out_BxTxNxH = self.attention_fn(
            q_BxTxNxH, kv[0].swapaxes(1, 2), kv[1].swapaxes(1, 2), mask=mask
        )
        return dense(d, name="o_proj")(out_BxTxNxH.reshape(b, t, n * h), deterministic), kv


class MLP(nn.Module):
    """SwiGLU (Shazeer 2020): down(act(gate(x)) * up(x))."""

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
    """One decoder layer: (x, ...) -> (x, (keys, values) each [B, K, S, H])."""

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
    """The whole model. `remat` recomputes each layer in the backward pass, but for what
    `remat_policy` saves; `unroll` leaves out the loop over the layers
    (faster on CPU, slower to compile). Neither changes results."""

    config: LlamaConfig
    dtype: Any = jnp.float32
    attention_fn: Callable[..., Array] = dot_product_attention
    lora_scale: float = 1.0  # alpha / r
    # on the input of the adapters, active with deterministic=False and rngs={"dropout": key}
    lora_dropout: float = 0.0
    remat: bool = True
    remat_policy: str = "nothing_saveable"  # of jax.checkpoint_policies
    unroll: bool = False
    # dense layers take rows and positions as one axis: the gradient of a weight is then one plain
    # product of matrices, on CPU twice as fast. Not for positions that are spread over devices.
    flat_rows: bool = False
    constrain: Callable[[Array, tuple[str | None, ...]], Array] = lambda x, axes: (
        x
    )  # keeps x where its logical axes belong

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
        """Next-token logits, causal.

        Args:
          segment_ids_BxT: tokens see only their own segment. An attention mask of 0 and 1 is a
            valid argument (padding on either side is a segment of its own), and so are the numbers
            of documents packed into a row.
          positions_BxT: counted from the start of each segment where None.
          return_hidden: give x [B, T, D] after the last norm, for `unembed` by chunks, instead of
            logits.
          return_cache: also give keys and values, each [L, B, K, T, H].

        Returns:
          float32 logits [B, T, V] (or x), with `return_cache` a pair.
        """
        c = self.config
        b, t = input_ids_BxT.shape
        if positions_BxT is None:
            positions_BxT = (
                jnp.broadcast_to(jnp.arange(t), (b, t))
                if segment_ids_BxT is None
                else segment_positions(segment_ids_BxT)
            )
        embedding = self.param(
            "embed",
            nn.initializers.normal(c.initializer_range),
            (c.vocab_size, c.hidden_size),
            jnp.float32,
        )
        if not c.tie_word_embeddings:  # declared here, used in `unembed`
            self.param(
                "lm_head",
                nn.initializers.normal(c.initializer_range),
                (c.hidden_size, c.vocab_size),
                jnp.float32,
            )
        # Where the table's width is spread over devices, each looks its part up for all rows of the
        # batch; then they exchange widths for rows. Left to itself the width would stay spread and
        # every layer would sum over it.
        ids = self.constrain(input_ids_BxT, ("rows", "length"))
        x_BxTxD = self.constrain(
            jnp.take(embedding, ids, axis=0).astype(self.dtype), ("rows", "length", "embed")
        )
        x_BxTxD = self.constrain(x_BxTxD, ("batch", "length", None))
        policy = getattr(jax.checkpoint_policies, self.remat_policy)
        block = nn.remat(Block, prevent_cse=False, policy=policy) if self.remat else Block
        layers = nn.scan(
            block,
            variable_axes={"params": 0, "lora": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=nn.broadcast,
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

    @nn.nowrap
    def block(self) -> Block:
        """One layer on its own, for decoding over unstacked parameters:
        `.apply({"params": layer}, x, ...)`."""
        return Block(
            self.config,
            self.dtype,
            self.attention_fn,
            self.lora_scale,
            self.lora_dropout,
            parent=None,
        )


def unembed(params: Mapping, x: Float[Array, "... D"]) -> Float[Array, "... V"]:
    """float32 logits of final hidden states; the product runs in the dtype of `x` and accumulates
    in float32."""
    if "lm_head" in params:
        return jnp.matmul(x, params["lm_head"].astype(x.dtype), preferred_element_type=jnp.float32)
    return jnp.einsum(
        "...d,vd->...v", x, params["embed"].astype(x.dtype), preferred_element_type=jnp.float32
    )


def final_norm(
    config: LlamaConfig, params: Mapping, x: Float[Array, "... D"], dtype: Any
) -> Float[Array, "... D"]:
    """The norm before `unembed`, for code that runs the layers one by one."""
    return RMSNorm(config.rms_norm_eps, dtype).apply({"params": params["norm"]}, x)
