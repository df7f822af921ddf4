"""Operations counted in traced programs."""

import jax
import jax.numpy as jnp

from pav_jax.preflight import operations


def counted(function, *shapes, open_trips=1):
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return operations.count(jax.make_jaxpr(function)(*arguments), open_trips)


def test_products_and_convolutions():
    assert counted(lambda x, y: x @ y, (3, 5), (5, 7)) == 2 * 3 * 5 * 7
    assert (
        counted(lambda x, y: jnp.einsum("bij,bjk->bik", x, y), (2, 3, 5), (2, 5, 7))
        == 2 * 2 * 3 * 5 * 7
    )
    convolution = lambda x, w: jax.lax.conv_general_dilated(  # noqa: E731
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    assert counted(convolution, (2, 8, 8, 3), (3, 3, 3, 5)) == 2 * (2 * 8 * 8 * 5) * (3 * 3 * 3)
    assert counted(lambda x: jnp.exp(x) + x, (3, 5)) == 0


def test_loops_branches_and_what_is_computed_again():
    def scanned(x, w):
        return jax.lax.scan(lambda c, one: (c @ one, None), x, w)[0]

    assert counted(scanned, (4, 4), (6, 4, 4)) == 6 * 128

    def unknown(x):
        return jax.lax.while_loop(lambda c: c[0, 0] < 1, lambda c: c @ c, x)

    assert counted(unknown, (4, 4), open_trips=9) == 9 * 128
    assert (
        counted(
            lambda x: jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x), (4, 4)
        )
        == 2 * 128
    )
    # forward, again before the backward pass, and two products there
    again = jax.checkpoint(lambda x: jnp.sin(jnp.sin(x @ x)))
    assert counted(jax.grad(lambda x: again(x).sum()), (4, 4)) == 4 * 128
    assert counted(jax.jit(lambda x: jax.nn.silu(x) @ x), (4, 4)) == 128
