"""Batched sampling in one compiled program: prefill over the scanned layers, then a while loop over
unrolled ones.

The tokens of a row depend only on its own prompt, seed and sample number, not on the other rows:
every batch of a model has the same padded shape, prompts are padded to a bucket chosen by their own
length, and each row has its own random key.

Letters: B rows, P padded prompt length, M slots for new tokens, S = P + M cache slots, V
vocabulary, C candidate tokens. Prompts are padded on the left, so that the newest token of every
row is in the same slot.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from pav_jax.errors import BadInput
from pav_jax.models.decoder.model import Decoder, embed, final_norm, layer_rotary, unembed
from pav_jax.parallel import processes
from pav_jax.parallel.sharding_rules import device_put_global, sharded_shapes, shardings

# Only this many of the most likely tokens are sorted if top_k asks for no more. A larger top_k, or
# none, compiles a larger program.
CANDIDATES = 64
MIN_PROMPT_BUCKET = 64
NEW_TOKENS_MULTIPLE = 64  # the slots for new tokens are rounded up to a multiple of this


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How tokens are drawn, with the meaning of transformers' GenerationConfig.

    Attributes:
      max_new_tokens: the longest answer, in tokens.
      temperature: 0 is greedy decoding.
      top_k: 0 is off.
      top_p: 1 is off.
      repetition_penalty: 1 is off.
    """

    max_new_tokens: int = 250
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    repetition_penalty: float = 1.0

    def __post_init__(self):
        limits = (
            ("max_new_tokens", self.max_new_tokens >= 1, "1 or more"),
            ("temperature", self.temperature >= 0, "0 (greedy) or more"),
            ("top_k", self.top_k >= 0, "0 (off) or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0, at most 1 (off)"),
            ("repetition_penalty", self.repetition_penalty > 0, "above 0, where 1 is off"),
        )
        for name, valid, limit in limits:
            if not valid:
                raise BadInput(f"{name}={getattr(self, name)}: must be {limit}", field=name)


def prompt_bucket(length: int) -> int:
    """Return the padded length for a prompt: 64, 128, 256, ..."""
    bucket = MIN_PROMPT_BUCKET
    while bucket < length:
        bucket *= 2
    return bucket


def sample_batch(
    model: Decoder,
    variables: Any,
    prompts: list[list[int]],
    seeds: list[int],
    samples: list[int],
    sampling: Sampling,
    eos: tuple[int, ...],
    batch_size: int,
    mesh: jax.sharding.Mesh | None = None,
) -> list[list[int]]:
    """Sample one continuation for each of at most `batch_size` prompts.

    A row ends with an `eos` token, after `max_new_tokens`, or at the end of the model's context.

    Args:
      variables: {"params": ...} and optionally "lora", stacked over layers.
      prompts: token ids; all lengths must share one bucket.
      seeds: one per prompt.
      samples: the sample number of each row; its random key is fold_in(key(seed), sample).
      eos: ids of the tokens that end an answer.
      batch_size: rows of the compiled program; missing rows are padding.
      mesh: the mesh that `variables` are sharded over.

    Returns:
      New token ids of each prompt, the `eos` token included.
    """
    length = prompt_bucket(max(map(len, prompts)))
    prompts_BxP = np.zeros((batch_size, length), np.int32)
    lengths_B = np.zeros(batch_size, np.int32)  # 0 marks a padding row
    limits_B = np.zeros(batch_size, np.int32)
    draws_Bx2 = np.zeros((batch_size, 2), np.uint32)
    for i, ids in enumerate(prompts):
        prompts_BxP[i, length - len(ids) :] = ids
        lengths_B[i] = len(ids)
        limits_B[i] = min(
            sampling.max_new_tokens, max(1, model.config.max_position_embeddings - len(ids))
        )
        draws_Bx2[i] = seeds[i] % 2**32, samples[i]
    batch = {"prompts": prompts_BxP, "lengths": lengths_B, "limits": limits_B, "draws": draws_Bx2}
    if mesh is not None:
        batch = device_put_global(batch, _batch_shardings(batch, mesh))
    static, settings = _program_arguments(model, sampling, eos)
    tokens_BxM, counts_B = processes.gather_to_host(_generate(*static, variables, batch, settings))
    tokens_BxM = np.asarray(tokens_BxM)
    counts_B = np.asarray(counts_B)
    return [tokens_BxM[i, : counts_B[i]].tolist() for i in range(len(prompts))]


