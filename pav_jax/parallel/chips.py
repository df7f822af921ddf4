"""Published figures of accelerators: peak rates, memory and links."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
    """Published figures of one TPU chip."""

    name: str
    source: str
    peak_flops: float  # bfloat16 operations per second
    hbm_bytes: float
    hbm_bytes_per_s: float
    link_bytes_per_s: float  # over one link to a neighbour, in one direction
    torus_multiple: int  # an axis of the topology closes to a ring if it is a multiple of this
    # over the data centre network: this chip's share of its host's interfaces
    dcn_bytes_per_s: float


# Links: the published bandwidth of both directions of all ports of a chip, divided by 2 and by its
# number of ports (4, 6, 4). Data centre network: v5e 6.4 Tbit/s per pod of 256 chips, v5p 50 Gbit/s
# per chip, v6e 25.6 Tbit/s per pod of 256.
CHIPS = {
    "v5e": Chip(
        name="v5e",
        source="https://cloud.google.com/tpu/docs/v5e",
        peak_flops=197e12,
        hbm_bytes=16 * 2**30,
        hbm_bytes_per_s=819e9,
        link_bytes_per_s=50e9,
        torus_multiple=16,
        dcn_bytes_per_s=3.125e9,
    ),
    "v5p": Chip(
        name="v5p",
        source="https://cloud.google.com/tpu/docs/v5p",
        peak_flops=459e12,
        hbm_bytes=95 * 2**30,
        hbm_bytes_per_s=2765e9,
        link_bytes_per_s=100e9,
        torus_multiple=4,
        dcn_bytes_per_s=6.25e9,
    ),
    "v6e": Chip(
        name="v6e",
        source="https://cloud.google.com/tpu/docs/v6e",
        peak_flops=918e12,
        hbm_bytes=32 * 2**30,
        hbm_bytes_per_s=1638e9,
        link_bytes_per_s=100e9,
        torus_multiple=16,
        dcn_bytes_per_s=12.5e9,
    ),
}

# dense bfloat16 operations per second, by jax.Device.device_kind
PEAK_FLOPS = {
    "TPU v4": 275e12,  # https://cloud.google.com/tpu/docs/v4
    "TPU v5 lite": CHIPS["v5e"].peak_flops,
    "TPU v5e": CHIPS["v5e"].peak_flops,
    "TPU v5": CHIPS["v5p"].peak_flops,
    "TPU v5p": CHIPS["v5p"].peak_flops,
    "TPU v6 lite": CHIPS["v6e"].peak_flops,
    "TPU v6e": CHIPS["v6e"].peak_flops,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,  # https://www.nvidia.com/en-us/data-center/a100
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,  # https://www.nvidia.com/en-us/data-center/h200
}


def peak_flops(device_kind: str) -> float | None:
    """Return the peak of a `jax.Device.device_kind` in operations per second.

    None for a kind that is not in the table, such as a CPU.
    """
    return PEAK_FLOPS.get(device_kind)
