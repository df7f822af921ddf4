"""The roofline of a program on a topology."""

import pytest

from pav_jax.parallel.chips import CHIPS
from pav_jax.preflight.roofline import roofline
from pav_jax.preflight.topology import Topology
from pav_jax.preflight.traffic import CollectiveTraffic


def test_roofline():
    topology = Topology("v5e:4x4", CHIPS["v5e"], (4, 4), 2, ())
    received = {("all-gather", "ici"): 1e9, ("all-reduce", "dcn"): 3.125e6}
    seconds = roofline(topology, 197e10, CollectiveTraffic(received, {}, 819e6))
    assert (seconds.compute, seconds.memory, seconds.ici, seconds.dcn) == (0.01, 0.001, 0.01, 0.001)
    assert seconds.overlapped == 0.01
    assert seconds.serial == pytest.approx(0.022)


def test_roofline_without_network():
    topology = Topology("v5e:1x1", CHIPS["v5e"], (1, 1), 1, ())
    assert roofline(topology, 197e12, CollectiveTraffic()).overlapped == 1
