"""Products of 8-bit kernels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.models.int8_kernel import Int8Kernel


def arrays(seed, rows=6, inputs=96, outputs=40):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, inputs)) * np.exp(rng.normal(size=(rows, 1)))
    return x.astype(np.float32), rng.normal(size=(inputs, outputs)).astype(np.float32)


def rounded(a, axis):
    scale = np.abs(a).max(axis, keepdims=True) / 127
    return np.round(a / scale), scale


@pytest.mark.parametrize("seed", range(3))
def test_product_of_rounded_numbers(seed):
    x, kernel = arrays(seed)
    (x_int, x_scale), (k_int, k_scale) = rounded(x, 1), rounded(kernel, 0)
    product = np.asarray(jnp.asarray(x) @ Int8Kernel.quantize(jnp.asarray(kernel)))
    error = np.abs(product - (x_int @ k_int) * x_scale * k_scale)
    assert (error <= 2 * 127 * x_scale * k_scale).all()  # a tie may be rounded up here, down there
    assert np.median(error) < 1e-5
    exact = x @ kernel
    assert np.abs(product - exact).max() < 0.02 * np.abs(x).max() * np.sqrt(x.shape[1])


def test_stack_of_kernels():
    kernels = np.stack([arrays(seed)[1] for seed in range(3)])
    stack = Int8Kernel.quantize(jnp.asarray(kernels))
    assert stack.shape == kernels.shape and stack.size == kernels.size
    for i, kernel in enumerate(kernels):
        alone = Int8Kernel.quantize(jnp.asarray(kernel))
        np.testing.assert_array_equal(stack.values[i], alone.values)
        np.testing.assert_array_equal(stack.scales[i], alone.scales)


def test_product_does_not_depend_on_other_rows():
    x, kernel = arrays(3)
    quantized = Int8Kernel.quantize(jnp.asarray(kernel))
    together = jax.jit(lambda x: x @ quantized)(x)
    for i, row in enumerate(x):
        np.testing.assert_array_equal(jax.jit(lambda x: x @ quantized)(row[None])[0], together[i])


def test_rows_and_outputs_of_zeros():
    x, kernel = arrays(4)
    x[2], kernel[:, 5] = 0, 0
    product = np.asarray(jnp.asarray(x)[:, None] @ Int8Kernel.quantize(jnp.asarray(kernel)))
    assert product.shape == (6, 1, 40)
    assert not product[2].any() and not product[..., 5].any() and np.isfinite(product).all()
