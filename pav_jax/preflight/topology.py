"""TPU topologies that are described to the compiler, not attached."""

import dataclasses
import math
import os
import re
from collections.abc import Sequence
from typing import Any

import jax

from pav_jax.errors import BadInput
from pav_jax.parallel.chips import CHIPS, Chip
from pav_jax.preflight.libtpu import require_libtpu

# Read by libtpu when it is loaded: do not query a metadata server, share the library with other
# processes, and assume a host, without which libtpu logs errors.
LIBTPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
}
MAX_CHIPS = 2**16  # the largest v5p slice has 8,960
# Chips per host of single-host slices with two axes. libtpu assumes hosts of 2 x 2 chips.
# v6e-8: https://cloud.google.com/tpu/docs/v6e
SINGLE_HOST_BOUNDS: dict[tuple[int, ...], tuple[int, int, int]] = {
    (1, 1): (1, 1, 1),
    (2, 4): (2, 4, 1),
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """Chips that programs can be compiled for. Arrays cannot be put on them.

    Attributes:
      name: generation and shape, such as "v5e:4x4".
      chip: published figures of one chip.
      shape: chips along each axis of one slice.
      num_slices: slices of this shape.
      devices: the devices of all slices.
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]
    num_slices: int
    devices: Sequence[Any]

    @property
    def ici_bytes_per_s(self) -> float:
        """Bytes per second that one chip can receive from its neighbours: one link along an open
        axis, two along a ring."""
        is_ring = [size % self.chip.torus_multiple == 0 for size in self.shape]
        # Topologies with three axes have rings only if they consist of whole cubes.
        if len(self.shape) == 3 and not all(is_ring):
            is_ring = [False] * 3
        links = 0
        for size, ring in zip(self.shape, is_ring, strict=True):
            if size > 1:
                links += 2 if ring else 1
        return self.chip.link_bytes_per_s * links


def describe_topology(name: str, num_slices: int = 1) -> Topology:
    """Describes a TPU topology with libtpu.

    Args:
      name: generation and shape of one slice, such as "v5e:4x4".
      num_slices: slices of this shape.

    Raises:
      BadInput: libtpu is not installed, or has no such topology.
    """
    generation, _, shape = name.partition(":")
    if generation not in CHIPS or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){1,2}", shape):
        raise BadInput(
            f"topology={name}: write a generation ({', '.join(CHIPS)}) and its chips, such as"
            " v5e:4x4, v5p:2x2x1 or v6e:2x4",
            field="check.topology",
        )
    sizes = tuple(int(size) for size in shape.split("x"))
    num_chips = num_slices * math.prod(sizes)
    if num_chips > MAX_CHIPS:
        raise BadInput(
            f"topology={name}, {num_slices} slices: {num_chips:,} chips; the limit is"
            f" {MAX_CHIPS:,}",
            field="check.topology",
        )
    require_libtpu()
    for variable, value in LIBTPU_ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    # Imported here because it loads libtpu, which reads the variables set above.
    from jax.experimental import topologies

    options: dict[str, Any] = {}
    if num_slices > 1:
        options["num_slices"] = num_slices
    if sizes in SINGLE_HOST_BOUNDS:
        options["chips_per_host_bounds"] = SINGLE_HOST_BOUNDS[sizes]
    try:
        description = topologies.get_topology_desc(platform="tpu", topology_name=name, **options)
    except jax.errors.JaxRuntimeError as error:
        first_line = str(error).strip().splitlines()[0][:200]
        raise BadInput(
            f"topology={name}: libtpu has no such topology ({first_line})", field="check.topology"
        ) from error
    devices = description.devices
    if len(devices) != num_slices * math.prod(sizes):
        raise BadInput(
            f"topology={name}: libtpu describes {len(devices)} chips, not {num_slices} x {shape}",
            field="check.topology",
        )
    return Topology(name, CHIPS[generation], sizes, num_slices, devices)
