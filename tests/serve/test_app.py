"""Routes, errors and limits of the server, in this process."""

import json
import logging
import threading

import openai.types
import openai.types.chat
import pytest
from fastapi.testclient import TestClient

from pav_jax.booster.booster import Booster
from pav_jax.language.batch import Batch
from pav_jax.language.sampling import Sampling
from pav_jax.records import to_json
from pav_jax.serve.app import Server
from pav_jax.serve.local import JobStream, LocalBackend
from pav_jax.serve.options import ServeLimits
from tests.serve.backends import CHAT, SECRET, TEXT, FakeBackend, Gate, chat_of, fake_client
from tests.tiny.byte_language_model import tiny_language_model


@pytest.fixture(scope="module")
def booster():
    return Booster(tiny_language_model(), Sampling(max_new_tokens=20))


@pytest.fixture(scope="module")
def client(booster):
    backend = LocalBackend(booster)
    with TestClient(Server(backend, ServeLimits(max_tokens=100)).app) as client:
        yield client
    backend.close()


def events_of(response):
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in response.text.split("\n\n") if line and not line.startswith(":")]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def test_refine_is_the_refinement_of_the_booster(client, booster):
    for seed, prompt in enumerate(("a dog runs", "rain", "zwei Hunde 🐕")):
        response = client.post("/refine", json={"prompt": prompt, "seed": seed})
        expected = booster.refine(prompt, seed=seed)[0][0]
        assert response.status_code == 200, response.text
        assert response.json() == json.loads(to_json(expected))


def test_refine_guarded(client):
    body = {"prompt": "a QZX1 cat, no dogs -ar 1:1", "keep": ["cat"], "fidelity": 0.5}
    answer = client.post("/refine", json=body | {"mode": "on", "max_words": 30}).json()
    assert answer["refined"] == answer["original"] == body["prompt"]
    assert answer["reverted"] and "no rewrite was good enough" in answer["reason"]
    assert answer["settings"] == {"ar": "1:1"} and answer["faith"] == 1
    for field, value in (("mode", "x"), ("keep", [" "]), ("fidelity", 2), ("max_words", 0)):
        response = client.post("/refine", json=body | {field: value})
        assert response.status_code == 400
        assert response.json()["error"]["param"].split(".")[0] == field


def test_chat_rewrites_last_user_message(client, booster):
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "a cat"},
        {"role": "assistant", "content": "A cat."},
        {"role": "user", "content": [{"type": "text", "text": "a dog runs"}]},
    ]
    body = {"model": "tiny", "messages": messages, "n": 3, "seed": 5, "user": "me"}
    answer = client.post(CHAT, json=body).json()
    openai.types.chat.ChatCompletion.model_validate(answer)
    (expected,) = booster.refine("a dog runs", num_return_sequences=3, seed=5)
    texts = [choice["message"]["content"] for choice in answer["choices"]]
    assert texts == [refinement.refined for refinement in expected]
    assert answer["usage"]["prompt_tokens"] == len(booster.language_model.prompt_ids("a dog runs"))
    assert 3 <= answer["usage"]["completion_tokens"] <= 60
    reasons = {choice["finish_reason"] for choice in answer["choices"]}
    assert reasons <= {"stop", "length"}


def test_completions_continue_texts(client, booster):
    body = {"prompt": ["a dog", "rain"], "n": 2, "seed": 1, "max_tokens": 12, "temperature": 0.7}
    answer = client.post(TEXT, json=body).json()
    openai.types.Completion.model_validate(answer)
    # slots as for the default length, which is what a text may depend on
    texts = booster.language_model.generate(
        ["a dog", "rain"], 12, 0.7, 50, num_return_sequences=2, seed=1
    )
    assert [c["text"] for c in answer["choices"]] == [t for pair in texts for t in pair]


@pytest.fixture
def every_step_is_read(monkeypatch):
    """No tokens are drawn before the texts of the step before are read."""
    reads = threading.Semaphore(1)
    read_texts = JobStream.texts
    draw_tokens = Batch.step

    def texts(stream):
        result = read_texts(stream)
        reads.release()
        return result

    def step(batch, *arguments):
        assert reads.acquire(timeout=60)
        return draw_tokens(batch, *arguments)

    def begin():
        monkeypatch.setattr(JobStream, "texts", texts)
        monkeypatch.setattr(Batch, "step", step)

    return begin


