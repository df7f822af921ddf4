"""The layers of a decoder: attention, MLP, and the block of both.

Letters: B batch, T tokens, S keys, D width, N query heads, K key/value heads, H head size, F
feed-forward, R LoRA rank.

A second collection, "lora", may hold `{a, b}` beside any dense layer's `kernel`; then y = xW +
lora_scale (xa)b (Hu et al. 2021, section 4.1). Without the collection the model is the frozen base.
With `{a, b, factors}` each row of the batch has factors [R] for the columns of `a` instead of
`lora_scale`: of several adapters side by side in `a` and `b` it uses its own.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pav_jax.models.attention.cached import cached_attention
from pav_jax.models.attention.dot_product import Causal, dot_product_attention
from pav_jax.models.decoder.config import DecoderConfig
from pav_jax.models.decoder.experts import ExpertMLP, sum_experts
from pav_jax.models.layers import ACTIVATIONS, RMSNorm, rotate

KeysValues = tuple[Array, Array]  # of a cache: [..., K, H, S] and [..., K, S, H]
KEY_SLOTS, VALUE_SLOTS = -1, -2  # the axes of S


class LoRADense(nn.Module):
    """A dense layer with an optional LoRA update.

    y = xW (+ bias) (+ lora_scale (x a) b, if the "lora" collection holds `a` [in, R] and `b`
    [R, out]; with `factors` [B, R] it is ((x a) * factors) b). Attributes as in `Decoder`.
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
            if self.has_variable("lora", "factors"):
                factors_BxR = self.get_variable("lora", "factors")
                y = y + scale_columns(dropped @ a, factors_BxR) @ b
            else:
                y = y + self.lora_scale * ((dropped @ a) @ b)
        return y.reshape(*rows, self.features)


def scale_columns(
    low_rank: Float[Array, "... R"], factors_BxR: Float[Array, "B R"]
) -> Float[Array, "... R"]:
    """Multiply by the factors of each row; what a factor of 0 hides may be infinite or NaN.

    Args:
      low_rank: the leading axes are those of a batch, or a flattened batch.
    """
    b, r = factors_BxR.shape
    factors_Bx1xR = factors_BxR[:, None].astype(low_rank.dtype)
    by_row = low_rank.reshape(b, -1, r)
    return jnp.where(factors_Bx1xR == 0, 0, by_row * factors_Bx1xR).reshape(low_rank.shape)


def write_slots(cache: KeysValues, new: KeysValues, slot: Any) -> KeysValues:
    """Write new keys and values into the slots from `slot` on, one for all rows or one each [B]."""

    def write(cache: Array, new: Array, axis: int) -> Array:
        new = new.astype(cache.dtype)
        if jnp.ndim(slot) == 0:
            return jax.lax.dynamic_update_slice_in_dim(cache, new, slot, axis)
        write_row = functools.partial(jax.lax.dynamic_update_slice_in_dim, axis=axis)
        return jax.vmap(write_row)(cache, new, slot)

    return map_slots(write, cache, new)


def map_slots(function: Callable[..., Array], *caches: KeysValues) -> KeysValues:
    """Call `function` with the keys of all caches, then with the values, and the slots' axis."""
    keys, values = zip(*caches, strict=True)
    return function(*keys, axis=KEY_SLOTS), function(*values, axis=VALUE_SLOTS)


def rotate_heads(x_BxTxNxH: Array, rotary: tuple[Array, Array]) -> Float[Array, "B T N H"]:
    """Rotate the leading features of each head, as many as the table has angles for."""
    rotary_dim = 2 * rotary[0].shape[-1]
    if rotary_dim == x_BxTxNxH.shape[-1]:
        return rotate(x_BxTxNxH, rotary)
    rotated = rotate(x_BxTxNxH[..., :rotary_dim], rotary)
    return jnp.concatenate([rotated, x_BxTxNxH[..., rotary_dim:]], axis=-1)


