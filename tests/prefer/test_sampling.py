"""Candidates of a preference round: sampled, made, scored, resumable."""

import pytest

from pav_jax import records
from pav_jax.errors import BadInput
from pav_jax.prefer.sampling import make_candidates
from pav_jax.records import Candidate
from pav_jax.storage import records as storage_records
from pav_jax.storage.records import read_segments
from tests.fakes import PROMPTS, FakeGenerator, FakeLanguageModel, FakeSuite, make_config


class StopError(Exception):
    pass


def run(workdir, generator=None, rewriter=None, round=1, **options):
    return make_candidates(
        make_config(**options),
        PROMPTS,
        rewriter or FakeLanguageModel(),
        generator or FakeGenerator(),
        FakeSuite(),
        workdir,
        round,
    )


def test_make_candidates(tmp_path):
    rewriter = FakeLanguageModel()
    rows = run(tmp_path, rewriter=rewriter)
    assert rows == read_segments(tmp_path / "round_1" / "candidates", Candidate)
    assert {p: sum(c.prompt == p for c in rows) for p in PROMPTS} == dict.fromkeys(PROMPTS, 3)
    assert {c.round for c in rows} == {1} and {c.proposer for c in rows} == {"sft"}
    assert len({seed for _, seed in rewriter.requests}) == len(PROMPTS)
    again = run(tmp_path, round=2)
    assert {c.proposer for c in again} == {"round_1"} and not {c.refined for c in again} & {
        c.refined for c in rows
    }


def test_make_candidates_equal_and_empty_samples(tmp_path):
    rows = run(
        tmp_path,
        rewriter=FakeLanguageModel(lambda prompt, k, seed: ["  ", "same\none", "same one"][k]),
    )
    assert [c.refined for c in rows] == ["same one"] * len(PROMPTS)


def test_make_candidates_stopped_at_every_write(tmp_path, monkeypatch):
    whole = FakeGenerator()
    expected = [records.to_json(c) for c in run(tmp_path / "whole", whole)]
    total = len(list((tmp_path / "whole").rglob("*.jsonl")))
    real = storage_records.write_atomic
    for k in range(total):
        left = [k]
        first = FakeGenerator()
        second = FakeGenerator()

        def write_atomic(path, data, left=left):
            if left[0] == 0:
                raise StopError
            left[0] -= 1
            real(path, data)

        with monkeypatch.context() as patch:
            patch.setattr(storage_records, "write_atomic", write_atomic)
            with pytest.raises(StopError):
                run(tmp_path / str(k), first)
        finished = len(read_segments(tmp_path / str(k) / "round_1" / "candidates", Candidate))
        assert [records.to_json(c) for c in run(tmp_path / str(k), second)] == expected
        assert finished + len(second.made) == len(whole.made)


def test_make_candidates_without_any_rewrite(tmp_path):
    with pytest.raises(BadInput) as caught:
        run(tmp_path, rewriter=FakeLanguageModel(lambda prompt, k, seed: ""))
    assert caught.value.field == "proposers"


def test_make_candidates_guarded(tmp_path):
    def reply(prompt, k, seed):
        return f"{prompt} in soft light" if k else "A teapot on a table."

    unguarded = run(tmp_path / "off", rewriter=FakeLanguageModel(reply))
    guard = {"mode": "on", "fidelity": 0.9, "max_words": None, "language": "en", "samples": 4}
    rows = run(tmp_path / "on", rewriter=FakeLanguageModel(reply), booster__guard=guard)
    assert {c.refined for c in unguarded} - {c.refined for c in rows} == {"A teapot on a table."}
    assert {c.refined for c in rows} == {f"{prompt} in soft light" for prompt in PROMPTS}
