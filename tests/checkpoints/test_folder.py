"""Checkpoints read onto a mesh."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from pav_jax.checkpoints import folder as folders
from pav_jax.errors import BadInput
from pav_jax.models.decoder import hf
from pav_jax.models.weights import (
    Weight,
    params_from_hf,
    params_to_hf,
    sharded_params_from_hf,
)
from tests.tiny.byte_language_model import tiny_language_model

MESHES = [dict(data=8), dict(fsdp=8), dict(fsdp=2, tensor=2), dict(tensor=4)]
PROGRAM = """
import functools, json, sys
import jax, jax.numpy as jnp, numpy as np
from pav_jax.checkpoints import folder as folders
from pav_jax.checkpoints.safetensors import TensorFolder
from pav_jax.models.decoder import hf
from pav_jax.models.weights import logical_axes
from pav_jax.parallel import sharding_rules
from pav_jax.parallel.mesh import make_mesh
config, expected = folders.load(hf, sys.argv[1], jnp.bfloat16)
read = []
part = TensorFolder.part
TensorFolder.__getitem__ = lambda self, name: exit(name + " was read as a whole")
def counting_part(self, name, index):
    read.append(part(self, name, index).size)
    return part(self, name, index)
TensorFolder.part = counting_part
results = []
for sizes in json.loads(sys.argv[2]):
    read.clear()
    mesh = make_mesh(**sizes, devices=jax.devices()[:int(np.prod(list(sizes.values())))])
    where = functools.partial(sharding_rules.sharding, mesh=mesh)
    _, params = folders.load(hf, sys.argv[1], jnp.bfloat16, where)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), b), params, expected)
    axes = logical_axes(hf.weights(config))
    shardings = sharding_rules.shardings(axes, expected, mesh)
    assert jax.tree.map(lambda a: a.sharding, params) == shardings
    results.append([sum(read), sum(a.size for a in jax.tree.leaves(expected))])
print(json.dumps(results))
"""


@pytest.fixture
def saved(tmp_path):
    tiny_language_model().save_pretrained(tmp_path, max_shard_size="20KB")
    return tmp_path


def test_load_on_meshes_reads_each_parameter_once(saved):
    env = os.environ | {"JAX_NUM_CPU_DEVICES": "8", "PYTHONPATH": os.getcwd()}
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(saved), json.dumps(MESHES)],
        env=env,
        text=True,
        capture_output=True,
    )
    assert result.returncode == 0, result.stderr
    for read, total in json.loads(result.stdout.splitlines()[-1]):
        assert read == total


@pytest.mark.parametrize(
    "transform, shape", [("linear", (6, 4)), ("conv2d", (3, 3, 4, 8)), ("conv3d", (1, 3, 3, 4, 8))]
)
def test_sharded_params_from_hf_every_transform(transform, shape):
    """Slices of stacked layers along every axis are read from the right place."""
    ours = np.random.default_rng(0).standard_normal((2, *shape)).astype(np.float32)
    row = Weight("w.{layer}", "w", transform, (None,) * ours.ndim, layers=2)
    tensors = params_to_hf([row], {"w": ours})

    class Sliced(dict):
        def shape(self, name):
            return self[name].shape

        def part(self, name, index):
            return self[name][index]

    device = jax.devices()[0]
    whole = sharded_params_from_hf(
        [row],
        Sliced(tensors),
        "here",
        np.float32,
        {"w": ours},
        lambda axes, shape: jax.sharding.SingleDeviceSharding(device),
    )
    np.testing.assert_array_equal(whole["w"], ours)
    cut = tuple(slice(0, size // 2 or 1) for size in shape)
    np.testing.assert_array_equal(row.from_hf(tensors["w.1"][row.to_hf(cut)]), ours[1][cut])


def test_sharded_params_from_hf_scalars_experts_and_rows():
    rng = np.random.default_rng(0)
    table = [
        Weight("scale", "scale"),
        Weight("e.{layer}.{expert}", "e", "linear", (None,) * 4, layers=2, experts=3),
        Weight("f.{layer}", "first", "linear", (None,) * 3, layers=2, rows=(0, 4, 7)),
        Weight("f.{layer}", "second", "linear", (None,) * 3, layers=2, rows=(4, 7, 7)),
    ]
    shapes = {"scale": (), "e": (2, 3, 5, 4), "first": (2, 5, 4), "second": (2, 5, 3)}
    ours = {name: np.asarray(rng.normal(size=s), np.float32) for name, s in shapes.items()}
    tensors = params_to_hf(table, ours)
    assert tensors["f.1"].shape == (7, 5) and tensors["e.1.2"].shape == (4, 5)

    class Sliced(dict):
        def shape(self, name):
            return self[name].shape

        def part(self, name, index):
            return self[name][index]

    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    read = sharded_params_from_hf(
        table, Sliced(tensors), "here", np.float32, ours, lambda axes, shape: place
    )
    whole = params_from_hf(table, tensors, "here", expected=ours)
    for name, array in ours.items():
        np.testing.assert_array_equal(read[name], array)
        np.testing.assert_array_equal(whole[name], array)


def test_load_tensor_of_wrong_shape(saved):
    fields = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(
        json.dumps(fields | {"intermediate_size": fields["intermediate_size"] * 2})
    )
    where = lambda axes, shape: jax.sharding.SingleDeviceSharding(jax.devices()[0])  # noqa: E731
    with pytest.raises(BadInput, match=r"mlp.gate_proj.weight' has shape \[.*\], config.json says"):
        folders.load(hf, saved, np.float32, where)
