import json
import math

import pytest

from pav_jax.errors import BadInput
from pav_jax.records import Candidate, Preference
from pav_jax.report.contents import evolution, read_contents
from pav_jax.storage.records import SegmentWriter, write_jsonl


def candidate(prompt, round, index, score, error=None):
    return Candidate(
        f"{prompt}{round}{index}",
        prompt,
        f"{prompt} better",
        round,
        index,
        (),
        "lexicon",
        0,
        {"AES": score},
        None,
        error,
    )


def test_the_best_so_far_never_falls_and_errors_do_not_count():
    pool = [
        candidate("a", 0, 0, 1.0),
        candidate("b", 0, 0, 3.0),
        candidate("a", 1, 0, 2.0),
        candidate("b", 1, 0, 1.0),
        candidate("b", 1, 1, 99.0, error="no score: TVA"),
    ]
    first, second = evolution(pool, {"AES": 2.0})
    assert (first.mean, first.best, first.failed) == (4.0, 4.0, 0)
    assert (second.mean, second.best, second.failed, second.candidates) == (3.0, 5.0, 1, 3)


def test_only_what_is_there_is_reported(tmp_path):
    SegmentWriter(tmp_path / "pool").write([candidate("a", 0, 0, 1.0)])
    found = read_contents(tmp_path)
    assert len(found.evolution) == 1 and math.isnan(found.evolution[0].mean)  # no weights known
    assert found.evaluation is None and found.curves == {} and found.preferences == []


def test_read_contents_mean_overall_of_preference_round(tmp_path):
    """Preference's weights, as in the log and the pairs, not evolution's."""
    weights = {"rewards": {"AES": 1.0}, "evolve": {"AES": 2.0}, "prefer": {"AES": 10.0}}
    config = {section: {"weights": values} for section, values in weights.items()}
    (tmp_path / "config.json").write_text(json.dumps(config))
    SegmentWriter(tmp_path / "pool").write([candidate("a", 0, 0, 3.0)])
    rows = [candidate("a", 1, 0, 1.0), candidate("a", 1, 1, 2.0)]
    SegmentWriter(tmp_path / "round_1" / "candidates").write(rows)
    contents = read_contents(tmp_path)
    assert contents.preferences[0].sampled == 15.0
    assert contents.evolution[0].mean == 6.0


def test_pairs_are_counted_per_round(tmp_path):
    for number in (1, 2):
        write_jsonl(
            tmp_path / f"round_{number}" / "preferences.jsonl",
            [
                Preference("a", "one two three", "one", 1.0),
                Preference("a", "one two three", "one two", 2.0),
            ],
        )
    first, second = read_contents(tmp_path).preferences
    assert (first.round, second.round) == (1, 2)
    assert (first.pairs, first.prompts, first.margin, first.chosen_words, first.rejected_words) == (
        2,
        1,
        1.5,
        3.0,
        1.5,
    )


@pytest.mark.parametrize("stage", ["sft", "round_1", "grpo"])
def test_a_half_written_metrics_line_is_left_out(tmp_path, stage):
    (tmp_path / stage).mkdir()
    lines = [
        json.dumps({"step": s, "loss": 1 / s, **({"late": 1.0} if s > 1 else {})})
        for s in (1, 2, 3)
    ]
    (tmp_path / stage / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 4, "lo')
    curve = read_contents(tmp_path).curves[stage]
    assert curve == {"step": [1, 2, 3], "loss": [1.0, 0.5, 1 / 3]}


def test_nothing_to_report_is_said(tmp_path):
    with pytest.raises(BadInput, match="nothing to report"):
        read_contents(tmp_path)
    with pytest.raises(BadInput, match="no such work directory"):
        read_contents(tmp_path / "other")
    (tmp_path / "evaluation.json").write_text("{")
    with pytest.raises(BadInput, match="evaluation.json: not valid JSON"):
        read_contents(tmp_path)