class Attention(nn.Module):
    """Grouped-query self-attention.

    With a `cache`, the new keys and values are written into it at `slot`, and the queries attend to
    all of it. With `shared` keys and values, they also attend to those.
    """

    config: DecoderConfig
    dense: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    attention_fn: Callable[..., Array]

    @nn.compact
    def __call__(
        self,
        x_BxTxD,
        rotary,
        mask,
        kind=None,
        cache=None,
        slot=None,
        shared=None,
        deterministic=True,
    ):
        c = self.config
        b, t, d = x_BxTxD.shape
        n = c.num_attention_heads
        k = c.num_key_value_heads
        h = c.head_dim
        dense = functools.partial(self.dense, use_bias=c.qkv_bias)
        q_BxTxNxH = dense(n * h, name="q_proj")(x_BxTxD, deterministic).reshape(b, t, n, h)
        k_BxTxKxH = dense(k * h, name="k_proj")(x_BxTxD, deterministic).reshape(b, t, k, h)
        v_BxTxKxH = dense(k * h, name="v_proj")(x_BxTxD, deterministic).reshape(b, t, k, h)
        if c.qk_norm:
            q_BxTxNxH = self.norm(name="q_norm")(q_BxTxNxH)
            k_BxTxKxH = self.norm(name="k_norm")(k_BxTxKxH)
        q_BxTxNxH = rotate_heads(q_BxTxNxH, rotary)
        k_BxTxKxH = rotate_heads(k_BxTxKxH, rotary)
        # Each product of decoding contracts the last axis but one of the cache, as a matrix product
        # that reads it in order: twice as fast on CPU as with keys in the layout of values.
        kv = (k_BxTxKxH.transpose(0, 2, 3, 1), v_BxTxKxH.swapaxes(1, 2))
        if cache is not None:
            assert slot is not None, "a cache needs a slot"
            kv = write_slots(cache, kv, slot)
        if cache is None and shared is None:
            out_BxTxNxH = self._attend((q_BxTxNxH, k_BxTxKxH, v_BxTxKxH), mask, kind)
        else:
            out_BxTxNxH = cached_attention(q_BxTxNxH, shared, kv, mask, c.attention_scale)
        out_dense = self.dense(d, use_bias=c.out_bias, name="o_proj")
        return out_dense(out_BxTxNxH.reshape(b, t, n * h), deterministic), kv

    def _attend(self, arrays: tuple, mask: Any, kind: Any) -> Float[Array, "B T N H"]:
        """Attention under `mask`, and under the window of the layer if the mask is a rule.

        Kernels know windows at compile time only. In the loop over layers, where `kind` is an
        array, each layer therefore chooses between one call per window.
        """
        attend = functools.partial(self.attention_fn, scale=self.config.attention_scale)
        if not isinstance(mask, Causal):
            return attend(*arrays, mask=mask)
        length = arrays[1].shape[1]
        windows = [window_within(kind.window, length) for kind in self.config.kinds]
        distinct = list(dict.fromkeys(windows))
        calls = [
            functools.partial(attend, mask=dataclasses.replace(mask, window=window))
            for window in distinct
        ]
        if len(calls) == 1:
            return calls[0](*arrays)
        index = jnp.asarray([distinct.index(window) for window in windows])[kind]
        return jax.lax.switch(index, calls, *arrays)


def window_within(window: int | None, length: int) -> int | None:
    """Return the window, or None if all `length` keys are within it."""
    return None if window is None or window >= length else window


class MLP(nn.Module):
    """SwiGLU (Shazeer 2020, arXiv 2002.05202): down(act(gate(x)) * up(x))."""

    config: DecoderConfig
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
    """One decoder layer: (x, ...) -> (x, (keys [B, K, H, S], values [B, K, S, H])).

    Its arguments after `x`:
      rotary: cos and sin, each [B, T, 1, rotary_dim/2]; in a model with several kinds of layers, a
        table per kind, stacked on a first axis.
      mask: as in `dot_product_attention`; a `Causal` rule is narrowed to the layer's window.
      kind: index into `config.kinds`, an array; None if all layers are of one kind, or if rotary
        and mask are those of this layer.
      cache, slot: keys and values, as it returns them, and where the new ones go, see
        `write_slots`.
      shared: keys [K, H, R] and values [K, R, H] that all rows attend to before their own; `mask`
        is then an array [B, 1, T, R + S].
    """

    config: DecoderConfig
    dtype: Any = jnp.float32
    attention_fn: Callable[..., Array] = dot_product_attention
    lora_scale: float = 1.0
    lora_dropout: float = 0.0
    flat_rows: bool = False
    keep_cache: bool = True
    deterministic: bool = True
    sum_experts_fn: Callable[..., Array] = sum_experts

    @nn.compact
    def __call__(self, x_BxTxD, rotary, mask, kind=None, cache=None, slot=None, shared=None):
        c = self.config
        dense = functools.partial(
            LoRADense,
            dtype=self.dtype,
            init_std=c.initializer_range,
            flat_rows=self.flat_rows,
            lora_scale=self.lora_scale,
            lora_dropout=self.lora_dropout,
        )
        norm = functools.partial(
            RMSNorm, eps=c.rms_norm_eps, dtype=self.dtype, offset=c.norm_offset
        )
        if kind is not None:
            rotary = jax.tree.map(lambda tables: tables[kind], rotary)
        out_BxTxD, kv = Attention(c, dense, norm, self.attention_fn, name="attention")(
            norm(name="input_norm")(x_BxTxD),
            rotary,
            mask,
            kind,
            cache,
            slot,
            shared,
            self.deterministic,
        )
        if c.post_norms:
            out_BxTxD = norm(name="attention_out_norm")(out_BxTxD)
        x_BxTxD = x_BxTxD + out_BxTxD
        inputs_BxTxD = norm(name="post_norm")(x_BxTxD)
        if c.experts is None:
            out_BxTxD = MLP(c, dense, name="mlp")(inputs_BxTxD, self.deterministic)
        else:
            out_BxTxD = ExpertMLP(c, self.dtype, self.sum_experts_fn, name="mlp")(inputs_BxTxD)
        if c.post_norms:
            out_BxTxD = norm(name="mlp_out_norm")(out_BxTxD)
        return x_BxTxD + out_BxTxD, kv if self.keep_cache else None
