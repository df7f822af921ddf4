"""An endpoint that works, stumbles, answers garbage, refuses, or never answers."""

import asyncio
import base64
import io
import json
import logging
import threading
import zlib

import numpy as np
import pytest
from PIL import Image

from pav_jax.errors import BadInput
from pav_jax.main import main
from pav_jax.video import files, load_generator
from pav_jax.video.reading import read_mp4
from tests.endpoint_server import Endpoint

KEY = "sk-very-secret-0123456789"
PROMPTS = ["a red ball", "two cats", "a blue fish"]


def color(body) -> int:
    """A grey level from prompt and seed, the same here and behind the endpoint."""
    return 40 + zlib.crc32(f"{body['prompt']}|{body['seed']}".encode()) % 150


def mp4(body, shape=(5, 16, 32)) -> bytes:
    return files.mp4_bytes(np.full((*shape, 3), color(body), np.uint8), 8)


def png(body) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((16, 32, 3), color(body), np.uint8)).save(buffer, "png")
    return buffer.getvalue()


def works(nth, body):
    return 200, "video/mp4", mp4(body)


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.delenv("PAV_GENERATOR_API_KEY", raising=False)
    opened = []

    def start(behave, **options) -> Endpoint:
        opened.append(Endpoint(behave, **options))
        return opened[-1]

    yield start
    for endpoint in opened:
        endpoint.close()


def model(endpoint, options=None, **changes):
    """With settings of `GenerationConfig` in capitals."""
    settings = {name.lower(): changes.pop(name) for name in [*changes] if name.isupper()}
    client = dict(timeout_s=20.0, max_retries=2, max_backoff_s=0.01) | changes
    return load_generator(
        endpoint.url, dtype="float32", options=options, endpoint=client, **settings
    )


def test_generate_image_fields(serve):
    def behave(nth, body):
        sent = Image.open(io.BytesIO(base64.b64decode(body["image"]))) if "image" in body else None
        level = 9 if sent is None else sent.getpixel((0, 0))[0]
        return 200, "video/mp4", files.mp4_bytes(np.full((2, 16, 32, 3), level, np.uint8), 8)

    endpoint = serve(behave)
    grey = [Image.new("RGB", (6, 4), (level,) * 3) for level in (90, 180)]
    videos = model(endpoint).generate(["a", "a", "a", "a"], image=[*grey, grey[0], None], seed=3)
    levels = videos.mean(axis=(1, 2, 3, 4))
    np.testing.assert_allclose(levels, [90, 180, 90, 9], atol=3)
    assert len(endpoint.bodies) == 3  # the prompt and image of the third are those of the first
    assert sorted(len(body) for body in endpoint.bodies) == [3, 4, 4]


def test_generate_request_fields(serve, monkeypatch):
    monkeypatch.setenv("PAV_GENERATOR_API_KEY", KEY)
    endpoint = serve(lambda nth, body: endpoint.meet(2) or works(nth, body))
    calls = []
    batch = model(
        endpoint, {"model": "m"}, concurrency=2, NUM_INFERENCE_STEPS=7, HEIGHT=16
    ).generate_batch(
        [*PROMPTS, PROMPTS[0]],
        "dark",
        seed=[1, 2, 3, 1],
        guidance_scale=5,
        progress=lambda *call: calls.append(call),
    )
    videos = batch.videos
    assert batch.errors == [None] * 4
    assert videos.shape == (4, 5, 16, 32, 3) and videos.dtype == np.uint8
    wanted = [
        color({"prompt": p, "seed": s})
        for p, s in zip([*PROMPTS, PROMPTS[0]], (1, 2, 3, 1), strict=True)
    ]
    np.testing.assert_allclose(videos.mean(axis=(1, 2, 3, 4)), wanted, atol=3)
    assert sorted(endpoint.bodies, key=lambda body: body["seed"]) == [
        {
            "prompt": p,
            "negative_prompt": "dark",
            "seed": s,
            "num_inference_steps": 7,
            "height": 16,
            "guidance_scale": 5.0,
            "model": "m",
        }
        for s, p in enumerate(PROMPTS, 1)
    ]  # the repeated row was asked for once
    assert endpoint.most_at_once == 2
    assert {headers["authorization"] for headers in endpoint.headers} == {f"Bearer {KEY}"}
    assert calls[-1] == (4, 4) and len(calls) == 3


