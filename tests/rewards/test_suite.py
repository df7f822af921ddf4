import shutil

import numpy as np
import pytest
from ml_collections import ConfigDict

from pav_jax.checkpoints.safetensors import read_tensors, write_tensors
from pav_jax.errors import BadInput
from pav_jax.rewards import Aesthetic, ClipAlignment, Faithfulness, Motion, RewardSuite
from pav_jax.rewards.reward import Reward
from pav_jax.rewards.subset import RewardSubset, UnavailableReward


@pytest.fixture(scope="module")
def suite(clip_folder):
    return RewardSuite.from_config(
        ConfigDict(
            {
                "entries": {
                    "aesthetic": {"path": str(clip_folder), "frames": 2},
                    "clip_alignment": {"path": str(clip_folder)},
                    "motion": {},
                    "faithfulness": {},
                },
                "weights": {"AES": 1.0, "TVA": 0.5, "TC": 2.0},
                "thresholds": {"AES": -10.0},
                "constraints": {"FAITH": 0.7},
            }
        )
    )


def test_from_config(suite):
    assert suite.names == ("AES", "TVA", "FAITH", "TC", "DD")  # a ConfigDict sorts its keys
    assert [type(r) for r in suite.rewards] == [Aesthetic, ClipAlignment, Faithfulness, Motion]
    assert suite.rewards[0].tower is suite.rewards[1].tower and suite.rewards[0].frames == 2
    assert (suite.weights, suite.thresholds, suite.constraints) == (
        {"AES": 1.0, "TVA": 0.5, "TC": 2.0},
        {"AES": -10.0},
        {"FAITH": 0.7},
    )


def test_from_config_entry_list(clip_folder):
    config = ConfigDict(
        {
            "entries": (dict(name="motion"), dict(name="clip_alignment", path=str(clip_folder))),
            "weights": {"TVA": 1.0, "AES": 0.0},
        }
    )
    suite = RewardSuite.from_config(config)
    assert suite.names == ("TC", "DD", "TVA") and suite.weights == {"TVA": 1.0}


def test_score_in_any_batch(suite, videos, prompts):
    together = suite.score(videos, prompts, refined=prompts)
    assert tuple(together) == suite.names
    assert all(v.shape == (5,) and v.dtype == np.float32 for v in together.values())
    alone = suite.score(videos[4:], prompts[4:], refined=prompts[4:])
    for name in suite.names:
        assert alone[name][0] == together[name][4]
    assert suite.overall(together)[4] == suite.overall(alone)[0]
    assert "FAITH" not in suite.score(videos, prompts)


def test_overall_weighted_sum(suite):
    scores = {
        "AES": [1.0, 2.0],
        "TVA": [4.0, 0.0],
        "TC": [0.5, 1.0],
        "DD": [9.0, 9.0],
        "FAITH": [0.0, np.nan],
    }
    assert suite.overall(scores).tolist() == [4.0, 4.0]
    assert suite.overall(scores, {"DD": 2.0, "FAITH": 5.0}).tolist() == [18.0, 18.0]


def test_overall_nan(suite):
    scores = {"AES": [np.nan, 2.0], "TVA": [4.0, 0.0], "TC": [0.5, 1.0]}
    total = suite.overall(scores)
    assert np.isnan(total[0]) and total[1] == 4


def test_score_nan(videos, prompts):
    class Broken(Reward):
        names = ("VQ",)

        def score(self, videos, prompts, refined=None):
            return {"VQ": np.array([np.nan] * len(videos))}

    scores = RewardSuite([Broken()], {"VQ": 1.0}).score(videos, prompts)
    assert np.isnan(scores["VQ"]).all()


@pytest.mark.parametrize(
    "config,message",
    [
        (
            {"entries": {"beauty": {}}},
            "'beauty'.*aesthetic, clip_alignment, clip_consistency, faithfulness, hpsv3, length",
        ),
        ({"entries": {}}, "empty"),
        ({"entries": {"aesthetic": {}}}, "aesthetic: the option 'path' is missing"),
        ({"entries": {"motion": {"speed": 3}}}, "motion: there is no option 'speed'"),
        ({"entries": {"motion": {}}, "weights": {"VQ": 1.0}}, "weights.VQ.*TC, DD"),
        ({"entries": {"motion": {}}, "constraints": {"FAITH": 0.7}}, "constraints.FAITH"),
        ({"entries": {"faithfulness": {}}, "weights": {"FAITH": 1.0}}, "weights.FAITH.*constraint"),
        ({"entries": [{"name": "motion"}, {"name": "motion"}]}, "two entries give the score TC"),
        ({"entries": {"clip_alignment": {"path": "/nowhere/at/all"}}}, "nowhere"),
    ],
)
def test_from_config_invalid(config, message):
    with pytest.raises(BadInput, match=message):
        RewardSuite.from_config(config)


