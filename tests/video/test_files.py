"""Video files: what is written can be read, whole or not at all."""

import functools
import os
import subprocess
import sys

import av
import numpy as np
import pytest
from PIL import Image

from pav_jax.errors import BadInput
from pav_jax.video import files
from pav_jax.video.audio import Audio
from pav_jax.video.reading import read_mp4
from tests.video.odd_files import moving_square


@pytest.mark.parametrize("size", [(48, 64), (47, 63)])
def test_write_mp4_round_trip(size, tmp_path):
    video = moving_square(9, *size)
    files.write_mp4(tmp_path / "a.mp4", video, fps=8)
    again = read_mp4(tmp_path / "a.mp4")
    assert again.shape == (9, 48, 64, 3)
    assert (
        np.abs(again[:, : size[0], : size[1]].astype(int) - video).mean() < 3
    )  # colour has half the resolution


def test_write_mp4_stream(tmp_path):
    files.write_mp4(
        tmp_path / "a.mp4", moving_square(), fps=8, metadata={"title": 'a <b> & "ü"', "seed": "7"}
    )
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt, stream.average_rate) == (
            "h264",
            "yuv420p",
            8,
        )
        assert container.metadata["title"] == 'a <b> & "ü"' and container.metadata["seed"] == "7"


@pytest.mark.parametrize("channels", [1, 2])
def test_write_mp4_with_sound(channels, tmp_path):
    time = np.arange(24_000) / 24_000
    tone = np.sin(2 * np.pi * 440 * time).astype(np.float32)
    audio = Audio(np.stack([tone] * channels), 24_000)
    files.write_mp4(tmp_path / "a.mp4", moving_square(8), fps=8, audio=audio)
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.audio[0]
        assert stream.rate == 24_000 and stream.channels == channels
        sound = np.concatenate([f.to_ndarray() for f in container.decode(audio=0)], axis=1)
    assert sound.shape[0] == channels and abs(sound.shape[1] - 24_000) <= 2048  # AAC's frames
    spectrum = np.abs(np.fft.rfft(sound[0, 2048:22_048]))
    assert abs(np.argmax(spectrum) * 24_000 / 20_000 - 440) < 2
    assert read_mp4(tmp_path / "a.mp4").shape == (8, 48, 64, 3)


def test_write_mp4_one_frame(tmp_path):
    files.write_mp4(tmp_path / "a.mp4", moving_square(1), fps=7.5)
    assert read_mp4(tmp_path / "a.mp4").shape == (1, 48, 64, 3)


def test_write_mp4_color_tags(tmp_path):
    video = moving_square()
    files.write_mp4(tmp_path / "a.mp4", video, fps=8)
    with av.open(str(tmp_path / "a.mp4")) as container:
        context = container.streams.video[0].codec_context
        tags = (context.color_primaries, context.color_trc, context.colorspace, context.color_range)
    assert tags == (1, 13, 6, 1)


ENCODE = """
import hashlib, sys
import numpy as np
from pav_jax.video.files import mp4_bytes
junk = [bytes(int(sys.argv[1]) * 1000 + 37 * i) for i in range(50)]  # other alignment of the heap
for i in range(12):
    rng = np.random.default_rng(i)
    texture = rng.integers(0, 256, (8, 8, 3)).repeat(8, 0).repeat(8, 1)
    video = [np.roll(texture, 3 * t, 1) + rng.normal(0, 3, (64, 64, 3)) for t in range(9)]
    video = np.clip(video, 0, 255).astype(np.uint8)
    print(hashlib.sha256(mp4_bytes(video, 8, {"seed": str(i)})).hexdigest())
"""


def test_mp4_bytes_same_in_every_process():
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ENCODE, str(i)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "MALLOC_PERTURB_": str(17 * i)},
            # one process has one core, for which x264 would choose fewer threads
            preexec_fn=functools.partial(os.sched_setaffinity, 0, {0}) if i == 0 else None,
        )
        for i in range(3)
    ]
    outputs = [process.communicate()[0] for process in processes]
    assert outputs[0].count("\n") == 12 and outputs == outputs[:1] * 3


def test_write_gif_and_frames(tmp_path):
    video = moving_square()
    files.write_gif(tmp_path / "a.gif", video, fps=8)
    with Image.open(tmp_path / "a.gif") as gif:
        assert (gif.n_frames, gif.size, gif.info["loop"]) == (9, (64, 48), 0)
    paths = files.write_frames(tmp_path / "frames", video)
    assert [p.name for p in paths][:2] == ["0000.png", "0001.png"]
    np.testing.assert_array_equal(np.stack([np.asarray(Image.open(p)) for p in paths]), video)


def test_write_mp4_fails(tmp_path):
    (tmp_path / "a.mp4" / "in the way").mkdir(parents=True)
    with pytest.raises(BadInput, match="could not be written"):
        files.write_mp4(tmp_path / "a.mp4", moving_square(), fps=8)
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_write_mp4_invalid_array(tmp_path):
    video = moving_square()
    for wrong in (video.astype(np.float32), video[0], video[..., :2], video[:0]):
        with pytest.raises(BadInput, match="uint8"):
            files.mp4_bytes(wrong, 8)


# ----------------------------------------------------------------------- what a file says of itself


@pytest.mark.parametrize("kind", ["mp4", "gif", "png", "frames"])
def test_read_metadata_round_trip(kind, tmp_path):
    said = {
        "prompt": 'a "réd" <ball> 🎈 = 2; \\ end',
        "model": "m",
        "seed": "7",
        "version": "pav_jax 0",
    }
    video = moving_square(1 if kind == "png" else 3)
    path = tmp_path / f"a.{kind}"
    if kind in ("mp4", "gif"):
        getattr(files, f"write_{kind}")(path, video, 8, said)
    elif kind == "png":
        files.write_png(path, video, said)
        np.testing.assert_array_equal(np.asarray(Image.open(path)), video[0])
    else:
        path = files.write_frames(path, video, said)[-1]
    again = files.read_metadata(path)
    assert again.items() >= said.items() and (kind == "mp4" or again == said)


def test_read_metadata_missing(tmp_path):
    files.write_gif(tmp_path / "a.gif", moving_square(2), fps=8)
    assert files.read_metadata(tmp_path / "a.gif") == {}
    Image.new("RGB", (4, 4)).save(tmp_path / "b.gif", comment=b"by hand")
    assert files.read_metadata(tmp_path / "b.gif") == {"comment": "by hand"}
    (tmp_path / "c.mp4").write_text("text")
    for name, message in (("c.mp4", "not a video or image"), ("d.mp4", "no such file")):
        with pytest.raises(BadInput, match=message):
            files.read_metadata(tmp_path / name)
    with pytest.raises(BadInput, match="a png holds one frame, this video has 3"):
        files.write_png(tmp_path / "e.png", moving_square(3))
