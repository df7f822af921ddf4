"""With a chat server in a thread on 127.0.0.1 that works, fails, or never replies."""

import json
import logging
import threading

import pytest

from pav_jax.errors import BadInput
from pav_jax.evolve.chat_proposer import ChatProposer
from pav_jax.evolve.evolve import evolve
from pav_jax.evolve.options import ChatOptions
from pav_jax.evolve.proposer import ProposalRequest
from pav_jax.evolve.registry import build_chat_proposers, build_mixture
from pav_jax.records import Candidate
from pav_jax.storage.records import read_segments
from tests.chat_server import ChatServer, completion
from tests.fakes import PROMPTS, FakeGenerator, FakeSuite, make_config

KEY = "sk-very-secret-0123456789"


def prompt_of(body) -> str:
    return body["messages"][-1]["content"].splitlines()[0].split("(")[0].removeprefix("0. ").strip()


def tagged(prompt, n=3, note="") -> str:
    return completion("".join(f"<PROMPT>{prompt}, version {i}{note}</PROMPT>" for i in range(n)))


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setenv("TEST_KEY", KEY)
    opened = []

    def start(behave) -> ChatServer:
        opened.append(ChatServer(behave, prompt_of))
        return opened[-1]

    yield start
    for endpoint in opened:
        endpoint.close()


def proposer(endpoint, **changes) -> ChatProposer:
    settings = dict(
        base_url=endpoint.url,
        model="m",
        api_key_env="TEST_KEY",
        timeout_s=5.0,
        max_retries=2,
        max_backoff_s=0.01,
    )
    return ChatProposer(ChatOptions(**(settings | changes)))


def use_proposers(config, entries):
    with config.unlocked():
        config.proposers = entries


def requests(n=3):
    return [ProposalRequest(p, ((p, {"AES": 1.0}),), n, i) for i, p in enumerate(PROMPTS)]


def test_propose_concurrent_requests(serve):
    endpoint = serve(lambda nth, prompt: endpoint.meet(2) or (200, tagged(prompt)))
    texts = proposer(endpoint, options={"max_tokens": 99}).propose(requests())
    assert texts == [[f"{p}, version {i}" for i in range(3)] for p in PROMPTS]
    assert endpoint.most_at_once > 1 and set(endpoint.count.values()) == {1}
    assert endpoint.bodies[0]["max_tokens"] == 99 and endpoint.bodies[0]["model"] == "m"
    assert endpoint.headers[0].get("authorization") == f"Bearer {KEY}"


def test_propose_concurrency_limit(serve):
    endpoint = serve(lambda nth, prompt: endpoint.meet(2) or (200, tagged(prompt)))
    proposer(endpoint, concurrency=2).propose(requests())
    assert endpoint.most_at_once == 2


@pytest.mark.parametrize("status", [429, 500, 503, 408])
def test_propose_transient_status(serve, status):
    endpoint = serve(lambda nth, prompt: (status, "{}") if nth < 3 else (200, tagged(prompt)))
    assert all(len(texts) == 3 for texts in proposer(endpoint).propose(requests()))
    assert set(endpoint.count.values()) == {3}


def test_propose_malformed_body(serve):
    bodies = ["<html>busy</html>", "[1, 2", "{}", '"text"', json.dumps({"choices": []})]
    endpoint = serve(
        lambda nth, prompt: (200, bodies[nth - 1]) if nth <= len(bodies) else (200, tagged(prompt))
    )
    assert all(
        len(texts) == 3 for texts in proposer(endpoint, max_retries=5).propose(requests()[:2])
    )


def test_propose_too_few_rewrites(serve):
    endpoint = serve(lambda nth, prompt: (200, tagged(prompt, n=1 if nth == 1 else 3)))
    assert [len(t) for t in proposer(endpoint).propose(requests()[:2])] == [3, 3]
    endpoint = serve(lambda nth, prompt: (200, tagged(prompt, n=2 if nth == 1 else 1)))
    assert [len(t) for t in proposer(endpoint).propose(requests()[:2])] == [2, 2]
    assert set(endpoint.count.values()) == {2}


def test_propose_reply_without_tags(serve, caplog):
    endpoint = serve(
        lambda nth, prompt: (
            200,
            (
                completion("I cannot help with that" if "dogs" in prompt else None)
                if "dogs" in prompt or "rain" in prompt
                else tagged(prompt)
            ),
        )
    )
    chat = proposer(endpoint)
    texts = chat.propose(requests())
    assert [len(t) for t in texts] == [3, 3, 0, 3, 0]
    assert chat.unreadable == 2 and "2 a reply without tagged rewrites" in caplog.text


def test_propose_refused_prompt(serve):
    endpoint = serve(
        lambda nth, prompt: (
            (400, '{"error": "policy"}') if "girl" in prompt else (200, tagged(prompt))
        )
    )
    assert [len(t) for t in proposer(endpoint).propose(requests())] == [3, 3, 3, 0, 3]
    assert endpoint.count["a girl is playing guitar"] == 2


