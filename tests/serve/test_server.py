"""A server on a port: disconnects, slow clients, signals; a process with a model."""

import asyncio
import dataclasses
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import httpx2
import openai
import pytest

from pav_jax.booster.booster import Booster
from pav_jax.errors import BadInput
from pav_jax.serve.options import ServeLimits
from pav_jax.serve.server import bind
from tests.serve.backends import FakeBackend, Gate, running
from tests.tiny.byte_language_model import tiny_language_model

NUM_REQUESTS = 200
NUM_AT_ONCE = 16
SECRET = "zebra-in-my-cellar"


def post(url, body, **options):
    return httpx2.post(url, json=body, timeout=30, **options)


def send(address, text):
    """An open socket on which a part of a request was sent."""
    host, port = address.removeprefix("http://").split(":")
    client = socket.create_connection((host, int(port)), timeout=10)
    client.sendall(text.encode())
    return client


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("stream", ["false", "true"])
def test_disconnected_client_frees_its_place(stream):
    gate = Gate()
    with running(FakeBackend(gate)) as (address, state, _, _):
        body = f'{{"messages": [{{"role": "user", "content": "x"}}], "stream": {stream}}}'
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        client = send(address, f"{head}Content-Length: {len(body)}\r\n\r\n{body}")
        assert gate.entered.acquire(timeout=60)
        assert state.num_in_work == 1
        client.close()
        assert gate.left.acquire(timeout=60)
        wait_for(lambda: not state.num_in_work)
        gate.is_open.set()
        assert post(f"{address}/refine", {"prompt": "x"}).status_code == 200


def test_body_that_does_not_come_gets_408():
    with running(FakeBackend(), ServeLimits(body_timeout_s=0.3)) as (address, state, _, _):
        head = "POST /refine HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        client = send(address, f"{head}Content-Length: 20\r\n\r\n" + '{"prompt"')
        assert b" 408 " in client.recv(1000)
        client.close()
        wait_for(lambda: not state.num_in_work)


def test_garbage_on_the_port_does_no_harm():
    with running(FakeBackend()) as (address, _, _, _):
        for garbage in ("\x16\x03\x01\x02\x00", "GET\r\n\r\n", "x" * 200_000, ""):
            send(address, garbage).close()
        assert post(f"{address}/refine", {"prompt": "x"}).json()["refined"] == "X"


def test_address_is_announced_when_it_takes_connections():
    connected = threading.Event()

    def announce(port):
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            connected.set()

    with running(FakeBackend(), announce=announce):
        assert connected.wait(20)


def test_signal_finishes_what_runs_and_refuses_the_rest(capfd):
    gate = Gate()
    with running(FakeBackend(gate)) as (address, state, process, thread):
        replies = []
        client = threading.Thread(
            target=lambda: replies.append(post(f"{address}/refine", {"prompt": "x"}))
        )
        client.start()
        assert gate.entered.acquire(timeout=60)
        process.handle_exit(signal.SIGTERM, None)
        refused = post(f"{address}/refine", {"prompt": "x"})
        assert refused.status_code == 503 and "Retry-After" in refused.headers
        assert httpx2.get(f"{address}/health").status_code == 503
        gate.is_open.set()
        client.join(10)
        assert replies[0].status_code == 200
        thread.join(10)
        assert not thread.is_alive()
    assert "SIGTERM; finishing 1 requests" in capfd.readouterr().err


def test_second_signal_ends_at_once():
    gate = Gate()
    with running(FakeBackend(gate)) as (address, _, process, thread):
        client = send(address, "POST /refine HTTP/1.1\r\nHost: x\r\nContent-Type: application/json")
        client.sendall(b'\r\nContent-Length: 15\r\n\r\n{"prompt": "x"}')
        assert gate.entered.acquire(timeout=60)
        process.handle_exit(signal.SIGTERM, None)
        process.handle_exit(signal.SIGTERM, None)
        thread.join(10)
        assert not thread.is_alive()
        gate.is_open.set()


