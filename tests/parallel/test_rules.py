"""Where arrays go on a mesh."""

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from pav_jax.errors import BadInput
from pav_jax.parallel import mesh as meshes
from pav_jax.parallel import sharding_rules


def abstract(data=1, fsdp=1, tensor=1, sequence=1):
    return AbstractMesh(
        (data, fsdp, tensor, sequence), meshes.AXES, axis_types=(AxisType.Auto,) * 4
    )


def test_one_device_is_the_default_and_everything_is_whole_on_it():
    mesh = meshes.make_mesh()
    assert mesh.size == 1 and mesh.axis_names == ("data", "fsdp", "tensor", "sequence")
    assert all(kind == AxisType.Auto for kind in mesh.axis_types)
    assert sharding_rules.partition_spec(("vocab", "embed"), (32, 16), mesh) == PartitionSpec(
        None, None
    )


@pytest.mark.parametrize(
    "axes, shape, sizes, want",
    [
        (("vocab", "embed"), (32, 16), dict(fsdp=2, tensor=4), ("tensor", "fsdp")),
        ((None, "embed", "heads"), (3, 16, 32), dict(fsdp=2, tensor=4), (None, "fsdp", "tensor")),
        ((None, "heads", "embed"), (3, 32, 16), dict(data=8), (None, None, None)),
        (("embed", "heads"), (15, 32), dict(fsdp=2, tensor=4), (None, "tensor")),  # 15 is not even
        (("heads", "mlp"), (8, 8), dict(tensor=2), ("tensor", None)),  # a mesh axis is used once
        (
            ("batch", "length"),
            (8, 64),
            dict(data=2, fsdp=2, sequence=2),
            (("data", "fsdp"), "sequence"),
        ),
        (("batch", None), (2, 64), dict(data=2, fsdp=4), ("data", None)),  # as far as the rows go
        (
            ("batch", None, "length"),
            (8, 2, 64),
            dict(data=2, sequence=2),
            ("data", None, "sequence"),
        ),
    ],
)
def test_logical_axes_follow_the_table(axes, shape, sizes, want):
    assert sharding_rules.partition_spec(axes, shape, abstract(**sizes)) == PartitionSpec(*want)


def test_trees_of_axes_and_arrays_must_match():
    tree = {"a": np.zeros((4, 4)), "b": {"c": np.zeros(4)}}
    placed = sharding_rules.shard(
        tree, {"a": ("embed", "heads"), "b": {"c": ()}}, meshes.make_mesh()
    )
    jax.tree.map(np.testing.assert_array_equal, placed, tree)
    with pytest.raises(ValueError, match="2 arrays, logical axes for 1"):
        sharding_rules.shardings({"a": ("embed", "heads")}, tree, meshes.make_mesh())


@pytest.mark.parametrize(
    "sizes", [dict(data=1000), dict(data=0), dict(data=-1, fsdp=-1), dict(data=-1, fsdp=1000)]
)
def test_mesh_that_does_not_fit_the_devices_is_refused(sizes):
    with pytest.raises(BadInput, match="mesh data="):
        meshes.make_mesh(**sizes)


def test_mesh_that_does_not_divide_the_batch_is_refused():
    with pytest.raises(BadInput, match="sft.batch_size=6 is not a multiple of data.fsdp=4"):
        meshes.check_batch(abstract(data=2, fsdp=2), 6, "sft.batch_size")
