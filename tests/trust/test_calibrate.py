import json

import numpy as np
import pytest

from pav_jax import config as configuration
from pav_jax import recipe
from pav_jax.errors import BadInput
from pav_jax.records import Candidate
from pav_jax.storage.records import SegmentWriter
from pav_jax.trust.calibrate import calibrate, overrides, threshold, weights


def pool(n=200, **extra):
    rng = np.random.default_rng(0)
    aes, tva = 5 + 0.5 * rng.standard_normal(n), 20 + 4 * rng.standard_normal(n)
    return [
        Candidate(
            str(i),
            f"prompt {i // 4}",
            f"rewrite {i}",
            1,
            i,
            (),
            "local",
            0,
            {"AES": aes[i], "TVA": tva[i], "TC": min(1.0, 0.9 + i / 100), "FAITH": 1.0} | extra,
        )
        for i in range(n)
    ]


def settings(*overrides):
    return configuration.load(
        None, ["--config.rewards.weights={'AES': 1.0, 'TVA': 2.0, 'TC': 0.0}", *overrides]
    )


def test_weighted_deviations_keep_the_proportions_of_the_weights(tmp_path):
    result = calibrate(settings(), pool(), tmp_path)
    deviations = result["from"]["deviations"]
    terms = {name: w * deviations[name] for name, w in result["weights"].items()}
    assert set(terms) == {"AES", "TVA"} and terms["TVA"] / terms["AES"] == pytest.approx(
        2, rel=1e-4
    )
    assert sum(terms.values()) == pytest.approx(deviations["AES"] + 2 * deviations["TVA"], rel=1e-4)
    assert json.loads((tmp_path / "calibration.json").read_text()) == result


def test_the_spread_where_weights_come_from_counts():
    found = weights({"AES": 1.0, "MPS": 0.25}, {"AES": 2.0, "MPS": 2.0}, {"AES": 1.0, "MPS": 4.0})
    assert found == pytest.approx({"AES": 1.25 / 2, "MPS": 1.25 / 2})


def test_thresholds_let_the_wanted_share_through(tmp_path):
    rows = pool()
    result = calibrate(settings("--config.calibrate.percentile=0.75"), rows, tmp_path)
    passing = {
        name: np.mean([c.scores[name] > limit for c in rows])
        for name, limit in result["thresholds"].items()
    }
    assert passing["AES"] == pytest.approx(0.25, abs=0.01) and passing["TVA"] == pytest.approx(
        0.25, abs=0.01
    )
    assert passing["TC"] > 0.9  # most are at the upper end, and what passes lies above
    assert "FAITH" not in result["thresholds"]  # a floor
    assert 0 < result["from"]["prompts_passing"] <= result["from"]["prompts"] == 50


def test_ties_at_the_end_still_let_something_pass():
    assert (
        threshold(np.array([0.0, 1.0, 1.0, 1.0]), 0.6) == 0.0 and threshold(np.ones(4), 0.6) is None
    )


def test_held_out_scores_and_failures_are_no_part_of_it(tmp_path):
    rows = pool(**{"held_out:VQ": 3.0})
    broken = Candidate(
        "x",
        "prompt",
        "rewrite",
        1,
        0,
        (),
        "local",
        0,
        {"AES": 1e9},
        None,
        "the video is not finite",
    )
    assert calibrate(settings(), [*rows, broken], tmp_path) == calibrate(settings(), rows, tmp_path)
    assert "held_out:VQ" not in calibrate(settings(), rows, tmp_path)["thresholds"]


def test_the_printed_options_load(tmp_path, capsys):
    SegmentWriter(tmp_path / "pool").write(pool())
    assert recipe.calibrate(settings(), tmp_path).name == "calibration.json"
    lines = capsys.readouterr().out.splitlines()
    result = json.loads((tmp_path / "calibration.json").read_text())
    loaded = configuration.load(None, [line.strip('"') for line in lines])
    assert (
        lines == overrides(result) and loaded.rewards.thresholds.to_dict() == result["thresholds"]
    )
    assert {n: loaded.rewards.weights[n] for n in result["weights"]} == result["weights"]


@pytest.mark.parametrize(
    "override, message",
    [
        ("--config.calibrate.percentile=1.0", "calibrate.percentile=1.0"),
        ("--config.calibrate.weights={'XX': 1}", "holds no score XX"),
        ("--config.calibrate.weights={'FLAT': 1}", "every FLAT in the pool is the same"),
        ("--config.calibrate.spreads={'AES': 0.0}", "calibrate.spreads.AES=0.0"),
    ],
)
def test_what_cannot_be_fitted_is_said(tmp_path, override, message):
    with pytest.raises(BadInput) as caught:
        calibrate(settings(override), pool(FLAT=1.0), tmp_path)
    assert message in str(caught.value)


def test_without_a_pool_the_next_step_is_named(tmp_path):
    with pytest.raises(BadInput, match="run `pav evolve` first"):
        recipe.calibrate(settings(), tmp_path)
