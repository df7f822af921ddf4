import numpy as np
import pytest

from pav_jax.trust import verdict
from pav_jax.trust.corruptions import CORRUPTION_TYPES

GOOD_RESPONSE = {"correlation": -0.9, "drop": 3.0, "threshold": 0.2}


def decide(
    reads_prompt=True,
    difference=(1.0, 0.5, 1.5),
    auc=0.9,
    saturated_shares=(0.0, 0.0),
    rising=(),
    **response,
):
    """The decision on a usable score, with some statistics replaced."""
    return verdict.decide(
        reads_prompt, difference, auc, GOOD_RESPONSE | response, saturated_shares, rising
    )


@pytest.mark.parametrize(
    "statistics, decision, reason",
    [
        ({}, verdict.USABLE, ""),
        (dict(difference=(1.0, -0.1, 2.1)), verdict.PROMPT_INSENSITIVE, "AUC 0.90"),
        (dict(auc=0.55), verdict.PROMPT_INSENSITIVE, "permuted prompts score as high"),
        (
            dict(reads_prompt=False, difference=(0.0, 0.0, 0.0), auc=0.5),
            verdict.USABLE,
            "not expected to read the prompt",
        ),
        (dict(correlation=-0.1), verdict.NOISY, "weak response to corruptions"),
        (dict(drop=0.4), verdict.NOISY, "only 0.4 standard deviations"),
        (dict(drop=np.inf), verdict.USABLE, ""),
        (dict(difference=(np.nan,) * 3), verdict.NO_SCORES, "too few"),
        (dict(saturated_shares=(0.0, 0.61)), verdict.USABLE, "61% of the scores"),
        (dict(rising=["freeze", "blur"]), verdict.USABLE, "rises with freeze, blur"),
    ],
)
def test_decide(statistics, decision, reason):
    result, reasons = decide(**statistics)
    assert result == decision
    assert reason in "; ".join(reasons)
    assert bool(reasons) == bool(reason)


def test_expected_corruptions():
    assert verdict.expected_corruptions("DD", {}) == ("freeze", "slow motion")
    assert verdict.expected_corruptions("held_out:DD", {}) == ("freeze", "slow motion")
    overridden = verdict.expected_corruptions("DD", {"DD": ("text",)})
    assert overridden == ("wrong caption", "added caption")
    assert set(verdict.expected_corruptions("MINE", {})) < set(CORRUPTION_TYPES)


def test_should_read_prompt():
    reading = [n for n in verdict.EXPECTED_SENSITIVITIES if verdict.should_read_prompt(n, {})]
    assert reading == ["TVA", "CLIP", "VR_TA", "MPS", "HPSV3", "FAITH", "VQA", "RUBRIC_SF", "QA"]


def test_drop_in_std():
    scores = np.array([[3.0, 2.0, 1.0], [4.0, 4.0, 2.0]])
    assert verdict.drop_in_std(scores, 0.5) == 4.0
    assert verdict.drop_in_std(scores, 0.0) == np.inf
    assert verdict.drop_in_std(scores[:, :1], 0.0) == 0.0
    assert np.isnan(verdict.drop_in_std(scores * np.nan, 0.5))


@pytest.mark.parametrize("num_videos, lowest", [(3, 0.4), (200, verdict.MIN_THRESHOLD)])
def test_corruption_responses_random_scores(num_videos, lowest):
    rng = np.random.default_rng(num_videos)
    scores = {kind: rng.standard_normal((num_videos, 5)) for kind in CORRUPTION_TYPES}
    responses = verdict.corruption_responses("AES", scores, (0, 1, 2, 3, 4), 1.0, {})
    assert responses["tuning"]["threshold"] == responses["validation"]["threshold"] >= lowest
    assert max(response["false_positive_rate"] for response in responses.values()) < 0.03
    assert responses["validation"]["detected"] < 1
