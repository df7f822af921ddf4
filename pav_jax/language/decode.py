"""The last compiled programs of sampling: from caches to rows, and steps of all rows.

Letters: as in `prefill`.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int, UInt32

from pav_jax.language.prefill import Prompts, Shape, compute_prompts, mask, slot_positions
from pav_jax.language.ring_cache import ring_mask
from pav_jax.language.sampling import Sampling, pick
from pav_jax.models.decoder.config import LayerKind
from pav_jax.models.decoder.layers import map_slots
from pav_jax.models.decoder.model import Decoder, embed, final_norm, layer_rotary, unembed
from pav_jax.models.int8_kernel import is_int8
from pav_jax.parallel.sharding_rules import sharded_shapes, sharding, shardings


@struct.dataclass
class Rows:
    """The rows that are being decoded.

    Attributes:
      token_B: the newest token of each row; it is in no cache yet.
      counts_B: tokens drawn so far.
      done_B: the row has ended, or holds nothing.
      lengths_B: tokens of its prompt after the prefix.
      limits_B: most tokens to draw.
      draws_Bx2: seed and number of the sample.
      seen_BxV: which tokens its prompt and answer contain.
      tokens_BxM: the tokens drawn.
      log_probs_B: the sum of their log-probabilities, in nats, without the token that ends an
        answer; 0 if `Shape.log_probs` is off.
      caches: for each layer keys [B, K, H, S] and values [B, K, S, H] after the prefix, where S
        is P + M or the slots of a ring.
    """

    token_B: Int[Array, "B"]
    counts_B: Int[Array, "B"]
    done_B: Bool[Array, "B"]
    lengths_B: Int[Array, "B"]
    limits_B: Int[Array, "B"]
    draws_Bx2: UInt32[Array, "B 2"]
    seen_BxV: Bool[Array, "B V"]
    tokens_BxM: Int[Array, "B M"]
    log_probs_B: Float[Array, "B"]
    caches: Any


def run_time_settings(model: Decoder, sampling: Sampling) -> dict[str, Any]:
    """The settings that the programs take at run time."""
    vocabulary = model.config.vocab_size
    return {
        "temperature": np.float32(sampling.temperature),
        "top_p": np.float32(sampling.top_p),
        "top_k": np.int32(min(sampling.top_k or vocabulary, vocabulary)),
        "repetition_penalty": np.float32(sampling.repetition_penalty),
    }


def split_layers(depth: int, variables: Any) -> tuple[list, dict]:
    """Return the variables of each layer, and the parameters outside of layers.

    Those of layers are copied once: slices of stacked weights in the loop would copy them for every
    token. Their float32 and 8-bit kernels become [out, in], see `_swap_kernels`.
    """
    stacked = {name: value.get("layers", {}) for name, value in variables.items()}
    outer = {k: v for k, v in variables["params"].items() if k != "layers"}
    return [take_layer(stacked, np.int32(i)) for i in range(depth)], outer


@jax.jit
def take_layer(stacked: Any, index: Int[Array, ""]) -> Any:
    """Return the variables of one layer as `_forward` takes them."""
    take = functools.partial(jax.lax.dynamic_index_in_dim, index=index, keepdims=False)
    return _swap_kernels(jax.tree.map(take, stacked))


def _swap_kernels(layer: Any) -> Any:
    """Swap the axes of kernels in float32 or 8 bits, [in, out] and [out, in].

    XLA multiplies by the transpose of a matrix without a copy, and on CPU the product of 16 to 64
    rows takes a tenth less time if the weights of one output are next to each other; a row's result
    is then the same in a batch of any size. Kernels of other types stay as they are.
    """

    def swap(path: tuple, a: Any) -> Any:
        is_swapped = is_int8(a) or a.dtype == jnp.float32
        is_kernel = path[-1] == jax.tree_util.DictKey("kernel")
        return a.swapaxes(0, 1) if is_kernel and is_swapped else a

    return jax.tree_util.tree_map_with_path(swap, layer, is_leaf=is_int8)


@functools.partial(jax.jit, static_argnums=0)
def split_prefix(depth: int, prefix: Any) -> list:
    """Return keys and values of each layer, from those of `compute_prefix`."""
    return [jax.tree.map(lambda a, i=i: a[i], prefix) for i in range(depth)]


@functools.partial(jax.jit, static_argnums=0)
def empty_rows(shape: Shape) -> Rows:
    """Return rows that hold nothing."""
    config = shape.model.config
    b = shape.rows
    zeros_B = jnp.zeros(b, jnp.int32)

    def empty_cache(slots: int) -> tuple[Array, Array]:
        b_k = (b, config.num_key_value_heads)
        keys = jnp.zeros((*b_k, config.head_dim, slots), shape.model.dtype)
        return keys, jnp.zeros((*b_k, slots, config.head_dim), shape.model.dtype)

    rows = Rows(
        token_B=zeros_B,
        counts_B=zeros_B,
        done_B=jnp.ones(b, bool),
        lengths_B=zeros_B,
        limits_B=zeros_B,
        draws_Bx2=jnp.zeros((b, 2), jnp.uint32),
        seen_BxV=jnp.zeros((b, config.vocab_size), bool),
        tokens_BxM=jnp.zeros((b, shape.new_slots), jnp.int32),
        log_probs_B=jnp.zeros(b, jnp.float32),
        caches=tuple(map(empty_cache, shape.layer_slots)),
    )
    return _constrain(rows, shape.mesh)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def fill_rows(
    shape: Shape,
    rows: Rows,
    prompts: Prompts,
    assignment: dict[str, Array],
    settings: dict[str, Array],
) -> Rows:
    """Put prompts into rows, and draw their first tokens.

    Args:
      assignment: for each row `sources` (the index of its new prompt, or -1 to leave the row as it
        is), `limits` and `draws`.
    """
    new_B = assignment["sources"] >= 0
    sources_B = jnp.maximum(assignment["sources"], 0)

    def choose(new, old):
        return jnp.where(new_B.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

    def write(cache, layer_cache, axis):
        old = jax.lax.slice_in_dim(cache, 0, layer_cache.shape[axis], axis=axis)
        new = choose(layer_cache[sources_B].astype(cache.dtype), old)
        return jax.lax.dynamic_update_slice_in_dim(cache, new, 0, axis)

    @jax.jit  # layers of one kind are traced once
    def write_layer(kv, layer_kv):
        return map_slots(write, kv, layer_kv)

    caches = tuple(
        write_layer(kv, tuple(a[i] for a in prompts.cache)) for i, kv in enumerate(rows.caches)
    )
    rows = dataclasses.replace(
        rows,
        counts_B=choose(jnp.zeros_like(rows.counts_B), rows.counts_B),
        done_B=rows.done_B & ~new_B,
        lengths_B=choose(prompts.lengths_B[sources_B], rows.lengths_B),
        limits_B=choose(assignment["limits"], rows.limits_B),
        draws_Bx2=choose(assignment["draws"], rows.draws_Bx2),
        seen_BxV=choose(prompts.seen_BxV[sources_B], rows.seen_BxV),
        tokens_BxM=choose(jnp.zeros_like(rows.tokens_BxM), rows.tokens_BxM),
        log_probs_B=choose(jnp.zeros_like(rows.log_probs_B), rows.log_probs_B),
        caches=caches,
    )
    drawn = _draw(shape, rows, prompts.logits_BxV[sources_B], settings)
    without_caches = (dataclasses.replace(r, caches=None) for r in (drawn, rows))
    chosen = jax.tree.map(choose, *without_caches)
    return _constrain(dataclasses.replace(chosen, caches=caches), shape.mesh)


@jax.jit
def take_rows(rows: Rows, index_C: Int[Array, "C"]) -> Rows:
    """Return these rows only."""
    return jax.tree.map(lambda a: a[index_C], rows)


@functools.partial(jax.jit, static_argnums=0)
def add_slots(shape: Shape, rows: Rows) -> Rows:
    """Return the rows with as many slots as `shape` has, which has no rings."""

    def pad(a: Array, axis: int, slots: int) -> Array:
        widths = [(0, 0)] * a.ndim
        widths[axis] = (0, slots - a.shape[axis])
        return jnp.pad(a, widths)

    pad_cache = functools.partial(pad, slots=shape.row_slots)
    return dataclasses.replace(
        rows,
        tokens_BxM=pad(rows.tokens_BxM, 1, shape.new_slots),
        caches=tuple(map_slots(pad_cache, kv) for kv in rows.caches),
    )


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def decode_rows(
    shape: Shape,
    weights: tuple[list, dict],
    rows: Rows,
    prefix: Sequence | None,
    stop: tuple[Array, Array],
    settings: dict[str, Array],
) -> Rows:
    """Draw tokens until `stop`: this many steps, or this many rows that are done.

    Args:
      weights: from `split_layers`.
      prefix: from `split_prefix`; None if the shape has none.
    """
    max_steps, max_done = stop

    def unfinished(state):
        step, rows = state
        return (step < max_steps) & (jnp.sum(rows.done_B) < max_done)

    def next_token(state):
        step, rows = state
        logits_BxV, caches = _forward(shape, weights, rows, prefix)
        return step + 1, _draw(
            shape, dataclasses.replace(rows, caches=caches), logits_BxV, settings
        )

    _, rows = jax.lax.while_loop(unfinished, next_token, (jnp.int32(0), rows))
    return _constrain(rows, shape.mesh)


def _forward(
    shape: Shape, weights: tuple[list, dict], rows: Rows, prefix: Sequence | None
) -> tuple[Float[Array, "B V"], tuple]:
    """Return the logits after each row's newest token, and the caches with it."""
    layers, outer = weights
    model = shape.model
    config = model.config
    steps_B = jnp.maximum(rows.counts_B - 1, 0)
    slots_B = shape.prefix + shape.prompt + steps_B
    positions_Bx1 = (shape.prefix + rows.lengths_B + steps_B)[:, None]
    key_positions_BxS = slot_positions(shape, rows.lengths_B)
    rotaries = [layer_rotary(config, kind, positions_Bx1) for kind in config.kinds]

    def find(kind: LayerKind) -> tuple[Array, Array]:
        """Where the newest tokens are in caches of this kind, and what they attend to."""
        mask_Bx1x1xS = mask(shape, kind, key_positions_BxS, positions_Bx1, slots_B[:, None])
        ring = shape.ring_slots(kind)
        if ring is None:
            return slots_B - shape.prefix, mask_Bx1x1xS
        own_B = rows.lengths_B + steps_B
        shared_mask = mask_Bx1x1xS[..., : shape.prefix]
        return own_B % ring, jnp.concatenate([shared_mask, ring_mask(ring, own_B)], axis=-1)

    slots, masks = zip(*map(find, config.kinds), strict=True)
    block = model.block()

    @jax.jit  # layers of one kind are traced once
    def run_layer(layer, x_Bx1xD, rotary, mask, cache, slot, shared):
        kernels = _swap_kernels(layer)
        return block.apply(kernels, x_Bx1xD, rotary, mask, cache=cache, slot=slot, shared=shared)

    x_Bx1xD = embed(outer, rows.token_B, config, model.dtype)[:, None]
    caches = []
    shared = prefix or [None] * len(layers)
    for layer, cache, keys, kind in zip(layers, rows.caches, shared, config.kind_ids, strict=True):
        x_Bx1xD, kv = run_layer(
            layer, x_Bx1xD, rotaries[kind], masks[kind], cache, slots[kind], keys
        )
        caches.append(kv)
    x_Bx1xD = final_norm(config, outer, x_Bx1xD, model.dtype)
    return unembed(outer, x_Bx1xD[:, 0]), tuple(caches)


