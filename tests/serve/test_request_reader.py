"""Bodies of requests that are wrong, and any JSON."""

import json

import hypothesis
import pytest
from hypothesis import strategies

from tests import campaigns
from tests.serve.backends import CHAT, SECRET, TEXT, FakeBackend, chat_of, fake_client


@pytest.fixture(scope="module")
def fake():
    with fake_client()[0] as client:
        yield client


BAD = [
    ("/refine", {}, "prompt"),
    ("/refine", {"prompt": 7}, "prompt"),
    ("/refine", {"zoom": "x", "prompt": "x"}, "zoom"),
    ("/refine", {"prompt": SECRET, "seed": 2**70}, "seed"),
    ("/refine", {"prompt": SECRET, "top_k": 0}, "top_k"),
    ("/refine", {"prompt": SECRET * 1000}, "prompt"),
    ("/refine", {"prompt": SECRET, "keep": ["zebra", "xylophone"]}, "keep.1"),
    ("/refine", [], None),
    ("/refine", None, None),
    (CHAT, {}, "messages"),
    (CHAT, {"messages": []}, "messages"),
    (CHAT, {"messages": "hello"}, "messages"),
    (CHAT, {"messages": [{"role": "king", "content": "x"}]}, "messages.0.role"),
    (CHAT, {"messages": [{"role": "system", "content": "x"}]}, "messages"),
    (
        CHAT,
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        "messages.0.content",
    ),
    (CHAT, chat_of(SECRET, n=0), "n"),
    (CHAT, chat_of(SECRET, n=17), "n"),
    (CHAT, chat_of(SECRET, max_tokens=5000), "max_tokens"),
    (CHAT, chat_of(SECRET, max_completion_tokens=-1), "max_completion_tokens"),
    (CHAT, chat_of(SECRET, temperature=-1), "temperature"),
    (CHAT, chat_of(SECRET, temperature="hot"), "temperature"),
    (CHAT, chat_of(SECRET, top_p=0), "top_p"),
    (CHAT, chat_of(SECRET, stop=["a", "b", "c", "d", "e"]), "stop"),
    (CHAT, chat_of(SECRET, stop=""), "stop"),
    (CHAT, chat_of(SECRET, stream="perhaps"), "stream"),
    (CHAT, chat_of(SECRET, response_format={"type": "json_schema"}), "response_format"),
    (CHAT, chat_of(SECRET, response_format={"type": "json_object"}), "response_format"),
    (CHAT, chat_of(SECRET, tools=[{"type": "function"}]), "tools"),
    (CHAT, chat_of(SECRET, logprobs=True), "logprobs"),
    (CHAT, chat_of(SECRET, frequency_penalty=1), "frequency_penalty"),
    (CHAT, chat_of(SECRET, keep=["zebra"]), "keep"),
    (CHAT, chat_of(SECRET, max_words=9), "max_words"),
    (CHAT, chat_of(SECRET, guard={"keep": ["xylophone"]}), "guard.keep.0"),
    (TEXT, {"prompt": SECRET, "mode": "on"}, "mode"),
    (TEXT, {"prompt": [1, 2]}, "prompt"),
    (TEXT, {"prompt": []}, "prompt"),
    (TEXT, {"prompt": ["x", ""]}, "prompt"),
    (TEXT, {"prompt": ["x"] * 20}, "n"),
    (TEXT, {"prompt": SECRET, "echo": True}, "echo"),
    (TEXT, {"prompt": SECRET, "best_of": 2}, "best_of"),
]


@pytest.mark.parametrize("route,body,param", BAD)
def test_wrong_body_gets_one_line_that_names_the_field(fake, route, body, param):
    response = fake.post(route, json=body)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
    assert "\n" not in error["message"] and len(error["message"]) < 200
    assert SECRET not in response.text


def test_settings_are_those_of_the_model():
    backend = FakeBackend()
    with fake_client(backend)[0] as client:
        for fields in ({}, {"model": "other"}, {"model": "other", "max_tokens": 5}):
            assert client.post("/refine", json={"prompt": "sea", **fields}).status_code == 200
    assert [r.settings.max_new_tokens for r in backend.requests] == [250, 99, 5]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b'{"prompt": "x"',
        b"[" * 100_000,
        b"\xff\xfe",
        b"9" * 10_000,
        b'{"prompt": NaN}',
    ],
)
@pytest.mark.parametrize("route", ["/refine", CHAT, TEXT])
def test_body_that_is_not_json_is_refused(fake, route, content):
    for content_type in ("application/json", "text/plain", "multipart/form-data; boundary=x"):
        response = fake.post(route, content=content, headers={"Content-Type": content_type})
        assert response.status_code == 400, response.text
        assert response.json()["error"]["type"] == "invalid_request_error"


JSON = strategies.recursive(
    strategies.none()
    | strategies.booleans()
    | strategies.integers()
    | strategies.floats()
    | strategies.text(),
    lambda inner: (
        strategies.lists(inner, max_size=3)
        | strategies.dictionaries(strategies.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
NAMES = ("model", "prompt", "messages", "n", "seed", "stop", "stream", "temperature", "role")


@hypothesis.settings(
    max_examples=60 if campaigns.IS_REQUESTED else 20, deadline=None, derandomize=True
)
@hypothesis.given(  # vocabulary: ignore
    strategies.sampled_from(["/refine", CHAT, TEXT]),
    JSON | strategies.dictionaries(strategies.sampled_from(NAMES), JSON),
)
def test_any_json_gets_an_answer_or_an_error(fake, route, body):
    content = json.dumps(body).encode("utf-8", "surrogatepass")
    response = fake.post(route, content=content, headers={"Content-Type": "application/json"})
    assert response.status_code in (200, 400, 404), response.text
    if response.status_code != 200:
        assert response.json()["error"]["message"]
