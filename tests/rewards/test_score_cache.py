import math

import pytest

from pav_jax.rewards.score_cache import ScoreCache, default_folder

SCORES = {"TC": 0.1, "DD": math.nan}


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_get_after_put(tmp_path):
    cache = ScoreCache(tmp_path / "scores")
    assert cache.get("video", "prompt", "reward", ("TC", "DD")) is None
    cache.put("video", "prompt", "reward", SCORES)
    scores = ScoreCache(tmp_path / "scores").get("video", "prompt", "reward", ("TC", "DD"))
    assert scores["TC"] == 0.1 and math.isnan(scores["DD"])
    for other in (
        ("other", "prompt", "reward"),
        ("video", "other", "reward"),
        ("video", "prompt", "other"),
    ):
        assert cache.get(*other, ("TC", "DD")) is None
    assert [path.suffix for path in files(tmp_path)] == [".json"]  # nothing half-written is left


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"TC": 0.',
        b"[1, 2]",
        b'{"TC": 1.0}',
        b'{"TC": "a", "DD": 1}',
        b"\xff\xfe",
        b'{"TC": NaN, "DD": 1}',
        b'{"TC": true, "DD": 1}',
        b'{"TC": 1, "DD": 1, "X": 1}',
    ],
)
def test_get_broken_entry(content, tmp_path):
    cache = ScoreCache(tmp_path)
    cache.put("video", "prompt", "reward", SCORES)
    files(tmp_path)[0].write_bytes(content)
    assert cache.get("video", "prompt", "reward", ("TC", "DD")) is None
    cache.put("video", "prompt", "reward", SCORES)
    assert cache.get("video", "prompt", "reward", ("TC", "DD"))["TC"] == 0.1


def test_put_unwritable_folder(tmp_path):
    (tmp_path / "a file").touch()
    cache = ScoreCache(tmp_path / "a file")
    assert cache.problem is None
    cache.put("video", "prompt", "reward", SCORES)
    assert "a file" in cache.problem and "cannot be cached" in cache.problem
    cache.put("video", "prompt", "reward", SCORES)
    assert cache.get("video", "prompt", "reward", ("TC", "DD")) is None


def test_default_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "pav_jax" / "scores"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".cache" / "pav_jax" / "scores"
