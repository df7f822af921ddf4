"""The first compiled programs of sampling: from prompts to caches, and the shapes of all of them.

The tokens of a row depend only on its own prompt, seed and sample number, not on the other rows or
on when the row began: all batches of a model have the same padded shapes, a prompt is padded by its
own length, and each row has its own random key.

A prompt may begin with a prefix that many prompts share, whose keys and values are computed and
stored once. With adapters they are computed once for each adapter, and each row stores a copy as
part of its prompt; the shape has no prefix then.

A row's cache has slots for the rest of the prompt (padded on the left) and for the new tokens, so
that the token drawn at step t of any row is in slot P + t. A layer whose window is smaller than
that has a ring of as many slots as its window (`ring_cache`). Masks are over the prefix and these
slots.

Letters: B rows, R tokens of the prefix, P padded length of the rest, M slots for new tokens, S = R
+ P + M keys, V vocabulary, L layers, K key/value heads, H head size, D width.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from pav_jax.language.ring_cache import ring_of_prompts, take_slots
from pav_jax.language.sampling import CANDIDATES, Sampling
from pav_jax.models.decoder.config import LayerKind
from pav_jax.models.decoder.layers import KEY_SLOTS, map_slots, window_within
from pav_jax.models.decoder.model import Decoder, embed, final_norm, layer_rotary, unembed

NEW_TOKENS_MULTIPLE = 64  # the slots for new tokens are rounded up to a multiple of this


@struct.dataclass
class Prefix:
    """Tokens that all prompts of a batch begin with, after they have been run through the model.

    Attributes:
      ids_R: the tokens.
      cache: keys and values from `compute_prefix`; with `index_B` a tuple of those of several
        models, each another adapter.
      index_B: which of them each row continues, and stores as its own; None: there is one, which
        all rows share.
    """

    ids_R: Int[Array | np.ndarray, "R"]
    cache: Any
    index_B: Int[Array | np.ndarray, "B"] | None = None


@struct.dataclass
class Prompts:
    """A batch of prompts after the shared prefix, ready to be continued.

    Attributes:
      lengths_B: tokens of each prompt after the prefix.
      logits_BxV: of the first new token.
      seen_BxV: which tokens a prompt contains.
      cache: keys [L, B, K, H, P] and values [L, B, K, P, H] after the prefix; if a layer has a
        ring, each a tuple over layers, with at most as many slots as the ring in such a layer.
    """

    lengths_B: Int[Array, "B"]
    logits_BxV: Float[Array, "B V"]
    seen_BxV: Bool[Array, "B V"]
    cache: Any


@dataclasses.dataclass(frozen=True)
class Shape:
    """What the programs are compiled for.

    Attributes:
      model: the architecture.
      rows: B.
      prefix: R.
      prompt: P.
      new_slots: M.
      candidates: see `pick`.
      eos: ids of the tokens that end an answer.
      mesh: the devices, or None for one.
      log_probs: whether the log-probabilities of drawn tokens are summed.
    """

    model: Decoder
    rows: int
    prefix: int
    prompt: int
    new_slots: int
    candidates: int
    eos: tuple[int, ...]
    mesh: jax.sharding.Mesh | None = None
    log_probs: bool = False

    @property
    def row_slots(self) -> int:
        """Slots of a row in a cache without a ring: P + M."""
        return self.prompt + self.new_slots

    def ring_slots(self, kind: LayerKind) -> int | None:
        """Slots of the ring of a layer of this kind; None if it has none."""
        return window_within(kind.window, self.row_slots)

    @property
    def layer_slots(self) -> tuple[int, ...]:
        """Slots of a row in the cache of each layer."""
        config = self.model.config
        kinds = [config.kind(i) for i in range(config.num_hidden_layers)]
        return tuple(self.ring_slots(kind) or self.row_slots for kind in kinds)

    @property
    def row_bytes(self) -> int:
        """Bytes of the cache of a row."""
        config = self.model.config
        slot_bytes = 2 * config.num_key_value_heads * config.head_dim
        return sum(self.layer_slots) * slot_bytes * jnp.dtype(self.model.dtype).itemsize


def make_shape(
    model: Decoder,
    rows: int,
    prefix: int,
    prompt: int,
    sampling: Sampling,
    eos: tuple[int, ...],
    mesh: jax.sharding.Mesh | None,
    log_probs: bool = False,
) -> Shape:
    """Return the shape for these settings; settings that only change numbers share one."""
    max_new_tokens = min(sampling.max_new_tokens, model.config.max_position_embeddings)
    new_slots = -(-max_new_tokens // NEW_TOKENS_MULTIPLE) * NEW_TOKENS_MULTIPLE
    candidates = model.config.vocab_size
    unlimited = sampling.top_k == 0 and sampling.temperature > 0
    if not unlimited and sampling.top_k <= CANDIDATES:
        candidates = min(CANDIDATES, candidates)
    return Shape(model, rows, prefix, prompt, new_slots, candidates, eos, mesh, log_probs)


@functools.partial(jax.jit, static_argnums=0)
def compute_prefix(model: Decoder, variables: Any, ids_NxR: Int[Array, "N R"]) -> Any:
    """Return keys [L, K, H, R] and values [L, K, R, H] of the prefix.

    Args:
      ids_NxR: the same tokens in each row; a mesh needs as many rows as it has shards of a batch.
    """
    _, cache = model.apply(variables, ids_NxR, return_hidden=True, return_cache=True)
    return jax.tree.map(lambda a: a[:, 0], cache)


@functools.partial(jax.jit, static_argnums=0)
def compute_prompts(
    shape: Shape,
    variables: Any,
    prefix: Prefix | None,
    prompts_BxP: Int[Array, "B P"],
    lengths_B: Int[Array, "B"],
) -> Prompts:
    """Run the model over prompts.

    Args:
      shape: of the rows; if they store the prefix, it has no prefix and prompts of R + P.
      prompts_BxP: tokens after the prefix, padded on the left.
      lengths_B: numbers of these tokens; 0 is a padding row.
    """
    b, p = prompts_BxP.shape
    is_token_BxP = _is_token(p, lengths_B)
    x_BxPxD, cache = hidden_states(shape, variables, prefix, prompts_BxP, lengths_B)
    logits_BxV = unembed(variables["params"], x_BxPxD[:, -1])
    nothing_BxV = jnp.zeros(logits_BxV.shape, bool)
    seen_BxV = nothing_BxV.at[jnp.arange(b)[:, None], prompts_BxP].max(is_token_BxP)
    if prefix is not None:
        seen_BxV = seen_BxV.at[:, prefix.ids_R].set(True)
        if prefix.index_B is not None:
            cache = _move_prefix(cache, len(prefix.ids_R), lengths_B)
            lengths_B = len(prefix.ids_R) + lengths_B
    return Prompts(lengths_B, logits_BxV, seen_BxV, _bound_cache(shape, cache, lengths_B))


def hidden_states(
    shape: Shape,
    variables: Any,
    prefix: Prefix | None,
    prompts_BxP: Int[Array, "B P"],
    lengths_B: Int[Array, "B"],
) -> tuple[Float[Array, "B P D"], Any]:
    """Return the hidden states of prompts after the last norm, and their cache.

    The cache of rows that store the prefix has R + P slots: prefix, padding, prompt.

    Args:
      shape, prefix, prompts_BxP, lengths_B: as in `compute_prompts`.
    """
    if prefix is not None:
        return _continue_prefix(shape, variables, prefix, prompts_BxP, lengths_B)
    is_token_BxP = _is_token(prompts_BxP.shape[1], lengths_B)
    return shape.model.apply(
        variables,
        prompts_BxP,
        segment_ids_BxT=is_token_BxP.astype(jnp.int32),
        return_hidden=True,
        return_cache=True,
    )


def _is_token(padded: int, lengths_B: Int[Array, "B"]) -> Bool[Array, "B P"]:
    """Whether each slot of prompts that are padded on the left holds a token."""
    return jnp.arange(padded) >= padded - lengths_B[:, None]


def _bound_cache(shape: Shape, cache: Any, lengths_B: Int[Array, "B"]) -> Any:
    """Return what decoding needs of keys and values; see `Prompts`."""
    config = shape.model.config
    rings = [shape.ring_slots(config.kind(i)) for i in range(config.num_hidden_layers)]
    if not any(rings):
        return cache

    def bound(stacked: Array, axis: int) -> Any:
        return tuple(
            a if ring is None else ring_of_prompts(a, axis, ring, lengths_B)
            for a, ring in zip(stacked, rings, strict=True)
        )

    return map_slots(bound, cache)


def _continue_prefix(
    shape: Shape,
    variables: Any,
    prefix: Prefix,
    prompts_BxP: Int[Array, "B P"],
    lengths_B: Int[Array, "B"],
) -> tuple[Float[Array, "B P D"], Any]:
    model = shape.model
    config = model.config
    r = len(prefix.ids_R)
    p = prompts_BxP.shape[1]
    shape = dataclasses.replace(shape, prefix=r, prompt=p)
    slots_P = r + jnp.arange(p)
    key_positions_BxS = slot_positions(shape, lengths_B)[:, : r + p]
    positions_BxP = jnp.maximum(key_positions_BxS[:, r:], 0)
    rotaries = [layer_rotary(config, kind, positions_BxP) for kind in config.kinds]
    stacked_rotaries = jax.tree.map(lambda *tables: jnp.stack(tables), *rotaries)
    masks = jnp.stack(
        [mask(shape, kind, key_positions_BxS, positions_BxP, slots_P) for kind in config.kinds]
    )
    block = model.block()
    keys = prefix.cache
    if prefix.index_B is not None:
        keys = jax.tree.map(lambda *each: jnp.stack(each, axis=1), *prefix.cache)

    def copy(each: Array, axis: int) -> Array:
        """The one of each row, with slots for its prompt."""
        widths = [(0, 0)] * each.ndim
        widths[axis] = (0, p)
        return jnp.pad(each[prefix.index_B], widths)

    def layer(x_BxPxD, inputs):
        weights, keys, kind = inputs
        rotary = jax.tree.map(lambda tables: tables[kind], stacked_rotaries)
        if prefix.index_B is None:
            return block.apply(weights, x_BxPxD, rotary, masks[kind], shared=keys)
        cache = map_slots(copy, keys)
        return block.apply(weights, x_BxPxD, rotary, masks[kind], cache=cache, slot=r)

    stacked = {name: value.get("layers", {}) for name, value in variables.items()}
    outer = variables["params"]
    x_BxPxD = embed(outer, prompts_BxP, config, model.dtype)
    x_BxPxD, cache = jax.lax.scan(layer, x_BxPxD, (stacked, keys, jnp.asarray(config.kind_ids)))
    return final_norm(config, outer, x_BxPxD, model.dtype), cache


def _move_prefix(cache: Any, length: int, lengths_B: Int[Array, "B"]) -> Any:
    """Return caches of prefix, padding, prompt with the padding before the prefix."""
    padded = cache[0].shape[KEY_SLOTS]
    slots_S = jnp.arange(padded)
    positions_BxS = slots_S - (padded - length - lengths_B[:, None])
    sources_BxS = jnp.where(positions_BxS < length, jnp.maximum(positions_BxS, 0), slots_S)
    return map_slots(lambda a, axis: take_slots(a, sources_BxS, axis), cache)


def slot_positions(shape: Shape, lengths_B: Int[Array, "B"]) -> Int[Array, "B S"]:
    """The position of the token in each slot; -1 or less in the padding, before the prefix."""
    slots_S = jnp.arange(shape.prefix + shape.row_slots)
    padding_Bx1 = shape.prompt - lengths_B[:, None]
    positions_BxS = slots_S - padding_Bx1
    own_BxS = jnp.where(positions_BxS < shape.prefix, -1, positions_BxS)
    return jnp.where(slots_S < shape.prefix, slots_S, own_BxS)


def mask(
    shape: Shape,
    kind: LayerKind,
    key_positions_BxS: Int[Array, "B S"],
    positions_BxT: Int[Array, "B T"],
    slots_T: Array,
) -> Bool[Array, "B 1 T S"]:
    """The mask of a layer of this kind, for queries at these positions and slots [T] or [B, T]."""
    slots_S = jnp.arange(key_positions_BxS.shape[1])
    keys_Bx1xS = key_positions_BxS[:, None]
    mask_BxTxS = (keys_Bx1xS >= 0) & (slots_S <= slots_T[..., None])
    if kind.window is not None:
        mask_BxTxS &= keys_Bx1xS > positions_BxT[..., None] - kind.window
    return mask_BxTxS[:, None]
