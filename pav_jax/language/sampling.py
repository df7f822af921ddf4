"""Batched sampling in one compiled program: prefill over the scanned layers, then a while loop over
unrolled ones.

A row's tokens depend on its own prompt, seed and sample number, never on the rows beside it: every
batch of a model has the same padded shape, prompts are padded to a bucket chosen by their own
length, and each row draws from its own key.

Letters: B rows, P padded prompt length, M room for new tokens, S = P + M cache slots, V vocabulary,
C candidates. Prompts stand at the right of their P slots, so that the newest token of every row is
in the same slot.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from pav_jax.errors import BadInput
from pav_jax.models.llama.model import Llama, final_norm, rotary_table, unembed
from pav_jax.parallel import processes
from pav_jax.parallel.sharding_rules import device_put_global, sharded_shapes, shardings

# The best so many tokens are looked at when top_k asks for no more; a larger top_k, or none, takes
# a larger program.
CANDIDATES = 64
SHORTEST_PROMPT, ROOM_STEP = 64, 64


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Meanings are those of transformers' GenerationConfig: temperature 0 is greedy, top_k 0 is
    off."""

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
        for name, fine, want in limits:
            if not fine:
                raise BadInput(f"{name}={getattr(self, name)}: must be {want}")


def prompt_bucket(length: int) -> int:
    """The padded length for a prompt: 64, 128, 256, ..."""
    bucket = SHORTEST_PROMPT
    while bucket < length:
        bucket *= 2
    return bucket


def sample_batch(
    model: Llama,
    variables: Any,
    prompts: list[list[int]],
    seeds: list[int],
    samples: list[int],
    sampling: Sampling,
    eos: tuple[int, ...],
    batch_size: int,
    mesh: jax.sharding.Mesh | None = None,
) -> list[list[int]]:
    """New token ids for at most `batch_size` prompts whose lengths share a bucket, the ending token
    included where it came.

    A row ends with `eos`, after `max_new_tokens`, or where the model's context ends.

    Args:
      variables: {"params": ...} and optionally "lora", stacked over layers.
      seeds, samples: one each per prompt; the row draws from fold_in(key(seed), sample).
    """
    length = prompt_bucket(max(map(len, prompts)))
    prompts_BxP = np.zeros((batch_size, length), np.int32)
    lengths_B = np.zeros(batch_size, np.int32)  # 0 marks a row that only fills the batch up
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
    fixed, settings = _settings(model, sampling, eos)
    tokens_BxM, counts_B = processes.gather_to_host(_generate(*fixed, variables, batch, settings))
    tokens_BxM, counts_B = np.asarray(tokens_BxM), np.asarray(counts_B)
    return [tokens_BxM[i, : counts_B[i]].tolist() for i in range(len(prompts))]


def trace(
    model: Llama,
    variables: Any,
    length: int,
    sampling: Sampling,
    eos: tuple[int, ...],
    batch_size: int,
    mesh: jax.sharding.Mesh,
) -> jax.stages.Traced:
    """The program that `sample_batch` runs on `mesh` for prompts of at most `length` tokens, made
    without running it.

    Args:
      variables: as `sample_batch`'s, of jax.ShapeDtypeStruct with shardings.
    """
    shapes = {
        "prompts": jax.ShapeDtypeStruct((batch_size, prompt_bucket(length)), jnp.int32),
        "lengths": jax.ShapeDtypeStruct((batch_size,), jnp.int32),
        "limits": jax.ShapeDtypeStruct((batch_size,), jnp.int32),
        "draws": jax.ShapeDtypeStruct((batch_size, 2), jnp.uint32),
    }
    batch = sharded_shapes(shapes, _batch_shardings(shapes, mesh))
    fixed, settings = _settings(model, sampling, eos)
    return _generate.trace(*fixed, variables, batch, settings)


def _batch_shardings(
    batch: dict[str, Any], mesh: jax.sharding.Mesh
) -> dict[str, jax.sharding.Sharding]:
    return shardings(
        {name: ("batch",) + (None,) * (array.ndim - 1) for name, array in batch.items()},
        batch,
        mesh,
    )


