"""Video files: what is written can be read, whole or not at all."""

import av
import numpy as np
import pytest
from PIL import Image

from pav_jax.errors import BadInput
from pav_jax.video import files
from tests.video import odd_files
from tests.video.odd_files import moving_square


@pytest.mark.parametrize("size", [(48, 64), (47, 63)])
def test_write_mp4_round_trip(size, tmp_path):
    video = moving_square(9, *size)
    files.write_mp4(tmp_path / "a.mp4", video, fps=8)
    again = files.read_mp4(tmp_path / "a.mp4")
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


def test_write_mp4_one_frame(tmp_path):
    files.write_mp4(tmp_path / "a.mp4", moving_square(1), fps=7.5)
    assert files.read_mp4(tmp_path / "a.mp4").shape == (1, 48, 64, 3)


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


# ------------------------------------------------------------------------------- files of all kinds


def test_read_mp4_unusual_formats(tmp_path):
    for path in odd_files.write_unusual(tmp_path):
        codec, pixels, height, width = odd_files.UNUSUAL[path.name]
        video = files.read_mp4(path)
        expected = moving_square(9, height, width).astype(int)
        assert video.shape == expected.shape and video.dtype == np.uint8, path.name
        if pixels == "gray":
            assert np.ptp(video, axis=-1).max() == 0
            expected = (expected @ (0.299, 0.587, 0.114))[..., None]
        assert np.abs(video - expected).mean() < 4, path.name


def test_read_mp4_broken_file(tmp_path):
    for kind, (path, reason) in odd_files.write_broken(tmp_path).items():
        with pytest.raises(BadInput) as error:
            files.read_mp4(path)
        line = str(error.value)
        assert path.name in line and reason in line.split(path.name, 1)[1] and "\n" not in line, (
            kind,
            line,
        )


def test_read_mp4_matroska_of_unknown_length(tmp_path):
    path = odd_files.write(tmp_path / "live.mkv", moving_square(), options={"live": "1"})
    assert files.read_mp4(path).shape == (9, 48, 64, 3)


def test_read_mp4_name_with_colon(tmp_path):
    for name in ("12:30 a%d.mp4", "http:a.mp4", "-[x]*?.mp4", "ü\udcff.mp4"):
        files.write_mp4(tmp_path / "plain.mp4", moving_square(2), fps=8)
        (tmp_path / "plain.mp4").rename(tmp_path / name)
        assert files.read_mp4(str(tmp_path / name)).shape == (2, 48, 64, 3)


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