@pytest.mark.parametrize("route", [CHAT, TEXT])
def test_stream_gives_the_same_texts_in_pieces(client, route, every_step_is_read):
    prompt = (
        {"messages": [{"role": "user", "content": "sea"}]} if route == CHAT else {"prompt": "sea"}
    )
    body = prompt | {"n": 2, "seed": 3, "stream_options": {"include_usage": True}}
    whole = client.post(route, json=body).json()
    every_step_is_read()
    events = events_of(client.post(route, json=body | {"stream": True}))
    if route == CHAT:
        for event in events:
            openai.types.chat.ChatCompletionChunk.model_validate(event)
    assert events[-1]["usage"] == whole["usage"] and events[-1]["choices"] == []
    texts = ["", ""]
    reasons = [None, None]
    pieces = [choice for event in events for choice in event["choices"]]
    for choice in pieces:
        text = choice["delta"].get("content", "") if route == CHAT else choice["text"]
        texts[choice["index"]] += text
        reasons[choice["index"]] = choice["finish_reason"]
    expected = [c["message"]["content"] if route == CHAT else c["text"] for c in whole["choices"]]
    assert texts == expected
    assert reasons == [choice["finish_reason"] for choice in whole["choices"]]
    assert len(pieces) > 6


def test_stop_and_max_tokens_cut_answers(client):
    body = {"prompt": "sea", "seed": 3, "max_tokens": 20}
    full = client.post(TEXT, json=body).json()["choices"][0]["text"]
    short = client.post(TEXT, json=body | {"max_tokens": 5}).json()
    assert full.startswith(short["choices"][0]["text"].rstrip("\ufffd"))
    assert short["usage"]["completion_tokens"] == 5
    assert short["choices"][0]["finish_reason"] == "length"
    stop = full[4:6]
    for stream in (False, True):
        response = client.post(TEXT, json=body | {"stop": [stop, "never"], "stream": stream})
        choices = (
            [e["choices"][0] for e in events_of(response)] if stream else response.json()["choices"]
        )
        assert "".join(choice["text"] for choice in choices) == full[: full.index(stop)]
        assert choices[-1]["finish_reason"] == "stop"


def test_prompt_longer_than_the_context_is_refused(client):
    response = client.post("/refine", json={"prompt": "dog " * 200})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize("seed", [None, 4])
def test_chat_without_seed_draws_one_and_tells_it(seed):
    client, _ = fake_client()
    seeds = {client.post(CHAT, json=chat_of("x", seed=seed)).json()["seed"] for _ in range(5)}
    assert len(seeds) == (5 if seed is None else 1)


def test_empty_prompt_is_refused(client):
    for prompt in ("", " \n", "\x00"):
        response = client.post("/refine", json={"prompt": prompt})
        assert response.status_code == 400
        assert response.json()["error"]["message"] == "the prompt is empty; write at least one word"


@pytest.mark.parametrize(
    "method,path,status", [("GET", "/nothing", 404), ("GET", "/refine", 405), ("PUT", CHAT, 405)]
)
def test_wrong_route_or_method_has_the_same_form(method, path, status):
    client, _ = fake_client()
    response = client.request(method, path)
    assert response.status_code == status
    assert "/docs" in response.json()["error"]["message"]


def test_models_and_unknown_model():
    client, _ = fake_client()
    models = client.get("/v1/models").json()
    assert [model["id"] for model in models["data"]] == ["fake", "other"]
    for model in models["data"]:
        openai.types.Model.model_validate(model)
    assert client.get("/v1/models/other").json() == models["data"][1]
    assert client.get("/v1/models/a/b").status_code == 404
    assert client.post(CHAT, json=chat_of("x", model="other")).json()["model"] == "other"
    response = client.post(CHAT, json=chat_of("x", model="othr"))
    assert response.status_code == 404
    assert "'other'" in response.json()["error"]["message"]