def test_propose_endpoint_down(serve):
    for behave, said in (
        (lambda nth, p: (500, "{}"), "status 500"),
        (lambda nth, p: (200, "garbage"), "not JSON"),
        (lambda nth, p: (200, None), "nothing within 0.2 s"),
    ):
        endpoint = serve(behave)
        chat = proposer(
            endpoint,
            max_retries=1,
            max_consecutive_failures=4,
            concurrency=2,
            timeout_s=0.2 if "within" in said else 5.0,
        )
        with pytest.raises(BadInput, match=said) as caught:
            chat.propose(requests())
        assert endpoint.url in str(caught.value) and "\n" not in str(caught.value)
        assert sum(endpoint.count.values()) <= 2 * 5
    with pytest.raises(BadInput, match="no connection"):
        endpoint.close()
        proposer(endpoint, max_retries=1, max_consecutive_failures=4).propose(requests())


@pytest.mark.parametrize("status", [401, 403, 404])
def test_propose_rejected_key_or_address(serve, status):
    endpoint = serve(
        lambda nth, prompt: (status, json.dumps({"error": {"message": f"bad key {KEY}"}}))
    )
    with pytest.raises(BadInput, match=f"status {status}.*TEST_KEY") as caught:
        proposer(endpoint).propose(requests())
    assert KEY not in str(caught.value)


def test_missing_key(monkeypatch):
    monkeypatch.delenv("ABSENT_KEY", raising=False)
    with pytest.raises(BadInput, match="ABSENT_KEY is not set"):
        ChatProposer(ChatOptions("http://127.0.0.1:9/v1", "m", api_key_env="ABSENT_KEY"))


def test_key_is_never_logged_or_recorded(serve, caplog, capfd, tmp_path):
    caplog.set_level(logging.DEBUG)

    def behave(nth, prompt):
        echo = json.dumps({"error": {"message": f"bad key {KEY}"}})
        return [(429, echo), (500, echo), (400, echo), (200, tagged(prompt, note=f" {nth}"))][
            (nth - 1) % 4
        ]

    settings = make_config(evolve__rounds=1)
    use_proposers(
        settings,
        {
            "chat": {
                "kind": "chat",
                "base_url": serve(behave).url,
                "model": "m",
                "api_key_env": "TEST_KEY",
                "max_backoff_s": 0.01,
            }
        },
    )
    evolve(settings, PROMPTS, build_mixture(settings), FakeGenerator(), FakeSuite(), tmp_path)
    out, err = capfd.readouterr()
    assert KEY not in caplog.text + out + err + repr(settings)
    assert all(KEY not in p.read_text() for p in tmp_path.rglob("*") if p.is_file())


def test_evolve_after_outage(serve, tmp_path):
    down = threading.Event()

    def behave(nth, prompt):
        if down.is_set():
            return 500, "{}"
        return (
            (200, completion("nothing"))
            if "rain" in prompt
            else (200, tagged(prompt, note=f" {nth}"))
        )

    settings = make_config()
    use_proposers(
        settings,
        {
            "chat": {
                "kind": "chat",
                "base_url": serve(behave).url,
                "model": "m",
                "max_retries": 1,
                "api_key_env": "TEST_KEY",
                "max_backoff_s": 0.01,
                "max_consecutive_failures": 2,
            }
        },
    )

    class Failing(FakeGenerator):
        def generate(self, prompts, *, seed):
            if any("version" in p for p in prompts):
                down.set()
            return super().generate(prompts, seed=seed)

    with pytest.raises(BadInput, match="in a row failed"):
        evolve(settings, PROMPTS, build_mixture(settings), Failing(), FakeSuite(), tmp_path)
    finished = {c.key for c in read_segments(tmp_path / "pool", Candidate)}
    assert finished
    down.clear()
    second = FakeGenerator()
    pool = evolve(settings, PROMPTS, build_mixture(settings), second, FakeSuite(), tmp_path)
    assert finished <= {c.key for c in pool} and len(second.made) == len(pool) - len(finished)
    assert {p: sum(c.prompt == p for c in pool) for p in PROMPTS} == {
        p: 1 if "rain" in p else 7 for p in PROMPTS
    }


def test_build_chat_proposers_without_share(serve):
    endpoint = serve(lambda nth, prompt: (200, tagged(prompt, n=1)))
    settings = make_config()
    gpt = dict(kind="chat", share=0.0, base_url=endpoint.url, model="m", api_key_env="TEST_KEY")
    use_proposers(settings, {"gpt": gpt, "lexicon": dict(kind="lexicon")})
    chats = build_chat_proposers(settings, ("original", "gpt", "lexicon"))
    assert list(chats) == ["gpt"]
    assert chats["gpt"](PROMPTS, seed=3) == [f"{p}, version 0" for p in PROMPTS]
