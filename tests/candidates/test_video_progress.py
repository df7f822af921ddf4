"""What a stage that makes videos tells: lines with mean scores, scalars without double points."""

import numpy as np
import pytest

from pav_jax.candidates.candidate_store import PendingCandidate
from pav_jax.candidates.pool import CandidatePool
from pav_jax.candidates.video_progress import VideoProgress
from pav_jax.progress import Progress
from pav_jax.storage.scalars import FILE, read_events
from pav_jax.video.no_videos import NoVideos
from tests.fakes import FakeGenerator, FakeSuite

TEXTS = ["one", "two", "three", "four", "five"]


def run(folder, texts=TEXTS, suite=None, generator=None):
    """Score texts in batches of two; returns the pool and the progress."""
    generator = generator or FakeGenerator()
    suite = suite or FakeSuite()
    pool = CandidatePool(generator, suite, folder / "pool", folder, seed=0, batch_size=2)
    with Progress(logs=folder / "logs") as progress:
        videos = VideoProgress("prefer, round 1", len(TEXTS), pool, progress, scalars="prefer_1")
        pending = [PendingCandidate("a cat", t, 1, i, (), "sft") for i, t in enumerate(texts)]
        for num_finished in pool.score_round(pending, 1):
            videos.advance(num_finished)
        if len(texts) == len(TEXTS):
            videos.advance_to(videos.total)
    return pool, videos


def points(folder):
    events = read_events((folder / "logs" / "prefer_1" / FILE).read_bytes())
    return [(v.tag, e.step, v.simple_value) for e in events for v in e.summary.value]


def test_lines_and_scalars(tmp_path, capsys):
    pool, _ = run(tmp_path)
    scores = {name: [c.scores[name] for c in pool.candidates] for name in ("AES", "TVA", "FAITH")}
    means = {name: float(np.mean(values)) for name, values in scores.items()}
    means["overall"] = means["AES"] + means["TVA"]
    last = capsys.readouterr().err.splitlines()[-1]
    assert "prefer, round 1: 5 of 5 videos, finished in" in last
    assert last.endswith(", ".join(f"{name} {value:.3f}" for name, value in means.items()))
    final = {tag: value for tag, step, value in points(tmp_path) if step == 5}
    rate = final.pop("videos_per_second")
    assert rate > 0 and final == pytest.approx({f"mean/{n}": v for n, v in means.items()}, rel=1e-5)


def test_show_before_the_first_videos(tmp_path, capsys):
    pool = CandidatePool(FakeGenerator(), FakeSuite(), tmp_path, tmp_path, seed=0, batch_size=2)
    with Progress() as progress:
        VideoProgress("prefer, round 1", 5, pool, progress).show("rewriting prompts")
    last = capsys.readouterr().err.splitlines()[-1]
    assert "0 of 5 videos, stopped after" in last and last.endswith(", rewriting prompts")


def test_resumed_run_has_no_point_twice(tmp_path, capsys):
    run(tmp_path, TEXTS[:2])
    assert "2 of 5 videos, stopped after" in capsys.readouterr().err.splitlines()[-1]
    run(tmp_path)
    _, videos = run(tmp_path)
    steps = [(tag, step) for tag, step, _ in points(tmp_path)]
    assert len(set(steps)) == len(steps) and {step for _, step in steps} == {2, 4, 5}
    assert videos.rate() == "all videos cached"


def test_lines_without_videos(tmp_path, capsys):
    pool, videos = run(tmp_path, generator=NoVideos())
    assert "5 of 5 rewrites, finished in" in capsys.readouterr().err.splitlines()[-1]
    assert videos.rate() == "no videos needed" and pool.videos_made == 0


def test_means_leave_out_missing_scores(tmp_path, capsys):
    run(tmp_path, suite=FakeSuite(nan=TEXTS))
    last = capsys.readouterr().err.splitlines()[-1]
    assert "AES" in last and "TVA" not in last and "overall" not in last
