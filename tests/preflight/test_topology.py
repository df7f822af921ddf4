"""Topologies described by libtpu."""

import importlib.util
import math

import pytest

from pav_jax.errors import BadInput
from pav_jax.parallel.chips import CHIPS
from pav_jax.parallel.mesh import make_mesh
from pav_jax.preflight.topology import Topology, describe_topology
from tests.preflight.libtpu import needs_libtpu


@pytest.mark.parametrize(
    "name, shape, links",
    [
        ("v5e", (4, 4), 2),  # no ring below 16: a corner has two neighbours
        ("v5e", (16, 16), 4),
        ("v5e", (8, 16), 3),
        ("v5e", (1, 1), 0),
        ("v6e", (2, 4), 2),
        ("v5p", (2, 2, 1), 2),
        ("v5p", (4, 4, 4), 6),
        ("v5p", (4, 4, 2), 3),  # not a complete cube
    ],
)
def test_ici_bytes_per_s(name, shape, links):
    topology = Topology(name, CHIPS[name], shape, 1, ())
    assert topology.ici_bytes_per_s == links * CHIPS[name].link_bytes_per_s


@pytest.mark.parametrize(
    "name",
    ["v5e", "v5e:4", "v9z:2x2", "v5e:4x4x4x4", "", "v5e:0x0", "v5e:0x4", "v5e:4x00", "v5p:2x0x2"],
)
def test_describe_topology_malformed_name(name):
    with pytest.raises(BadInput, match="v5e, v5p, v6e") as error:
        describe_topology(name)
    assert error.value.field == "check.topology"


def test_describe_topology_without_libtpu(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"pip install 'pav-jax\[tpu\]'"):
        describe_topology("v5e:2x2")


@needs_libtpu
@pytest.mark.parametrize(
    "name, num_slices, chips, hosts",
    [("v5e:4x4", 1, 16, 4), ("v5p:2x2x1", 1, 4, 1), ("v6e:2x4", 1, 8, 1), ("v5e:2x2", 2, 8, 2)],
)
def test_describe_topology(name, num_slices, chips, hosts):
    topology = describe_topology(name, num_slices)
    assert len(topology.devices) == chips
    assert math.prod(topology.shape) == chips // num_slices
    assert len({device.process_index for device in topology.devices}) == hosts


@needs_libtpu
def test_describe_topology_unknown_to_libtpu():
    with pytest.raises(BadInput, match="v5e:3x3: libtpu has no such topology"):
        describe_topology("v5e:3x3")


@needs_libtpu
def test_make_mesh_data_axis_spans_slices():
    devices = describe_topology("v5e:2x2", num_slices=2).devices
    mesh = make_mesh(data=2, fsdp=4, devices=devices)
    assert [{d.slice_index for d in part.flat} for part in mesh.devices] == [{0}, {1}]
    with pytest.raises(BadInput, match="data"):
        make_mesh(data=1, fsdp=8, devices=devices)
