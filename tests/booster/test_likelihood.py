"""The likelihood of rewrites."""

import dataclasses

import numpy as np
import pytest
import scipy.special

from pav_jax.booster.guard import Request
from pav_jax.booster.likelihood import log_likelihoods, with_drawn
from pav_jax.language import chat
from pav_jax.language.sampling import Sampling
from pav_jax.language.scored_texts import generate_scored
from tests.tiny.byte_language_model import tiny_language_model


def test_log_likelihoods_of_logits():
    lm = tiny_language_model()
    texts = ["a dog runs.", "rain", "a b c d", "x", "a dog"]
    values = log_likelihoods(lm, Request("a dog"), texts)
    prompt = lm.prompt_ids("a dog")
    for text, value in zip(texts, values, strict=True):
        answer = lm.tokenizer(text, add_special_tokens=False)["input_ids"]
        logits = np.asarray(lm.logits(np.array([[*prompt, *answer]])), np.float64)[0]
        log_probs = scipy.special.log_softmax(logits, -1)
        expected = [log_probs[len(prompt) + i - 1, token] for i, token in enumerate(answer)]
        assert value == pytest.approx(np.mean(expected), abs=1e-4)


@pytest.mark.slow
def test_generate_scored_of_logits():
    lm = tiny_language_model()
    chats = [chat.user_chat(prompt) for prompt in ("a dog", "rain over a town")]
    prompts = lm.adapters.encode(lm.tokenizer, chats, [None, None])
    settings = Sampling(max_new_tokens=12, temperature=0.7, top_k=20, repetition_penalty=1.2)
    lm = dataclasses.replace(lm, eos=(lm.generate_ids(prompts, settings, 3, 5)[0][1][4],))
    answers = lm.generate_ids(prompts, settings, 3, 5)
    texts, values = generate_scored(lm, chats, settings, 3, 5)
    assert texts == [
        chat.decode_answers(lm.tokenizer, *row) for row in zip(prompts, answers, strict=True)
    ]
    assert len(answers[0][1]) == 5, "ends early"
    for prompt, group, means in zip(prompts, answers, values, strict=True):
        for answer, mean in zip(group, means, strict=True):
            logits = np.asarray(lm.logits(np.array([[*prompt, *answer]])), np.float64)[0]
            log_probs = scipy.special.log_softmax(logits, -1)
            said = answer[:-1] if answer[-1] in lm.eos else answer
            expected = [log_probs[len(prompt) + i - 1, token] for i, token in enumerate(said)]
            assert mean == pytest.approx(np.mean(expected), abs=1e-4)


def test_with_drawn_computes_the_others():
    computed = []

    def compute(request, texts):
        computed.append(list(texts))
        return [-2.0] * len(texts)

    request = Request("a dog")
    likelihood = with_drawn(compute, {(request, "a"): -1.0, (request, "b"): float("nan")})
    assert likelihood(request, ["a", "b", "c"]) == [-1.0, -2.0, -2.0] and computed == [["b", "c"]]
    assert likelihood(request, ["a"]) == [-1.0] and len(computed) == 1