def test_generate_without_key(serve):
    endpoint = serve(works)
    model(endpoint).generate("a", seed=3)
    assert endpoint.bodies == [{"prompt": "a", "negative_prompt": "", "seed": 3}]
    assert "authorization" not in endpoint.headers[0]


@pytest.mark.parametrize(
    "form, frames", [("png", 1), ("video", 5), ("image", 1), ("data", 1), ("url", 5), ("gif", 2)]
)
def test_generate_reply_formats(form, frames, serve, monkeypatch, tmp_path):
    monkeypatch.setenv("PAV_GENERATOR_API_KEY", KEY)
    body = {"prompt": "a", "seed": 0}
    stripes = np.stack([np.full((16, 32, 3), value, np.uint8) for value in (color(body), 255)])
    files.write_gif(tmp_path / "a.gif", stripes, 8)
    encoded = base64.b64encode(png(body)).decode()
    answer = {
        "png": ("image/png", png(body)),
        "video": {"video": base64.b64encode(mp4(body)).decode()},
        "image": {"image": encoded},
        "data": {"image": f"data:image/png;base64,{encoded}"},
        "url": {"url": "/made/a.mp4"},
        "gif": ("image/gif", (tmp_path / "a.gif").read_bytes()),
    }[form]
    if isinstance(answer, dict):
        answer = ("application/json", json.dumps(answer).encode())
    endpoint = serve(lambda nth, body: (200, *answer), files={"/made/a.mp4": mp4(body)})
    video = model(endpoint).generate("a")[0]
    assert video.shape == (frames, 16, 32, 3)
    assert abs(video[0].mean() - color(body)) < 3
    assert [get["path"] for get in endpoint.gets] == ["/made/a.mp4"] * (form == "url")
    assert all(get["authorization"] == f"Bearer {KEY}" for get in endpoint.gets)


def test_generate_url_on_other_host(serve, monkeypatch):
    monkeypatch.setenv("PAV_GENERATOR_API_KEY", KEY)
    store = serve(works, files={"/a.mp4": mp4({"prompt": "a", "seed": 0})})
    there = store.url.replace("/generate", "/a.mp4")
    endpoint = serve(
        lambda nth, body: (200, "application/json", json.dumps({"url": there}).encode())
    )
    assert model(endpoint).generate("a").shape == (1, 5, 16, 32, 3)
    assert len(store.gets) == 1 and "authorization" not in store.gets[0]


def test_generate_retries(serve):
    stumbles = [
        *((status, "text/plain", b"") for status in (408, 409, 425, 429, 500, 503)),
        (200, "text/html", b"<html>busy"),
        (200, "video/mp4", b"\0\0\0\x18ftypmp42"),
    ]
    endpoint = serve(
        lambda nth, body: stumbles[nth - 1] if nth <= len(stumbles) else works(nth, body)
    )
    assert model(endpoint, max_retries=8).generate("a").shape == (1, 5, 16, 32, 3)
    assert endpoint.count["a"] == 9


