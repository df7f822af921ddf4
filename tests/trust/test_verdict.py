import numpy as np
import pytest

from pav_jax.trust import verdict
from pav_jax.trust.corruptions import CORRUPTION_TYPES

GOOD = {"correlation": -0.9, "fall": 3.0, "threshold": 0.2}


def judge(
    reads=True, difference=(1.0, 0.5, 1.5), area=0.9, saturated=(0.0, 0.0), rising=(), **verified
):
    return verdict.judge(reads, difference, area, GOOD | verified, saturated, rising)


@pytest.mark.parametrize(
    "facts, word, reason",
    [
        ({}, "usable", ""),
        (dict(difference=(1.0, -0.1, 2.1)), "does not read the prompt", "AUC 0.90"),
        (dict(area=0.55), "does not read the prompt", "permuted prompt does as well"),
        (dict(reads=False, difference=(0.0, 0.0, 0.0), area=0.5), "usable", "need not read"),
        (dict(correlation=-0.1), "noisy", "does not follow damage"),
        (dict(fall=0.4), "noisy", "0.4 deviations over seeds"),
        (dict(fall=np.inf), "usable", ""),
        (dict(difference=(np.nan,) * 3), "no scores", "too few"),
        (dict(saturated=(0.0, 0.61)), "usable", "61 % of its scores are the highest"),
        (dict(rising=["freeze", "blur"]), "usable", "rises with freeze, blur"),
    ],
)
def test_the_verdict_follows_the_figures(facts, word, reason):
    found, why = judge(**facts)
    assert found == word and reason in "; ".join(why) and bool(why) == bool(reason)


def test_what_a_score_claims_follows_its_name_unless_told():
    assert verdict.claimed("DD", {}) == ("freeze", "slow motion")
    assert verdict.claimed("held_out:DD", {}) == verdict.claimed("DD", {})
    assert verdict.claimed("DD", {"DD": ("text",)}) == ("wrong caption", "added caption")
    assert set(verdict.claimed("MINE", {})) < set(CORRUPTION_TYPES)
    assert [n for n in verdict.CLAIMS if verdict.reads_prompt(n, {})] == [
        "TVA",
        "CLIP",
        "MPS",
        "FAITH",
        "QA",
    ]


def test_a_fall_is_measured_in_deviations_over_seeds():
    scores = np.array([[3.0, 2.0, 1.0], [4.0, 4.0, 2.0]])
    assert verdict.fall(scores, 0.5) == 4.0 and verdict.fall(scores, 0.0) == np.inf
    assert verdict.fall(scores[:, :1], 0.0) == 0.0 and np.isnan(verdict.fall(scores * np.nan, 0.5))


def test_the_threshold_is_chances_and_never_small():
    rng = np.random.default_rng(0)
    for videos, least in ((3, 0.4), (200, verdict.LEAST)):
        scores = {kind: rng.standard_normal((videos, 5)) for kind in CORRUPTION_TYPES}
        found = verdict.responses("AES", scores, (0, 1, 2, 3, 4), 1.0, {})
        assert found["fixed"]["threshold"] == found["verified"]["threshold"] >= least
        assert max(half["chance"] for half in found.values()) < 0.03
        assert found["verified"]["noticed"] < 1
