"""ChatEndpoint without a server; tests/evolve and tests/rewards run it against one."""

import asyncio

import pytest

from pav_jax.errors import BadInput
from pav_jax.language.chat_endpoint import ChatEndpoint, EndpointDown, NoReplyError

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
    ],
)
def test_init_bad_settings(monkeypatch, changes, field):
    monkeypatch.delenv("ABSENT_KEY", raising=False)
    with pytest.raises(BadInput) as error:
        ChatEndpoint("http://127.0.0.1:9/v1", **{"model": "m", **SETTINGS, **changes})
    assert error.value.field == field