BAD = {
    "status 500": lambda nth, body: (500, "text/plain", KEY.encode()),
    "not a video, image or JSON": lambda nth, body: (
        200,
        "video/mp4",
        b"#EXTM3U\nfile:///etc/passwd",
    ),
    "neither a video nor an image": lambda nth, body: (
        200,
        "application/json",
        json.dumps({"video": base64.b64encode(b"#EXTM3U").decode()}).encode(),
    ),
    "JSON without video, image or url": lambda nth, body: (200, "application/json", b'["video"]'),
    "not base64": lambda nth, body: (200, "application/json", b'{"video": "\xc3\xa9"}'),
    "a video that cannot be decoded": lambda nth, body: (200, "video/mp4", mp4(body)[:200]),
    "an image that cannot be decoded": lambda nth, body: (200, "image/png", png(body)[:60]),
    "no reply within 1.5 s": lambda nth, body: (200, "video/mp4", None),
    "status 422": lambda nth, body: (422, "text/plain", b"no"),
    "status 302": lambda nth, body: (302, "text/plain", b""),
    "the video has 4 frames of 32 x 16, earlier ones have 5 frames": lambda nth, body: (
        200,
        "",
        mp4(body, (4, 16, 32)),
    ),
}


@pytest.mark.parametrize("reason", BAD)
def test_generate_batch_failed_video(reason, serve, monkeypatch, caplog):
    monkeypatch.setenv("PAV_GENERATOR_API_KEY", KEY)
    endpoint = serve(
        lambda nth, body: BAD[reason](nth, body) if "cats" in body["prompt"] else works(nth, body)
    )
    generator = model(
        endpoint,
        timeout_s=1.5 if "no reply" in reason else 20.0,
        max_retries=0 if "no reply" in reason else 1,
    )
    generator.generate(PROMPTS[0])  # a size is known from here on
    with caplog.at_level(logging.INFO):
        batch = generator.generate_batch(PROMPTS)
    assert batch.videos.shape == (3, 5, 16, 32, 3)
    assert batch.videos[0].any() and not batch.videos[1].any()
    assert batch.errors[0] is None and batch.errors[2] is None
    assert batch.errors[1] is not None and reason in batch.errors[1]
    assert reason in caplog.text and KEY not in caplog.text
    asked_once = "status 422", "status 302", "the video has 4", "no reply"
    assert endpoint.count["two cats"] == (1 if reason.startswith(asked_once) else 2)
    with pytest.raises(BadInput, match="no video") as error:
        generator.generate("two cats")
    assert KEY not in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "status, message",
    [
        (401, "status 401; check the address, and the API key in the environment"),
        (404, "status 404"),
        (500, "2 requests in a row failed"),
    ],
)
def test_generate_batch_endpoint_down(status, message, serve, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("PAV_GENERATOR_API_KEY", KEY)
    endpoint = serve(lambda nth, body: (status, "text/plain", KEY.encode()))
    generator = model(endpoint, max_consecutive_failures=2, concurrency=1)
    with pytest.raises(BadInput, match=message) as error:
        generator.generate_batch(PROMPTS)
    assert KEY not in str(error.value)
    if status != 500:
        assert main(["generate", "a", f"--model={endpoint.url}", f"--out={tmp_path}"]) == 2
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1 and not list(tmp_path.iterdir())


def test_generate_batch_late_reply_when_down(serve):
    others_settled = threading.Event()

    def behave(nth, body):
        if body["prompt"] == "slow":
            others_settled.wait(20)
        return (500, "", b"") if "bad" in body["prompt"] else works(nth, body)

    endpoint = serve(behave)
    generator = model(endpoint, max_retries=0, max_consecutive_failures=2, concurrency=2)
    with pytest.raises(BadInput, match="2 requests in a row failed"):
        generator.generate_batch(
            ["slow", "bad 1", "bad 2", "left out"],
            progress=lambda done, _: others_settled.set() if done == 3 else None,
        )
    assert others_settled.is_set() and endpoint.count["left out"] == 0
    assert generator.generate("left out").any()  # whoever calls again starts afresh


def test_generate_no_connection(serve):
    endpoint = serve(works)
    endpoint.close()
    with pytest.raises(
        BadInput, match=r"http://127.0.0.1:\d+/generate: no video: no connection \(ConnectError\)"
    ):
        model(endpoint, max_retries=0).generate("a")


def test_generate_other_size(serve):
    with pytest.raises(BadInput, match="height=24 was requested but the model returned 16"):
        model(serve(works), HEIGHT=24).generate("a")


@pytest.mark.parametrize(
    "url, options, client, message",
    [
        ("http://user:secret@h/x", {}, {}, "contains a user name or password"),
        ("http://h/x?key=secret", {}, {}, "PAV_GENERATOR_API_KEY"),
        ("http://h/x?a=1&access_token=secret", {}, {}, "PAV_GENERATOR_API_KEY"),
        ("http://h:65536/x", {}, {}, "port"),
        ("http://h:0/x", {}, {}, "port"),
        ("http://h h/x", {}, {}, "no spaces"),
        ("http://", {}, {}, "has no host"),
        ("http://h/x", {"prompt": "b"}, {}, r"generator.options.prompt"),
        ("http://h/x", {"num_inference_steps": 3}, {}, "options.num_inference_steps"),
        ("http://h/x", {"a": {1, 2}}, {}, "cannot be written as JSON"),
        ("http://h/x", {"a": float("nan")}, {}, "cannot be written as JSON"),
        ("http://h/x", {}, {"timeout_s": 0}, "timeout_s=0"),
        ("http://h/x", {}, {"timeout_s": float("nan")}, "timeout_s=nan"),
        ("http://h/x", {}, {"concurrency": 0}, "concurrency=0"),
        ("http://h/x", {}, {"concurrency": 2.5}, "concurrency=2.5"),
        ("http://h/x", {}, {"max_retries": -1}, "max_retries=-1"),
        ("http://h/x", {}, {"max_backoff_s": -1.0}, "max_backoff_s=-1.0"),
        ("http://h/x", {}, {"max_consecutive_failures": 0}, "max_consecutive_failures=0"),
    ],
)
def test_load_generator_invalid_arguments(url, options, client, message):
    with pytest.raises(BadInput, match=message) as error:
        load_generator(url, options=options, endpoint=client)
    assert "secret" not in str(error.value)


def test_fingerprint():
    def mark(url="http://h/x", options=None, **settings):
        named = {"name": settings.pop("name", "")}
        return load_generator(url, options=options, endpoint=named, **settings).fingerprint

    assert mark() == mark(batch_size=3, fps=9)
    assert (
        len(
            {
                mark(),
                mark("http://other/x"),
                mark(num_inference_steps=3),
                mark(options={"model": "m"}),
                mark(name="m"),
            }
        )
        == 5
    )
    assert mark(name="m") == mark("http://other/x", name="m")


def test_generate_inside_event_loop(serve):
    generator = model(serve(works))

    async def notebook():
        return generator.generate("a")

    assert asyncio.run(notebook()).shape == (1, 5, 16, 32, 3)


def test_command_with_failed_video(serve, capsys, tmp_path):
    endpoint = serve(
        lambda nth, body: (422, "", b"") if "cats" in body["prompt"] else works(nth, body)
    )
    assert (
        main(
            [
                "generate",
                *PROMPTS,
                f"--model={endpoint.url}?version=unpublished",
                f"--out={tmp_path}",
                "--seed=4",
                "--negative-prompt=dark",
                "--batch-size=3",
            ]
        )
        == 2
    )
    out, err = capsys.readouterr()
    first, second = out.splitlines()
    # log lines come before it if an earlier command in this process has switched them on
    assert err.splitlines()[-1] == "pav generate: 'two cats': no video: HTTP status 422"
    said = files.read_metadata(first)
    assert (
        said.items()
        >= {
            "prompt": "a red ball",
            "negative_prompt": "dark",
            "seed": "4",
            "model": endpoint.url,
            "title": "a red ball",
        }.items()
    )
    assert said["version"].startswith("pav_jax ") and "unpublished" not in str(said)
    assert files.read_metadata(second)["prompt"] == "a blue fish" and read_mp4(second).shape == (
        5,
        16,
        32,
        3,
    )
