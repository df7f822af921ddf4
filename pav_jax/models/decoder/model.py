"""The decoder language model: Llama and its relatives, with a KV cache.

Source: Touvron et al. 2023 (arXiv 2302.13971), Grattafiori et al. 2024 (arXiv 2407.21783), Qwen
Team 2025 (arXiv 2505.09388), Gemma Team 2025 (arXiv 2503.19786); transformers' classes of each
family. The weights are named in `models/decoder/families/`.

Letters: B batch, T tokens, D width, V vocabulary, L layers, K key/value heads, H head size.
Parameters of all layers are stacked: `layers/...` arrays have L as their first axis.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pav_jax.models.attention.dot_product import Causal, dot_product_attention
from pav_jax.models.decoder.config import DecoderConfig, LayerKind
from pav_jax.models.decoder.experts import sum_experts
from pav_jax.models.decoder.layers import Block
from pav_jax.models.decoder.rotary import rotary_table
from pav_jax.models.int8_kernel import Int8Kernel
from pav_jax.models.layers import BROADCAST, Constrain, RMSNorm, unconstrained

# of a block's arguments after x: rotary tables, mask, kind; the stub of nn.scan knows integers only
IN_AXES: Any = (BROADCAST, BROADCAST, 0)


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


def layer_rotary(
    config: DecoderConfig, kind: LayerKind, positions_BxT: Int[Array, "B T"]
) -> tuple[Array, Array]:
    """Return cos and sin for layers of one kind, each float32 [B, T, 1, rotary_dim/2]."""
    return rotary_table(kind.rope, config.rotary_dim or config.head_dim, positions_BxT)


class Decoder(nn.Module):
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
      sum_experts_fn: with the signature of `experts.sum_experts`.
    """

    config: DecoderConfig
    dtype: Any = jnp.float32
    attention_fn: Callable[..., Array] = dot_product_attention
    lora_scale: float = 1.0
    lora_dropout: float = 0.0
    remat: bool = True
    remat_policy: str = "nothing_saveable"
    unroll: bool = False
    flat_rows: bool = False
    constrain: Constrain = unconstrained
    sum_experts_fn: Callable[..., Array] = sum_experts

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
          return_cache: also return keys [L, B, K, H, T] and values [L, B, K, T, H].
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
            in_axes=IN_AXES,
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
            self.sum_experts_fn,
            name="layers",
        )(x_BxTxD, *self._rotary(positions_BxT, Causal(segment_ids_BxT)))
        x_BxTxD = RMSNorm(c.rms_norm_eps, self.dtype, c.norm_offset, name="norm")(x_BxTxD)
        out = x_BxTxD if return_hidden else unembed(self.variables["params"], x_BxTxD)
        return (out, cache) if return_cache else out

    def _rotary(self, positions_BxT: Array, mask: Causal) -> tuple[Any, Causal, Array | None]:
        """The arguments of all layers: rotary tables, mask, and the kind of each layer."""
        kinds = self.config.kinds
        tables = [layer_rotary(self.config, kind, positions_BxT) for kind in kinds]
        if len(kinds) == 1:
            return tables[0], mask, None
        stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *tables)
        return stacked, mask, jnp.asarray(self.config.kind_ids)

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
        x_BxTxD = embed({"embed": embedding}, ids, c, self.dtype)
        x_BxTxD = self.constrain(x_BxTxD, ("rows", "length", "embed"))
        # one axis at a time: XLA cannot go from rows to batches over two axes in one exchange
        x_BxTxD = self.constrain(x_BxTxD, ("batch_of_experts", "length", None))
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
            sum_experts_fn=self.sum_experts_fn,
            parent=None,
        )


def _default_positions(input_ids_BxT: Array, segment_ids_BxT: Array | None) -> Array:
    if segment_ids_BxT is not None:
        return segment_positions(segment_ids_BxT)
    return jnp.broadcast_to(jnp.arange(input_ids_BxT.shape[1]), input_ids_BxT.shape)


def embed(
    params: Mapping, ids: Int[Array, "..."], config: DecoderConfig, dtype: Any
) -> Float[Array, "... D"]:
    """Return the embeddings of tokens, as the first layer takes them."""
    x = jnp.take(params["embed"], ids, axis=0).astype(dtype)
    if config.embedding_scale == 1.0:
        return x
    return x * jnp.asarray(config.embedding_scale, dtype)


def unembed(params: Mapping, x: Float[Array, "... D"]) -> Float[Array, "... V"]:
    """Return float32 logits of final hidden states.

    The product runs in the dtype of `x` and accumulates in float32.
    """
    head = params.get("lm_head")
    if isinstance(head, Int8Kernel):
        return x.astype(jnp.float32) @ head
    if head is not None:
        return jnp.matmul(x, head.astype(x.dtype), preferred_element_type=jnp.float32)
    return jnp.einsum(
        "...d,vd->...v", x, params["embed"].astype(x.dtype), preferred_element_type=jnp.float32
    )


def final_norm(
    config: DecoderConfig, params: Mapping, x: Float[Array, "... D"], dtype: Any
) -> Float[Array, "... D"]:
    """Apply the norm before `unembed`, in code that runs the layers one by one."""
    norm = RMSNorm(config.rms_norm_eps, dtype, config.norm_offset)
    return cast(Array, norm.apply({"params": params["norm"]}, x))