@pytest.mark.parametrize("has_length", [True, False])
def test_large_body_is_refused(has_length):
    client, _ = fake_client(max_body_bytes=1000)
    body = json.dumps({"prompt": "x" * 1000}).encode()
    content = body if has_length else iter([body[:500], body[500:]])
    response = client.post("/refine", content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == 413
    assert "1,000 bytes" in response.json()["error"]["message"]


def test_key_is_asked_for_except_by_open_routes():
    client, _ = fake_client(key="s3cret-key")
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic s3cret-key"}):
        for path in ("/refine", CHAT, "/v1/models", "/metrics", "/nothing"):
            response = client.post(path, json={"prompt": "x"}, headers=headers)
            assert response.status_code == 401, path
            assert response.json()["error"]["code"] == "invalid_api_key"
            assert "s3cret-key" not in response.text
    right = {"Authorization": "Bearer s3cret-key"}
    assert client.post("/refine", json={"prompt": "x"}, headers=right).json()["refined"] == "X"
    assert client.get("/v1/models", headers=right).status_code == 200
    for path in ("/health", "/docs", "/openapi.json"):
        assert client.get(path).status_code == 200


def test_openapi_page_describes_all_routes():
    client, _ = fake_client()
    paths = {"/refine", CHAT, TEXT, "/v1/models", "/v1/models/{name}", "/health", "/metrics"}
    page = client.get("/openapi.json")
    assert set(page.json()["paths"]) == paths
    assert "422" not in page.text  # a wrong body is a 400


def test_request_past_the_queue_gets_429_and_a_time_to_wait():
    gate = Gate()
    client, server = fake_client(FakeBackend(gate, num_rows=1), max_queue=1)
    threads = [
        threading.Thread(target=client.post, args=("/refine",), kwargs={"json": {"prompt": "x"}})
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
        assert gate.entered.acquire(timeout=60)
    response = client.post("/refine", json={"prompt": "x"})
    assert response.status_code == 429
    assert 1 <= int(response.headers["Retry-After"]) <= 60
    gate.is_open.set()
    for thread in threads:
        thread.join()
    assert server.state.num_in_work == 0
    assert client.post("/refine", json={"prompt": "x"}).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_request_past_its_time_gets_504(stream):
    gate = Gate()
    client, server = fake_client(FakeBackend(gate), timeout_s=2)
    response = client.post(CHAT, json=chat_of("x", stream=stream))
    if stream:  # the response had begun
        assert response.text.startswith("data: ") and "[DONE]" not in response.text
        error = json.loads(response.text.split("data: ")[-1])["error"]
    else:
        assert response.status_code == 504
        error = response.json()["error"]
    assert error["code"] == "timeout"
    assert gate.left.acquire(timeout=60)  # what worked for it has ended
    assert server.state.num_in_work == 0


def test_draining_server_refuses_new_requests():
    client, server = fake_client()
    assert client.get("/health").json() == {"status": "ok"}
    server.state.is_draining = True
    response = client.post("/refine", json={"prompt": "x"})
    assert response.status_code == 503
    assert "Retry-After" in response.headers
    assert client.get("/health").status_code == 503


def test_health_of_a_failed_backend():
    backend = FakeBackend()
    backend.is_alive = False
    assert fake_client(backend)[0].get("/health").status_code == 503


@pytest.mark.parametrize("stream", [False, True])
def test_failure_is_one_error_and_the_log_has_no_prompt(caplog, stream):
    def fail(request):
        raise RuntimeError(f"cannot read {request.prompts[0]}")

    caplog.set_level(logging.INFO)
    client, server = fake_client(FakeBackend(fail))
    response = client.post(CHAT, json=chat_of(SECRET, stream=stream))
    assert response.status_code == (200 if stream else 500)
    assert '"the server failed to answer; its log has the reason under req-' in response.text
    assert f"failed: {response.headers['X-Request-Id']}: RuntimeError" in caplog.text
    assert SECRET not in response.text + caplog.text
    assert server.state.num_in_work == 0


def test_log_and_counters_have_no_prompt(caplog):
    caplog.set_level(logging.INFO)
    client, _ = fake_client()
    client.post("/refine", json={"prompt": SECRET})
    client.post(CHAT, json=chat_of(SECRET))
    client.get(f"/refine/{SECRET}?prompt={SECRET}")
    text = client.get("/metrics").text
    assert 'pav_requests_total{route="/refine",status="200"} 1.0' in text
    assert 'pav_requests_total{route="other",status="404"} 1.0' in text
    assert "pav_completion_tokens_total 10.0" in text
    assert "POST /refine 200" in caplog.text
    ours = "".join(r.getMessage() for r in caplog.records if r.name.startswith("pav_jax"))
    assert SECRET not in text + ours
