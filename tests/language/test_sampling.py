"""Sampling: the rules of transformers, and independence of the other rows of a batch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.generation.logits_process import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from pav_jax.errors import BadInput
from pav_jax.language import decode, sampling
from pav_jax.language.sampling import Sampling
from tests.tiny.byte_language_model import tiny_language_model

PROMPTS = [
    "a girl",
    "two dogs run along the beach",
    "x",
    "the quick brown fox jumps over the lazy dog, twice",
    "rain" * 20,
]


@pytest.fixture(scope="module")
def theirs(lm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    lm.save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def ids_of(lm, prompts):
    return [lm.tokenizer(p)["input_ids"] for p in prompts]


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_generate_ids_greedy_matches_transformers(lm, theirs, penalty):
    settings = Sampling(max_new_tokens=20, temperature=0.0, repetition_penalty=penalty)
    ours = lm.generate_ids(ids_of(lm, PROMPTS), settings)
    for ids, (tokens,) in zip(ids_of(lm, PROMPTS), ours, strict=True):
        expected = theirs.generate(
            torch.tensor([ids]),
            max_new_tokens=20,
            do_sample=False,
            repetition_penalty=penalty,
            eos_token_id=list(lm.eos),
            pad_token_id=0,
        )
        assert tokens == expected[0, len(ids) :].tolist()


def test_generate_ids_independent_of_batch(lm):
    settings = Sampling(max_new_tokens=12)
    ids = ids_of(lm, PROMPTS)
    seeds = [3, 1, 4, 1, 5]
    together = lm.generate_ids(ids, settings, seed=seeds, num_return_sequences=2)
    order = [4, 2, 0, 3, 1]
    shuffled = lm.generate_ids(
        [ids[i] for i in order], settings, seed=[seeds[i] for i in order], num_return_sequences=3
    )
    for place, i in enumerate(order):
        assert shuffled[place][:2] == together[i]
    assert lm.generate_ids(ids[1:2], settings, seed=1)[0] == together[1][:1]


def test_generate_ids_samples_and_seeds(lm):
    ids = ids_of(lm, PROMPTS[:1])
    draw = lambda **k: lm.generate_ids(ids, Sampling(max_new_tokens=12), **k)[0]  # noqa: E731
    samples = draw(num_return_sequences=3)
    assert len({tuple(a) for a in samples}) == 3
    assert draw(num_return_sequences=3) == samples
    assert draw(seed=1)[0] != samples[0]


def test_generate_ids_settings_do_not_recompile(lm):
    ids = ids_of(lm, PROMPTS[:2])
    lm.generate_ids(ids, Sampling(max_new_tokens=10))
    before = decode.decode_rows._cache_size()
    for settings in (Sampling(9, 0.5, 20, 0.9, 1.2), Sampling(30, 0.0, 0), Sampling(10, 2.0, 64)):
        lm.generate_ids(ids, settings, seed=7)
    assert decode.decode_rows._cache_size() == before


def test_generate_ids_eos_ends_each_row(lm):
    settings = Sampling(max_new_tokens=20, temperature=0.0)
    full_answers = lm.generate_ids(ids_of(lm, PROMPTS), settings)
    stop = full_answers[1][0][5]
    ended_answers = dataclasses.replace(lm, eos=(stop,)).generate_ids(ids_of(lm, PROMPTS), settings)
    for (full,), (cut,) in zip(full_answers, ended_answers, strict=True):
        assert cut == (full[: full.index(stop) + 1] if stop in full else full)


@pytest.mark.parametrize("seed", range(6))
def test_pick_distribution_matches_transformers(seed):
    rng = np.random.default_rng(seed)
    vocabulary = 40
    draws = 20_000
    logits = rng.normal(0, 2, (1, vocabulary)).astype(np.float32)
    prompt = rng.integers(0, vocabulary, (1, 6))
    settings = {
        "temperature": float(rng.uniform(0.4, 1.5)),
        "top_k": int(rng.integers(1, vocabulary)),
        "top_p": float(rng.uniform(0.3, 1.0)),
        "repetition_penalty": float(rng.uniform(1.0, 1.6)),
    }
    processors = LogitsProcessorList(
        [
            RepetitionPenaltyLogitsProcessor(settings["repetition_penalty"]),
            TemperatureLogitsWarper(settings["temperature"]),
            TopKLogitsWarper(settings["top_k"]),
            TopPLogitsWarper(settings["top_p"]),
        ]
    )
    expected = torch.softmax(processors(torch.tensor(prompt), torch.tensor(logits)), -1)[0].numpy()

    seen = jnp.zeros((draws, vocabulary), bool).at[:, prompt[0]].set(True)
    keys = jax.random.split(jax.random.key(seed), draws)
    tokens = sampling.pick(
        jnp.broadcast_to(logits, (draws, vocabulary)), seen, keys, vocabulary, **settings
    )
    shares = np.bincount(np.asarray(tokens), minlength=vocabulary) / draws
    assert set(np.flatnonzero(shares)) <= set(np.flatnonzero(expected))
    np.testing.assert_allclose(shares, expected, atol=4 * np.sqrt(0.25 / draws))


def test_generate_ids_long_prompt_is_cut_on_the_left(lm):
    ids = list(np.random.default_rng(0).integers(0, 200, 700))
    settings = Sampling(max_new_tokens=12, temperature=0.0)
    assert lm.generate_ids([ids], settings) == lm.generate_ids([ids[-500:]], settings)


def test_generate_ids_ends_with_context():
    short = tiny_language_model(batch_size=1, max_position_embeddings=64)
    short = dataclasses.replace(short, eos=())
    ids = list(range(20))
    (answer,) = short.generate_ids([ids], Sampling(max_new_tokens=1000, temperature=0.0))[0]
    assert len(answer) == 44
    longer = tiny_language_model(batch_size=1, max_position_embeddings=512)
    assert (
        dataclasses.replace(longer, eos=()).generate_ids([ids], Sampling(44, 0.0))[0][0] == answer
    )


@pytest.mark.parametrize(
    "setting",
    [
        {"temperature": -1},
        {"top_p": 0},
        {"top_k": -1},
        {"max_new_tokens": 0},
        {"repetition_penalty": 0},
    ],
)
def test_sampling_out_of_range(setting):
    with pytest.raises(BadInput) as error:
        Sampling(**setting)
    assert error.value.field == next(iter(setting))
