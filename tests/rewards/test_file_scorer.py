"""Scores of files: independent of batches, cached, and robust against bad files."""

import shutil
import threading

import jax
import numpy as np
import pytest

from pav_jax.errors import BadInput
from pav_jax.rewards import (
    MPS,
    Aesthetic,
    ClipAlignment,
    Faithfulness,
    Motion,
    Reward,
    RewardSuite,
    VideoScore,
    file_scorer,
)
from pav_jax.rewards.clips import read_clips
from pav_jax.rewards.file_scorer import FileScorer, batch_size_for, prefetched
from pav_jax.rewards.score_cache import ScoreCache
from pav_jax.video.files import write_mp4
from pav_jax.video.reading import read_mp4
from tests.rewards.test_videoscore import write_videoscore
from tests.video import odd_files


@pytest.fixture(scope="module")
def suite(clip_folder, mps_folder, condition):
    rewards = [
        Aesthetic.from_pretrained(clip_folder),
        ClipAlignment.from_pretrained(clip_folder),
        Motion(),
        Faithfulness(),
        MPS.from_pretrained(mps_folder, condition=condition),
    ]
    return RewardSuite(rewards, {"AES": 1.0, "TVA": 0.5})


@pytest.fixture(scope="module")
def light_suite(clip_folder):
    """Compiles quickly, for tests with many shapes."""
    return RewardSuite([Aesthetic.from_pretrained(clip_folder), Motion()], {})


@pytest.fixture(scope="module")
def paths(tmp_path_factory, videos):
    folder = tmp_path_factory.mktemp("videos")
    for i, video in enumerate(videos):
        write_mp4(folder / f"{i}.mp4", video, fps=8)
    return [str(folder / f"{i}.mp4") for i in range(len(videos))]


class Counted(Reward):
    """The value of the first pixel; records its batch sizes."""

    names = ("N",)
    fingerprint = "counted"

    def __init__(self):
        self.batch_sizes = []

    def score(self, videos, prompts, refined=None):
        self.batch_sizes += [len(videos)]
        if "refuse" in prompts:
            raise BadInput("this prompt is not for me")
        return {"N": videos[:, 0, 0, 0, 0].astype(np.float32)}


@pytest.mark.slow
def test_score_equals_suite_in_any_order(suite, paths, prompts):
    results = FileScorer(suite, batch_size=2, threads=3).score(paths, prompts)
    assert [(r.path, r.prompt, r.problems) for r in results] == [
        (path, prompt, ()) for path, prompt in zip(paths, prompts, strict=True)
    ]
    assert list(results[0].scores) == [
        "AES",
        "TVA",
        "TC",
        "DD",
        "MPS",
    ]  # FAITH would need to know the rewrites
    expected = suite.score(np.stack([read_mp4(path) for path in paths]), prompts)
    backwards = FileScorer(suite, batch_size=4, threads=1).score(paths[::-1], prompts[::-1])[::-1]
    for i, (result, other) in enumerate(zip(results, backwards, strict=True)):
        for name, value in result.scores.items():
            np.testing.assert_allclose([value, other.scores[name]], expected[name][i], rtol=1e-5)


@pytest.mark.slow
def test_score_requested_names_only(suite, paths, prompts):
    assert list(FileScorer(suite, ["DD"]).score(paths[:1], prompts[:1])[0].scores) == ["TC", "DD"]


def test_score_held_out(paths):
    suite = RewardSuite([Motion()], {}, held_out=[Counted()])
    assert list(FileScorer(suite).score(paths[:1], ["a"])[0].scores) == ["TC", "DD", "held_out:N"]


