"""Videos that cannot fit into memory are refused in one line before anything is allocated."""

import jax
import pytest

from pav_jax.errors import BadInput
from pav_jax.main import main
from pav_jax.video import load_generator, memory
from pav_jax.video.backend import make_request
from pav_jax.video.video_model import VideoModel
from tests.peak_memory import peak_memory, reset_peak_memory
from tests.video.tiny_opensora import random_model as tiny_opensora
from tests.video.tiny_pipeline import random_model as tiny_cogvideox
from tests.video.tiny_wan import random_model as tiny_wan

GIB = 2**30
MODELS = {
    "cogvideox": lambda: tiny_cogvideox(0, {"_class_name": "CogVideoXDDIMScheduler"}),
    "wan": lambda: tiny_wan(0),
    "opensora": lambda: tiny_opensora(0),
}


def test_system_bytes():
    assert GIB < memory.system_bytes() < 2**50
    assert memory.device_bytes(jax.local_devices()) == memory.system_bytes()


@pytest.mark.parametrize(
    ("size", "batch_size", "field"),
    [
        ((49, 8192, 720), 1, "height"),
        ((49, 480, 8192), 1, "width"),
        ((1024, 480, 720), 1, "num_frames"),
        ((49, 480, 720), 4096, "batch_size"),
    ],
)
def test_check_fits(size, batch_size, field):
    needed = memory.video_bytes(size, batch_size)
    memory.check_fits(needed, needed, size, (49, 480, 720), batch_size)
    with pytest.raises(BadInput, match=r"needs at least .* GiB .* lower") as error:
        memory.check_fits(needed, needed // 2, size, (49, 480, 720), batch_size)
    assert error.value.field == field and f"{field}=" in str(error.value)


@pytest.mark.parametrize("name", MODELS)
def test_make_request_too_little_memory(name, monkeypatch):
    model = MODELS[name]()
    model.make_request("a red ball")
    monkeypatch.setattr(memory, "system_bytes", lambda: 100)
    for batch_size in (1, 64):
        with pytest.raises(BadInput, match="needs at least"):
            model.with_settings(batch_size=batch_size).make_request("a red ball")


@pytest.mark.parametrize("batch_size", [1, 4096])
def test_backend_make_request_too_little_memory(batch_size):
    settings = {"num_frames": 1024, "height": 8192, "width": 8192, "batch_size": batch_size}
    with pytest.raises(BadInput, match="needs at least") as error:
        make_request(settings, "a", "", 0, {})
    assert error.value.field in memory.FIELDS


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (["--height=100000", "--width=100000"], "height"),
        (["--num-frames=1000000"], "num_frames"),
        (["--height=8192", "--width=8192", "--num-frames=1024"], "height"),
        (["--batch-size=4096", "--height=512", "--width=512"], "batch_size"),
    ],
)
@pytest.mark.parametrize("model", ["mini:generator", "http://127.0.0.1:9/generate"])
def test_generate_refuses_huge_videos(model, options, field, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "system_bytes", lambda: 2 * GIB)
    load_generator("mini:generator")  # what was read before does not count
    monkeypatch.setattr(VideoModel, "encode_prompts", None)  # it does not begin
    before = reset_peak_memory()
    words = ["generate", "a red ball", f"--model={model}", f"--out={tmp_path / 'out'}", *options]
    assert main(words) == 2
    assert peak_memory() - before < GIB
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and field in error
