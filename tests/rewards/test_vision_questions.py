"""A vision endpoint that answers yes, no, garbage, or nothing. The server is a thread on
127.0.0.1."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from pav_jax.errors import BadInput
from pav_jax.rewards import RewardSuite
from pav_jax.rewards.file_scorer import FileScorer
from pav_jax.rewards.score_cache import ScoreCache
from pav_jax.rewards.vision_questions import (
    QUESTIONS,
    Question,
    VisionQuestions,
    read_questions,
    yes_or_no,
)
from pav_jax.video.files import write_mp4
from tests.chat_server import ChatServer, completion

KEY = "sk-very-secret-0123456789"
ASKED = [
    {"question": "Is there [[prompt]]?", "weight": 2.0},
    {"question": "Does it flicker?", "weight": -1.0},
    {"question": "Is it sharp?", "weight": 0.5},
]


def question_of(body) -> str:
    return body["messages"][-1]["content"][-1]["text"]


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setenv("TEST_KEY", KEY)
    opened = []

    def start(behave) -> ChatServer:
        opened.append(ChatServer(behave, question_of))
        return opened[-1]

    yield start
    for endpoint in opened:
        endpoint.close()


@pytest.fixture
def make(tmp_path):
    (tmp_path / "questions.json").write_text(json.dumps(ASKED))

    def judge(endpoint, **changes) -> VisionQuestions:
        return VisionQuestions.from_pretrained(
            **(
                dict(
                    model="m",
                    base_url=endpoint.url,
                    api_key_env="TEST_KEY",
                    timeout_s=5.0,
                    max_retries=1,
                    max_backoff_s=0.01,
                    questions=tmp_path / "questions.json",
                )
                | changes
            )
        )

    return judge


def yes_to(*words):
    return lambda nth, text: (
        200,
        completion("Yes." if any(w in text for w in words) else "**No**, it is not."),
    )


def test_score_mean_of_weighted_answers(serve, make, videos):
    endpoint = serve(lambda nth, text: endpoint.meet(2) or yes_to("a cat", "flicker")(nth, text))
    judge = make(endpoint, frames=3)
    scores = judge.score(videos[:2], ["a cat", "a dog"])["QA"]
    np.testing.assert_allclose(scores, [(2 - 1 - 0.5) / 3, (-2 - 1 - 0.5) / 3], rtol=1e-6)
    assert (
        scores.dtype == np.float32
        and sum(endpoint.count.values()) == 6
        and endpoint.most_at_once > 1
    )
    assert endpoint.headers[0]["authorization"] == f"Bearer {KEY}"
    body = next(b for b in endpoint.bodies if question_of(b) == "Is there a cat?")
    *images, text = body["messages"][-1]["content"]
    assert (
        body["model"] == "m"
        and body["temperature"] == 0
        and "logprobs" not in body
        and text["type"] == "text"
    )
    assert len(images) == 3
    for part, frame in zip(images, videos[0][[0, 2, 4]], strict=True):
        head, data = part["image_url"]["url"].split(",")
        seen = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
        assert head == "data:image/jpeg;base64" and seen.shape == frame.shape
        assert (
            np.abs(seen.astype(int) - frame).mean()
            < 6
            < np.abs(seen.astype(int) - videos[1][0]).mean()
        )


def test_score_frame_size_and_number(serve, make):
    endpoint = serve(yes_to())
    make(endpoint, side=20).score(np.zeros((1, 2, 30, 40, 3), np.uint8), ["x"])
    urls = [part["image_url"]["url"] for part in endpoint.bodies[0]["messages"][-1]["content"][:-1]]
    assert [Image.open(io.BytesIO(base64.b64decode(u.split(",")[1]))).size for u in urls] == [
        (20, 15)
    ] * 2


def test_score_probabilities(serve, make, videos):
    def token(word, p):
        return {"token": word, "logprob": float(np.log(p)), "bytes": None}

    told = {
        "content": [
            token("Yes", 0.5)
            | {
                "top_logprobs": [
                    token("Yes", 0.5),
                    token(" yes", 0.1),
                    token("No", 0.2),
                    token("The", 0.2),
                ]
            }
        ],
        "refusal": None,
    }
    endpoint = serve(
        lambda nth, text: (200, completion("Yes", logprobs=told if "sharp" in text else None))
    )
    score = make(endpoint, probabilities=True).score(videos[:1], ["x"])["QA"]
    np.testing.assert_allclose(score, (2 - 1 + 0.5 * (2 * 0.6 / 0.8 - 1)) / 3, rtol=1e-6)
    assert endpoint.bodies[0]["logprobs"] is True and endpoint.bodies[0]["top_logprobs"] == 10


def test_score_retries(serve, make, videos):
    endpoint = serve(
        lambda nth, text: (
            (503, "{}") if nth == 1 else (200, completion("Maybe" if nth == 2 else "yes"))
        )
    )
    assert np.isfinite(make(endpoint).score(videos[:1], ["x"])["QA"]).all() and set(
        endpoint.count.values()
    ) == {3}


@pytest.mark.parametrize(
    "answer, why",
    [
        ((200, completion("I cannot tell")), "1 were answered neither yes nor no"),
        ((200, completion(None)), "1 were answered neither yes nor no"),
        ((400, '{"error": "policy"}'), r"1 were refused \(status 400\)"),
        ((500, "{}"), r"1 failed \(status 500\)"),
    ],
)
def test_score_missing_answers(serve, make, videos, caplog, answer, why):
    endpoint = serve(lambda nth, text: answer if "a cat" in text else (200, completion("yes")))
    scores = make(endpoint).score(videos[:3], ["a dog", "a cat", "a cow"])["QA"]
    assert np.isnan(scores).tolist() == [False, True, False]
    (record,) = [r for r in caplog.records if "vision_questions" in r.getMessage()]
    assert "1 of 3 videos have no QA" in record.getMessage()
    assert re.search(why, record.getMessage()), record.getMessage()


def test_score_endpoint_down_or_key_refused(serve, make, videos):
    with pytest.raises(BadInput, match="2 questions in a row failed"):
        make(serve(lambda nth, text: (500, "{}")), max_consecutive_failures=2, concurrency=1).score(
            videos[:1], ["x"]
        )
    refusing = serve(lambda nth, text: (401, json.dumps({"error": {"message": f"bad key {KEY}"}})))
    with pytest.raises(BadInput, match="status 401.*TEST_KEY") as caught:
        make(refusing).score(videos[:1], ["x"])
    assert KEY not in str(caught.value)


def test_transient_failure_not_cached(serve, make, tmp_path):
    write_mp4(tmp_path / "a.mp4", np.zeros((3, 16, 16, 3), np.uint8), 8)
    answers = iter(["perhaps"] * 6 + ["yes"] * 3)
    endpoint = serve(lambda nth, text: (200, completion(next(answers))))
    suite = RewardSuite([make(endpoint, concurrency=1)], {})

    def score():
        return FileScorer(suite, cache=ScoreCache(tmp_path / "kept")).score(
            [str(tmp_path / "a.mp4")], ["x"]
        )[0]

    assert np.isnan(score().scores["QA"])
    assert score().scores["QA"] == pytest.approx(0.5) == score().scores["QA"]
    assert sum(endpoint.count.values()) == 9


def test_file_scorer_endpoint_down(serve, make, tmp_path):
    paths = [str(tmp_path / f"{i}.mp4") for i in range(3)]
    for path in paths:
        write_mp4(path, np.zeros((3, 16, 16, 3), np.uint8), 8)
    endpoint = serve(lambda nth, text: (500, "{}"))
    suite = RewardSuite([make(endpoint, max_consecutive_failures=1, concurrency=1)], {})
    results = FileScorer(suite).score(paths, ["x"] * 3)
    assert all("no QA" in r.problems[0] and r.path in r.problems[0] for r in results)
    assert sum(endpoint.count.values()) == 2  # one question, asked twice


def test_from_config_fingerprint(serve, make, tmp_path):
    endpoint = serve(yes_to())
    entry = dict(name="vision_questions", model="m", base_url=endpoint.url, api_key_env="TEST_KEY")
    suite = RewardSuite.from_config({"entries": {"motion": {}}, "held_out": [entry]})
    assert suite.held_out == ("held_out:QA",)
    assert (
        suite.held_out_rewards[0].fingerprint
        != make(endpoint).fingerprint
        == make(endpoint).fingerprint
    )
    with pytest.raises(BadInput, match="vision_questions: the option 'model' is missing"):
        RewardSuite.from_config({"entries": {"vision_questions": {}}})
    with pytest.raises(
        BadInput, match="rewards.vision_questions.api_key_env.*ABSENT_KEY is not set"
    ):
        make(endpoint, api_key_env="ABSENT_KEY")
    with pytest.raises(BadInput, match="frames is 0"):
        make(endpoint, frames=0)


def test_read_questions(tmp_path):
    ours = read_questions(QUESTIONS)
    assert len(ours) == len({q.text for q in ours}) >= 12 and any(q.weight < 0 for q in ours)
    assert any("[[prompt]]" in q.text for q in ours)
    (tmp_path / "lines.txt").write_text("Is it red?\n\nIs it [[prompt]]?\n")
    (tmp_path / "weights.json").write_text("[0.5, -1]")
    assert read_questions(tmp_path / "lines.txt", tmp_path / "weights.json") == [
        Question("Is it red?", 0.5),
        Question("Is it [[prompt]]?", -1.0),
    ]


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "not valid JSON"),
        ("[]", "at least one"),
        ('{"question": "x"}', "JSON list"),
        ('["x"]', "entry 0 has no text"),
        ('[{"question": "x", "weight": 1}, {"question": "", "weight": 1}]', "entry 1 has no text"),
        ('[{"question": "x", "weight": NaN}]', "entry 0 has no finite"),
        ('[{"question": "x", "weight": true}]', "entry 0 has no finite"),
    ],
)
def test_read_questions_invalid_file(tmp_path, text, message):
    (tmp_path / "q.json").write_text(text)
    with pytest.raises(BadInput, match=f"q.json.*{message}"):
        read_questions(tmp_path / "q.json")


def test_read_questions_wrong_number_of_weights(tmp_path):
    (tmp_path / "lines.txt").write_text("Is it red?\n")
    (tmp_path / "weights.json").write_text("[0.5, -1]")
    with pytest.raises(BadInput, match="2 weights for the 1 questions"):
        read_questions(tmp_path / "lines.txt", tmp_path / "weights.json")
    with pytest.raises(BadInput, match="none.txt: questions or weights cannot be read"):
        read_questions(tmp_path / "none.txt", tmp_path / "weights.json")


@pytest.mark.parametrize(
    "text, value", [("yes", 1), ("YES!", 1), (" No, because", -1), ("**no**", -1), ("'Yes'", 1)]
)
def test_yes_or_no(text, value):
    assert yes_or_no(text) == value


@pytest.mark.parametrize("text", ["", "nothing", "yesterday", "I say yes", "not at all", "..."])
def test_yes_or_no_unclear(text):
    assert np.isnan(yes_or_no(text))
