"""The rubric of rewrites at an endpoint. The server is a thread on 127.0.0.1."""

import json

import numpy as np
import pytest

from pav_jax.errors import BadInput
from pav_jax.rewards import RewardSuite
from pav_jax.rewards.text_rubric import CRITERIA, DIMENSIONS, TextRubric, passed, read_criteria
from tests.chat_server import ChatServer, completion

ROWS = [
    {"dimension": "semantic_fidelity", "criterion": "It keeps the subject."},
    {"dimension": "semantic_fidelity", "criterion": "It keeps the colour."},
    {"dimension": "internal_consistency", "criterion": "It is consistent."},
    {"dimension": "directorial_quality", "criterion": "It names a shot."},
]


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setenv("TEST_KEY", "sk-secret")
    opened = []

    def start(behave):
        opened.append(ChatServer(behave, lambda body: body["messages"][-1]["content"]))
        return opened[-1]

    yield start
    for endpoint in opened:
        endpoint.close()


@pytest.fixture
def make(tmp_path):
    (tmp_path / "criteria.json").write_text(json.dumps(ROWS))

    def judge(endpoint, **changes):
        common = dict(
            model="m",
            base_url=endpoint.url,
            api_key_env="TEST_KEY",
            timeout_s=5.0,
            max_retries=0,
            max_backoff_s=0.01,
            criteria=tmp_path / "criteria.json",
        )
        return TextRubric.from_pretrained(**common | changes)

    return judge


def verdicts(nth, text):
    """Fails what names no shot, and colours of rewrites without "red"."""
    rewrite = text.split("Rewrite:\n")[1].split("\n\nCriterion")[0]
    fails = ("shot" in text and "wide" not in rewrite) or (
        "colour" in text and "red" not in rewrite
    )
    return 200, completion("**Fail**: no." if fails else "Pass.")


def test_score_shares_of_criteria(serve, make):
    endpoint = serve(verdicts)
    reward = make(endpoint)
    prompts = ["a red ball", "a red ball"]
    scores = reward.score(None, prompts, ["a red ball, wide shot", "a ball"])
    assert tuple(scores) == TextRubric.names == tuple(DIMENSIONS.values())
    np.testing.assert_array_equal(scores["RUBRIC_SF"], [1.0, 0.5])
    np.testing.assert_array_equal(scores["RUBRIC_IC"], [1.0, 1.0])
    np.testing.assert_array_equal(scores["RUBRIC_DQ"], [1.0, 0.0])
    assert sum(endpoint.count.values()) == 8
    assert {"temperature": 0.0, "seed": 0}.items() <= endpoint.bodies[0].items()
    again = reward.score(None, prompts[:1], ["a ball"])
    assert again["RUBRIC_SF"][0] == 0.5 and sum(endpoint.count.values()) == 8
    assert reward.score(None, prompts) == {}


def test_score_missing_answers(serve, make, caplog):
    unclear = serve(
        lambda nth, text: (200, completion("Perhaps")) if "colour" in text else verdicts(nth, text)
    )
    scores = make(unclear).score(None, ["a ball"], ["a wide shot"])
    assert np.isnan(scores["RUBRIC_SF"]).all() and scores["RUBRIC_DQ"] == 1
    assert "1 of 1 rewrites lack a score: of their questions 1 were answered neither" in caplog.text
    limited = make(serve(verdicts), max_requests=1, concurrency=1)
    scores = limited.score(None, ["a ball"], ["a wide shot"])
    assert sum(np.isnan(value).all() for value in scores.values()) == 3
    assert "3 were not sent (max_requests=1)" in caplog.text


def test_from_config(serve, make, tmp_path):
    endpoint = serve(verdicts)
    entry = dict(name="text_rubric", model="m", base_url=endpoint.url, api_key_env="TEST_KEY")
    entry["criteria"] = str(tmp_path / "criteria.json")
    suite = RewardSuite.from_config({"entries": {"faithfulness": {}}, "held_out": [entry]})
    assert not suite.reads_video and suite.held_out[0] == "held_out:RUBRIC_SF"
    scores = suite.score(np.zeros((1, 1, 8, 8, 3), np.uint8), ["a ball"], ["a ball"])
    assert scores["held_out:RUBRIC_IC"] == 1
    assert suite.held_out_rewards[0].fingerprint == make(endpoint).fingerprint
    other = make(endpoint, criteria=CRITERIA)
    assert suite.held_out_rewards[0].fingerprint != other.fingerprint
    with pytest.raises(BadInput, match="max_requests is 0"):
        make(endpoint, max_requests=0)


def test_read_criteria():
    criteria = read_criteria(CRITERIA)
    assert len(set(criteria)) == len(criteria) >= 12
    assert {dimension for dimension, _ in criteria} == set(DIMENSIONS)


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "not valid JSON"),
        ("{}", "entry 0 is no criterion"),
        (json.dumps(ROWS[:2] + [{"dimension": "x", "criterion": "y"}]), "entry 2"),
        (json.dumps(ROWS[:3]), "directorial_quality has no criterion"),
    ],
)
def test_read_criteria_invalid(tmp_path, content, message):
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(BadInput, match=f"c.json.*{message}") as caught:
        read_criteria(tmp_path / "c.json")
    assert "\n" not in str(caught.value)


def test_passed():
    assert [passed(text) for text in ("pass", "Fail.", "**PASS**")] == [1.0, 0.0, 1.0]
    assert np.isnan([passed(text) for text in ("", "passable", "I pass")]).all()
