"""Step time estimated with the roofline model (Williams et al. 2009)."""

import dataclasses

from pav_jax.preflight.topology import Topology
from pav_jax.preflight.traffic import CollectiveTraffic


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds that each resource would need on its own."""

    compute: float
    memory: float
    ici: float
    dcn: float

    @property
    def overlapped(self) -> float:
        """Seconds if all resources work at the same time: a lower bound, which leaves out the
        latency of collectives."""
        return max(dataclasses.astuple(self))

    @property
    def serial(self) -> float:
        """Seconds if the resources work one after the other, each at its peak."""
        return sum(dataclasses.astuple(self))


def roofline(topology: Topology, flops: float, traffic: CollectiveTraffic) -> Roofline:
    """Estimates the time of one run of a program.

    Args:
      flops: floating point operations of one chip.
      traffic: bytes that one chip moves.
    """
    chip = topology.chip
    ici_bytes = traffic.bytes_over("ici")
    return Roofline(
        compute=flops / chip.peak_flops,
        memory=traffic.hbm_bytes / chip.hbm_bytes_per_s,
        ici=ici_bytes / topology.ici_bytes_per_s if ici_bytes else 0.0,
        dcn=traffic.bytes_over("dcn") / chip.dcn_bytes_per_s,
    )
