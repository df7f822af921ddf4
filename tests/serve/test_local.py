"""The backend with a model in this process: adapters."""

import concurrent.futures
import dataclasses
import json

import pytest
from fastapi.testclient import TestClient

from pav_jax.booster.booster import Booster
from pav_jax.errors import BadInput
from pav_jax.language.sampling import Sampling
from pav_jax.records import to_json
from pav_jax.serve.app import Server
from pav_jax.serve.local import LocalBackend
from pav_jax.serve.options import ServeLimits
from tests.language import adapter_folders
from tests.tiny.byte_language_model import TEMPLATE, tiny_language_model

SETTINGS = Sampling(max_new_tokens=20)


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    lm = adapter_folders.instructed(tiny_language_model())
    adapter_folders.write_adapters(lm, folder)
    (folder / "wan" / "chat_template.jinja").write_text("In the style of Wan: " + TEMPLATE)
    return adapter_folders.load_adapters(lm, folder)


def rewrites(client, model):
    """What /refine and a stream of the chat route say."""
    refined = client.post("/refine", json={"prompt": "sea", "seed": 3, "model": model}).json()
    messages = [{"role": "user", "content": "sea"}]
    body = {"messages": messages, "seed": 3, "model": model, "stream": True}
    lines = client.post("/v1/chat/completions", json=body).text.splitlines()
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    deltas = [choice["delta"] for event in events for choice in event["choices"]]
    return refined, "".join(delta.get("content") or "" for delta in deltas)


@pytest.mark.slow
def test_name_of_an_adapter_is_refused_for_the_model(lm):
    with pytest.raises(BadInput, match="--name=wan"):
        LocalBackend(Booster(lm, SETTINGS), "wan")


@pytest.mark.slow
def test_each_adapter_is_a_model_and_they_share_batches(lm):
    backend = LocalBackend(Booster(lm, SETTINGS), "base")
    assert backend.models == ["base", *lm.adapter_names]
    texts = {}
    with TestClient(Server(backend, ServeLimits()).app) as client:

        def ask(model):
            body = {"prompt": "two dogs run", "seed": 3, "model": model}
            return client.post("/v1/completions", json=body).json()["choices"][0]["text"]

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            texts = dict(zip(backend.models, pool.map(ask, backend.models), strict=True))
        chats = {name: rewrites(client, name) for name in lm.adapter_names}
    backend.close()
    assert len(set(texts.values())) == len(texts)
    for name, text in texts.items():
        adapter = "__base__" if name == "base" else name
        settings = dataclasses.asdict(SETTINGS)
        expected = lm.generate(["two dogs run"], **settings, seed=3, adapter_names=adapter)
        assert text == expected[0][0]
    for name, (refined, answer) in chats.items():
        expected = Booster(lm, SETTINGS).refine("sea", seed=3, adapter_names=name)[0][0]
        assert refined == json.loads(to_json(expected)) | {"model": "base"}
        assert answer == expected.refined
