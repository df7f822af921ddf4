"""Sampling: transformers' rules, and rows that do not feel their neighbours."""

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
from pav_jax.language import sampling
from pav_jax.language.sampling import Sampling
from tests.language.conftest import tiny_language_model

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
def test_greedy_tokens_equal_transformers_for_prompts_of_every_length(lm, theirs, penalty):
    settings = Sampling(max_new_tokens=20, temperature=0.0, repetition_penalty=penalty)
    ours = lm.generate_ids(ids_of(lm, PROMPTS), settings)
    for ids, (got,) in zip(ids_of(lm, PROMPTS), ours, strict=True):
        want = theirs.generate(
            torch.tensor([ids]),
            max_new_tokens=20,
            do_sample=False,
            repetition_penalty=penalty,
            eos_token_id=list(lm.eos),
            pad_token_id=0,
        )
        assert got == want[0, len(ids) :].tolist()


def test_a_row_does_not_depend_on_its_batch_place_or_company(lm):
    settings = Sampling(max_new_tokens=12)
    ids, seeds = ids_of(lm, PROMPTS), [3, 1, 4, 1, 5]
    together = lm.generate_ids(ids, settings, seed=seeds, num_return_sequences=2)
    order = [4, 2, 0, 3, 1]
    shuffled = lm.generate_ids(
        [ids[i] for i in order], settings, seed=[seeds[i] for i in order], num_return_sequences=3
    )
    for place, i in enumerate(order):
        assert shuffled[place][:2] == together[i]
    assert lm.generate_ids(ids[1:2], settings, seed=1)[0] == together[1][:1]


def test_samples_and_seeds_differ_and_the_same_seed_repeats(lm):
    ids = ids_of(lm, PROMPTS[:1])
    draw = lambda **k: lm.generate_ids(ids, Sampling(max_new_tokens=12), **k)[0]  # noqa: E731
    three = draw(num_return_sequences=3)
    assert len({tuple(a) for a in three}) == 3
    assert draw(num_return_sequences=3) == three and draw(seed=1)[0] != three[0]


def test_changing_the_numbers_compiles_nothing(lm):
    ids = ids_of(lm, PROMPTS[:2])
    lm.generate_ids(ids, Sampling(max_new_tokens=10))
    before = sampling._generate._cache_size()
    for settings in (Sampling(9, 0.5, 20, 0.9, 1.2), Sampling(30, 0.0, 0), Sampling(10, 2.0, 64)):
        lm.generate_ids(ids, settings, seed=7)
    assert sampling._generate._cache_size() == before


def test_a_row_ends_at_its_own_end_of_sequence(lm):
    settings = Sampling(max_new_tokens=20, temperature=0.0)
    whole = lm.generate_ids(ids_of(lm, PROMPTS), settings)
    stop = whole[1][0][5]
    ended = dataclasses.replace(lm, eos=(stop,)).generate_ids(ids_of(lm, PROMPTS), settings)
    for (full,), (cut,) in zip(whole, ended, strict=True):
        assert cut == (full[: full.index(stop) + 1] if stop in full else full)


@pytest.mark.parametrize("seed", range(6))
def test_the_distribution_is_that_of_transformers_processors(seed):
    rng = np.random.default_rng(seed)
    vocabulary, draws = 40, 20_000
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
    want = torch.softmax(processors(torch.tensor(prompt), torch.tensor(logits)), -1)[0].numpy()

    seen = jnp.zeros((draws, vocabulary), bool).at[:, prompt[0]].set(True)
    keys = jax.random.split(jax.random.key(seed), draws)
    tokens = sampling.pick(
        jnp.broadcast_to(logits, (draws, vocabulary)), seen, keys, vocabulary, **settings
    )
    got = np.bincount(np.asarray(tokens), minlength=vocabulary) / draws
    assert set(np.flatnonzero(got)) <= set(np.flatnonzero(want))
    np.testing.assert_allclose(got, want, atol=4 * np.sqrt(0.25 / draws))


def test_a_prompt_beyond_the_context_loses_its_left_end(lm):
    ids = list(np.random.default_rng(0).integers(0, 200, 700))
    settings = Sampling(max_new_tokens=12, temperature=0.0)
    assert lm.generate_ids([ids], settings) == lm.generate_ids([ids[-500:]], settings)


def test_an_answer_ends_where_the_context_does_and_a_short_prompt_is_not_cut_for_it():
    short = tiny_language_model(batch_size=1, max_position_embeddings=64)
    short = dataclasses.replace(short, eos=())
    ids = list(range(20))
    (got,) = short.generate_ids([ids], Sampling(max_new_tokens=1000, temperature=0.0))[0]
    assert len(got) == 44
    longer = tiny_language_model(batch_size=1, max_position_embeddings=512)
    assert dataclasses.replace(longer, eos=()).generate_ids([ids], Sampling(44, 0.0))[0][0] == got


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1},
        {"top_p": 0},
        {"top_k": -1},
        {"max_new_tokens": 0},
        {"repetition_penalty": 0},
    ],
)
def test_impossible_numbers_are_named(wrong):
    with pytest.raises(BadInput, match=next(iter(wrong))):
        Sampling(**wrong)
