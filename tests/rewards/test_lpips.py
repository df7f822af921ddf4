import pickle

import jax
import numpy as np
import pytest

from pav_jax.errors import BadInput
from pav_jax.models.lpips import NETS
from pav_jax.models.lpips.names import PREFIX, param_shapes, weights
from pav_jax.rewards import LPIPSConsistency, RewardSuite
from tests.parity.random_params import random_tensors


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Random weights in the package's layout."""
    net = NETS["alexnet"]
    tensors = random_tensors(
        weights(net, PREFIX["alexnet"]), param_shapes(net), 0, positive=("/kernel",)
    )
    tree: dict = {}
    for name, array in tensors.items():
        *folders, leaf = name.split("/")
        inner = tree
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[leaf] = array.reshape(1, 1, -1, 1) if name.startswith("NetLin") else array
    path = tmp_path_factory.mktemp("lpips") / "alexnet.ckpt"
    path.write_bytes(pickle.dumps(tree))
    return path


@pytest.fixture(scope="module")
def judge(file):
    return LPIPSConsistency.from_pretrained(file)


def test_score_mean_distance_of_neighbours(judge, videos):
    clips = np.kron(videos, np.ones((1, 1, 4, 4, 1))).astype(np.uint8)[:2]  # 80 x 96: not enlarged
    scores = judge.score(clips, ["", ""])["PC"]
    distance = jax.jit(judge.model.apply)
    for clip, score in zip(clips / np.float32(127.5) - 1, scores, strict=True):
        pairs = distance({"params": judge._params}, clip[:-1], clip[1:])
        assert score == pytest.approx(1 - float(pairs.mean()), abs=1e-5)
    assert scores.dtype == np.float32 and scores.max() < 1 - 1e-3


def test_score_still_small_and_single_frame(judge, videos):
    still = np.repeat(videos[:1, :1], 3, axis=1)  # 20 x 24 pixels
    assert judge.score(still, [""])["PC"] == pytest.approx([1], abs=1e-6)
    assert np.isfinite(judge.score(videos[:1], [""])["PC"]).all()
    assert np.isnan(judge.score(videos[:, :1], [""] * 5)["PC"]).all()


def test_from_config_and_invalid_options(file, tmp_path):
    suite = RewardSuite.from_config(
        {"entries": {"motion": {}}, "held_out": [{"name": "lpips", "path": str(file)}]}
    )
    assert suite.held_out == ("held_out:PC",) and suite.held_out_rewards[0].fingerprint
    with pytest.raises(BadInput) as error:
        LPIPSConsistency.from_pretrained(file, net="resnet")
    assert error.value.field == "net"
    with pytest.raises(BadInput, match="VGG16_0/Conv_0/kernel' is missing"):
        LPIPSConsistency.from_pretrained(file, net="vgg16")
    with pytest.raises(BadInput, match="none.ckpt: cannot be read"):
        LPIPSConsistency.from_pretrained(tmp_path / "none.ckpt")
