"""The ComfyUI node, loaded and run as ComfyUI does it, against a server on a port."""

import json
import pathlib

import pytest

from pav_jax.booster.booster import Booster
from pav_jax.booster.guard import Guard
from pav_jax.language.sampling import Sampling
from pav_jax.serve.local import LocalBackend
from tests.endpoint_server import Endpoint
from tests.integrations.comfyui_graph import default_inputs, load_custom_node, run_graph
from tests.serve.backends import FakeBackend, running
from tests.tiny.byte_language_model import tiny_language_model

FOLDER = pathlib.Path(__file__).parents[2] / "integrations" / "comfyui"


class TextEncode:
    """Stands in for ComfyUI's CLIPTextEncode."""

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "encode"

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"text": ("STRING", {"multiline": True})}}

    def encode(self, text):
        return (text.encode(),)


@pytest.fixture(scope="module")
def nodes():
    return load_custom_node(FOLDER)


@pytest.fixture(scope="module")
def booster():
    return Booster(tiny_language_model(), Sampling(max_new_tokens=20))


@pytest.fixture(scope="module")
def address(booster):
    backend = LocalBackend(booster)
    with running(backend) as (url, *_):
        yield url
    backend.close()


def run(nodes, **inputs):
    node_class = nodes.NODE_CLASS_MAPPINGS["PavRefinePrompt"]
    graph = {
        "3": {"class_type": "TextEncode", "inputs": {"text": ["1", 0]}},
        "4": {"class_type": "TextEncode", "inputs": {"text": ["1", 1]}},
        "1": {
            "class_type": "PavRefinePrompt",
            "inputs": default_inputs(node_class) | inputs,
        },
    }
    results = run_graph(nodes.NODE_CLASS_MAPPINGS | {"TextEncode": TextEncode}, graph)
    shown, (refined, negative, report) = results["1"]
    assert results["3"][1] == (refined.encode(),)
    assert results["4"][1] == (negative.encode(),)
    assert shown == {"refined": [refined], "report": [report]}
    return refined, negative, report


def test_refine_is_the_rewrite_of_the_server(nodes, booster, address):
    refined, negative, _ = run(nodes, text="a dog runs", mode="off", seed=3, server=address)
    assert refined == booster.refine("a dog runs", seed=3)[0][0].refined
    assert negative == ""


def test_refine_keeps_flags_and_gives_the_negative_prompt(nodes, address):
    text = 'two dogs run, no people -ar 9:16 -neg "blur"'
    refined, negative, report = run(
        nodes, text=text, mode="on", server=address, negative_prompt="low quality"
    )
    assert "-ar 9:16" in refined
    assert negative == "low quality, blur"
    assert report


def test_refine_sends_what_the_widgets_say(nodes):
    backend = FakeBackend()
    inputs = dict(text="zxqw style dog", mode="on", keep_terms="zxqw\n dog \n", seed=2**63 - 1)
    with running(backend) as (url, *_):
        refined, _, _ = run(nodes, server=url, fidelity=0.5, max_words=40, model="other", **inputs)
    (request,) = backend.requests
    fields = dict(mode="on", keep=["zxqw", "dog"], fidelity=0.5, max_words=40)
    assert request.guard == Guard(**fields)
    assert (request.seed, request.model, refined) == (2**63 - 1, "other", "ZXQW STYLE DOG")


@pytest.mark.parametrize(
    "server, text, words",
    [
        ("http://127.0.0.1:9", "a dog", "start it with `pav serve`"),
        ("localhost:8000", "a dog", "write an address such as http://localhost:8000"),
        ("http://localhost:80a0", "a dog", "write an address such as http://localhost:8000"),
        ("http://[::1", "a dog", "write an address such as http://localhost:8000"),
        (None, "", "answers 400: "),
    ],
)
def test_refine_failure_uses_the_prompt_or_stops(nodes, address, server, text, words):
    inputs = dict(text=text, server=server or address)
    refined, _, report = run(nodes, **inputs)
    assert refined == text
    assert report.startswith("unchanged: ") and words in report
    with pytest.raises(Exception, match=words.replace("`", ".")):
        run(nodes, on_failure="stop with an error", **inputs)


def test_refine_key_only_from_the_environment(nodes, booster, monkeypatch):
    backend = LocalBackend(booster)
    with running(backend, key="s3cret") as (url, *_):
        assert "answers 401" in run(nodes, text="a dog", mode="off", server=url)[2]
        monkeypatch.setenv("PAV_API_KEY", "s3cret")
        assert "answers" not in run(nodes, text="a dog", mode="off", server=url)[2]
        monkeypatch.setenv("PAV_API_KEY", "s3cret\nkey")
        report = run(nodes, text="a dog", mode="off", server=url)[2]
        assert "PAV_API_KEY" in report and "s3cret" not in report
    backend.close()
    inputs = nodes.NODE_CLASS_MAPPINGS["PavRefinePrompt"].INPUT_TYPES()
    assert "key" not in json.dumps(inputs)


@pytest.mark.parametrize("reply", [b"[1]", b"{}", b"<html>", b'{"refined": 1}'])
def test_refine_another_server(nodes, reply):
    server = Endpoint(lambda nth, body: (200, "application/json", reply), path="/refine")
    address = server.url.removesuffix("/refine")
    refined, _, report = run(nodes, text="a dog", server=address)
    server.close()
    assert refined == "a dog" and address in report


def test_refine_in_process(nodes):
    refined, _, report = run(
        nodes, text="a crimson star", mode="off", server="", model="mini:booster"
    )
    assert refined and refined != "a crimson star" and "your prompt" not in report
    again = run(nodes, text="a crimson star", mode="off", server="", model="/nowhere/at/all")
    assert again[0] == "a crimson star" and "/nowhere/at/all" in again[2]
