"""VQAScore at an endpoint that reports token probabilities. The server is a thread on 127.0.0.1."""

import re

import numpy as np
import pytest

from pav_jax.errors import BadInput
from pav_jax.rewards import RewardSuite
from pav_jax.rewards.vqascore import QUESTION, VQAScore, read_question
from tests.chat_server import ChatServer, completion


def first_token(**probabilities):
    """A completion whose first token has these probabilities."""

    def token(word, p):
        return {"token": word, "logprob": float(np.log(p)), "bytes": None}

    entries = [token(word.replace("_", " "), p) for word, p in probabilities.items()]
    content = [entries[0] | {"top_logprobs": entries}]
    return completion("Yes", logprobs={"content": content, "refusal": None})


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setenv("TEST_KEY", "sk-secret")
    opened = []

    def start(behave):
        opened.append(ChatServer(behave, lambda body: body["messages"][-1]["content"][-1]["text"]))
        return opened[-1]

    yield start
    for endpoint in opened:
        endpoint.close()


def make(endpoint, **changes):
    common = dict(
        model="m",
        base_url=endpoint.url,
        api_key_env="TEST_KEY",
        timeout_s=5.0,
        max_retries=0,
        max_backoff_s=0.01,
    )
    return VQAScore.from_pretrained(**common | changes)


def test_score_probability_of_yes(serve, videos):
    def behave(nth, text):
        yes = first_token(Yes=0.5, _yes=0.125, No=0.25, The=0.125)
        return 200, yes if "a cat" in text else first_token(No=0.75, Yes=0.0625)

    endpoint = serve(behave)
    reward = make(endpoint, frames=3)
    scores = reward.score(videos[:2], ["a cat", "a dog"])["VQA"]
    np.testing.assert_allclose(scores, [0.625, 0.0625], rtol=1e-5)
    body = endpoint.bodies[0]
    sent = {name: body[name] for name in ("temperature", "seed", "max_tokens", "top_logprobs")}
    assert sent == {"temperature": 0.0, "seed": 0, "max_tokens": 1, "top_logprobs": 20}
    assert body["logprobs"] is True and len(body["messages"][-1]["content"]) == 4
    # answers are kept: the same video and prompt are not sent again
    again = reward.score(videos[[1, 2]], ["a dog", "a dog"])["VQA"]
    assert again[0] == scores[1] and sum(endpoint.count.values()) == 3


def test_score_missing_answers(serve, videos, caplog):
    endpoint = serve(lambda nth, text: (200, first_token(Yes=0.5) if "cat" in text else maybe))
    maybe = first_token(Maybe=0.9)
    scores = make(endpoint).score(videos[:2], ["a cat", "a dog"])["VQA"]
    assert np.isnan(scores).tolist() == [False, True]
    (record,) = [r for r in caplog.records if "vqascore" in r.getMessage()]
    assert re.search("1 of 2 videos have no VQA.*1 have neither yes nor no", record.getMessage())


def test_score_max_requests(serve, videos, caplog):
    endpoint = serve(lambda nth, text: (200, first_token(Yes=0.5)))
    reward = make(endpoint, max_requests=2, concurrency=1)
    scores = reward.score(videos[:4], ["a", "b", "c", "d"])["VQA"]
    assert np.isnan(scores).sum() == 2 == sum(endpoint.count.values())
    assert "2 were not sent (max_requests=2)" in caplog.text
    np.testing.assert_array_equal(reward.score(videos[:1], ["a"])["VQA"], scores[:1])


def test_score_no_probabilities(serve, videos):
    with pytest.raises(BadInput, match="reports no probabilities") as caught:
        make(serve(lambda nth, text: (200, completion("Yes")))).score(videos[:1], ["a"])
    assert "\n" not in str(caught.value)


def test_from_config(serve, tmp_path):
    endpoint = serve(lambda nth, text: (200, first_token(Yes=0.5)))
    entry = dict(name="vqascore", model="m", base_url=endpoint.url, api_key_env="TEST_KEY")
    suite = RewardSuite.from_config({"entries": {"motion": {}}, "held_out": [entry]})
    assert suite.held_out == ("held_out:VQA",)
    assert suite.held_out_rewards[0].fingerprint == make(endpoint).fingerprint
    (tmp_path / "question.txt").write_text("Is it [[prompt]]?\n")
    other = make(endpoint, question=tmp_path / "question.txt")
    assert other.question == "Is it [[prompt]]?" and other.fingerprint != make(endpoint).fingerprint
    with pytest.raises(BadInput, match="frames is 0"):
        make(endpoint, frames=0)


def test_read_question_invalid(tmp_path):
    assert "[[prompt]]" in read_question(QUESTION)
    (tmp_path / "q.txt").write_text("Is it good?")
    with pytest.raises(BadInput, match=r"q.txt.*\[\[prompt\]\]"):
        read_question(tmp_path / "q.txt")
    with pytest.raises(BadInput, match="none.txt"):
        read_question(tmp_path / "none.txt")