def _draw(
    shape: Shape, rows: Rows, logits_BxV: Float[Array, "B V"], settings: dict[str, Array]
) -> Rows:
    """Draw the next token of each row that is not done."""
    keys_B = jax.vmap(_token_key)(rows.draws_Bx2, rows.counts_B)
    token_B = pick(logits_BxV, rows.seen_BxV, keys_B, shape.candidates, **settings)
    all_rows = jnp.arange(len(token_B))
    place_B = jnp.where(rows.done_B, shape.new_slots, rows.counts_B)  # out of range: not written
    counts_B = rows.counts_B + ~rows.done_B
    is_eos_B = jnp.isin(token_B, jnp.asarray(shape.eos, jnp.int32))
    log_probs_B = rows.log_probs_B
    if shape.log_probs:
        logits_BxV = logits_BxV.astype(jnp.float32)
        values_B = logits_BxV[all_rows, token_B] - jax.nn.logsumexp(logits_BxV, axis=-1)
        log_probs_B += jnp.where(rows.done_B | is_eos_B, 0.0, values_B)
    return dataclasses.replace(
        rows,
        token_B=jnp.where(rows.done_B, rows.token_B, token_B),
        counts_B=counts_B,
        done_B=rows.done_B | is_eos_B | (counts_B >= rows.limits_B),
        seen_BxV=rows.seen_BxV.at[all_rows, token_B].set(True),
        tokens_BxM=rows.tokens_BxM.at[all_rows, place_B].set(token_B, mode="drop"),
        log_probs_B=log_probs_B,
    )


