"""The route that makes videos."""

import threading

import numpy as np
import pytest
from fastapi.testclient import TestClient

from pav_jax.errors import BadInput
from pav_jax.serve.app import Server
from pav_jax.serve.call import Call
from pav_jax.serve.errors import ApiError
from pav_jax.serve.options import ServeLimits
from pav_jax.serve.preview import WARM_UP_PROMPT, Previewer
from pav_jax.video.files import mp4_bytes
from tests.fakes import FakeGenerator
from tests.serve.backends import FakeBackend, fake_client


def client_of(generator, **limits):
    server = Server(FakeBackend(), ServeLimits(**limits), previewer=Previewer(generator))
    return TestClient(server.app, raise_server_exceptions=False)


def test_preview_is_the_video_of_the_generator():
    response = client_of(FakeGenerator()).post("/preview", json={"prompt": "a dog", "seed": 3})
    assert response.headers["content-type"] == "video/mp4"
    (video,) = FakeGenerator().generate(["a dog"], seed=[3])
    assert response.content == mp4_bytes(video, FakeGenerator.fps)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"prompt": " "}, "prompt"),
        ({"prompt": "x" * 10_001}, "prompt"),
        ({"prompt": "x", "seed": -1}, "seed"),
        ({"prompt": "x", "steps": 1}, "steps"),
    ],
)
def test_preview_refuses_wrong_bodies(body, field):
    response = client_of(FakeGenerator()).post("/preview", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == field


def test_preview_without_a_usable_video():
    generator = FakeGenerator(np.float32, broken=["a dog"])
    response = client_of(generator).post("/preview", json={"prompt": "a dog"})
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "generator_failed"


def test_preview_waits_for_the_generator_within_its_time():
    is_open = threading.Event()

    class Slow(FakeGenerator):
        def generate(self, prompts, *, seed):
            assert is_open.wait(60)
            return super().generate(prompts, seed=seed)

    client = client_of(Slow(), timeout_s=0.3)
    for _ in range(2):  # the second waits for the first
        assert client.post("/preview", json={"prompt": "a dog"}).status_code == 504
    is_open.set()
    assert client_of(Slow()).post("/preview", json={"prompt": "a dog"}).status_code == 200


def test_preview_needs_a_generator():
    client, _ = fake_client()
    assert client.post("/preview", json={"prompt": "a dog"}).status_code == 404


def test_make_mp4_waits_only_while_somebody_waits_for_it():
    gate = threading.Event()

    class Slow(FakeGenerator):
        def generate(self, prompts, *, seed):
            gate.wait(60)
            return super().generate(prompts, seed=seed)

    previewer = Previewer(Slow())
    first = threading.Thread(target=previewer.make_mp4, args=(Call(60), "a", 0))
    first.start()
    call = Call(60)
    failures = []

    def second():
        try:
            previewer.make_mp4(call, "b", 0)
        except ApiError as error:
            failures.append(error.status_code)

    thread = threading.Thread(target=second)
    thread.start()
    call.cancel()
    thread.join(30)  # far less than the call's time
    assert failures == [504] and first.is_alive()
    gate.set()
    first.join(60)


def test_warm_up_unusable_generator():
    generator = FakeGenerator(np.float32, broken=[WARM_UP_PROMPT])
    with pytest.raises(BadInput, match="no usable video") as caught:
        Previewer(generator).warm_up()
    assert caught.value.source == "--generator"
