import json

import numpy as np
import pytest

from pav_jax import config as configuration
from pav_jax.errors import BadInput
from pav_jax.recipe import Recipe
from pav_jax.records import Candidate
from pav_jax.storage.records import SegmentFolder
from pav_jax.trust.calibrate import calibrate, command_options, fit_threshold, fit_weights


def make_pool(size=200, **scores):
    """Four rewrites per prompt; `scores` are added to each."""
    rng = np.random.default_rng(0)
    aes = 5 + 0.5 * rng.standard_normal(size)
    tva = 20 + 4 * rng.standard_normal(size)
    return [
        Candidate(
            key=str(i),
            prompt=f"prompt {i // 4}",
            refined=f"rewrite {i}",
            round=1,
            index=i,
            parents=(),
            proposer="local",
            seed=0,
            scores={"AES": aes[i], "TVA": tva[i], "TC": min(1.0, 0.9 + i / 100), "FAITH": 1.0}
            | scores,
        )
        for i in range(size)
    ]


def load_config(*overrides):
    weights = "--config.rewards.weights={'AES': 1.0, 'TVA': 2.0, 'TC': 0.0}"
    return configuration.load(None, [weights, *overrides])


def test_calibrate_weights(tmp_path):
    result = calibrate(load_config(), make_pool(), tmp_path)
    deviations = result["source"]["deviations"]
    terms = {name: weight * deviations[name] for name, weight in result["weights"].items()}
    assert set(terms) == {"AES", "TVA"}
    assert terms["TVA"] / terms["AES"] == pytest.approx(2, rel=1e-4)
    assert sum(terms.values()) == pytest.approx(deviations["AES"] + 2 * deviations["TVA"], rel=1e-4)
    assert json.loads((tmp_path / "calibration.json").read_text()) == result


def test_fit_weights_published_deviations():
    published = {"AES": 1.0, "MPS": 0.25}
    weights = fit_weights(published, {"AES": 2.0, "MPS": 2.0}, {"AES": 1.0, "MPS": 4.0})
    assert weights == pytest.approx({"AES": 1.25 / 2, "MPS": 1.25 / 2})


def test_calibrate_thresholds(tmp_path):
    pool = make_pool()
    result = calibrate(load_config("--config.calibrate.quantile=0.75"), pool, tmp_path)
    passing = {
        name: np.mean([c.scores[name] > threshold for c in pool])
        for name, threshold in result["thresholds"].items()
    }
    assert passing["AES"] == pytest.approx(0.25, abs=0.01)
    assert passing["TVA"] == pytest.approx(0.25, abs=0.01)
    assert passing["TC"] > 0.9  # most scores are at the upper bound
    assert "FAITH" not in result["thresholds"]  # a constraint
    assert 0 < result["source"]["num_passing_prompts"] <= result["source"]["num_prompts"] == 50


def test_fit_threshold_ties_at_maximum():
    assert fit_threshold(np.array([0.0, 1.0, 1.0, 1.0]), 0.6) == 0.0
    assert fit_threshold(np.ones(4), 0.6) is None


def test_calibrate_ignores_held_out_and_failed(tmp_path):
    pool = make_pool(**{"held_out:VQ": 3.0})
    failed = Candidate(
        key="x",
        prompt="prompt",
        refined="rewrite",
        round=1,
        index=0,
        parents=(),
        proposer="local",
        seed=0,
        scores={"AES": 1e9},
        error="the video is not finite",
    )
    result = calibrate(load_config(), pool, tmp_path)
    assert calibrate(load_config(), [*pool, failed], tmp_path) == result
    assert "held_out:VQ" not in result["thresholds"]


def test_command_options_can_be_loaded(tmp_path, capsys):
    SegmentFolder(tmp_path / "pool", Candidate).write(make_pool())
    assert Recipe(load_config()).calibrate(tmp_path).name == "calibration.json"
    lines = capsys.readouterr().out.splitlines()
    result = json.loads((tmp_path / "calibration.json").read_text())
    assert lines == command_options(result)
    rewards = configuration.load(None, [line.strip('"') for line in lines]).rewards
    assert rewards.thresholds.to_dict() == result["thresholds"]
    assert {name: rewards.weights[name] for name in result["weights"]} == result["weights"]


@pytest.mark.parametrize(
    "override, field",
    [
        ("quantile=1.0", "calibrate.quantile"),
        ("weights={'XX': 1}", "calibrate.weights.XX"),
        ("weights={'FLAT': 1}", "calibrate.weights.FLAT"),
        ("published_deviations={'AES': 0.0}", "calibrate.published_deviations.AES"),
    ],
)
def test_calibrate_invalid_options(tmp_path, override, field):
    with pytest.raises(BadInput) as error:
        calibrate(load_config(f"--config.calibrate.{override}"), make_pool(FLAT=1.0), tmp_path)
    assert error.value.field == field


def test_calibrate_without_pool(tmp_path):
    with pytest.raises(BadInput, match="run `pav evolve` first"):
        Recipe(load_config()).calibrate(tmp_path)
