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
