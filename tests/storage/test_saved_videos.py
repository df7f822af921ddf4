"""A record's video is a regular file of bounded size in the work directory, or refused."""

import os

import pytest

from pav_jax.errors import BadInput
from pav_jax.storage import saved_videos
from pav_jax.storage.saved_videos import read_saved_video


@pytest.fixture
def workdir(tmp_path):
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    folder = tmp_path / "run"
    (folder / "videos" / "folder.mp4").mkdir(parents=True)
    (folder / "videos" / "a.mp4").write_bytes(b"video")
    (folder / "videos" / "inside.mp4").symlink_to("a.mp4")
    (folder / "videos" / "out.mp4").symlink_to(tmp_path / "secret.mp4")
    (folder / "videos" / "zero.mp4").symlink_to("/dev/zero")
    (folder / "videos" / "dangling.mp4").symlink_to("nothing.mp4")
    (folder / "videos" / "loop.mp4").symlink_to("loop.mp4")
    (folder / "videos" / "large.mp4").write_bytes(bytes(100))
    os.mkfifo(folder / "videos" / "pipe.mp4")
    return folder


@pytest.mark.parametrize("video", ["videos/a.mp4", "videos/inside.mp4", "./videos/a.mp4"])
def test_read_saved_video(video, workdir):
    assert read_saved_video(workdir, video) == b"video"


@pytest.mark.parametrize("video", ["videos/gone.mp4", "videos/dangling.mp4", "videos/a.mp4/b.mp4"])
def test_read_saved_video_missing(video, workdir):
    assert read_saved_video(workdir, video) is None


@pytest.mark.parametrize(
    "video",
    [
        "../secret.mp4",
        "videos/../../secret.mp4",
        "/etc/passwd",
        "/dev/zero",
        "//etc/passwd",
        "videos/out.mp4",
        "videos/zero.mp4",
        "videos/pipe.mp4",
        "videos/folder.mp4",
        "videos/large.mp4",
        "videos/loop.mp4",
        "",
        ".",
        "videos/\0.mp4",
        "videos/\ud800.mp4",
        "videos/" + "x" * 5000,
        "gs://bucket/a.mp4/../../..",
    ],
)
def test_read_saved_video_refused(video, workdir, monkeypatch):
    monkeypatch.setattr(saved_videos, "MAX_VIDEO_FILE_BYTES", 50)
    with pytest.raises(BadInput, match="a record's video") as error:
        read_saved_video(workdir, video)
    assert error.value.field == "video" and len(str(error.value)) < 600
