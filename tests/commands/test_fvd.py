"""`pav fvd` on video files, with a stand-in network for I3D."""

import json
from pathlib import Path

import numpy as np
import pytest

from pav_jax.evaluate.frechet import frechet_distance
from pav_jax.main import main
from pav_jax.rewards import i3d_features
from pav_jax.video import reading
from pav_jax.video.files import write_mp4
from pav_jax.video.reading import read_mp4


class ColourFeatures:
    """Features [B, 6]: each video's mean colour and its change from the first frame to the last."""

    @classmethod
    def from_pretrained(cls, folder=None):
        return cls()

    def features(self, videos):
        x = videos.astype(np.float64)
        return np.concatenate([x.mean((1, 2, 3)), (x[:, -1] - x[:, 0]).mean((1, 2))], axis=1)


@pytest.fixture
def folders(monkeypatch, tmp_path):
    """Two folders of five videos: 20 frames each, and 12 brighter frames each."""
    monkeypatch.setattr(i3d_features, "I3DFeatures", ColourFeatures)
    rng = np.random.default_rng(0)
    for name, frames, brightness in (("a", 20, 0), ("b", 12, 60)):
        (tmp_path / name / "nested").mkdir(parents=True)
        for i in range(5):
            colours = rng.integers(20, 150, (frames, 1, 1, 3)) + brightness
            video = np.broadcast_to(colours, (frames, 16, 16, 3)).astype(np.uint8)
            write_mp4(tmp_path / name / ("nested" if i % 2 else ".") / f"{i}.mp4", video, 8)
    (tmp_path / "a" / "notes.txt").write_text("not a video")
    return str(tmp_path / "a"), str(tmp_path / "b")


def test_fvd_two_folders(folders, capsys):
    first, second = folders
    assert main(["fvd", first, second, "--frames=12", "--json"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert result["videos"] == [5, 5]
    assert result["frames"] == 12
    assert result["fvd"] > 1000
    assert "small" in err  # few videos
    assert main(["fvd", second, first, "--frames=12", "--json"]) == 0
    swapped = json.loads(capsys.readouterr().out)
    assert swapped["fvd"] == pytest.approx(result["fvd"], rel=1e-9)


def test_fvd_same_folder(folders, capsys):
    second = folders[1]
    assert main(["fvd", second, second]) == 0
    assert capsys.readouterr().out == "FVD 0.000, 5 and 5 videos of 12 frames\n"


def test_fvd_frames_option(folders, capsys):
    features = [
        ColourFeatures().features(
            np.stack([read_mp4(path)[:3] for path in sorted(Path(folder).rglob("*.mp4"))])
        )
        for folder in folders
    ]
    assert main(["fvd", *folders, "--frames=3", "--json"]) == 0
    distance = json.loads(capsys.readouterr().out)["fvd"]
    assert distance == pytest.approx(frechet_distance(*features), rel=1e-9)


def test_fvd_reads_only_the_frames_it_compares(folders, monkeypatch):
    shapes = []

    def read(path, max_frames=None):
        shapes.append(read_mp4(path, max_frames).shape)
        return read_mp4(path, max_frames)

    monkeypatch.setattr(reading, "read_mp4", read)
    assert main(["fvd", *folders, "--frames=3"]) == 0
    assert shapes == [(3, 16, 16, 3)] * 10


def test_fvd_short_videos(folders, capsys):
    assert main(["fvd", *folders, "--json"]) == 2  # 16 frames by default; the second has 12
    assert "a set of 0 videos" in capsys.readouterr().err


def test_fvd_corrupt_file(folders, capsys, tmp_path):
    (tmp_path / "b" / "broken.mp4").write_bytes(b"nothing")
    assert main(["fvd", *folders, "--frames=9", "--json"]) == 2
    out, err = capsys.readouterr()
    assert "broken.mp4" in err
    assert json.loads(out)["videos"] == [5, 5]


def test_fvd_corrupt_first_file(folders, capsys, tmp_path):
    (tmp_path / "b" / "!.mp4").write_bytes(b"nothing")
    assert main(["fvd", folders[1], folders[0], "--json"]) == 2
    out, err = capsys.readouterr()
    assert "!.mp4" in err
    result = json.loads(out)
    assert result["videos"] == [5, 5]
    assert result["frames"] == 12


@pytest.mark.parametrize("name, message", [("none", "no such folder"), ("empty", "no videos")])
def test_fvd_folder_without_videos(folders, capsys, tmp_path, name, message):
    (tmp_path / "empty").mkdir()
    assert main(["fvd", folders[0], str(tmp_path / name)]) == 2
    assert message in capsys.readouterr().err


def test_fvd_invalid_frames(folders):
    assert main(["fvd", *folders, "--frames=0"]) == 2
