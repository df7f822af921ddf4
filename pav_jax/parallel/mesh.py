"""Device meshes of five named axes, so that one program runs on one device or on many."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from pav_jax.errors import BadInput

# data is outermost: it is the axis that crosses slices over the slow network
AXES = ("data", "fsdp", "tensor", "sequence", "expert")
# the axes that rows of a batch are sharded over, in the order of devices; experts exchange tokens
BATCH_AXES = ("data", "fsdp", "expert")
# jax declares jax.Device as a variable, which type checkers do not accept as a type
Devices = Sequence[jax.Device]  # pyright: ignore[reportInvalidTypeForm]


def make_mesh(
    data: int = 1,
    fsdp: int = 1,
    tensor: int = 1,
    sequence: int = 1,
    expert: int = 1,
    devices: Devices | None = None,
) -> Mesh:
    """Make a mesh of the given axis sizes.

    Args:
      data, fsdp, tensor, sequence, expert: axis sizes; one may be -1, which takes all remaining
        devices.
      devices: to use, all of them; by default as many of `jax.devices()` as the sizes need.

    Raises:
      BadInput: the sizes do not fit the devices.
    """
    available = list(jax.devices()) if devices is None else list(devices)
    sizes = _resolve_sizes([data, fsdp, tensor, sequence, expert], len(available))
    count = math.prod(sizes)
    if count > len(available) or (devices is not None and count != len(available)):
        raise BadInput(
            f"mesh {_describe(sizes)} needs {count} devices, there are {len(available)}; change the"
            " sizes",
            field="mesh",
        )
    axis_types = (AxisType.Auto,) * len(AXES)
    used = available[:count]
    slices = len({getattr(device, "slice_index", 0) for device in used})
    if slices == 1:
        return jax.make_mesh(sizes, AXES, axis_types=axis_types, devices=used)
    if sizes[0] % slices:
        raise BadInput(
            f"mesh {_describe(sizes)}: data is the axis that crosses slices, make it a multiple of"
            f" the {slices} slices",
            field="mesh.data",
        )
    grid = mesh_utils.create_hybrid_device_mesh(
        (sizes[0] // slices, *sizes[1:]),
        (slices, *(1,) * (len(AXES) - 1)),
        used,
        allow_split_physical_axes=True,
    )
    return Mesh(grid, AXES, axis_types=axis_types)


def sizes_of_process(sizes: Mapping[str, int], num_devices: int, num_local: int) -> dict[str, int]:
    """Return axis sizes for one process's own copy of a model.

    Args:
      sizes: of the mesh of all processes, by axis.
      num_devices: of all processes.
      num_local: of this process.
    """
    resolved = _resolve_sizes([sizes.get(axis, 1) for axis in AXES], num_devices)
    whole = dict(zip(AXES, resolved, strict=True))
    tensor = math.gcd(whole["tensor"], num_local)
    expert = math.gcd(whole["expert"], num_local // tensor)
    rest = num_local // (tensor * expert)
    fsdp = 1 if whole["fsdp"] == 1 else rest  # copies that fit one device need no gathering
    return dict(data=rest // fsdp, fsdp=fsdp, tensor=tensor, expert=expert)


def _resolve_sizes(sizes: Sequence[int], num_devices: int) -> list[int]:
    """Replace a size of -1 by the number of devices that the other sizes leave."""
    if any(size < 1 and size != -1 for size in sizes) or sizes.count(-1) > 1:
        raise BadInput(
            f"mesh {_describe(sizes)}: sizes must be positive; at most one may be -1 (all remaining"
            " devices)",
            field="mesh",
        )
    if -1 not in sizes:
        return list(sizes)
    others = math.prod(size for size in sizes if size != -1)
    if num_devices % others:
        raise BadInput(
            f"mesh {_describe(sizes)}: {others} does not divide the {num_devices} devices; change"
            " the sizes",
            field="mesh",
        )
    return [num_devices // others if size == -1 else size for size in sizes]


def _describe(sizes: Sequence[int]) -> str:
    return ", ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))


def batch_mesh(batch_size: int, devices: Devices | None = None) -> Mesh | None:
    """Make a data-parallel mesh of as many devices as divide the batch, or None for one device.

    On CPU a device is a core: cores that each work on their own rows are a fifth faster than cores
    that share every operation.

    Args:
      devices: to choose from, by default this host's.
    """
    devices = jax.local_devices() if devices is None else list(devices)
    count = max(n for n in range(1, len(devices) + 1) if batch_size % n == 0)
    return make_mesh(data=count, devices=devices[:count]) if count > 1 else None


def generator_meshes(
    batch_size: int,
    sizes: Mapping[str, int],
    encoder_vae_devices: int = 0,
    devices: Devices | None = None,
) -> tuple[Mesh | None, Mesh | None]:
    """Make the two meshes of a video generator.

    Args:
      batch_size: videos in a batch.
      sizes: axis sizes of the denoiser's mesh; all 1 means `batch_mesh`.
      encoder_vae_devices: how many devices, the last ones, are reserved for text encoder and VAE.
      devices: to use, by default this host's.

    Returns:
      The denoiser's mesh (None: one device) and the auxiliary mesh, of text encoder and VAE (None:
      they run on the denoiser's).

    Raises:
      BadInput: the sizes do not fit the devices.
    """
    _check_no_experts(sizes, "generator.mesh")
    devices = jax.local_devices() if devices is None else list(devices)
    if not 0 <= encoder_vae_devices < len(devices):
        raise BadInput(
            f"generator.encoder_vae_devices={encoder_vae_devices}: there are {len(devices)}"
            " devices, and the denoiser needs at least one; choose a smaller number",
            field="generator.encoder_vae_devices",
        )
    first_auxiliary = len(devices) - encoder_vae_devices
    denoiser_devices = devices[:first_auxiliary]
    if any(size != 1 for size in sizes.values()):
        mesh = make_mesh(**sizes, devices=denoiser_devices)
    else:
        mesh = batch_mesh(batch_size, denoiser_devices)
    if encoder_vae_devices == 0:
        return mesh, None
    mesh = mesh or make_mesh(devices=denoiser_devices[:1])
    return mesh, make_mesh(tensor=-1, devices=devices[first_auxiliary:])


def local_mesh(
    sizes: Mesh | Mapping[str, int] | None, field: str, devices: Devices | None = None
) -> Mesh | None:
    """Make a mesh of this host's devices, for a model of which every process has a copy.

    Args:
      sizes: axis sizes by name, as `make_mesh` takes them; a mesh or None is returned unchanged.
      field: of the configuration, named in errors.
      devices: to choose from, by default this host's; as many are used as the sizes need.

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
            f"{field} is {sizes}; give integers for some of {', '.join(AXES)}, as in dict(fsdp=4)",
            field=field,
        )
    _check_no_experts(sizes, field)
    devices = jax.local_devices() if devices is None else list(devices)
    needed = math.prod(sizes.values())
    used = devices[:needed] if 0 < needed < len(devices) else devices
    return make_mesh(**sizes, devices=used)