def trace(
    model: Decoder,
    variables: Any,
    length: int,
    sampling: Sampling,
    eos: tuple[int, ...],
    batch_size: int,
    mesh: jax.sharding.Mesh,
) -> jax.stages.Traced:
    """Trace the program that `sample_batch` runs on `mesh`, without running it.

    Args:
      variables: as of `sample_batch`, but of jax.ShapeDtypeStruct with shardings.
      length: the longest prompt, in tokens.
    """
    shapes = {
        "prompts": jax.ShapeDtypeStruct((batch_size, prompt_bucket(length)), jnp.int32),
        "lengths": jax.ShapeDtypeStruct((batch_size,), jnp.int32),
        "limits": jax.ShapeDtypeStruct((batch_size,), jnp.int32),
        "draws": jax.ShapeDtypeStruct((batch_size, 2), jnp.uint32),
    }
    batch = sharded_shapes(shapes, _batch_shardings(shapes, mesh))
    static, settings = _program_arguments(model, sampling, eos)
    return _generate.trace(*static, variables, batch, settings)


def _batch_shardings(
    batch: dict[str, Any], mesh: jax.sharding.Mesh
) -> dict[str, jax.sharding.Sharding]:
    axes = {name: ("batch",) + (None,) * (array.ndim - 1) for name, array in batch.items()}
    return shardings(axes, batch, mesh)