def test_from_config_unavailable_reward(clip_folder, videos, prompts):
    config = {
        "entries": {"motion": {}, "clip_alignment": {"path": "/nowhere/at/all"}},
        "weights": {"TC": 1.0},
        "held_out": {"mps": {"path": str(clip_folder)}},
    }
    problems = []
    suite = RewardSuite.from_config(config, on_error=problems.append)
    assert ["nowhere" in str(problems[0]), "model_type" in str(problems[1])] == [
        True,
        True,
    ] and len(problems) == 2
    scores = suite.score(videos, prompts)
    assert list(scores) == ["TC", "DD", "TVA", "held_out:MPS"] and np.isfinite(scores["DD"]).all()
    assert np.isnan(scores["TVA"]).all() and np.isnan(scores["held_out:MPS"]).all()
    with pytest.raises(BadInput, match="'beauty'"):
        RewardSuite.from_config({"entries": {"beauty": {}}}, on_error=problems.append)


@pytest.mark.slow
def test_from_config_nan_checkpoint(clip_folder, mps_folder, tmp_path):
    for kind, source, part in (
        ("aesthetic", clip_folder, ""),
        ("aesthetic", clip_folder, "aesthetic_head"),
        ("mps", mps_folder, ""),
    ):
        folder = tmp_path / f"{kind}{part}"
        shutil.copytree(source, folder)
        tensors = {name: np.array(tensor) for name, tensor in read_tensors(folder / part).items()}
        name = sorted(name for name in tensors if name.endswith("bias"))[0]
        tensors[name].flat[-1] = np.nan
        write_tensors(folder / part, tensors)
        with pytest.raises(BadInput) as error:
            RewardSuite.from_config({"entries": {kind: {"path": str(folder)}}})
        assert f"{folder / part / 'model.safetensors'}: tensor {name} contains NaN" in str(
            error.value
        )


def test_score_wrong_shapes(suite, videos, prompts):
    with pytest.raises(BadInput, match="uint8"):
        suite.score(videos.astype(np.float32), prompts)
    with pytest.raises(BadInput, match="5 videos, 2 prompts"):
        suite.score(videos, prompts[:2])
    with pytest.raises(BadInput, match="TVA"):
        suite.overall({"AES": [1.0], "TC": [1.0]})
    assert suite.score(videos[:0], [])["AES"].shape == (0,)


# ------------------------------------------------------------------------------ videos of one frame


def test_from_config_skip(suite, clip_folder, videos, prompts):
    entries = {"aesthetic": {"path": str(clip_folder), "frames": 2}, "motion": {}}
    judged = {"entries": entries, "weights": {"AES": 1.0}, "held_out": {"motion": {}}}
    subset = RewardSuite.from_config(ConfigDict(judged | {"skip": ("DD",)}))
    assert (subset.names, subset.held_out) == (("AES", "TC"), ("held_out:TC",))
    scores = subset.score(videos, prompts)
    assert set(scores) == {"AES", "TC", "held_out:TC"}
    np.testing.assert_array_equal(scores["TC"], suite.score(videos, prompts)["TC"])
    image = RewardSuite.from_config(
        ConfigDict(judged | {"skip": ("TC", "DD", "FC")})
    )  # motion is left out as a whole
    assert [type(r) for r in image.rewards] == [Aesthetic] and image.held_out_rewards == ()
    assert set(image.score(videos[:, :1], prompts)) == {"AES"}


def test_check_frames_single_frame(suite, videos, prompts):
    with pytest.raises(
        BadInput,
        match=r"TC, DD compare frames.*rewards.skip=\('TC', 'DD', 'FC', 'VR_MQ'\)",
    ):
        suite.score(videos[:, :1], prompts)
    suite.check_frames(2)


@pytest.mark.parametrize(
    "skip, message",
    [
        (("TC", "DD"), "leaves out every score"),
        (("TVC",), "no entry gives TVC; there are TC, DD"),
        (("TC",), "rewards.weights.TC: no entry gives this score"),
    ],
)
def test_from_config_invalid_skip(skip, message):
    with pytest.raises(BadInput, match=message):
        RewardSuite.from_config({"entries": {"motion": {}}, "weights": {"TC": 1.0}, "skip": skip})


def test_reward_subset_attributes():
    class Flaky(Reward):
        names = ("A", "B")
        fingerprint = "mark"
        transient_failures = True

        def score(self, videos, prompts, refined=None):
            return {name: np.zeros(len(videos)) for name in self.names}

    left = RewardSubset(Flaky(), ("A",))
    assert (left.names, left.fingerprint, left.transient_failures) == (("A",), "mark", True)
    assert not RewardSubset(UnavailableReward(("A", "B")), ("A",)).transient_failures
