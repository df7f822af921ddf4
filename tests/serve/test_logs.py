"""Nothing of a prompt is in the log, or in another user's answer."""

import concurrent.futures
import contextlib
import io
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
import warnings

import httpx2
import pytest

from pav_jax.serve.logs import texts_withheld
from tests import campaigns
from tests.chat_server import ChatServer
from tests.serve.backends import CHAT, SECRET, TEXT
from tests.serve.quoting_server import fail, quote

MARK = re.compile("zebra[0-9]+q")
PROMPTS = [
    "MARK runs",
    "MARK raise",  # the chat template fails
    "MARK explode",  # the tokenizer fails
    "MARK runs " * 12,  # longer than the tokenizer's model_max_length
    "MARK runs " * 60,  # longer than the model's context
    "MARK runs " * 2000,  # longer than a prompt may be
    'MARK "quoted MARK" %s %d {0} {} \\x1b[31m -ar 9:16 -neg "MARK"',
    "MARK \u202e\ud800\udfff\x00\x07\r\n\u2028 e\u0301 \U0001f415 \u0645\u0631\u062d\u0628\u0627",
    "MARK\n" * 30,
]
# of those some requests each; of the first all
OTHERS = PROMPTS[1:] if campaigns.IS_REQUESTED else PROMPTS[1:3] + PROMPTS[-3:]
GUARD = {"mode": "on"}


def test_texts_of_libraries_are_withheld(capfd):
    log = io.StringIO()
    before = logging.getLogRecordFactory(), warnings.showwarning, logging.getLogger().handlers[:]
    with texts_withheld(log):
        quote(SECRET)
        logging.getLogger("pav_jax.serve").info("POST %s", "/refine")
    text = log.getvalue()
    output = "".join(capfd.readouterr())
    assert SECRET not in text + output
    assert "tokenizers: text withheld" in text and "INFO pav_jax.serve: POST /refine" in text
    assert "UserWarning: text withheld" in text and "KeyError\n" in text
    assert "a thread ended: KeyError" in text and "an exception was ignored: ValueError" in text
    assert "quoting_server.py" in output  # the place, of a logger with a handler of its own
    after = logging.getLogRecordFactory(), warnings.showwarning, logging.getLogger().handlers[:]
    assert after == before


def test_lines_after_a_stage_in_this_process(monkeypatch):
    log, other = io.StringIO(), io.StringIO()
    package = logging.getLogger("pav_jax")  # as the command of a stage leaves it
    monkeypatch.setattr(package, "handlers", [logging.StreamHandler(other)])
    monkeypatch.setattr(package, "propagate", False)
    with texts_withheld(log):
        logging.getLogger("pav_jax.serve").info("POST %s", "/refine")
    assert log.getvalue().count("POST /refine") == 1 and not other.getvalue()
    assert package.handlers and not package.propagate


def test_lines_are_written_once():
    log, other = io.StringIO(), io.StringIO()
    handler = logging.StreamHandler(other)  # as some libraries add to the root logger
    logging.getLogger().addHandler(handler)
    try:
        with texts_withheld(log):
            logging.getLogger("pav_jax.serve").info("POST %s", "/refine")
        assert handler in logging.getLogger().handlers
    finally:
        logging.getLogger().removeHandler(handler)
    assert log.getvalue().count("POST /refine") == 1 and not other.getvalue()


def test_chained_exceptions_are_named_without_their_messages():
    log = io.StringIO()
    with texts_withheld(log):
        try:
            try:
                fail(SECRET)
            except KeyError as error:
                error.add_note(SECRET)
                raise RuntimeError(SECRET) from error
        except RuntimeError:
            logging.getLogger("library").exception(SECRET)
    assert "RuntimeError from KeyError" in log.getvalue() and SECRET not in log.getvalue()


def bodies_of(prompt):
    """(route, body) of requests about a prompt, good and bad ones."""
    messages = [{"role": "user", "content": prompt}]
    chat = {"messages": messages}
    for fields in ({}, {"stream": True}, {"n": 3}, {"stop": prompt[:199]}, {"guard": GUARD}):
        yield CHAT, chat | fields
        yield TEXT, {"prompt": prompt} | fields
    yield CHAT, chat | {"stream": True, "guard": GUARD}
    yield CHAT, chat | {"response_format": {"type": prompt}}
    yield CHAT, chat | {"guard": {"mode": prompt}}
    yield CHAT, {"messages": [{"role": prompt, "content": prompt}]}
    yield CHAT, {"messages": [{"role": "user", "content": [{"type": "image", "text": prompt}]}]}
    yield TEXT, {"prompt": [prompt, ""]}
    refine = {"prompt": prompt}
    for fields in (
        {},
        GUARD,
        {"mode": prompt},
        {"keep": [prompt]},
        {"model": prompt},
        {"seed": prompt},
        {prompt: 1},
    ):
        yield "/refine", refine | fields
    yield "/refine", [prompt]
    yield "/preview", refine


