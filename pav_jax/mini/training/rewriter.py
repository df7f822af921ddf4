"""Trains the mini rewriter: `python -m pav_jax.mini.training.rewriter` writes checkpoints/rewriter.

A small Llama that turns a user's short prompt into a long one, before any tuning: it speaks eight
dialects, one of them the generator's, keeps the user's word or takes the common one as it likes,
and asks for poor, middling and good pictures alike. It has never seen a video.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pav_jax.checkpoints import folder
from pav_jax.checkpoints.embedded import CHECKPOINTS
from pav_jax.mini import vocabulary as v
from pav_jax.mini.captions import DIALECTS, dialect, user_prompt
from pav_jax.mini.tokenizers import END, PAD, rewriter_tokenizer, save
from pav_jax.mini.training import fit
from pav_jax.mini.world import QUALITIES, Scene, draw_scene
from pav_jax.models.llama import Llama, LlamaConfig, hf
from pav_jax.storage.json_files import write_json

FOLDER = CHECKPOINTS / "rewriter"
STEPS, BATCH, TOKENS = 1000, 32, 80
# in the loss, of words for subject, colour and motion: what the prompt says; most others are free
ASKED_WEIGHT = 4.0


def config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(rewriter_tokenizer()),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=3,
        head_dim=32,
        max_position_embeddings=256,
        rope_theta=10000.0,
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
        eos_token_id=END,
        bos_token_id=None,
        pad_token_id=PAD,
    )


def draw_pair(rng: np.random.Generator) -> tuple[str, str]:
    """(user's prompt, one long form of the same scene). What the prompt leaves open is made up,
    qualities uniformly."""
    scene = draw_scene(rng)
    levels = tuple(int(q) for q in rng.integers(3, size=len(QUALITIES)))
    scene = Scene(**{**scene.__dict__, "quality": levels})
    return user_prompt(scene, rng), dialect(scene, int(rng.integers(DIALECTS)), rng)


def token_weights() -> np.ndarray:
    """float32 [vocabulary]: ASKED_WEIGHT for every token of a word for a subject, a colour or a
    motion, else 1."""
    tokenizer = rewriter_tokenizer()
    weights_V = np.ones(len(tokenizer), np.float32)
    for table in (v.SUBJECTS, v.COLOURS, v.MOTIONS, v.GERUNDS):
        for word in itertools.chain.from_iterable(table.values()):
            weights_V[tokenizer(word, add_special_tokens=False)["input_ids"]] = ASKED_WEIGHT
    return weights_V


def main() -> None:
    fit.use_every_core()
    tokenizer, weights_V = rewriter_tokenizer(), token_weights()
    llama = Llama(config(), remat=False, unroll=True)
    params = jax.jit(llama.init)(jax.random.key(0), np.zeros((1, 8), np.int32))["params"]
    print(f"rewriter: {sum(x.size for x in jax.tree.leaves(params)):,} parameters", flush=True)

    def loss(p, data):
        logits = llama.apply({"params": p}, data["ids"][:, :-1])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, data["ids"][:, 1:])
        answer = data["answer"][:, 1:]
        weights = answer * jnp.asarray(weights_V)[data["ids"][:, 1:]]
        asked = answer * (weights > 1)
        value = (losses * weights).sum() / weights.sum()
        return value, {
            "loss": (losses * answer).sum() / answer.sum(),
            "asked": (losses * asked).sum() / asked.sum(),
        }

    def batch(i):
        rng = np.random.default_rng([41, i])
        ids, answer = np.full((BATCH, TOKENS), PAD, np.int32), np.zeros((BATCH, TOKENS), np.float32)
        for row in range(BATCH):
            prompt, text = draw_pair(rng)
            chat = [{"role": "user", "content": prompt}]
            head = tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
            tail = tokenizer(text, add_special_tokens=False)["input_ids"] + [END]
            whole = (head + tail)[:TOKENS]
            ids[row, : len(whole)] = whole
            answer[row, len(head) : len(whole)] = 1
        return {"ids": ids, "answer": answer}

    optimizer = fit.muon(4e-3, STEPS)

    params = fit.descend("rewriter", loss, optimizer, params, batch, STEPS)
    folder.save(hf, FOLDER, config(), fit.to_bf16(params))
    save(tokenizer, FOLDER)
    write_json(
        FOLDER / "generation_config.json",
        {"eos_token_id": END, "pad_token_id": PAD, "do_sample": True},
    )


if __name__ == "__main__":
    main()
