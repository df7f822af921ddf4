"""LIKELIHOOD against log-softmax of the model's logits on the tokens of a training batch."""

import dataclasses

import numpy as np
import pytest

from pav_jax.errors import BadInput
from pav_jax.records import PromptPair
from pav_jax.rewards import Likelihood, likelihood
from pav_jax.storage.records import write_jsonl
from pav_jax.train.config import SFTConfig
from pav_jax.train.data import read_data
from tests.tiny import language_model as tiny

PAIRS = [("a b", "c d e"), ("f", "g"), ("h i", " ".join("abcdefgh" * 9)), ("a b", "c d")]


@pytest.fixture(scope="module")
def lm():
    return tiny.make_lm()


@pytest.fixture(scope="module")
def reward(lm):
    return Likelihood(lm, batch_size=2, max_length=80, max_prompt_length=16)


def scores(reward, pairs):
    prompts, refined = zip(*pairs, strict=True)
    return reward.score(None, prompts, refined)["LIKELIHOOD"]


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.mark.slow
def test_score_of_training_batch(lm, reward, tmp_path):
    """The tokens are those of a batch of SFT, also where an answer is truncated."""
    path = tmp_path / "pairs.jsonl"
    write_jsonl(path, [PromptPair(*pair) for pair in PAIRS])
    fields = SFTConfig(max_length=80, max_prompt_length=16, batch_size=4)
    batch = next(read_data("sft", path, lm, fields, tmp_path).batches(4, None))
    logp = log_softmax(lm.logits(batch["ids"]))[:, :-1]
    logp = np.take_along_axis(logp, batch["ids"][:, 1:, None], -1)[..., 0]
    answer = batch["answer"][:, 1:]
    expected = (logp * answer).sum(1) / answer.sum(1)
    got = scores(reward, PAIRS)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert got.dtype == np.float32


def test_score_independent_of_the_batch(reward):
    alone = np.concatenate([scores(reward, [pair]) for pair in PAIRS])
    np.testing.assert_array_equal(scores(reward, PAIRS), alone)
    np.testing.assert_array_equal(scores(reward, [*PAIRS[::-1], *PAIRS])[4:], alone)


def test_score_programs(reward, monkeypatch):
    """One program for each padded length, whatever the number of rewrites."""
    shapes = []
    mean_log_probs = likelihood._mean_log_probs

    def record(model, variables, ids, answer):
        shapes.append(ids.shape)
        return mean_log_probs(model, variables, ids, answer)

    monkeypatch.setattr(likelihood, "_mean_log_probs", record)
    scores(reward, PAIRS * 2)  # equal pairs are computed once
    assert shapes == [(2, 64), (2, 64), (2, 80)]


def test_score_maximum_and_missing_rewrites(lm, reward):
    plain = scores(reward, PAIRS)
    limited = scores(Likelihood(lm, 2, 80, 16, maximum=float(np.median(plain))), PAIRS)
    np.testing.assert_array_equal(limited, np.minimum(plain, np.median(plain).astype(np.float32)))
    assert np.isnan(scores(reward, [("a", " ")])).all()
    assert reward.score(None, ["a"]) == {}


def test_from_pretrained_booster(lm, reward, tmp_path):
    lm.save_pretrained(tmp_path / "booster")
    loaded = Likelihood.from_pretrained(
        tmp_path / "booster", batch_size=2, max_length=80, max_prompt_length=16
    )
    np.testing.assert_allclose(scores(loaded, PAIRS), scores(reward, PAIRS), atol=1e-6)


def test_model_without_template(lm):
    tokenizer = tiny.make_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(BadInput, match="no chat template"):
        Likelihood(dataclasses.replace(lm, tokenizer=tokenizer))