def requests_of(text):
    """Keyword arguments of `httpx2.request`, each with a mark of its own."""
    for route, body in bodies_of(text):
        data = json.dumps(body).encode()
        for content in (data, data[: len(data) // 2 + 20][:5000]):
            headers = {"Content-Type": "application/json"}
            yield {"method": "POST", "url": route, "content": content, "headers": headers}
    yield {"method": "POST", "url": "/refine", "content": b'{"prompt": "MARK \xff\xfe"}'}
    yield {"method": "GET", "url": "/v1/models/MARK?MARK=MARK"}
    yield {"method": "DELETE", "url": "/MARK", "headers": {"Authorization": "Bearer MARK"}}


def rewrites_of(text):
    """The few of `requests_of` that a rewrite is asked for by."""
    chat = {"messages": [{"role": "user", "content": text}], "n": 3}
    refine = {"prompt": text, "mode": "on", "keep": [text[:199]]}
    for route, body in (
        (CHAT, chat),
        (TEXT, {"prompt": text, "stream": True}),
        ("/refine", refine),
    ):
        headers = {"Content-Type": "application/json"}
        content = json.dumps(body).encode()
        yield {"method": "POST", "url": route, "content": content, "headers": headers}


def marked(request, mark):
    """A request with a mark in the place of MARK."""
    request = dict(request, url=request["url"].replace("MARK", mark))
    if "content" in request:
        request["content"] = request["content"].replace(b"MARK", mark.encode())
    headers = request.get("headers", {})
    return request | {"headers": {k: v.replace("MARK", mark) for k, v in headers.items()}}


@contextlib.contextmanager
def process_of(command, folder):
    """Yield the file with all output of a server, which is ended with SIGTERM."""
    log = folder / "log"
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=os.environ)
    try:
        yield log, process
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()[-2000:]
    finally:
        process.kill()
        process.wait()


def wait_for(condition, process):
    end = time.monotonic() + 180
    while not condition():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)


def accepts(port):
    """Whether a server listens; it has the port before."""
    try:
        socket.create_connection(("127.0.0.1", int(port)), timeout=10).close()
    except (OSError, ValueError):
        return False
    return True


def ask_all(address, requests):
    """Send all requests, 8 at a time; check that no answer has the mark of another request."""
    requests = [marked(request, f"zebra{i}q") for i, request in enumerate(requests)]

    client = httpx2.Client(base_url=address, timeout=120)

    def ask(number):
        response = client.request(**requests[number])
        assert set(MARK.findall(response.text)) <= {f"zebra{number}q"}
        return response.status_code

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        return list(pool.map(ask, range(len(requests))))


@pytest.mark.slow
def test_no_prompt_is_in_the_log_of_a_server_whose_libraries_quote_them(tmp_path):
    port = tmp_path / "port"
    command = [sys.executable, "-m", "tests.serve.quoting_server", str(port)]
    with process_of(command, tmp_path) as (log, process):
        wait_for(lambda: port.exists() and accepts(port.read_text()), process)
        requests = list(requests_of(PROMPTS[0]))
        requests += [request for prompt in OTHERS for request in rewrites_of(prompt)]
        statuses = ask_all(f"http://127.0.0.1:{port.read_text()}", requests)
    text = log.read_text()
    assert not MARK.search(text), MARK.search(text)
    assert {200, 400, 404, 500} == set(statuses)  # no job is lost and waits for the time limit
    assert "text withheld" in text and "a thread ended" in text and "RuntimeError" in text
    ids = set(re.findall(r"failed: (req-[0-9a-f]{16})", text))
    assert ids and all(re.search(rf"POST .* {i}\n", text) for i in ids)


@pytest.mark.slow
def test_no_prompt_is_in_the_log_of_a_server_before_one_that_quotes_them(tmp_path):
    def behave(nth, text):
        error = json.dumps({"error": {"message": text, "type": text, "code": text}})
        # also answers that the client cannot read
        return ((400, error), (500, text), (200, text), (200, json.dumps([text])))[nth % 4]

    def text_of(body):
        return json.dumps(body.get("prompt") or body["messages"][-1]["content"])

    server = ChatServer(behave, text_of)
    address = server.url.removesuffix("/v1")
    command = [sys.executable, "-m", "pav_jax.main", "serve", "--port=0", "--model=m"]
    with process_of([*command, f"--upstream={address}"], tmp_path) as (log, process):
        wait_for(lambda: "http://" in log.read_text(), process)
        address = re.search(r"http://[\d.:]+", log.read_text())[0]
        requests = [*requests_of(PROMPTS[0]), *rewrites_of(PROMPTS[-2]), *rewrites_of(PROMPTS[-1])]
        statuses = ask_all(address, requests)
    server.close()
    assert not MARK.search(log.read_text()), MARK.search(log.read_text())
    assert {400, 404, 502} <= set(statuses)