def _check_no_experts(sizes: Mapping[str, int], field: str) -> None:
    """Check that a model without experts gets no axis for them.

    Raises:
      BadInput: it does.
    """
    if (size := sizes.get("expert", 1)) != 1:
        raise BadInput(
            f"{field}.expert={size}: this model has no experts; set it to 1",
            field=f"{field}.expert",
        )


def shard_batch_axis(arrays: Any, mesh: Mesh | None) -> Any:
    """Shard the first axis of `arrays` over `BATCH_AXES`; without a mesh return them as is."""
    if mesh is None:
        return arrays
    return jax.device_put(arrays, NamedSharding(mesh, PartitionSpec(BATCH_AXES)))


def replicate(params: Any, mesh: Mesh | None) -> Any:
    """Copy `params` to every device of `mesh`; without a mesh return them as is."""
    return params if mesh is None else jax.device_put(params, NamedSharding(mesh, PartitionSpec()))


def mesh_platform(mesh: Mesh | None) -> str:
    """Return the platform of a mesh's devices, or that of the default device: cpu, gpu or tpu."""
    return jax.default_backend() if mesh is None else mesh.devices.flat[0].platform


def batch_shards(mesh: Mesh) -> int:
    """Return into how many parts a batch is sharded: data * fsdp * expert."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def check_batch(mesh: Mesh, batch_size: int, field: str) -> None:
    """Check that `mesh` divides a batch size.

    Args:
      field: of the configuration, whose value `batch_size` is.

    Raises:
      BadInput: it does not.
    """
    if batch_size % batch_shards(mesh):
        raise BadInput(
            f"{field}={batch_size} is not a multiple of {'*'.join(BATCH_AXES)}="
            f"{batch_shards(mesh)} of the mesh; change either",
            field=field,
        )
