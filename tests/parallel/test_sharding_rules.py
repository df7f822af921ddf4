"""How arrays are partitioned over a mesh."""

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from pav_jax.errors import BadInput
from pav_jax.parallel import mesh as mesh_module
from pav_jax.parallel import sharding_rules


def abstract_mesh(data=1, fsdp=1, tensor=1, sequence=1, expert=1):
    return AbstractMesh(
        (data, fsdp, tensor, sequence, expert), mesh_module.AXES, axis_types=(AxisType.Auto,) * 5
    )


def test_make_mesh_default_is_one_device():
    mesh = mesh_module.make_mesh()
    assert mesh.size == 1 and mesh.axis_names == mesh_module.AXES
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
        (
            ("embed", "heads"),
            (15, 32),
            dict(fsdp=2, tensor=4),
            (None, "tensor"),
        ),  # 2 does not divide 15
        (("heads", "mlp"), (8, 8), dict(tensor=2), ("tensor", None)),  # a mesh axis is used once
        (
            (None, "expert", "embed", "mlp"),
            (3, 4, 16, 32),
            dict(fsdp=2, tensor=2, expert=2),
            (None, "expert", "fsdp", "tensor"),
        ),
        (("expert", "embed"), (3, 16), dict(expert=2), (None, None)),  # 2 does not divide 3
        (
            ("batch", "length"),
            (8, 64),
            dict(data=2, fsdp=2, sequence=2),
            (("data", "fsdp"), "sequence"),
        ),
        (("batch",), (8,), dict(data=2, fsdp=2, expert=2), (("data", "fsdp", "expert"),)),
        (("batch", None), (2, 64), dict(data=2, fsdp=4), ("data", None)),  # 2 rows: data only
        (
            ("batch", None, "length"),
            (8, 2, 64),
            dict(data=2, sequence=2),
            ("data", None, "sequence"),
        ),
    ],
)
def test_partition_spec(axes, shape, sizes, want):
    assert sharding_rules.partition_spec(axes, shape, abstract_mesh(**sizes)) == PartitionSpec(
        *want
    )


def test_shard_keeps_values():
    tree = {"a": np.zeros((4, 4)), "b": {"c": np.zeros(4)}}
    sharded = sharding_rules.shard(
        tree, {"a": ("embed", "heads"), "b": {"c": ()}}, mesh_module.make_mesh()
    )
    jax.tree.map(np.testing.assert_array_equal, sharded, tree)


def test_shardings_tree_mismatch():
    tree = {"a": np.zeros((4, 4)), "b": {"c": np.zeros(4)}}
    with pytest.raises(ValueError, match="2 arrays, but logical axes for 1"):
        sharding_rules.shardings({"a": ("embed", "heads")}, tree, mesh_module.make_mesh())


@pytest.mark.parametrize(
    "sizes", [dict(data=1000), dict(data=0), dict(data=-1, fsdp=-1), dict(data=-1, fsdp=1000)]
)
def test_make_mesh_sizes_do_not_fit(sizes):
    with pytest.raises(BadInput) as error:
        mesh_module.make_mesh(**sizes)
    assert error.value.field == "mesh"


@pytest.mark.parametrize("sizes", [dict(data=2, fsdp=2), dict(data=2, expert=2)], ids=str)
def test_check_batch_not_divisible(sizes):
    with pytest.raises(BadInput, match=r"a multiple of data\*fsdp\*expert=4") as error:
        mesh_module.check_batch(abstract_mesh(**sizes), 6, "sft.batch_size")
    assert error.value.field == "sft.batch_size"
