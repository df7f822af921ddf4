import numpy as np
import pytest

from pav_jax.candidates import pool as pool_module
from pav_jax.candidates.candidate_store import PendingCandidate
from pav_jax.candidates.pool import CandidatePool
from pav_jax.errors import BadInput
from tests.fakes import FakeGenerator, FakeSuite


def make_pool(folder, generator=None, suite=None, **options):
    options = dict(seed=0, batch_size=2) | options
    return CandidatePool(
        generator or FakeGenerator(), suite or FakeSuite(), folder / "pool", folder, **options
    )


def pending(texts, round=0):
    return [PendingCandidate("a cat", text, round, i, (), "local") for i, text in enumerate(texts)]


def test_score_round_failed_video(tmp_path):
    pool = make_pool(tmp_path, FakeGenerator(np.float32, broken=["broken"]))
    assert list(pool.score_round(pending(["one", "two", "broken"]), 0)) == [2, 1]
    errors = {c.refined: c.error for c in pool.candidates}
    assert errors == {"one": None, "two": None, "broken": "the video is not finite"}
    broken = next(c for c in pool.candidates if c.error)
    assert np.isnan(list(broken.scores.values())).all()


def test_score_round_missing_score(tmp_path):
    pool = make_pool(tmp_path, suite=FakeSuite(nan=["two"]))
    list(pool.score_round(pending(["one", "two"]), 0))
    candidate = next(c for c in pool.candidates if c.error)
    assert (candidate.refined, candidate.error) == ("two", "no score: TVA")


def test_score_round_repeats_are_made_once(tmp_path):
    generator = FakeGenerator()
    pool = make_pool(tmp_path, generator)
    list(pool.score_round(pending(["one", "two", "one"]), 1))
    list(pool.score_round(pending(["two", "three"], round=2), 2))
    assert [c.refined for c in pool.candidates] == ["one", "two", "three"]
    assert [text for text, _ in generator.made] == ["one", "two", "three"]
    assert len({seed for _, seed in generator.made}) == 1


def test_keep_videos_best(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(
        pool_module, "write_mp4", lambda path, video, fps, audio: written.append(path)
    )
    values = {"one": 1.0, "two": 3.0, "three": 2.0, "four": 4.0}
    pool = make_pool(tmp_path, suite=FakeSuite(value=lambda p, r: values[r]), keep_videos="best")
    list(pool.score_round(pending(["one", "two"]), 0))
    list(pool.score_round(pending(["three", "four"], round=1), 1))
    saved = {c.refined: c.video for c in pool.candidates}
    assert saved["three"] is None
    assert [saved[text] is not None for text in ("one", "two", "four")] == [True] * 3
    assert [str(path) for path in written] == [
        str(tmp_path / saved[text]) for text in ("one", "two", "four")
    ]


def test_pool_of_another_generator_or_seed(tmp_path):
    list(make_pool(tmp_path).score_round(pending(["one"]), 0))
    other = FakeGenerator()
    other.fingerprint = "other"
    for options in (dict(generator=other), dict(seed=1)):
        with pytest.raises(BadInput) as caught:
            make_pool(tmp_path, **options)
        assert caught.value.source == str(tmp_path / "pool")


def test_keep_videos_unknown(tmp_path):
    with pytest.raises(BadInput) as caught:
        make_pool(tmp_path, keep_videos="some")
    assert caught.value.field == "keep_videos"
