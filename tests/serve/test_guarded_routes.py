"""OpenAI's routes with the guard: with the official client, streaming and not."""

import asyncio
import contextlib
import json
import re
import subprocess
import sys
import time

import httpx2
import openai
import pytest

from pav_jax.booster.booster import Booster
from pav_jax.booster.guard import Guard
from pav_jax.language.sampling import Sampling
from pav_jax.serve import upstream, work
from pav_jax.serve.local import LocalBackend
from pav_jax.serve.upstream import UpstreamBackend
from tests.chat_server import completion
from tests.endpoint_server import Endpoint
from tests.serve.backends import CHAT, TEXT, FakeBackend, Gate, chat_of, fake_client, running
from tests.serve.rewriting_server import LIGHT, UNFAITHFUL, rewrite, text_of
from tests.tiny.byte_language_model import tiny_language_model

PROMPT = "two red kites over a beach, no people"
MOUNTAIN = "two red kites over a mountain, no people"


class Rewriter(Endpoint):
    """`rewriting_server` in this process; `finish_reason` of all its answers."""

    def __init__(self):
        self.finish_reason = "stop"

        def behave(nth, body):
            reply = completion(rewrite(body), finish_reason=self.finish_reason)
            return 200, "application/json", reply.encode()

        super().__init__(behave, text_of, "/v1")


@pytest.fixture
def rewriter():
    server = Rewriter()
    yield server
    server.close()


@pytest.fixture
def client(rewriter, monkeypatch):
    """The official client of a server before another one."""
    monkeypatch.setattr(upstream, "MAX_RETRIES", 0)
    backend = UpstreamBackend(rewriter.url, ["m"])
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(running(backend))[0]
        yield stack.enter_context(openai.OpenAI(base_url=f"{address}/v1", api_key="x"))
    backend.close()


def chat(client, prompt=PROMPT, model="m", **fields):
    messages = [{"role": "user", "content": prompt}]
    return client.chat.completions.create(model=model, messages=messages, **fields)


def test_chat_is_guarded_by_default_and_says_what_became_of_the_prompt(client):
    answer = chat(client, n=3, seed=6)
    assert [choice.message.content for choice in answer.choices] == [f"{PROMPT}. {LIGHT}"] * 3
    for choice in answer.choices:
        assert choice.finish_reason == "stop"
        assert choice.pav["refined"] == choice.message.content
        assert choice.pav["faith"] == 1 and not choice.pav["reverted"]
        assert "no people" in choice.pav["kept"]
    (choice,) = chat(client, MOUNTAIN, seed=6).choices
    assert choice.message.content == MOUNTAIN
    assert choice.pav["reverted"] and "no rewrite was good enough" in choice.pav["reason"]
    whole = chat(client, "what is the capital of France").choices[0]
    assert whole.message.content == "what is the capital of France" and whole.pav["reason"]


def test_chat_with_the_guard_off_is_what_the_model_says(client):
    (choice,) = chat(client, MOUNTAIN, extra_body={"guard": {"mode": "off"}}).choices
    assert choice.message.content == UNFAITHFUL and not hasattr(choice, "pav")


def test_chat_keeps_flags_and_terms(client):
    prompt = f'{PROMPT} -ar 9:16 -neg "blur"'
    (choice,) = chat(client, prompt, extra_body={"guard": {"keep": ["red kites"]}}).choices
    assert choice.message.content.startswith(f"{PROMPT}. {LIGHT}")
    assert "-ar 9:16" in choice.message.content
    assert choice.pav["negative_prompt"] == "blur" and choice.pav["settings"]["ar"] == "9:16"
    extra = {"guard": {"max_words": 8}}
    assert len(chat(client, extra_body=extra).choices[0].message.content.split()) <= 8


@pytest.mark.parametrize(
    "guard,param",
    [
        ({"mode": "x"}, "guard.mode"),
        ({"keep": [" "]}, "guard.keep.0"),
        ({"fidelity": 2}, "guard.fidelity"),
        ({"samples": 900}, "guard.samples"),
        ("off", "guard"),
    ],
)
def test_wrong_fields_of_the_guard_are_named(client, guard, param):
    with pytest.raises(openai.BadRequestError) as error:
        chat(client, extra_body={"guard": guard})
    assert error.value.param == param


