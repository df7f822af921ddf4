"""The same losses on one device and on a mesh of eight simulated ones, in processes of their
own."""

import functools
import json
import os
import subprocess
import sys
import tempfile

import numpy as np
import pytest

from tests.campaigns import IS_REQUESTED, by_hand

pytestmark = pytest.mark.slow

MESHES = {
    "llama": {
        "1": {},
        "2x4": dict(data=2, fsdp=4),
        "2x2x2": dict(data=2, fsdp=2, tensor=2),
    },
    "qwen3": {
        "1": {},
        "8x1": dict(data=8),
        "4x2": dict(fsdp=4, tensor=2),
        "2x2x2": dict(data=2, fsdp=2, tensor=2),
    },
}
# the same axes, or the same mesh, as others that are run
BY_HAND = [("qwen3", "8x1"), ("qwen3", "2x2x2")]

PROGRAM = """
import json, pathlib, sys
from pav_jax.parallel.mesh import make_mesh
from pav_jax.train import dpo_trainer as dpo
from pav_jax.train import sft_trainer as sft
from tests.tiny import language_model as tiny
from tests.train import test_dpo_trainer as test_dpo, test_sft_trainer as test_sft
folder, meshes = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
pairs = tiny.write_pairs(folder / "sft_pairs.jsonl")
preferences = tiny.write_preferences(folder / "preferences.jsonl")
curves = {}
family = sys.argv[3]
for name, sizes in meshes.items():
    lm = tiny.make_lm(make_mesh(**sizes), family=family)
    assert lm.mesh.size == (8 if sizes else 1)
    common = dict(max_steps=3, save_steps=None, batch_size=16)
    sft.run(test_sft.make_config(**common), lm, pairs, folder / name / "sft")
    config = test_dpo.make_config(**common, gradient_accumulation_steps=2, lora=dict(r=4))
    dpo.run(config, lm, preferences, folder / name / "dpo")
    if name in ("1", "2x2x2") and family == "llama":
        config = test_dpo.make_config(**common, lora=dict(r=4), quantize="int8")
        dpo.run(config, lm, preferences, folder / name / "int8")
    curves[name] = {"sft": list(test_sft.curve(folder / name / "sft")[1]),
                    "dpo": list(test_sft.curve(folder / name / "dpo")[1])}
    if (folder / name / "int8").exists():
        curves[name]["int8"] = list(test_sft.curve(folder / name / "int8")[1])
print(json.dumps(curves))
"""


@functools.cache
def run_on_meshes(family):
    """Losses by mesh and stage."""
    meshes = {
        name: sizes
        for name, sizes in MESHES[family].items()
        if IS_REQUESTED or (family, name) not in BY_HAND
    }
    flags = "--xla_force_host_platform_device_count=8 " + os.environ.get("XLA_FLAGS", "")
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.getcwd()}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, folder, json.dumps(meshes), family],
            env=env,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("stage", ["sft", "dpo"])
@pytest.mark.parametrize(
    "family, mesh",
    [
        pytest.param(family, name, marks=[by_hand] if (family, name) in BY_HAND else [])
        for family in MESHES
        for name in MESHES[family]
        if name != "1"
    ],
)
def test_run_on_mesh(family, mesh, stage):
    curves = run_on_meshes(family)
    np.testing.assert_allclose(curves[mesh][stage], curves["1"][stage], atol=1e-4, rtol=0)
    assert curves[mesh][stage][-1] < curves[mesh][stage][0] - 0.05


def test_run_on_mesh_quantized():
    curves = run_on_meshes("llama")
    np.testing.assert_allclose(curves["2x2x2"]["int8"], curves["1"]["int8"], atol=1e-4, rtol=0)
    assert abs(curves["1"]["int8"][0] - np.log(2)) < 1e-6
