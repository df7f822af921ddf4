"""Video files are read as a player shows them, or refused in one line before memory is taken."""

import numpy as np
import pytest
from PIL import Image

from pav_jax.errors import BadInput
from pav_jax.video import files, reading
from pav_jax.video.reading import read_mp4
from tests.peak_memory import peak_memory, reset_peak_memory
from tests.video import odd_files
from tests.video.odd_files import moving_square

MATRICES = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}


def test_read_mp4_unusual_formats(tmp_path):
    for path in odd_files.write_unusual(tmp_path):
        codec, pixels, height, width = odd_files.UNUSUAL[path.name]
        video = read_mp4(path)
        expected = moving_square(9, height, width).astype(int)
        assert video.shape == expected.shape and video.dtype == np.uint8, path.name
        if pixels == "gray":
            assert np.ptp(video, axis=-1).max() == 0
            expected = (expected @ (0.299, 0.587, 0.114))[..., None]
        assert np.abs(video - expected).mean() < 4, path.name


def test_read_mp4_broken_file(tmp_path):
    for kind, (path, reason) in odd_files.write_broken(tmp_path).items():
        with pytest.raises(BadInput) as error:
            read_mp4(path)
        line = str(error.value)
        assert path.name in line and reason in line.split(path.name, 1)[1] and "\n" not in line, (
            kind,
            line,
        )


def test_read_mp4_matroska_of_unknown_length(tmp_path):
    path = odd_files.write(tmp_path / "live.mkv", moving_square(), options={"live": "1"})
    assert read_mp4(path).shape == (9, 48, 64, 3)


def test_read_mp4_name_with_colon(tmp_path):
    for name in ("12:30 a%d.mp4", "http:a.mp4", "-[x]*?.mp4", "ü\udcff.mp4"):
        files.write_mp4(tmp_path / "plain.mp4", moving_square(2), fps=8)
        (tmp_path / "plain.mp4").rename(tmp_path / name)
        assert read_mp4(str(tmp_path / name)).shape == (2, 48, 64, 3)


# ------------------------------------------------------------------------------- as a player shows


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_read_mp4_display_matrix(degrees, mirrored, tmp_path):
    video = moving_square(2, 48, 64)
    plain = read_mp4(odd_files.write(tmp_path / "plain.mp4", video))
    turned = odd_files.write(
        tmp_path / "turned.mp4",
        video,
        configure=lambda stream: stream.set_display_rotation(degrees, hflip=mirrored),
    )
    expected = np.rot90(plain, degrees // 90, axes=(1, 2))  # counter-clockwise
    expected = expected[:, :, ::-1] if mirrored else expected
    np.testing.assert_array_equal(read_mp4(turned), expected)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tiff"])
def test_read_mp4_exif_orientation(name, tmp_path):
    image = Image.new("RGB", (20, 8), (200, 0, 0))
    exif = image.getexif()
    exif[0x0112] = 6  # turn clockwise
    image.save(tmp_path / name, exif=exif)
    assert read_mp4(tmp_path / name).shape == (1, 20, 8, 3)


@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", MATRICES)
def test_read_mp4_color_tags(matrix, full, tmp_path):
    colors = np.array([(200, 30, 40), (20, 180, 60), (10, 50, 220), (250, 240, 10)], np.uint8)
    rgb = colors.repeat(16, 0)[None].repeat(32, 0)
    path = odd_files.write_yuv(tmp_path / "a.mp4", rgb, *MATRICES[matrix], matrix, full)
    (frame,) = read_mp4(path)
    assert np.abs(frame.astype(int) - rgb).max() <= 4


def test_read_mp4_wide_pixels(tmp_path):
    def widen(stream):
        stream.codec_context.sample_aspect_ratio = 2

    path = odd_files.write(tmp_path / "a.mp4", moving_square(2, 48, 64), configure=widen)
    assert read_mp4(path).shape == (2, 48, 128, 3)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.gif", "a.avi"])
def test_read_header_times(name, tmp_path):
    codec = {"gif": ("gif", "bgr8"), "avi": ("mpeg4", "yuv420p")}.get(
        name[2:], ("libx264", "yuv420p")
    )
    path = odd_files.write(tmp_path / name, moving_square(9), *codec)
    header = reading.read_header(path)
    np.testing.assert_allclose(header.times, np.arange(9) / 8, atol=0.011)  # a gif has 1/100 s
    shown = [frame.time for frame in reading.iterate_frames(path)]
    np.testing.assert_allclose(reading.shown_times(shown, 8), header.times, atol=0.011)
    assert (header.num_frames, header.height, header.width, 3) == read_mp4(path).shape


def test_shown_times_missing_or_equal():
    for stated in ([None, 0.1, 0.2], [0.0, 0.0, 0.0]):
        np.testing.assert_allclose(reading.shown_times(stated, 8), [0, 0.125, 0.25])
    np.testing.assert_allclose(reading.shown_times([0.5, 0.1, 0.3], 8), [0, 0.2, 0.4])


# ------------------------------------------------------------------------------------------ limits


@pytest.mark.parametrize(
    ("limit", "value", "reason"),
    [
        ("MAX_FRAME_PIXELS", 48 * 64 - 1, "frames of 64 x 48 pixels; the limit is"),
        ("MAX_FRAMES", 8, "8 frames, the limit"),
        ("MAX_PIXELS", 9 * 48 * 64 - 1, "9 frames of 64 x 48"),
        ("MAX_ARRAY_BYTES", 9 * 48 * 64 * 3 - 1, "9 frames of 64 x 48"),
    ],
)
def test_read_mp4_limits(limit, value, reason, tmp_path, monkeypatch):
    path = odd_files.write(tmp_path / "a.mp4", moving_square(9))
    monkeypatch.setattr(reading, limit, value + 1)
    assert read_mp4(path).shape == (9, 48, 64, 3)
    monkeypatch.setattr(reading, limit, value)
    monkeypatch.setattr(reading, "_image", None)  # refused before a frame is converted
    with pytest.raises(BadInput, match=reason) as error:
        read_mp4(path)
    assert error.value.source == str(path)


def test_read_mp4_max_frames(tmp_path, monkeypatch):
    path = odd_files.write(tmp_path / "a.mp4", moving_square(9))
    whole = read_mp4(path)
    monkeypatch.setattr(reading, "MAX_ARRAY_BYTES", 4 * 48 * 64 * 3)
    np.testing.assert_array_equal(read_mp4(path, max_frames=4), whole[:4])


@pytest.mark.parametrize("pixels", [16000, 60000])
@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.bmp"])
def test_read_mp4_header_of_huge_frame(name, pixels, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / name)
    data = bytearray((tmp_path / name).read_bytes())
    start, size, order = {"gif": (6, 2, "little"), "png": (16, 4, "big"), "bmp": (18, 4, "little")}[
        name[2:]
    ]
    for i in (0, 1):
        data[start + i * size : start + (i + 1) * size] = pixels.to_bytes(size, order)
    (tmp_path / name).write_bytes(data)
    before = reset_peak_memory()
    with pytest.raises(BadInput) as error:
        read_mp4(tmp_path / name)
    assert "\n" not in str(error.value) and name in str(error.value)
    assert peak_memory() - before < 200e6
