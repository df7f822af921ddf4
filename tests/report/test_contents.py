import json
import math

import pytest

from pav_jax.errors import BadInput
from pav_jax.records import Candidate, Preference
from pav_jax.report.contents import evolution_rounds, read_contents
from pav_jax.storage.records import SegmentFolder, write_jsonl


def make_candidate(prompt, round, index, score, error=None):
    return Candidate(
        key=f"{prompt}{round}{index}",
        prompt=prompt,
        refined=f"{prompt} better",
        round=round,
        index=index,
        parents=(),
        proposer="lexicon",
        seed=0,
        scores={"AES": score},
        error=error,
    )


def test_evolution_rounds():
    pool = [
        make_candidate("a", 0, 0, 1.0),
        make_candidate("b", 0, 0, 3.0),
        make_candidate("a", 1, 0, 2.0),
        make_candidate("b", 1, 0, 1.0),
        make_candidate("b", 1, 1, 99.0, error="no score: TVA"),
    ]
    first, second = evolution_rounds(pool, {"AES": 2.0})
    assert (first.mean_overall, first.mean_best, first.num_failed) == (4.0, 4.0, 0)
    assert (second.mean_overall, second.mean_best, second.num_failed) == (3.0, 5.0, 1)
    assert second.num_candidates == 3


def test_read_contents_pool_only(tmp_path):
    SegmentFolder(tmp_path / "pool", Candidate).write([make_candidate("a", 0, 0, 1.0)])
    contents = read_contents(tmp_path)
    assert len(contents.evolution) == 1
    assert math.isnan(contents.evolution[0].mean_overall)  # there are no weights
    assert contents.evaluation is None
    assert contents.curves == {}
    assert contents.preferences == []


def test_read_contents_mean_overall_of_preference_round(tmp_path):
    """Preference's weights, as in the log and the pairs, not evolution's."""
    weights = {"rewards": {"AES": 1.0}, "evolve": {"AES": 2.0}, "prefer": {"AES": 10.0}}
    config = {section: {"weights": values} for section, values in weights.items()}
    (tmp_path / "config.json").write_text(json.dumps(config))
    SegmentFolder(tmp_path / "pool", Candidate).write([make_candidate("a", 0, 0, 3.0)])
    candidates = [make_candidate("a", 1, 0, 1.0), make_candidate("a", 1, 1, 2.0)]
    SegmentFolder(tmp_path / "round_1" / "candidates", Candidate).write(candidates)
    contents = read_contents(tmp_path)
    assert contents.preferences[0].mean_overall == 15.0
    assert contents.evolution[0].mean_overall == 6.0


def test_read_contents_preference_pairs(tmp_path):
    pairs = [
        Preference("a", "one two three", "one", 1.0),
        Preference("a", "one two three", "one two", 2.0),
    ]
    for number in (1, 2):
        write_jsonl(tmp_path / f"round_{number}" / "preferences.jsonl", pairs)
    first, second = read_contents(tmp_path).preferences
    assert (first.number, second.number) == (1, 2)
    assert (first.num_pairs, first.num_prompts, first.mean_margin) == (2, 1, 1.5)
    assert (first.chosen_words, first.rejected_words) == (3.0, 1.5)


@pytest.mark.parametrize("stage", ["sft", "round_1", "grpo"])
def test_read_contents_incomplete_metrics(tmp_path, stage):
    rows = [{"step": 1, "loss": 1.0}] + [{"step": s, "loss": 1 / s, "late": 1.0} for s in (2, 3)]
    lines = [json.dumps(row) for row in rows] + ['{"step": 4, "lo']
    (tmp_path / stage).mkdir()
    (tmp_path / stage / "metrics.jsonl").write_text("\n".join(lines))
    curve = read_contents(tmp_path).curves[stage]
    assert curve == {"step": [1, 2, 3], "loss": [1.0, 0.5, 1 / 3]}


def test_read_contents_missing_or_empty_workdir(tmp_path):
    for workdir in (tmp_path, tmp_path / "missing"):
        with pytest.raises(BadInput) as error:
            read_contents(workdir)
        assert error.value.source == str(workdir)


def test_read_contents_corrupt_evaluation(tmp_path):
    file = tmp_path / "evaluation.json"
    file.write_text("{")
    with pytest.raises(BadInput) as error:
        read_contents(tmp_path)
    assert error.value.source == str(file)
