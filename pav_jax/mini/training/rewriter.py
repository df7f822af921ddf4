"""Trains the mini rewriter and writes checkpoints/rewriter:

    python -m pav_jax.mini.training.rewriter

A small Llama that turns a user's short prompt into a long one, before any tuning: it writes all
eight caption styles, of which one is the generator's, repeats the user's word or takes a synonym,
and requests poor, medium and good pictures alike. It has never seen a video.
"""

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pav_jax.checkpoints import folder
from pav_jax.checkpoints.embedded import CHECKPOINTS
from pav_jax.mini import vocabulary as v
from pav_jax.mini.captions import NUM_STYLES, styled_caption, user_prompt
from pav_jax.mini.tokenizers import END, PAD, rewriter_tokenizer, save
from pav_jax.mini.training import fit
from pav_jax.mini.world import QUALITIES, draw_scene, to_quality
from pav_jax.models.decoder import Decoder, DecoderConfig, hf
from pav_jax.storage.json_files import write_json

FOLDER = CHECKPOINTS / "rewriter"
STEPS = 1000
BATCH_SIZE = 32
MAX_LENGTH = 80  # tokens
# Loss weight of words for subject, colour and motion, which the prompt determines; most other words
# are free.
PROMPT_WORD_WEIGHT = 4.0


def config() -> DecoderConfig:
    """The configuration of the model."""
    return DecoderConfig(
        vocab_size=len(rewriter_tokenizer()),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=3,
        head_dim=32,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
        eos_token_id=END,
        bos_token_id=None,
        pad_token_id=PAD,
    )


def draw_pair(rng: np.random.Generator) -> tuple[str, str]:
    """(user prompt, a long caption of the same scene). What the prompt leaves open is random, with
    uniform picture qualities."""
    scene = draw_scene(rng)
    levels = rng.integers(3, size=len(QUALITIES))
    scene = dataclasses.replace(scene, quality=to_quality(levels))
    return user_prompt(scene, rng), styled_caption(scene, int(rng.integers(NUM_STYLES)), rng)


def token_weights() -> np.ndarray:
    """Loss weights of tokens, float32 [vocabulary]: PROMPT_WORD_WEIGHT for all tokens of words for
    a subject, a colour or a motion, else 1."""
    tokenizer = rewriter_tokenizer()
    weights_V = np.ones(len(tokenizer), np.float32)
    for synonyms in (v.SUBJECTS, v.COLOURS, v.MOTIONS, v.GERUNDS):
        for word in itertools.chain.from_iterable(synonyms.values()):
            weights_V[tokenizer(word, add_special_tokens=False)["input_ids"]] = PROMPT_WORD_WEIGHT
    return weights_V


class Batches:
    """Chat rows as a function of the step number."""

    def __init__(self):
        self.tokenizer: Any = rewriter_tokenizer()

    def __call__(self, i: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng([41, i])
        ids = np.full((BATCH_SIZE, MAX_LENGTH), PAD, np.int32)
        answer = np.zeros((BATCH_SIZE, MAX_LENGTH), np.float32)
        for row in range(BATCH_SIZE):
            prompt, text = draw_pair(rng)
            chat = [{"role": "user", "content": prompt}]
            encoding = self.tokenizer.apply_chat_template(chat, add_generation_prompt=True)
            prompt_ids = encoding["input_ids"]
            answer_ids = self.tokenizer(text, add_special_tokens=False)["input_ids"] + [END]
            row_ids = (prompt_ids + answer_ids)[:MAX_LENGTH]
            ids[row, : len(row_ids)] = row_ids
            answer[row, len(prompt_ids) : len(row_ids)] = 1
        return {"ids": ids, "answer": answer}


def main() -> None:
    """Trains the model and writes the checkpoint."""
    fit.use_all_cores()
    batches = Batches()
    weights_V = token_weights()
    llama: Any = Decoder(config(), remat=False, unroll=True)
    params = jax.jit(llama.init)(jax.random.key(0), np.zeros((1, 8), np.int32))["params"]
    print(f"rewriter: {sum(x.size for x in jax.tree.leaves(params)):,} parameters", flush=True)

    def loss(params, data):
        logits = llama.apply({"params": params}, data["ids"][:, :-1])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, data["ids"][:, 1:])
        answer = data["answer"][:, 1:]
        weights = answer * jnp.asarray(weights_V)[data["ids"][:, 1:]]
        prompt_words = answer * (weights > 1)
        value = (losses * weights).sum() / weights.sum()
        return value, {
            "loss": (losses * answer).sum() / answer.sum(),
            "prompt words": (losses * prompt_words).sum() / prompt_words.sum(),
        }

    params = fit.minimize("rewriter", loss, fit.muon(4e-3, STEPS), params, batches, STEPS)
    folder.save(hf, FOLDER, config(), fit.to_bf16(params))
    save(batches.tokenizer, FOLDER)
    write_json(
        FOLDER / "generation_config.json",
        {"eos_token_id": END, "pad_token_id": PAD, "do_sample": True},
    )


if __name__ == "__main__":
    main()