def _program_arguments(
    model: Decoder, sampling: Sampling, eos: tuple[int, ...]
) -> tuple[tuple, dict[str, Any]]:
    """Static arguments of the compiled program, and the settings it takes at run time."""
    max_new_tokens = min(sampling.max_new_tokens, model.config.max_position_embeddings)
    new_slots = -(-max_new_tokens // NEW_TOKENS_MULTIPLE) * NEW_TOKENS_MULTIPLE
    vocabulary = model.config.vocab_size
    unlimited = sampling.top_k == 0 and sampling.temperature > 0
    if unlimited or sampling.top_k > CANDIDATES:
        candidates = vocabulary
    else:
        candidates = min(CANDIDATES, vocabulary)
    return (model, new_slots, candidates, eos), {
        "temperature": np.float32(sampling.temperature),
        "top_p": np.float32(sampling.top_p),
        "top_k": np.int32(min(sampling.top_k or vocabulary, vocabulary)),
        "repetition_penalty": np.float32(sampling.repetition_penalty),
    }


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _generate(
    model: Decoder,
    new_slots: int,
    candidates: int,
    eos: tuple[int, ...],
    variables: Any,
    batch: dict[str, Array],
    settings: dict[str, Array],
) -> tuple[Int[Array, "B M"], Int[Array, "B"]]:
    """Return new tokens, padded with zeros, and their number in each row."""
    prompts_BxP = batch["prompts"]
    lengths_B = batch["lengths"]
    b, p = prompts_BxP.shape
    config = model.config
    keys_B = _row_keys(batch["draws"])
    logits_BxV, seen_BxV, cache = _prefill(model, variables, prompts_BxP, lengths_B)
    layers, caches = _unroll(model, variables, cache, new_slots)
    outer = {name: value for name, value in variables["params"].items() if name != "layers"}
    block = model.block()
    slots_S = jnp.arange(p + new_slots)

    def forward(token_B, step, caches):
        """Logits after the token that was drawn at `step`, which goes into slot p + step."""
        slot = p + step
        positions_Bx1 = (lengths_B + step)[:, None]
        is_past_BxS = (slots_S >= p - lengths_B[:, None]) & (slots_S <= slot)
        rotaries = [layer_rotary(config, kind, positions_Bx1) for kind in config.kinds]
        masks = [_within(kind.window, is_past_BxS, slots_S, slot) for kind in config.kinds]
        x_Bx1xD = embed(outer, token_B, config, model.dtype)[:, None]
        new_caches = []
        for layer, cache, kind in zip(layers, caches, config.kind_ids, strict=True):
            x_Bx1xD, kv = block.apply(
                layer, x_Bx1xD, rotaries[kind], masks[kind], cache=cache, slot=slot
            )
            new_caches.append(kv)
        x_Bx1xD = final_norm(config, outer, x_Bx1xD, model.dtype)
        return unembed(outer, x_Bx1xD[:, 0]), tuple(new_caches)

    def draw(step, logits_BxV, done_B, seen_BxV, tokens_BxM, counts_B):
        step_keys_B = jax.vmap(jax.random.fold_in, (0, None))(keys_B, step)
        token_B = pick(logits_BxV, seen_BxV, step_keys_B, candidates, **settings)
        tokens_BxM = tokens_BxM.at[:, step].set(jnp.where(done_B, 0, token_B))
        counts_B = counts_B + ~done_B
        seen_BxV = seen_BxV.at[jnp.arange(b), token_B].set(True)
        ended_B = counts_B >= batch["limits"]
        if eos:
            ended_B |= jnp.isin(token_B, jnp.asarray(eos, jnp.int32))
        return token_B, done_B | ended_B, seen_BxV, tokens_BxM, counts_B

    def unfinished(state):
        _, (_, done_B, *_), _ = state
        return ~jnp.all(done_B)

    def next_token(state):
        step, (token_B, done_B, seen_BxV, tokens_BxM, counts_B), caches = state
        logits_BxV, caches = forward(token_B, step - 1, caches)
        return step + 1, draw(step, logits_BxV, done_B, seen_BxV, tokens_BxM, counts_B), caches

    tokens_BxM = jnp.zeros((b, new_slots), jnp.int32)
    counts_B = jnp.zeros(b, jnp.int32)
    first = draw(0, logits_BxV, lengths_B == 0, seen_BxV, tokens_BxM, counts_B)
    _, (_, _, _, tokens_BxM, counts_B), _ = jax.lax.while_loop(
        unfinished, next_token, (1, first, caches)
    )
    return tokens_BxM, counts_B


def _within(
    window: int | None, is_past_BxS: Bool[Array, "B S"], slots_S: Int[Array, "S"], slot: Array
) -> Bool[Array, "B 1 1 S"]:
    """The mask of a layer with this window, for the token in `slot`."""
    if window is not None:
        is_past_BxS &= slots_S > slot - window
    return is_past_BxS[:, None, None]


def _row_keys(draws_Bx2: UInt32[Array, "B 2"]) -> Array:
    """The random key of each row, from its seed and the number of its draw."""
    return jax.vmap(lambda d: jax.random.fold_in(jax.random.key(d[0]), d[1]))(draws_Bx2)


def _prefill(
    model: Decoder, variables: Any, prompts_BxP: Int[Array, "B P"], lengths_B: Int[Array, "B"]
) -> tuple[Float[Array, "B V"], Bool[Array, "B V"], Any]:
    """Return the logits after the prompts, which tokens they contain, and the cache."""
    b, p = prompts_BxP.shape
    is_token_BxP = jnp.arange(p) >= p - lengths_B[:, None]
    x_BxPxD, cache = model.apply(
        variables,
        prompts_BxP,
        segment_ids_BxT=is_token_BxP.astype(jnp.int32),
        return_hidden=True,
        return_cache=True,
    )
    logits_BxV = unembed(variables["params"], x_BxPxD[:, -1])
    nothing_BxV = jnp.zeros(logits_BxV.shape, bool)
    seen_BxV = nothing_BxV.at[jnp.arange(b)[:, None], prompts_BxP].max(is_token_BxP)
    return logits_BxV, seen_BxV, cache


def _unroll(model: Decoder, variables: Any, cache: Any, new_slots: int) -> tuple[list, tuple]:
    """Return variables and caches of each layer; the caches have slots for new tokens.

    They are made once: slices of stacked weights inside the loop would copy them for every token.
    """
    depth = model.config.num_hidden_layers
    stacked = {name: value.get("layers", {}) for name, value in variables.items()}
    layers = [jax.tree.map(lambda a, i=i: a[i], stacked) for i in range(depth)]
    padding = ((0, 0),) * 3 + ((0, new_slots), (0, 0))
    padded = jax.tree.map(lambda a: jnp.pad(a, padding), cache)
    caches = tuple(jax.tree.map(lambda a, i=i: a[i], padded) for i in range(depth))
    return layers, caches


def pick(
    logits_BxV: Float[Array, "B V"],
    seen_BxV: Bool[Array, "B V"],
    keys_B: Array,
    candidates: int,
    *,
    temperature: Array,
    top_k: Array,
    top_p: Array,
    repetition_penalty: Array,
) -> Int[Array, "B"]:
    """Draw one token per row: repetition penalty, temperature, top-k, top-p, in the order of
    transformers.

    Only the `candidates` most likely tokens are considered. Temperature 0 takes the most likely
    one. top-p keeps the most likely tokens until their sum reaches `top_p`, including the one that
    crosses it (Holtzman et al. 2020, arXiv 1904.09751).
    """
    penalized = jnp.where(
        logits_BxV < 0, logits_BxV * repetition_penalty, logits_BxV / repetition_penalty
    )
    best_BxC, ids_BxC = jax.lax.top_k(jnp.where(seen_BxV, penalized, logits_BxV), candidates)
    scaled_BxC = best_BxC / jnp.maximum(temperature, 1e-6)
    in_top_k_BxC = jnp.where(jnp.arange(candidates) < top_k, scaled_BxC, -jnp.inf)
    probs_BxC = jax.nn.softmax(in_top_k_BxC, axis=-1)
    before_BxC = jnp.cumsum(probs_BxC, axis=-1) - probs_BxC
    in_top_p_BxC = jnp.where(before_BxC < top_p, in_top_k_BxC, -jnp.inf)
    noise_BxC = jax.vmap(lambda key: jax.random.gumbel(key, (candidates,)))(keys_B)
    # the Gumbel trick: the argmax is a draw from the softmax
    drawn_B = jnp.argmax(in_top_p_BxC + noise_BxC, axis=-1)
    choice_B = jnp.where(temperature > 0, drawn_B, 0)
    return jnp.take_along_axis(ids_BxC, choice_B[:, None], axis=-1)[:, 0]
