"""Candidates of a preference round: sampled, made, scored, resumable."""

import pytest

from pav_jax import records
from pav_jax.errors import BadInput
from pav_jax.prefer.sampling import make_candidates
from pav_jax.records import Candidate
from pav_jax.storage import records as storage_records
from pav_jax.storage.records import read_segments
from tests.fakes import PROMPTS, Generator, Rewriter, Suite, config


class Stop(Exception):
    pass


def run(workdir, generator=None, rewriter=None, round=1, **options):
    return make_candidates(
        config(**options),
        PROMPTS,
        rewriter or Rewriter(),
        generator or Generator(),
        Suite(),
        workdir,
        round,
    )


def test_every_prompt_gets_its_samples_and_their_scores(tmp_path):
    rewriter = Rewriter()
    rows = run(tmp_path, rewriter=rewriter)
    assert rows == read_segments(tmp_path / "round_1" / "candidates", Candidate)
    assert {p: sum(c.prompt == p for c in rows) for p in PROMPTS} == dict.fromkeys(PROMPTS, 3)
    assert {c.round for c in rows} == {1} and {c.proposer for c in rows} == {"sft"}
    assert len({seed for _, seed in rewriter.asked}) == len(PROMPTS)
    again = run(tmp_path, round=2)
    assert {c.proposer for c in again} == {"round_1"} and not {c.refined for c in again} & {
        c.refined for c in rows
    }


def test_equal_and_empty_samples_are_left_out(tmp_path):
    rows = run(
        tmp_path, rewriter=Rewriter(lambda prompt, k, seed: ["  ", "same\none", "same one"][k])
    )
    assert [c.refined for c in rows] == ["same one"] * len(PROMPTS)


def test_stopped_at_every_write_the_candidates_end_the_same_and_nothing_is_made_twice(
    tmp_path, monkeypatch
):
    whole = Generator()
    expected = [records.to_json(c) for c in run(tmp_path / "whole", whole)]
    total = len(list((tmp_path / "whole").rglob("*.jsonl")))
    real = storage_records.write_atomic
    for k in range(total):
        left, first, second = [k], Generator(), Generator()

        def write_atomic(path, data, left=left):
            if left[0] == 0:
                raise Stop
            left[0] -= 1
            real(path, data)

        with monkeypatch.context() as patch:
            patch.setattr(storage_records, "write_atomic", write_atomic)
            with pytest.raises(Stop):
                run(tmp_path / str(k), first)
        kept = len(read_segments(tmp_path / str(k) / "round_1" / "candidates", Candidate))
        assert [records.to_json(c) for c in run(tmp_path / str(k), second)] == expected
        assert kept + len(second.made) == len(whole.made)


def test_a_rewriter_that_says_nothing_is_bad_input(tmp_path):
    with pytest.raises(BadInput, match="no usable rewrite"):
        run(tmp_path, rewriter=Rewriter(lambda prompt, k, seed: ""))
