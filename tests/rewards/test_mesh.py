"""Weights laid out over a process's eight devices, 8 x 1 in one process and 2 x 4 in another that
runs with it: the scores of one device, to 1e-5."""

import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from pav_jax.checkpoints.folder import load, save
from pav_jax.errors import BadInput
from pav_jax.models.idefics2 import hf
from pav_jax.rewards import MPS, VideoScore
from pav_jax.rewards.videoscore import TOKENS
from tests.rewards.test_videoscore import write_videoscore

SCRIPT = """
import os
import sys
import time
import jax
import numpy as np
from pav_jax.parallel import processes
from pav_jax.rewards.suite import RewardSuite
processes.initialize_distributed()
assert jax.process_count() == 2 and jax.local_device_count() == 8
mps, condition, judge, query, data, out = sys.argv[1:]
given = np.load(data)
videos, prompts = given["videos"], given["prompts"].tolist()
scores = {}
sizes = (dict(fsdp=-1), dict(fsdp=2, tensor=4))[jax.process_index()]
entries = dict(mps=dict(path=mps, condition=condition, mesh=sizes),
               videoscore=dict(path=judge, query=query, mesh=sizes))
suite = RewardSuite.from_config(dict(entries=entries))
suite.use_local_devices()  # changes nothing where there is a mesh
for reward in suite.rewards:
    assert reward.mesh.size == 8
    leaves = jax.tree.leaves(reward._params)
    held = sum(leaf.addressable_shards[0].data.size for leaf in leaves)
    scores[f"{type(reward).__name__} share"] = held / sum(leaf.size for leaf in leaves)
for rows in (slice(None), slice(1, 2)):
    scores_by_mesh = suite.score(videos[rows], prompts[rows])
    scores |= {f"{key} {rows.start}": value for key, value in scores_by_mesh.items()}
np.savez(f"{out}/{jax.process_index()}.npz", **scores)
while not os.path.exists(f"{out}/{1 - jax.process_index()}.npz"):  # they have to leave together
    time.sleep(0.1)
"""


@pytest.fixture(scope="module")
def made(mps_folder, condition, tmp_path_factory):
    """(folder of a VideoScore, query)."""
    folder = tmp_path_factory.mktemp("judge")
    write_videoscore(folder)
    query = folder / "query.txt"
    query.write_text('Rate "{text_prompt}":\n')
    return folder, query


@pytest.fixture(scope="module")
def on_meshes(made, mps_folder, condition, videos, prompts, tmp_path_factory):
    """For each mesh: scores by name and first row, and each model's share of weights per device."""
    folder = tmp_path_factory.mktemp("meshes")
    np.savez(folder / "data.npz", videos=videos, prompts=prompts)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    env = os.environ | {
        "JAX_NUM_CPU_DEVICES": "8",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.getcwd(),
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_NUM_PROCESSES": "2",
    }
    line = [
        sys.executable,
        "-c",
        SCRIPT,
        *map(str, [mps_folder, condition, *made, folder / "data.npz", folder]),
    ]
    running = [
        subprocess.Popen(
            line, env=env | {"JAX_PROCESS_ID": str(i)}, stderr=subprocess.PIPE, text=True
        )
        for i in range(2)
    ]
    for process in running:
        _, errors = process.communicate(timeout=900)
        assert process.returncode == 0, errors
    return [dict(np.load(folder / f"{i}.npz")) for i in range(2)]


@pytest.mark.slow
def test_score_on_any_mesh(on_meshes, made, mps_folder, condition, videos, prompts):
    rewards = (
        MPS.from_pretrained(mps_folder, condition=condition),
        VideoScore.from_pretrained(*made),
    )
    lengths = {
        rewards[1].processor.texts([rewards[1].text(prompt, 6)], TOKENS)[0].shape
        for prompt in prompts
    }
    assert len(lengths) == 2  # so programs of two shapes share the five videos
    for reward in rewards:
        for name, expected in reward.score(videos, prompts).items():
            for scores_by_mesh in on_meshes:
                np.testing.assert_allclose(
                    scores_by_mesh[f"{name} None"], expected, rtol=1e-5, atol=1e-5, err_msg=name
                )


@pytest.mark.slow
def test_from_pretrained_shards_weights(on_meshes):
    for scores_by_mesh in on_meshes:
        for reward in ("MPS", "VideoScore"):  # what a mesh does not divide stays whole
            assert 1 / 8 <= scores_by_mesh[f"{reward} share"] < 0.3, reward


@pytest.mark.slow
def test_score_on_mesh_in_any_batch(on_meshes):
    for scores_by_mesh in on_meshes:
        for name in ("MPS", "VQ", "TC", "DD", "TVA", "FC"):
            # not to the last bit: among processes, devices add up in the order in which they come
            np.testing.assert_allclose(
                scores_by_mesh[f"{name} 1"],
                scores_by_mesh[f"{name} None"][1:2],
                rtol=1e-5,
                atol=1e-5,
            )


@pytest.mark.slow
@pytest.mark.parametrize(
    "mesh, named",
    [
        (dict(rows=2), "rows"),
        (dict(fsdp="two"), "two"),
        (4, "is 4"),
        (dict(fsdp=4096), "4096 devices"),
    ],
)
def test_from_pretrained_invalid_mesh(mesh, named, made):
    with pytest.raises(BadInput, match=named):
        VideoScore.from_pretrained(*made, mesh=mesh)


def test_from_pretrained_nan_weight_on_mesh(made, tmp_path):
    config, params = load(hf, write_videoscore(tmp_path))
    broken = jax.tree.map(np.array, params)
    broken["text"]["layers"]["mlp"]["up_proj"]["kernel"][1, -1, -1] = np.nan
    save(hf, tmp_path, config, broken)
    with pytest.raises(BadInput, match="layers.1.mlp.up_proj.weight contains NaN"):
        VideoScore.from_pretrained(tmp_path, mesh=dict(fsdp=1))
