"""The likelihood of rewrites."""

import numpy as np
import pytest
import scipy.special

from pav_jax.booster.guard import Request
from pav_jax.booster.likelihood import log_likelihoods
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
