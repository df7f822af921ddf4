"""Published figures of accelerators."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
    """Published figures of one chip. Rates are per second."""

    name: str
    peak: float  # bfloat16 operations
    memory: float  # bytes of HBM
    memory_rate: float  # bytes from and to HBM
    link_rate: float  # bytes over one link to a neighbour, in one direction
    torus_from: int  # an axis of the topology closes to a ring when it is a multiple of this
    dcn_rate: (
        float  # bytes over the data centre's network, this chip's share of its host's interfaces
    )
    source: str


# Links: the published bandwidth of both directions of all ports of a chip, divided by 2 and by its
# ports (4, 6, 4). Data centre network: v5e 6.4 Tbit/s per pod of 256 chips, v5p 50 Gbit/s per chip,
# v6e 25.6 Tbit/s per pod of 256.
CHIPS = {
    "v5e": Chip(
        "v5e", 197e12, 16 * 2**30, 819e9, 50e9, 16, 3.125e9, "https://cloud.google.com/tpu/docs/v5e"
    ),
    "v5p": Chip(
        "v5p", 459e12, 95 * 2**30, 2765e9, 100e9, 4, 6.25e9, "https://cloud.google.com/tpu/docs/v5p"
    ),
    "v6e": Chip(
        "v6e",
        918e12,
        32 * 2**30,
        1638e9,
        100e9,
        16,
        12.5e9,
        "https://cloud.google.com/tpu/docs/v6e",
    ),
}

# bfloat16 operations per second, dense, by the name that JAX gives a device
PEAKS = {
    "TPU v4": 275e12,  # https://cloud.google.com/tpu/docs/v4
    "TPU v5 lite": CHIPS["v5e"].peak,
    "TPU v5e": CHIPS["v5e"].peak,
    "TPU v5": CHIPS["v5p"].peak,
    "TPU v5p": CHIPS["v5p"].peak,
    "TPU v6 lite": CHIPS["v6e"].peak,
    "TPU v6e": CHIPS["v6e"].peak,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,  # https://www.nvidia.com/en-us/data-center/a100
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,  # https://www.nvidia.com/en-us/data-center/h200
}


def peak(device_kind: str) -> float | None:
    """None for what is not in the table, such as a processor."""
    return PEAKS.get(device_kind)