def test_settings_reach_the_samples(client, rewriter):
    fields = dict(temperature=0.5, top_p=0.4, max_tokens=33, stop=["!"], seed=8)
    chat(client, **fields)
    assert len(rewriter.bodies) == Guard().samples
    for body in rewriter.bodies:
        assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0.5, 0.4, 33)
        assert body["stop"] == ["!"]
    assert len({body["seed"] for body in rewriter.bodies}) == Guard().samples
    before = sorted(body["seed"] for body in rewriter.bodies)
    chat(client, **fields)
    assert sorted(body["seed"] for body in rewriter.bodies[4:]) == before


def test_greedy_samples_are_drawn_once(client, rewriter):
    chat(client, temperature=0)
    assert len(rewriter.bodies) == 1


def test_stop_ends_a_guarded_text_and_length_is_of_all_samples(client, rewriter):
    (choice,) = chat(client, stop=[" golden"], seed=6).choices
    assert choice.message.content == f"{PROMPT}. Soft"
    assert choice.pav["refined"] == f"{PROMPT}. {LIGHT}"
    rewriter.finish_reason = "length"
    assert chat(client, max_tokens=5).choices[0].finish_reason == "length"


def test_json_is_refused(client):
    with pytest.raises(openai.BadRequestError, match="not JSON"):
        chat(client, response_format={"type": "json_object"})


def test_stream_has_the_words_of_the_same_rewrite(client):
    fields = dict(n=2, seed=3)
    whole = chat(client, **fields)
    chunks = list(chat(client, stream=True, stream_options={"include_usage": True}, **fields))
    assert [chunk.choices[0].delta.role for chunk in chunks[:2]] == ["assistant"] * 2
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    for choice in whole.choices:
        own = [c for chunk in chunks for c in chunk.choices if c.index == choice.index]
        pieces = [c.delta.content for c in own if c.delta.content]
        assert "".join(pieces) == choice.message.content
        assert len(pieces) == len(choice.message.content.split())
        assert own[-1].finish_reason == "stop" and own[-1].pav == choice.pav


def test_stream_begins_before_the_rewrite_and_stays_alive(monkeypatch):
    monkeypatch.setattr(work, "PING_S", 0.05)
    gate = Gate()
    backend = FakeBackend(gate, guard=Guard())
    with running(backend) as (address, *_), contextlib.ExitStack() as stack:
        body = chat_of("a dog", stream=True)
        stream = httpx2.stream("POST", f"{address}{CHAT}", json=body, timeout=60)
        lines = stack.enter_context(stream).iter_lines()
        assert json.loads(next(lines)[6:])["choices"][0]["delta"]["role"] == "assistant"
        assert [next(lines) for _ in range(4)].count(": waiting") == 2
        gate.is_open.set()
        rest = list(lines)
    assert any('"content": "done"' in line for line in rest) and "data: [DONE]" in rest


@pytest.mark.parametrize("stream", [False, True])
def test_client_that_leaves_a_guarded_request_frees_its_place(stream):
    gate = Gate()
    with running(FakeBackend(gate, guard=Guard())) as (address, state, *_):

        async def ask_and_leave():
            url = f"{address}/v1"
            async with openai.AsyncOpenAI(base_url=url, api_key="x", max_retries=0) as client:
                messages = [{"role": "user", "content": PROMPT}]
                create = client.chat.completions.create
                asking = asyncio.create_task(create(model="fake", messages=messages, stream=stream))
                assert await asyncio.to_thread(gate.entered.acquire, timeout=60)
                if stream:  # it has begun; leaving the context closes the connection
                    await asking
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)

        asyncio.run(ask_and_leave())
        assert gate.left.acquire(timeout=60)
        wait_for(lambda: not state.num_in_work)


