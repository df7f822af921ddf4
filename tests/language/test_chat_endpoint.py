"""ChatEndpoint without a server; tests/evolve and tests/rewards run it against one."""

import asyncio

import pytest

from pav_jax.errors import BadInput
from pav_jax.language.chat_endpoint import ChatEndpoint, EndpointDown, NoReplyError, text_of
from tests.chat_server import ChatServer, completion

SETTINGS = dict(
    api_key_env="",
    concurrency=2,
    timeout_s=1.0,
    max_retries=0,
    max_backoff_s=0.01,
    max_consecutive_failures=2,
    options={},
    field="proposers.gpt",
)


def test_run_late_success_after_the_endpoint_went_down():
    endpoint = ChatEndpoint("http://127.0.0.1:9/v1", "m", **SETTINGS)
    calls = []
    down = asyncio.Event()

    async def slow(ask):
        await down.wait()
        for _ in range(20):  # let the other jobs notice that the endpoint is down
            await asyncio.sleep(0)
        return "late"

    async def failing(ask):
        calls.append("failing")
        if len(calls) == 2:
            down.set()
        raise NoReplyError("status 500")

    async def skipped(ask):
        calls.append("skipped")

    assert endpoint.run([slow, failing, failing, skipped]) == ["late", None, None, None]
    assert calls == ["failing", "failing"]
    with pytest.raises(EndpointDown, match="2 jobs in a row failed"):
        endpoint.raise_if_down("jobs")
    endpoint.raise_if_down("jobs")  # the count was reset


@pytest.mark.parametrize(
    "changes, field",
    [
        ({"api_key_env": "ABSENT_KEY"}, "proposers.gpt.api_key_env"),
        ({"model": ""}, "proposers.gpt.model"),
        ({"api_key_env": "BROKEN_KEY"}, "proposers.gpt.api_key_env"),
        ({"base_url": "http://h:65536/v1"}, "proposers.gpt.base_url"),
        ({"base_url": "ftp://h/v1"}, "proposers.gpt.base_url"),
        ({"base_url": "http://user:secret@h/v1"}, "proposers.gpt.base_url"),
        ({"base_url": "http://h/v1?api-key=secret"}, "proposers.gpt.base_url"),
        ({"concurrency": 0}, "proposers.gpt.concurrency"),
        ({"concurrency": True}, "proposers.gpt.concurrency"),
        ({"timeout_s": 0.0}, "proposers.gpt.timeout_s"),
        ({"max_retries": -1}, "proposers.gpt.max_retries"),
        ({"max_backoff_s": float("inf")}, "proposers.gpt.max_backoff_s"),
        ({"max_consecutive_failures": 0}, "proposers.gpt.max_consecutive_failures"),
        ({"options": {"temprature": 1.0}}, "proposers.gpt.options.temprature"),
        ({"options": {"stream": True}}, "proposers.gpt.options.stream"),
        ({"options": {"extra_body": {"a": {1}}}}, "proposers.gpt.options"),
        ({"options": {"temperature": float("nan")}}, "proposers.gpt.options"),
    ],
)
def test_init_bad_settings(monkeypatch, changes, field):
    monkeypatch.delenv("ABSENT_KEY", raising=False)
    monkeypatch.setenv("BROKEN_KEY", "sk-\u00fc\u00fc\u00fc\u00fc")
    settings = {"base_url": "http://127.0.0.1:9/v1", "model": "m", **SETTINGS, **changes}
    with pytest.raises(BadInput) as error:
        ChatEndpoint(**settings)
    assert error.value.field == field
    assert "secret" not in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "reply",
    [
        "null",
        "3",
        '"text"',
        "[]",
        "{}",
        '{"choices": null}',
        '{"choices": "x"}',
        '{"choices": []}',
        '{"choices": [null]}',
        '{"choices": ["x"]}',
        '{"choices": [{}]}',
        '{"choices": [{"message": null}]}',
        '{"choices": [{"message": "x"}]}',
        completion(7),
        completion(["a"]),
        completion({"a": 1}),
        "[" * 100_000,
        "not JSON",
    ],
)
def test_run_reply_without_text(reply):
    server = ChatServer(lambda nth, text: (200, reply), lambda body: "")
    try:
        endpoint = ChatEndpoint(server.url, "m", **SETTINGS | {"timeout_s": 20.0})

        async def job(ask):
            return text_of(await ask([{"role": "user", "content": "hello"}]))

        assert endpoint.run([job]) == [None]
        assert "reply" in endpoint.last_failure
    finally:
        server.close()


def test_text_of_reply_that_repeats_the_key(monkeypatch):
    monkeypatch.setenv("GPT_KEY", "sk-very-secret")
    server = ChatServer(
        lambda nth, text: (200, completion("key sk-very-secret! \udcff")), lambda b: ""
    )
    try:
        settings = SETTINGS | {"timeout_s": 20.0, "api_key_env": "GPT_KEY"}

        async def job(ask):
            return text_of(await ask([{"role": "user", "content": "hello"}]))

        assert ChatEndpoint(server.url, "m", **settings).run([job]) == ["key ***! ?"]
    finally:
        server.close()
