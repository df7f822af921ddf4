"""Meshes: sizes, and the one that shares a batch's rows."""

import jax
import pytest

from pav_jax.errors import BadInput
from pav_jax.parallel import mesh


def test_rows_go_over_as_many_devices_as_share_them_evenly(monkeypatch):
    device = jax.local_devices()[0]
    asked = {}
    monkeypatch.setattr(jax, "local_devices", lambda: [device] * 3)
    make = lambda data, devices: asked.update(data=data, devices=len(devices)) or "mesh"  # noqa: E731
    monkeypatch.setattr(mesh, "make_mesh", make)
    assert mesh.rows_mesh(16) == "mesh" and asked == {"data": 2, "devices": 2}
    assert mesh.rows_mesh(9) == "mesh" and asked == {"data": 3, "devices": 3}
    assert mesh.rows_mesh(7) is None


def test_sizes_that_do_not_fit_are_named():
    with pytest.raises(BadInput, match="data=1, fsdp=4096, .* needs 4096 devices"):
        mesh.make_mesh(fsdp=4096)