def test_completions_are_rewritten_where_they_ask_for_the_guard(client, rewriter):
    create = client.completions.create
    extra = {"guard": {"mode": "on"}}
    answer = create(model="m", prompt=[PROMPT, MOUNTAIN], n=2, seed=6, extra_body=extra)
    assert [choice.text for choice in answer.choices] == [f"{PROMPT}. {LIGHT}"] * 2 + [MOUNTAIN] * 2
    assert [choice.pav["reverted"] for choice in answer.choices] == [False] * 2 + [True] * 2
    assert all("messages" in body for body in rewriter.bodies)
    chunks = list(create(model="m", prompt=PROMPT, seed=6, extra_body=extra, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == f"{PROMPT}. {LIGHT}"
    assert chunks[-1].choices[0].pav["faith"] == 1


def test_guard_of_the_server_is_the_default(rewriter):
    backend = UpstreamBackend(rewriter.url, ["m"], guard=Guard("off"))
    with (
        running(backend) as (address, *_),
        openai.OpenAI(base_url=f"{address}/v1", api_key="x") as client,
    ):
        assert chat(client, MOUNTAIN).choices[0].message.content == UNFAITHFUL
        extra = {"guard": {"mode": "on"}}
        assert chat(client, MOUNTAIN, extra_body=extra).choices[0].message.content == MOUNTAIN
    backend.close()


NUM_REQUESTS = 200
NUM_AT_ONCE = 16


@pytest.fixture
def process(tmp_path):
    """-> (address, log) of `pav serve` before another server, each in a process of its own."""
    port, log = tmp_path / "port", tmp_path / "log"
    other = subprocess.Popen([sys.executable, "-m", "tests.serve.rewriting_server", str(port)])
    processes = [other]
    try:
        wait_for(lambda: port.exists() and port.read_text())
        command = [sys.executable, "-m", "pav_jax.main", "serve", "--port=0"]
        with log.open("w") as file:
            command.append(f"--upstream={port.read_text()}")
            processes.append(subprocess.Popen(command, stderr=file))
        wait_for(lambda: "http://" in log.read_text())
        yield re.search(r"m at (http://[\d.:]+)", log.read_text())[1], log
    finally:
        for process in processes:
            process.kill()
            process.wait()


def wait_for(condition):
    end = time.monotonic() + 180
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


async def ask_all(address, prompts):
    """The texts and their refinements, of the official client, 16 at a time; every third is a
    stream, and every eighth one more client leaves before its answer."""
    gate = asyncio.Semaphore(NUM_AT_ONCE)
    client = openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="x", max_retries=0)

    async def ask(i):
        messages = [{"role": "user", "content": prompts[i]}]
        fields = {"model": "m", "messages": messages, "seed": i % 7}
        async with gate:
            if i % 8 == 0:
                leaving = asyncio.create_task(client.chat.completions.create(**fields, n=16))
                await asyncio.sleep(0.01)
                leaving.cancel()
                await asyncio.gather(leaving, return_exceptions=True)
            if i % 3:
                (choice,) = (await client.chat.completions.create(**fields)).choices
                return choice.message.content, choice.pav
            text = ""
            async for event in await client.chat.completions.create(**fields, stream=True):
                (choice,) = event.choices
                text += choice.delta.content or ""
            return text, choice.pav

    async with client:
        answers = await asyncio.gather(*map(ask, range(len(prompts))), return_exceptions=True)
    errors = [repr(answer) for answer in answers if isinstance(answer, BaseException)]
    assert not errors, errors[0]
    return answers


@pytest.mark.slow
def test_no_guarded_answer_is_lost_or_mixed_up(process):
    address, log = process
    prompts = [f'{PROMPT}, a sign "K{i}x"' for i in range(NUM_REQUESTS)]
    answers = asyncio.run(ask_all(address, prompts))
    rewrites = 0
    for prompt, (text, refinement) in zip(prompts, answers, strict=True):
        assert refinement["original"] == prompt and refinement["refined"] == text
        assert text == (prompt if refinement["reverted"] else f"{prompt}. {LIGHT}")
        rewrites += not refinement["reverted"]
    assert rewrites > NUM_REQUESTS / 2
    metrics = httpx2.get(f"{address}/metrics", timeout=60).text
    assert "pav_requests_in_work 0.0" in metrics
    assert "red kites" not in log.read_text()


@pytest.mark.slow
def test_own_engine_is_guarded_as_the_booster_is():
    booster = Booster(tiny_language_model(), Sampling(max_new_tokens=20), Guard())
    backend = LocalBackend(booster)
    client, _ = fake_client(backend)
    expected = booster.refine("a dog runs", 2, seed=4)[0]
    answer = client.post(CHAT, json=chat_of("a dog runs", n=2, seed=4)).json()
    for choice, refinement in zip(answer["choices"], expected, strict=True):
        assert choice["message"]["content"] == refinement.refined
        assert choice["pav"]["reason"] == refinement.reason
    assert answer["usage"]["completion_tokens"] >= 8
    texts = {"prompt": ["a dog runs", "rain"], "seed": 4, "guard": {"mode": "on", "fidelity": 0}}
    answer = client.post(TEXT, json=texts).json()
    expected = booster.refine(texts["prompt"], seed=4, mode="on", fidelity=0)
    assert [choice["text"] for choice in answer["choices"]] == [r.refined for (r,) in expected]
    backend.close()
