"""FLOPs counted in traced programs."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, AxisType

from pav_jax.models.decoder import Experts
from pav_jax.parallel.experts import make_sum_experts_fn
from pav_jax.parallel.mesh import AXES
from pav_jax.preflight.flops import count_flops


def flops(function, *shapes, default_trip_count=1):
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return count_flops(jax.make_jaxpr(function)(*arguments), default_trip_count)


def test_count_flops_matmul():
    assert flops(lambda x, y: x @ y, (3, 5), (5, 7)) == 2 * 3 * 5 * 7
    batched = flops(lambda x, y: jnp.einsum("bij,bjk->bik", x, y), (2, 3, 5), (2, 5, 7))
    assert batched == 2 * 2 * 3 * 5 * 7


def test_count_flops_ragged_dot():
    sizes = jnp.array([4, 3, 5])

    def multiply(x, w):
        return jax.lax.ragged_dot(x, w, sizes)

    assert flops(multiply, (12, 5), (3, 5, 7)) == 2 * 12 * 5 * 7
    loss = jax.grad(lambda x, w: jnp.sin(multiply(x, w)).sum(), argnums=(0, 1))
    assert flops(loss, (12, 5), (3, 5, 7)) == 3 * 2 * 12 * 5 * 7


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        dict(expert=2),
        dict(data=2, expert=2),
        dict(fsdp=2, expert=4),
        dict(expert=2, tensor=2, sequence=2),
        dict(data=3, expert=2),  # does not divide the rows
    ],
    ids=str,
)
def test_count_flops_experts_on_mesh(sizes):
    shape = tuple(sizes.get(axis, 1) for axis in AXES)
    mesh = AbstractMesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES))
    sum_experts = make_sum_experts_fn(Experts(4, 2, 16), mesh)
    ids = jnp.zeros((8, 6, 2), jnp.int32)

    def loss(x, factors, gate, up, down):
        return sum_experts(x, factors, ids, gate, up, down, activation="silu").sum()

    shapes = ((8, 6, 32), (8, 6, 2), (4, 32, 16), (4, 32, 16), (4, 16, 32))
    active = 2 * (8 * 6 * 2) * (3 * 32 * 16)  # each row of two experts, three matrices
    copies = sizes.get("data", 1) if 8 % sizes.get("data", 1) else 1
    assert flops(loss, *shapes) == copies * active
    gradients = jax.grad(loss, argnums=(0, 2, 3, 4))
    assert flops(gradients, *shapes) == copies * 3 * active


def test_count_flops_convolution():
    def convolve(x, w):
        layouts = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=layouts)

    assert flops(convolve, (2, 8, 8, 3), (3, 3, 3, 5)) == 2 * (2 * 8 * 8 * 5) * (3 * 3 * 3)


def test_count_flops_elementwise():
    assert flops(lambda x: jnp.exp(x) + x, (3, 5)) == 0


def test_count_flops_scan():
    def scan(x, w):
        return jax.lax.scan(lambda carry, layer: (carry @ layer, None), x, w)[0]

    assert flops(scan, (4, 4), (6, 4, 4)) == 6 * 128


def test_count_flops_unknown_trip_count():
    def loop(x):
        return jax.lax.while_loop(lambda c: c[0, 0] < 1, lambda c: c @ c, x)

    assert flops(loop, (4, 4), default_trip_count=9) == 9 * 128


def test_count_flops_largest_branch():
    def branch(x):
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x)

    assert flops(branch, (4, 4)) == 2 * 128


def test_count_flops_recomputation():
    # forward, again before the backward pass, and two products there
    checkpointed = jax.checkpoint(lambda x: jnp.sin(jnp.sin(x @ x)))
    assert flops(jax.grad(lambda x: checkpointed(x).sum()), (4, 4)) == 4 * 128


def test_count_flops_nested_jit():
    assert flops(jax.jit(lambda x: jax.nn.silu(x) @ x), (4, 4)) == 128
