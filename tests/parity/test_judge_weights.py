"""The real weights of LPIPS and I3D, out of their packages, on videos of the mini world. Needs a
package index once."""

import numpy as np
import pytest

from pav_jax.evaluate.frechet import frechet_distance
from pav_jax.mini.render import render
from pav_jax.mini.world import draw_scene
from pav_jax.rewards.i3d_features import FILE, I3DFeatures
from pav_jax.rewards.lpips import FILES, LPIPSConsistency
from pav_jax.trust.corruptions import corrupt_video
from tests import campaigns
from tests.absent import fetched

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def weights():
    return [fetched(file.path) for file in (FILE, FILES["alexnet"])]


@pytest.fixture(scope="module")
def worlds():
    """Two sets of scenes."""
    rng = np.random.default_rng(0)
    videos = render([draw_scene(rng) for _ in range(16)])
    return videos[:8], videos[8:]


def damaged(videos, kind, severity):
    return np.stack(
        [corrupt_video(video, kind, severity, seed) for seed, video in enumerate(videos)]
    )


def test_frechet_distance_grows_with_corruption(worlds):
    network = I3DFeatures.from_pretrained()
    first, second = worlds
    a = network.features(first)
    b = network.features(second)
    assert a.shape == (8, 400)
    assert frechet_distance(a, a) < 1e-6 and frechet_distance(a, b) == pytest.approx(
        frechet_distance(b, a), rel=1e-9
    )
    kinds, severities = ("blur",), (1, 4)
    if campaigns.IS_REQUESTED:  # takes minutes
        kinds, severities = ("blur", "noise", "flicker"), (1, 2, 4)
    scores = {
        kind: [frechet_distance(a, network.features(damaged(first, kind, s))) for s in severities]
        for kind in kinds
    }
    print("FVD", {"other scenes": frechet_distance(a, b)} | scores)
    assert all((np.diff([0.0, *values]) > 0).all() for values in scores.values())


def test_lpips_scores_flicker_and_jumps(worlds):
    judge = LPIPSConsistency.from_pretrained()
    videos = worlds[0][:12]
    prompts = [""] * len(videos)
    scores = {
        kind: [
            float(judge.score(damaged(videos, kind, s), prompts)["PC"].mean()) for s in (0, 1, 2, 4)
        ]
        for kind in ("flicker", "jump")
    }
    print("PC", scores)
    assert all(a > b > d for a, b, _, d in scores.values())
