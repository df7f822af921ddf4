"""The device mesh: four axes, any of them of size one, so that the same programs run on one device
and on many."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from pav_jax.errors import BadInput

# data is outermost: it is the axis that crosses slices over the slow network.
AXES = ("data", "fsdp", "tensor", "sequence")


def make_mesh(
    data: int = 1,
    fsdp: int = 1,
    tensor: int = 1,
    sequence: int = 1,
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """A mesh over `devices` (default: as many of `jax.devices()` as the sizes need, so one device
    by default).

    One size may be -1: it takes all the devices that the others leave.

    Raises:
      BadInput: the sizes do not fit the devices.
    """
    sizes = [data, fsdp, tensor, sequence]
    named = ", ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
    available = list(jax.devices()) if devices is None else list(devices)
    if any(size < 1 and size != -1 for size in sizes) or sizes.count(-1) > 1:
        raise BadInput(
            f"mesh {named}: sizes are positive, and at most one is -1 (all devices left over)"
        )
    if -1 in sizes:
        rest = -int(np.prod(sizes))
        if len(available) % rest:
            raise BadInput(
                f"mesh {named}: {rest} does not divide the {len(available)} devices; change the"
                " sizes"
            )
        sizes[sizes.index(-1)] = len(available) // rest
    count = int(np.prod(sizes))
    if count > len(available) or (devices is not None and count != len(available)):
        raise BadInput(
            f"mesh {named} needs {count} devices, there are {len(available)}; change the sizes"
        )
    kinds, devices = (AxisType.Auto,) * len(AXES), available[:count]
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        return jax.make_mesh(sizes, AXES, axis_types=kinds, devices=devices)
    if sizes[0] % slices:
        raise BadInput(
            f"mesh {named}: data is the axis that crosses slices, make it a multiple of the"
            f" {slices} slices"
        )
    grid = mesh_utils.create_hybrid_device_mesh(
        (sizes[0] // slices, *sizes[1:]), (slices, 1, 1, 1), devices, allow_split_physical_axes=True
    )
    return Mesh(grid, AXES, axis_types=kinds)


def rows_mesh(rows: int, devices: Sequence[jax.Device] | None = None) -> Mesh | None:
    """A mesh over as many of `devices` (default: this host's) as share `rows` evenly, each taking
    its part; None where that is one.

    On a processor a device is a core, and cores with rows of their own are a fifth faster than
    cores that share every operation.
    """
    devices = jax.local_devices() if devices is None else list(devices)
    shares = max(n for n in range(1, len(devices) + 1) if rows % n == 0)
    return make_mesh(data=shares, devices=devices[:shares]) if shares > 1 else None


def generator_meshes(
    rows: int, sizes: Mapping[str, int], side: int = 0, devices: Sequence[jax.Device] | None = None
) -> tuple[Mesh | None, Mesh | None]:
    """Where a generator of videos works: the denoiser's mesh, and that of text encoder and VAE
    where they have `side` devices, the last ones, to themselves. None: one device, and the
    denoiser's.

    Args:
      rows: videos in a batch.
      sizes: of the denoiser's mesh; all 1: a `rows_mesh`.
      devices: this host's by default.

    Raises:
      BadInput: the sizes do not fit the devices.
    """
    devices = jax.local_devices() if devices is None else list(devices)
    if not 0 <= side < len(devices):
        raise BadInput(
            f"generator.side_devices={side}: there are {len(devices)} devices, and the denoiser"
            " needs one"
        )
    devices, beside = devices[: len(devices) - side], devices[len(devices) - side :]
    if any(size != 1 for size in sizes.values()):
        mesh = make_mesh(**sizes, devices=devices)
    else:
        mesh = rows_mesh(rows, devices) or (make_mesh(devices=devices[:1]) if side else None)
    return mesh, make_mesh(tensor=-1, devices=beside) if side else None


def local_mesh(
    sizes: Mesh | Mapping[str, int] | None, field: str, devices: Sequence[jax.Device] | None = None
) -> Mesh | None:
    """A mesh over as many of `devices` (default: this host's) as the sizes need, for what every
    process has a copy of.

    Args:
      sizes: of axes by name, as `make_mesh` takes them; a mesh is given back as it is, and so is
        None.
      field: of the configuration, named in errors.

    Raises:
      BadInput: an unknown axis, or sizes that do not fit the devices.
    """
    if sizes is None or isinstance(sizes, Mesh):
        return sizes
    if not (
        isinstance(sizes, Mapping)
        and set(sizes) <= set(AXES)
        and all(isinstance(n, int) for n in sizes.values())
    ):
        raise BadInput(
            f"{field} is {sizes}; give whole numbers for some of {', '.join(AXES)}, as in"
            " dict(fsdp=4)"
        )
    devices, asked = (
        jax.local_devices() if devices is None else list(devices),
        math.prod(sizes.values()),
    )
    return make_mesh(**sizes, devices=devices[:asked] if 0 < asked < len(devices) else devices)


def split_rows(rows: Any, mesh: Mesh | None) -> Any:
    """Arrays with their first axis cut as batches are, over `data` and `fsdp`; as they are where
    there is no mesh."""
    return (
        rows
        if mesh is None
        else jax.device_put(rows, NamedSharding(mesh, PartitionSpec(("data", "fsdp"))))
    )


def on_every_device(params: Any, mesh: Mesh | None) -> Any:
    """Arrays copied to all devices of `mesh`; as they are where there is none."""
    return params if mesh is None else jax.device_put(params, NamedSharding(mesh, PartitionSpec()))


def batch_shards(mesh: Mesh) -> int:
    """Into how many parts a batch is cut: rows go over `data` and `fsdp`."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def check_batch(mesh: Mesh, rows: int, field: str) -> None:
    """Raises BadInput where the mesh does not divide `rows`, the value of the configuration's
    `field`."""
    if rows % batch_shards(mesh):
        raise BadInput(
            f"{field}={rows} is not a multiple of data*fsdp={batch_shards(mesh)} of the mesh;"
            " change either"
        )