def test_score_compiles_once_per_shape(suite, paths, prompts, tmp_path):
    compiled = []
    listen = lambda event, *_, **__: compiled.append(event) if "backend_compile" in event else None  # noqa: E731
    scorer = FileScorer(suite, batch_size=2)
    scorer.score(paths[:2], prompts[:2])
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        scorer.score(paths, prompts)  # batches of two, two and one
        assert compiled == []
        write_mp4(tmp_path / "other.mp4", odd_files.moving_square(3), fps=8)
        scorer.score([str(tmp_path / "other.mp4")], ["a cat"])
        assert compiled  # the listener hears
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_score_embeds_frames_once(suite, paths, prompts, monkeypatch):
    aesthetic, alignment = suite.rewards[:2]
    assert aesthetic.tower is alignment.tower
    tower = aesthetic.tower
    seen = []
    embed = tower.embed_images
    monkeypatch.setattr(tower, "_last_frames", None)
    monkeypatch.setattr(
        tower, "embed_images", lambda images: seen.append(len(images)) or embed(images)
    )
    decoded = []
    monkeypatch.setattr(
        file_scorer,
        "read_clips",
        lambda path, rewards: decoded.append(str(path)) or read_clips(path, rewards),
    )
    FileScorer(suite, batch_size=5).score(paths, prompts)
    assert seen == [5 * 4] and sorted(decoded) == paths


def test_score_decodes_ahead(paths, monkeypatch):
    decoded = []
    more = threading.Condition()

    def read(path, rewards):
        video = read_clips(path, rewards)
        with more:
            decoded.append(path)
            more.notify_all()
        return video

    class Busy(Counted):
        def score(self, videos, prompts, refined=None):
            with more:  # not before the file after this one is there
                assert more.wait_for(
                    lambda: len(decoded) >= min(len(self.batch_sizes) + 2, len(paths)), timeout=60
                )
            return super().score(videos, prompts)

    monkeypatch.setattr(file_scorer, "read_clips", read)
    reward = Busy()
    FileScorer(RewardSuite([reward], {}), batch_size=1, threads=2).score(paths, ["a"] * len(paths))
    assert reward.batch_sizes == [1] * len(paths)


def test_prefetched_order_and_limit():
    started = []
    taken = []
    for done in prefetched(lambda job: started.append(job) or job, iter(range(20)), threads=2):
        taken.append(done)
        assert len(started) <= len(taken) + 2 * 2
    assert taken == list(range(20))


def test_score_large_videos_in_smaller_batches(paths, prompts, tmp_path, monkeypatch):
    assert (
        batch_size_for(49 * 480 * 720 * 3, 32) == 16 and batch_size_for(9 * 64 * 64 * 3, 32) == 32
    )
    assert batch_size_for(1000 * 2160 * 3840 * 3, 32) == 1
    size = read_mp4(paths[0]).nbytes
    monkeypatch.setattr(file_scorer, "MAX_WAITING_BYTES", 2 * size)
    reward = Counted()
    FileScorer(RewardSuite([reward], {})).score(paths, prompts)
    assert reward.batch_sizes == [2, 2, 1]


# -------------------------------------------------------------------------------------------- cache


def test_score_cached(suite, paths, prompts, tmp_path, monkeypatch):
    cache = ScoreCache(tmp_path / "scores")
    first = FileScorer(suite, cache=cache).score(paths, prompts)
    with monkeypatch.context() as patch:
        patch.setattr(file_scorer, "read_clips", None)
        assert FileScorer(suite, cache=cache).score(paths, prompts) == first
    copy = tmp_path / "elsewhere.mp4"
    shutil.copy(paths[0], copy)
    counted = RewardSuite([*suite.rewards, Counted()], {})
    (result,) = FileScorer(counted, cache=cache).score([str(copy)], prompts[:1])
    # only the new reward is computed
    assert {n: v for n, v in result.scores.items() if n != "N"} == first[0].scores
    reward = counted.rewards[-1]
    FileScorer(counted, cache=cache).score([str(copy), paths[1]], prompts[:2])
    assert reward.batch_sizes == [1, 1]
    write_mp4(copy, read_mp4(paths[1]), fps=8)
    FileScorer(counted, cache=cache).score([str(copy)], ["another prompt"])
    assert reward.batch_sizes == [1, 1, 1]


