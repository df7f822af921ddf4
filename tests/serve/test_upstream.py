"""The server in front of another OpenAI-compatible server."""

import json

import pytest
from fastapi.testclient import TestClient

from pav_jax.errors import BadInput
from pav_jax.records import Refinement, to_json
from pav_jax.serve import upstream
from pav_jax.serve.app import Server
from pav_jax.serve.options import ServeLimits
from pav_jax.serve.upstream import UpstreamBackend
from tests.chat_server import ChatServer, completion

CHAT = "/v1/chat/completions"


def prompt_of(body):
    return body["prompt"] if "prompt" in body else body["messages"][-1]["content"]


@pytest.fixture
def open_client(monkeypatch):
    """-> (client, the other server), for what that answers."""
    monkeypatch.setattr(upstream, "MAX_RETRIES", 0)
    opened = []

    def open_client(behave, models=("m",), timeout_s=60):
        server = ChatServer(behave, prompt_of)
        backend = UpstreamBackend(server.url.removesuffix("/v1"), models, timeout_s=5)
        opened.extend([server, backend])
        limits = ServeLimits(timeout_s=timeout_s)
        return TestClient(Server(backend, limits).app, raise_server_exceptions=False), server

    yield open_client
    for thing in opened:
        thing.close()


def test_refine_and_chat_clean_what_the_other_server_writes(open_client):
    reply = completion("<think>hm</think> A dog runs. ")
    client, server = open_client(lambda nth, text: (200, reply))
    refined = client.post("/refine", json={"prompt": "a dog", "seed": 3}).json()
    lists = {"kept": ("dog",)}  # vocabulary: ignore
    expected = Refinement("a dog", "A dog runs.", 3, "m", faith=1.0, **lists)
    assert refined == json.loads(to_json(expected))
    body = {"messages": [{"role": "user", "content": "a cat"}], "n": 3, "stop": "!", "top_p": 0.5}
    body["guard"] = {"mode": "off"}
    answer = client.post(CHAT, json=body | {"max_tokens": 9, "temperature": 0.1, "seed": 1}).json()
    assert [c["message"]["content"] for c in answer["choices"]] == ["A dog runs."] * 3
    sent = [b for b in server.bodies if prompt_of(b) == "a cat"]
    assert len(sent) == 3 and len({b["seed"] for b in sent}) == 3
    for b in sent:
        assert b["messages"] == [{"role": "user", "content": "a cat"}]
        assert (b["stop"], b["top_p"], b["max_tokens"], b["temperature"]) == (["!"], 0.5, 9, 0.1)
    stream = client.post(CHAT, json=body | {"stream": True}).text
    assert stream.count("A dog runs.") == 3 and stream.endswith("data: [DONE]\n\n")


def test_completions_go_to_the_same_route(open_client):
    reply = {"id": "1", "object": "text_completion", "created": 1, "model": "m"}
    choice = {"index": 0, "text": " runs", "finish_reason": "length", "logprobs": None}
    reply = json.dumps(reply | {"choices": [choice], "usage": {"completion_tokens": 4}})
    client, _ = open_client(lambda nth, text: (200, reply))
    answer = client.post("/v1/completions", json={"prompt": "a dog"}).json()
    assert answer["choices"][0]["text"] == " runs"
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 4


@pytest.mark.parametrize(
    "status,reply,expected",
    [
        (400, '{"error": {"message": "zebra"}}', 400),
        (401, '{"error": {"message": "zebra"}}', 502),
        (404, "zebra", 502),
        (429, "zebra", 429),
        (500, "zebra", 502),
        (200, "zebra", 502),
        (200, "[]", 502),
        (200, "{}", 502),
        (200, '{"choices": [{"message": {"content": 7}}]}', 502),
        (200, None, 504),
    ],
)
def test_failures_of_the_other_server(open_client, status, reply, expected):
    timeout_s = 1 if expected == 504 else 60
    client, _ = open_client(lambda nth, text: (status, reply), timeout_s=timeout_s)
    response = client.post("/refine", json={"prompt": "a dog"})
    assert response.status_code == expected, response.text
    assert response.json()["error"]["message"]
    assert "zebra" not in response.text


def test_server_that_cannot_be_reached(open_client):
    client, server = open_client(lambda nth, text: (200, completion("x")))
    server.close()
    response = client.post("/refine", json={"prompt": "a dog"})
    assert response.status_code == 502
    assert "cannot be reached" in response.json()["error"]["message"]


def test_models_are_those_that_it_lists(open_client):
    server = ChatServer(lambda nth, text: (200, completion("x")), prompt_of)
    models = {"object": "list", "data": [{"id": name, "object": "model"} for name in ("a", "b")]}
    files = {"/v1/models": json.dumps(models).encode()}
    server.close()
    listing = type(server).__mro__[1](None, files=files, path="/v1")
    backend = UpstreamBackend(listing.url)
    assert backend.models == ["a", "b"]
    backend.close()
    listing.close()


@pytest.mark.parametrize("address", ["localhost:80", "http://", "http://me:pw@host", "ftp://host"])
def test_wrong_address_is_refused(address):
    with pytest.raises(BadInput, match="--upstream"):
        UpstreamBackend(address)