def _token_key(draw_2: UInt32[Array, "2"], step: Int[Array, ""]) -> Array:
    """The random key of one token, from seed, number of the sample, and number of the token."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(draw_2[0]), draw_2[1]), step)


def _constrain(rows: Rows, mesh: jax.sharding.Mesh | None) -> Rows:
    """Shard rows over the mesh, and caches also by their heads."""
    if mesh is None:
        return rows

    def constrain(a: Array) -> Array:
        rest = ("kv_heads", None, None) if a.ndim == 4 else (None,) * (a.ndim - 1)
        return jax.lax.with_sharding_constraint(a, sharding(("batch", *rest), a.shape, mesh))

    return jax.tree.map(constrain, rows)


# ----------------------------------------------------------------------------------------- tracing


def trace(
    shape: Shape, variables: Any, sampling: Sampling, mesh: jax.sharding.Mesh
) -> jax.stages.Traced:
    """Trace one batch from prompts to answers on `mesh` as one program, without running it.

    Args:
      shape: without a prefix.
      variables: of jax.ShapeDtypeStruct with shardings, stacked over layers.
    """
    b = shape.rows
    shapes = {
        "prompts": jax.ShapeDtypeStruct((b, shape.prompt), jnp.int32),
        "lengths": jax.ShapeDtypeStruct((b,), jnp.int32),
        "sources": jax.ShapeDtypeStruct((b,), jnp.int32),
        "limits": jax.ShapeDtypeStruct((b,), jnp.int32),
        "draws": jax.ShapeDtypeStruct((b, 2), jnp.uint32),
    }
    batch = sharded_shapes(shapes, batch_shardings(shapes, mesh))

    def sample(variables, batch, settings):
        prompts = compute_prompts(shape, variables, None, batch["prompts"], batch["lengths"])
        rows = fill_rows(shape, empty_rows(shape), prompts, batch, settings)
        weights = split_layers(shape.model.config.num_hidden_layers, variables)
        stop = (jnp.int32(shape.new_slots), jnp.int32(b))
        rows = decode_rows(shape, weights, rows, None, stop, settings)
        return rows.tokens_BxM, rows.counts_B

    settings = run_time_settings(shape.model, sampling)
    return jax.jit(sample).trace(variables, batch, settings)


def batch_shardings(
    batch: dict[str, Any], mesh: jax.sharding.Mesh
) -> dict[str, jax.sharding.Sharding]:
    """Return how arrays of rows are sharded."""
    axes = {name: ("batch",) + (None,) * (array.ndim - 1) for name, array in batch.items()}
    return shardings(axes, batch, mesh)