def test_score_broken_cache_entry(paths, tmp_path):
    cache = ScoreCache(tmp_path)
    reward = Counted()
    scorer = FileScorer(RewardSuite([reward], {}), cache=cache)
    first = scorer.score(paths[:1], ["a"])
    entry = next(tmp_path.rglob("*.json"))
    entry.write_text("{")
    assert scorer.score(paths[:1], ["a"]) == scorer.score(paths[:1], ["a"]) == first
    assert reward.batch_sizes == [1, 1]


def test_score_without_fingerprint_not_cached(paths, tmp_path):
    reward = Counted()
    reward.fingerprint = None
    scorer = FileScorer(RewardSuite([reward], {}), cache=ScoreCache(tmp_path))
    scorer.score(paths[:2], ["a", "b"])
    scorer.score(paths[:2], ["a", "b"])
    assert reward.batch_sizes == [2, 2] and not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------- bad input


def test_score_unreadable_files(light_suite, paths, tmp_path):
    broken = odd_files.write_broken(tmp_path)
    strip = odd_files.write(tmp_path / "strip.mkv", odd_files.moving_square(2, 16, 640), "ffv1")
    single_frame = odd_files.write(tmp_path / "one\nframe.mp4", odd_files.moving_square(1))
    good = [paths[0], *map(str, odd_files.write_unusual(tmp_path)), paths[1], str(single_frame)]
    unreadable = [str(path) for path, _ in broken.values()] + [str(strip)]
    everything = good[:3] + unreadable + good[3:]
    scorer = FileScorer(light_suite, cache=ScoreCache(tmp_path / "scores"))
    results = {
        result.path: result for result in scorer.score(everything, ["a cat"] * len(everything))
    }
    for path in unreadable:
        (line,) = results[path].problems
        assert results[path].scores is None and path in line and "\n" not in line
    for path in good:
        assert results[path].problems == ()
        missing = [name for name, value in results[path].scores.items() if not np.isfinite(value)]
        assert missing == (["TC", "DD"] if path == str(single_frame) else [])


def test_score_tiny_videos(light_suite, tmp_path):
    for size in ((1, 1), (2, 3)):
        path = odd_files.write(
            tmp_path / "tiny.mkv", np.full((3, *size, 3), 90, np.uint8), "ffv1", "bgra"
        )
        (result,) = FileScorer(light_suite).score([str(path)], ["a cat"])
        assert result.problems == () and np.isfinite(list(result.scores.values())).all()


def test_score_refused_video(paths, tmp_path):
    suite = RewardSuite([Counted(), Motion()], {})
    cache = ScoreCache(tmp_path)
    results = FileScorer(suite, cache=cache).score(paths[:3], ["a", "refuse", "b"])
    assert [r.problems for r in results] == [
        (),
        (f"{paths[1]}: no N (this prompt is not for me)",),
        (),
    ]
    assert np.isnan(results[1].scores["N"]) and np.isfinite(results[1].scores["DD"])
    assert np.isfinite([results[0].scores["N"], results[2].scores["N"]]).all()
    assert (
        FileScorer(suite, cache=cache).score(paths[1:2], ["refuse"])[0].problems
        == results[1].problems
    )


@pytest.mark.slow
def test_score_refused_prompt(paths, tmp_path):
    suite = RewardSuite(
        [VideoScore.from_pretrained(write_videoscore(tmp_path / "judge"), frames=2)], {}
    )
    results = FileScorer(suite).score(paths[:2], ["a <image>", "a cat"])
    assert (
        "<image>" in results[0].problems[0] and np.isfinite(list(results[1].scores.values())).all()
    )


def test_score_out_of_memory(paths):
    class Large(Counted):
        def score(self, videos, prompts, refined=None):
            raise MemoryError

    (result,) = FileScorer(RewardSuite([Large()], {})).score(paths[:1], ["a"])
    assert "not enough memory" in result.problems[0]
