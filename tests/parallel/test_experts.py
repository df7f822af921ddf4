"""A mixture of experts on a mesh: logits and gradients equal those on one device."""

import pytest
from jax.sharding import AbstractMesh, AxisType

from pav_jax.errors import BadInput
from pav_jax.models.decoder import Experts
from pav_jax.models.decoder.experts import sum_experts
from pav_jax.parallel.experts import make_sum_experts_fn
from pav_jax.parallel.mesh import AXES, make_mesh
from tests.cpu_devices import run_on_cpu_devices

PROGRAM = """
import json
import jax, jax.numpy as jnp, numpy as np
from pav_jax.models.decoder import Decoder, hf
from pav_jax.models.weights import logical_axes
from pav_jax.parallel.experts import make_sum_experts_fn
from pav_jax.parallel.mesh import make_mesh
from pav_jax.parallel.sharding_rules import ShardingConstraint, shard, shard_batch
from tests.tiny import rewriter_sizes
config = hf.config_from_hf(rewriter_sizes.SIZES | rewriter_sizes.FAMILIES["qwen3_moe"]
                           | dict(num_hidden_layers=1))
model = Decoder(config)
ids = np.random.default_rng(0).integers(0, config.vocab_size, (4, 16)).astype(np.int32)
params = jax.jit(model.init)(jax.random.key(0), ids)["params"]
params["layers"]["mlp"] = jax.tree.map(lambda x: 10 * x, params["layers"]["mlp"])

def run(model, params, ids):
    def loss(params):
        logits = model.apply({"params": params}, ids)
        return jnp.sin(logits).sum(), logits
    return jax.jit(jax.grad(loss, has_aux=True))(params)

want = run(model, params, jnp.asarray(ids))
for sizes in (dict(data=2, expert=2, tensor=2), dict(fsdp=2, expert=2, sequence=2)):
    mesh = make_mesh(**sizes)
    on_mesh = model.clone(constrain=ShardingConstraint(mesh),
                          sum_experts_fn=make_sum_experts_fn(config.experts, mesh))
    sharded = shard(params, logical_axes(hf.weights(config)), mesh)
    shape = sharded["layers"]["mlp"]["gate_proj"].sharding.shard_shape((1, 6, 32, 16))
    assert shape[1:] == (3, 32 // sizes.get("fsdp", 1), 16 // sizes.get("tensor", 1)), shape
    ours = run(on_mesh, sharded, shard_batch({"ids": ids}, mesh)["ids"])
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * float(jnp.abs(b).max()), err_msg=str(sizes))
print("equal")
"""


@pytest.mark.slow
def test_make_sum_experts_fn_on_mesh_equals_one_device():
    assert run_on_cpu_devices(8, PROGRAM) == "equal\n"


def test_make_sum_experts_fn_one_device():
    assert make_sum_experts_fn(None) is sum_experts is make_sum_experts_fn(None, make_mesh())


@pytest.mark.parametrize(
    "num_experts, message", [(0, "has no experts"), (6, "the model's 6 experts")]
)
def test_make_sum_experts_fn_mesh_does_not_fit(num_experts, message):
    mesh = AbstractMesh((1, 1, 1, 1, 4), AXES, axis_types=(AxisType.Auto,) * 5)
    experts = Experts(num_experts, 2, 16) if num_experts else None
    with pytest.raises(BadInput, match=message) as error:
        make_sum_experts_fn(experts, mesh)
    assert error.value.field == "mesh.expert"