def _settings(
    model: Llama, sampling: Sampling, eos: tuple[int, ...]
) -> tuple[tuple, dict[str, Any]]:
    """What a program is made for, and what it is told at every run."""
    most = min(sampling.max_new_tokens, model.config.max_position_embeddings)
    room = -(-most // ROOM_STEP) * ROOM_STEP
    vocabulary = model.config.vocab_size
    wide = sampling.top_k > CANDIDATES or (sampling.top_k == 0 and sampling.temperature > 0)
    candidates = vocabulary if wide else min(CANDIDATES, vocabulary)
    return (model, room, candidates, eos), {
        "temperature": np.float32(sampling.temperature),
        "top_p": np.float32(sampling.top_p),
        "top_k": np.int32(min(sampling.top_k or vocabulary, vocabulary)),
        "repetition_penalty": np.float32(sampling.repetition_penalty),
    }


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _generate(
    model: Llama,
    room: int,
    candidates: int,
    eos: tuple[int, ...],
    variables: Any,
    batch: dict[str, Array],
    settings: dict[str, Array],
) -> tuple[Int[Array, "B M"], Int[Array, "B"]]:
    prompts_BxP, lengths_B, draws_Bx2 = batch["prompts"], batch["lengths"], batch["draws"]
    b, p = prompts_BxP.shape
    real_BxP = jnp.arange(p) >= p - lengths_B[:, None]
    keys_B = jax.vmap(lambda d: jax.random.fold_in(jax.random.key(d[0]), d[1]))(draws_Bx2)

    # ---- prefill
    x_BxPxD, cache = model.apply(
        variables,
        prompts_BxP,
        segment_ids_BxT=real_BxP.astype(jnp.int32),
        return_hidden=True,
        return_cache=True,
    )
    logits_BxV = unembed(variables["params"], x_BxPxD[:, -1])
    rows_B = jnp.arange(b)
    seen_BxV = jnp.zeros(logits_BxV.shape, bool).at[rows_B[:, None], prompts_BxP].max(real_BxP)

    # ---- one set of arrays per layer, made once: slices of stacked weights inside the loop would
    # copy them every token
    depth = model.config.num_hidden_layers
    outer = {k: v for k, v in variables["params"].items() if k != "layers"}
    layers = [
        jax.tree.map(lambda a, i=i: a[i], {k: v.get("layers", {}) for k, v in variables.items()})
        for i in range(depth)
    ]
    grown = jax.tree.map(lambda a: jnp.pad(a, ((0, 0),) * 3 + ((0, room), (0, 0))), cache)
    caches = tuple(jax.tree.map(lambda a, i=i: a[i], grown) for i in range(depth))
    block = model.block()
    slots_S = jnp.arange(p + room)

    def forward(token_B, step, caches):
        """Logits after the token that was drawn at `step`, which goes into slot p + step."""
        slot = p + step
        rotary = rotary_table(model.config, (lengths_B + step)[:, None])
        mask_Bx1x1xS = ((slots_S >= p - lengths_B[:, None]) & (slots_S <= slot))[:, None, None]
        x_Bx1xD = jnp.take(outer["embed"], token_B, axis=0)[:, None].astype(model.dtype)
        new = []
        for layer, cache in zip(layers, caches, strict=True):
            x_Bx1xD, kv = block.apply(layer, x_Bx1xD, rotary, mask_Bx1x1xS, cache, slot)
            new.append(kv)
        return unembed(outer, final_norm(model.config, outer, x_Bx1xD, model.dtype)[:, 0]), tuple(
            new
        )

    def draw(step, logits_BxV, done_B, seen_BxV, tokens_BxM, counts_B):
        token_B = pick(
            logits_BxV,
            seen_BxV,
            jax.vmap(jax.random.fold_in, (0, None))(keys_B, step),
            candidates,
            **settings,
        )
        tokens_BxM = tokens_BxM.at[:, step].set(jnp.where(done_B, 0, token_B))
        counts_B = counts_B + ~done_B
        seen_BxV = seen_BxV.at[rows_B, token_B].set(True)
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

    first = draw(
        0,
        logits_BxV,
        lengths_B == 0,
        seen_BxV,
        jnp.zeros((b, room), jnp.int32),
        jnp.zeros(b, jnp.int32),
    )
    _, (_, _, _, tokens_BxM, counts_B), _ = jax.lax.while_loop(
        unfinished, next_token, (1, first, caches)
    )
    return tokens_BxM, counts_B


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
    """Draws one token per row: repetition penalty, temperature, top-k, top-p, in transformers'
    order.

    Only the best `candidates` tokens are looked at; temperature 0 takes the best one. top-p keeps
    the most likely tokens until their sum reaches `top_p`, the one that crosses it included
    (Holtzman et al. 2020).
    """
    punished = jnp.where(
        logits_BxV < 0, logits_BxV * repetition_penalty, logits_BxV / repetition_penalty
    )
    best_BxC, ids_BxC = jax.lax.top_k(jnp.where(seen_BxV, punished, logits_BxV), candidates)
    scaled_BxC = best_BxC / jnp.maximum(temperature, 1e-6)
    kept_BxC = jnp.where(jnp.arange(candidates) < top_k, scaled_BxC, -jnp.inf)
    probs_BxC = jax.nn.softmax(kept_BxC, axis=-1)
    before_BxC = jnp.cumsum(probs_BxC, axis=-1) - probs_BxC
    kept_BxC = jnp.where(before_BxC < top_p, kept_BxC, -jnp.inf)
    noise_BxC = jax.vmap(lambda key: jax.random.gumbel(key, (candidates,)))(keys_B)
    drawn_B = jnp.argmax(
        kept_BxC + noise_BxC, axis=-1
    )  # the Gumbel trick: a draw from softmax(kept)
    choice_B = jnp.where(temperature > 0, drawn_B, 0)
    return jnp.take_along_axis(ids_BxC, choice_B[:, None], axis=-1)[:, 0]
