"""Rows shared by four devices: the scores of one device, to 1e-5."""

import os
import subprocess
import sys

import numpy as np
import pytest

from pav_jax.rewards import MPS, Aesthetic, ClipAlignment, VideoScore
from tests.rewards.test_videoscore import write_videoscore

SCRIPT = """
import sys
import jax
import numpy as np
from pav_jax.rewards import MPS, Aesthetic, ClipAlignment, VideoScore
clip, mps, condition, judge, data, out = sys.argv[1:]
inputs = np.load(data)
videos = inputs["videos"]
prompts = inputs["prompts"].tolist()
rewards = [
    Aesthetic.from_pretrained(clip),
    ClipAlignment.from_pretrained(clip),
    MPS.from_pretrained(mps, condition=condition),
    VideoScore.from_pretrained(judge, batch_size=4),
]
meshes = [
    lambda reward: reward.tower._mesh,
    lambda reward: reward.tower._mesh,
    lambda reward: reward._mesh,
    lambda reward: reward._decoder_mesh,
]
scores = {}
for reward, mesh_of in zip(rewards, meshes):
    reward.use_local_devices()
    assert mesh_of(reward).shape["data"] == len(jax.devices()) == 4
    for rows in (slice(None), slice(1, 2)):
        for name, values in reward.score(videos[rows], prompts[rows]).items():
            scores[f"{type(reward).__name__} {name} {rows.start}"] = values
np.savez(out, **scores)
"""


@pytest.mark.slow
def test_score_on_local_devices(clip_folder, mps_folder, condition, videos, prompts, tmp_path):
    judge = write_videoscore(tmp_path / "judge")
    np.savez(tmp_path / "data.npz", videos=videos, prompts=prompts)
    env = os.environ | {
        "JAX_NUM_CPU_DEVICES": "4",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.getcwd(),
    }
    paths = [
        clip_folder,
        mps_folder,
        condition,
        judge,
        tmp_path / "data.npz",
        tmp_path / "scores.npz",
    ]
    subprocess.run(
        [sys.executable, "-c", SCRIPT, *map(str, paths)], env=env, check=True, timeout=500
    )
    spread = np.load(tmp_path / "scores.npz")
    for reward in (
        Aesthetic.from_pretrained(clip_folder),
        ClipAlignment.from_pretrained(clip_folder),
        MPS.from_pretrained(mps_folder, condition=condition),
        VideoScore.from_pretrained(judge),
    ):
        for name, expected in reward.score(videos, prompts).items():
            kind = type(reward).__name__
            np.testing.assert_allclose(
                spread[f"{kind} {name} None"], expected, rtol=1e-5, err_msg=f"{kind} {name}"
            )
            np.testing.assert_allclose(
                spread[f"{kind} {name} 1"], expected[1:2], rtol=1e-5, err_msg=f"{kind} {name}"
            )