def test_bind_to_a_port_in_use_is_refused():
    taken = socket.create_server(("127.0.0.1", 0))
    with taken, pytest.raises(BadInput, match="--port=.*in use"):
        bind("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(BadInput, match="--host="):
        bind("no such host", 80)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "tiny"
    lm = tiny_language_model(seed=3)
    dataclasses.replace(lm, generation={"max_new_tokens": 64}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def process(model_folder, tmp_path_factory):
    """-> (process, address, file of its standard error)"""
    log = tmp_path_factory.mktemp("log") / "log"
    command = [sys.executable, "-m", "pav_jax.main", "serve", f"--model={model_folder}", "--port=0"]
    command.append("--name=tiny")
    with log.open("w") as file:
        process = subprocess.Popen(
            command, stderr=file, env=os.environ | {"PAV_API_KEY": "s3cret-key"}
        )
    wait_for(lambda: process.poll() is not None or "http://" in log.read_text())
    address = re.search(r"http://[\d.:]+", log.read_text())
    assert address, log.read_text()
    yield process, address[0], log
    process.kill()
    process.wait()


def mode_of(i):
    return "off" if i % 5 else "on"


async def ask_all(address, prompts):
    """The answers of the official client, 16 at a time; every fourth is a stream, every fifth is
    guarded, and every eighth one more client leaves before its answer."""
    gate = asyncio.Semaphore(NUM_AT_ONCE)
    client = openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="s3cret-key", max_retries=0)

    async def ask(i):
        messages = [{"role": "user", "content": prompts[i]}]
        fields = {"model": "tiny", "messages": messages, "seed": i % 7, "max_tokens": 24 + i % 40}
        fields["extra_body"] = {"guard": {"mode": mode_of(i)}}
        async with gate:
            if i % 8 == 0:
                leaving = asyncio.create_task(client.chat.completions.create(**fields, n=16))
                await asyncio.sleep(0.01)
                leaving.cancel()
                await asyncio.gather(leaving, return_exceptions=True)
            if i % 4:
                answer = await client.chat.completions.create(**fields)
                return answer.choices[0].message.content
            text = ""
            async for event in await client.chat.completions.create(**fields, stream=True):
                text += event.choices[0].delta.content or ""
                await asyncio.sleep(0.01)  # a slow reader
            return text

    async with client:
        return await asyncio.gather(*map(ask, range(len(prompts))))


@pytest.mark.slow
def test_no_answer_is_lost_or_mixed_up(process, model_folder):
    _, address, log = process
    prompts = [f"{SECRET} {i} {'dogs run ' * (i % 5)}" for i in range(NUM_REQUESTS)]
    texts = asyncio.run(ask_all(address, prompts))
    seeds = [i % 7 for i in range(NUM_REQUESTS)]
    expected = Booster.from_pretrained(model_folder).refine(prompts, seed=seeds, mode="off")
    assert len({refinement.refined for (refinement,) in expected}) == NUM_REQUESTS
    for i, (text, (refinement,)) in enumerate(zip(texts, expected, strict=True)):
        assert text
        if mode_of(i) == "on":  # of random tokens none is a rewrite
            assert text == prompts[i]
        else:
            assert refinement.refined.startswith(text.rstrip("\ufffd"))
    headers = {"Authorization": "Bearer s3cret-key"}
    metrics = httpx2.get(f"{address}/metrics", headers=headers).text
    assert "pav_requests_in_work 0.0" in metrics and "pav_prompts_waiting 0.0" in metrics
    assert SECRET not in log.read_text() and "s3cret-key" not in log.read_text()


@pytest.mark.slow
def test_sigterm_ends_the_process_with_status_0(process):
    server, address, log = process
    request = urllib.request.Request(
        f"{address}/v1/completions",
        b'{"prompt": "sea", "n": 16, "max_tokens": 200}',
        {"Authorization": "Bearer s3cret-key", "Content-Type": "application/json"},
    )
    replies = []

    def ask():
        with urllib.request.urlopen(request, timeout=60) as reply:
            replies.append(reply.status)

    client = threading.Thread(target=ask)
    client.start()
    wait_for(lambda: "in_work 1.0" in metrics_of(address) or replies)
    server.send_signal(signal.SIGTERM)
    client.join(60)
    assert replies == [200]
    assert server.wait(120) == 0
    assert "Traceback" not in log.read_text()


def metrics_of(address):
    headers = {"Authorization": "Bearer s3cret-key"}
    return httpx2.get(f"{address}/metrics", headers=headers).text
