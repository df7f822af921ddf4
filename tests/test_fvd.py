"""`pav fvd` on real files, with a network in the place of I3D that sees each video's mean colour
and its change."""

import json
from pathlib import Path

import numpy as np
import pytest

from pav_jax.evaluate.frechet import frechet_distance
from pav_jax.main import main
from pav_jax.rewards import i3d_features
from pav_jax.video.files import read_mp4, write_mp4


class Network:
    @classmethod
    def from_pretrained(cls, folder=None):
        return cls()

    def features(self, videos):
        x = videos.astype(np.float64)
        return np.concatenate([x.mean((1, 2, 3)), (x[:, -1] - x[:, 0]).mean((1, 2))], axis=1)


@pytest.fixture
def folders(monkeypatch, tmp_path):
    monkeypatch.setattr(i3d_features, "I3DFeatures", Network)
    rng = np.random.default_rng(0)
    for name, frames, brighter in (("a", 20, 0), ("b", 12, 60)):
        (tmp_path / name / "below").mkdir(parents=True)
        for i in range(5):
            colours = rng.integers(20, 150, (frames, 1, 1, 3)) + brighter
            video = np.broadcast_to(colours, (frames, 16, 16, 3)).astype(np.uint8)
            write_mp4(tmp_path / name / ("below" if i % 2 else ".") / f"{i}.mp4", video, 8)
    (tmp_path / "a" / "notes.txt").write_text("no video")
    return str(tmp_path / "a"), str(tmp_path / "b")


def test_the_distance_of_two_folders(folders, capsys):
    first, second = folders
    assert main(["fvd", first, second, "--frames=12", "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (
        found["videos"] == [5, 5]
        and found["frames"] == 12
        and found["fvd"] > 1000
        and "small" in err
    )
    assert main(["fvd", second, first, "--frames=12", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fvd"] == pytest.approx(found["fvd"], rel=1e-9)
    assert main(["fvd", second, second]) == 0  # all 12 frames that the first one has
    assert capsys.readouterr().out == "FVD 0.000, 5 and 5 videos of 12 frames\n"


def test_it_is_the_distance_of_what_the_network_sees_in_the_first_frames(folders, capsys):
    sets = [np.stack([read_mp4(p)[:3] for p in sorted(Path(f).rglob("*.mp4"))]) for f in folders]
    assert main(["fvd", *folders, "--frames=3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fvd"] == pytest.approx(
        frechet_distance(*(Network().features(s) for s in sets)), rel=1e-9
    )


def test_a_file_that_is_short_or_broken_is_named_and_left_out(folders, capsys, tmp_path):
    (tmp_path / "b" / "broken.mp4").write_bytes(b"nothing")
    assert (
        main(["fvd", folders[0], folders[1], "--json"]) == 2
    )  # 16 frames, the second folder's have 12
    _, err = capsys.readouterr()
    assert "a set of 0 videos" in err
    assert main(["fvd", folders[0], folders[1], "--frames=9", "--json"]) == 2
    out, err = capsys.readouterr()
    assert "broken.mp4" in err and json.loads(out)["videos"] == [5, 5]


def test_a_broken_file_that_comes_first_is_left_out_too(folders, capsys, tmp_path):
    (tmp_path / "b" / "!.mp4").write_bytes(b"nothing")
    assert main(["fvd", folders[1], folders[0], "--json"]) == 2
    out, err = capsys.readouterr()
    assert "!.mp4" in err and json.loads(out).items() >= {"videos": [5, 5], "frames": 12}.items()


def test_a_wrong_folder_is_one_line(folders, capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    for wrong, said in (("none", "no such folder"), ("empty", "no videos")):
        assert main(["fvd", folders[0], str(tmp_path / wrong)]) == 2
        assert said in capsys.readouterr().err
    assert main(["fvd", *folders, "--frames=0"]) == 2
