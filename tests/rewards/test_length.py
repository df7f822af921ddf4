"""LENGTH against its formula, and ranges that are none."""

import numpy as np
import pytest

from pav_jax.config import load
from pav_jax.errors import BadInput
from pav_jax.rewards import Length
from pav_jax.rewards.suite_config import check_config


def score(*num_words, minimum=10, maximum=20):
    texts = [" ".join(["word"] * n) for n in num_words]
    reward = Length(minimum, maximum)
    return reward.score(None, texts, texts)["LENGTH"]


def test_score_within_and_outside_the_range():
    np.testing.assert_allclose(
        score(0, 5, 10, 15, 20, 30, 40, 60), [-1, -0.25, 0, 0, 0, -0.25, -1, -4]
    )
    assert score(5).dtype == np.float32


def test_score_smooth_at_both_ends():
    """One word outside costs the square of its share of the limit, not a step."""
    np.testing.assert_allclose(score(9, 21), [-0.01, -0.0025], rtol=1e-6)


def test_score_without_rewrites():
    assert Length(1, 2).score(np.zeros((1, 1, 1, 1, 3), np.uint8), ["a"]) == {}


@pytest.mark.parametrize("entry", [dict(minimum=20, maximum=10), dict(minimum=0, maximum=10), {}])
def test_config_range_that_is_none(entry):
    config = load().rewards.to_dict() | {"entries": {"length": entry}, "weights": {"LENGTH": 1.0}}
    with pytest.raises(BadInput, match=r"length.*minimum") as caught:
        check_config(config)
    assert caught.value.field == "rewards.entries.length.minimum"
