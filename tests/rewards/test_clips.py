"""What is kept of a video file: all of a small one, and of a large one what rewards read."""

import subprocess
import sys

import numpy as np
import pytest

from pav_jax.rewards import Aesthetic, ClipAlignment, Motion, Reward, RewardSuite, clips
from pav_jax.rewards.clips import read_clips
from pav_jax.rewards.file_scorer import FileScorer
from pav_jax.video.reading import read_mp4
from tests.video import odd_files


class AllFrames(Reward):
    names = ("N",)

    def score(self, videos, prompts, refined=None):
        return {"N": videos[:, -1, 0, 0, 0].astype(np.float32) + videos.shape[1]}


@pytest.fixture
def path(tmp_path):
    return odd_files.write(tmp_path / "a.mp4", odd_files.moving_square(9, 96, 128), fps=16)


@pytest.fixture
def suite(clip_folder):
    rewards = [
        Aesthetic.from_pretrained(clip_folder),
        ClipAlignment.from_pretrained(clip_folder),
        Motion(),
        AllFrames(),
    ]
    return RewardSuite(rewards, {})


def test_read_clips_of_small_and_large_video(path, suite, monkeypatch):
    rewards = dict(enumerate(suite.rewards))
    whole = read_clips(path, rewards)
    assert [array.shape for array in whole.arrays] == [(9, 96, 128, 3)] and whole.is_whole
    np.testing.assert_array_equal(whole.arrays[0], read_mp4(path))
    monkeypatch.setattr(clips, "SMALL_VIDEO_BYTES", 0)
    parts = read_clips(path, rewards)
    shapes = [parts.arrays[parts.views[i]].shape for i in rewards]
    assert shapes == [(4, 96, 128, 3)] * 2 + [(9, 64, 85, 3), (9, 96, 128, 3)]
    assert parts.views[0] == parts.views[1] and parts.shape == whole.shape
    np.testing.assert_array_equal(parts.times, np.arange(9) / 16)
    np.testing.assert_array_equal(parts.arrays[parts.views[3]], whole.arrays[0])


@pytest.mark.slow
def test_score_large_file_as_small_one(path, suite, monkeypatch):
    (small,) = FileScorer(suite).score([path], ["a cat"])
    expected = suite.score(read_mp4(path)[None], ["a cat"], fps=16)
    monkeypatch.setattr(clips, "SMALL_VIDEO_BYTES", 0)
    (large,) = FileScorer(suite).score([path], ["a cat"])
    assert small.problems == large.problems == ()
    for name, value in expected.items():
        np.testing.assert_allclose([small.scores[name], large.scores[name]], value[0], rtol=1e-5)


def test_score_frames_above_limit(tmp_path, suite, monkeypatch):
    path = odd_files.write(tmp_path / "a.mp4", odd_files.moving_square(9, 192, 256))
    monkeypatch.setattr(clips, "SMALL_VIDEO_BYTES", 0)
    monkeypatch.setattr(clips, "MAX_ARRAY_BYTES", 8 * 192 * 256 * 3)
    (result,) = FileScorer(suite).score([path], ["a cat"])
    (problem,) = result.problems
    assert "no N (not enough memory" in problem
    assert [name for name, value in result.scores.items() if np.isnan(value)] == ["N"]


def test_read_clips_where_packets_are_not_frames(path, monkeypatch):
    header = clips.read_header(path)
    wrong = clips.dataclasses.replace(header, times=header.times[:5])
    monkeypatch.setattr(clips, "read_header", lambda path: wrong)
    monkeypatch.setattr(clips, "SMALL_VIDEO_BYTES", 0)
    parts = read_clips(path, {0: AllFrames()})
    np.testing.assert_array_equal(parts.arrays[0], read_mp4(path))


def test_embed_images_large_images_in_small_batches(clip_folder, monkeypatch):
    from pav_jax.rewards import clip_tower

    tower = Aesthetic.from_pretrained(clip_folder).tower
    images = np.random.default_rng(0).integers(0, 256, (5, 40, 48, 3), np.uint8)
    together = tower.embed_images(images)
    for batches in (1, 2):
        monkeypatch.setattr(clip_tower, "MAX_BATCH_BYTES", batches * images[0].nbytes)
        np.testing.assert_allclose(tower.embed_images(images), together, rtol=1e-4, atol=1e-5)


SCORE = """
import sys
from pav_jax.main import main
from tests.peak_memory import peak_memory
code = main(["score", sys.argv[1], "--prompts=x", "--no-cache", "--csv"])
print(peak_memory(), file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.slow
def test_score_full_hd_in_two_gigabytes(tmp_path):
    frames = (odd_files.moving_square(1, 1080, 1920)[0] for _ in range(300))
    path = odd_files.write_frames(tmp_path / "hd.mp4", frames, 1080, 1920, fps=30)
    done = subprocess.run(
        [sys.executable, "-c", SCORE, path], capture_output=True, text=True, check=True
    )
    assert int(done.stderr.split()[-1]) < 2e9
    assert len(done.stdout.splitlines()) == 2
