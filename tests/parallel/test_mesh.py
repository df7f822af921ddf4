"""Mesh sizes, and how many devices a batch uses."""

import jax
import pytest

from pav_jax.errors import BadInput
from pav_jax.parallel import mesh


@pytest.mark.parametrize("batch_size, count", [(16, 2), (9, 3), (7, None)])
def test_batch_mesh_uses_devices_that_divide_batch(batch_size, count, monkeypatch):
    monkeypatch.setattr(mesh, "make_mesh", lambda data, devices: (data, len(devices)))
    devices = jax.local_devices()[:1] * 3
    expected = None if count is None else (count, count)
    assert mesh.batch_mesh(batch_size, devices) == expected


def test_make_mesh_too_few_devices():
    with pytest.raises(BadInput, match="data=1, fsdp=4096, .* needs 4096 devices"):
        mesh.make_mesh(fsdp=4096)


@pytest.mark.parametrize(
    "sizes, want",
    [
        (dict(data=-1), dict(data=4)),
        (dict(fsdp=-1), dict(fsdp=4)),
        (dict(fsdp=8, tensor=2), dict(fsdp=2, tensor=2)),
        (dict(tensor=-1), dict(tensor=4)),
        (dict(data=2, expert=8), dict(expert=4)),
        (dict(data=-1, expert=2), dict(data=2, expert=2)),
        (dict(tensor=2, expert=-1), dict(tensor=2, expert=2)),
    ],
    ids=str,
)
def test_sizes_of_process(sizes, want):
    axes = dict(data=1, fsdp=1, tensor=1, expert=1)
    assert mesh.sizes_of_process(sizes, num_devices=16, num_local=4) == axes | want


@pytest.mark.parametrize(
    "make, field",
    [
        (lambda sizes: mesh.local_mesh(sizes, "rewards.mps.mesh"), "rewards.mps.mesh.expert"),
        (lambda sizes: mesh.generator_meshes(4, sizes), "generator.mesh.expert"),
    ],
    ids=["local_mesh", "generator_meshes"],
)
@pytest.mark.parametrize("size", [2, -1])
def test_mesh_of_model_without_experts(make, field, size):
    with pytest.raises(BadInput, match=f"expert={size}: this model has no experts; set it to 1"):
        make(dict(expert=size))
    with pytest.raises(BadInput) as error:
        make(dict(expert=size))
    assert error.value.field == field
