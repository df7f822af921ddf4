"""The kernels against plain attention: values and gradients, packed rows, grouped heads."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.models.attention import flash
from pav_jax.models.attention.dot_product import Causal, dot_product_attention
from pav_jax.preflight.flops import count_flops

interpreted = functools.partial(flash.splash_attention, interpret=True)


def inputs(seed: int, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    b = 2
    t = 128 * int(rng.integers(1, 3))
    k = int(rng.integers(1, 3))
    h = int(rng.choice([32, 64, 128]))
    n = k * int(rng.integers(1, 3))
    arrays = [jnp.asarray(rng.normal(size=(b, t, heads, h)), dtype) for heads in (n, k, k)]
    cuts = np.sort(rng.integers(1, t, (b, 2)), axis=1)
    segments = jnp.asarray(
        1 + (np.arange(t) >= cuts[:, :1]) + (np.arange(t) >= cuts[:, 1:]), jnp.int32
    )
    return arrays, segments


def value_and_gradients(attend, arrays, mask):
    weights = jnp.cos(jnp.arange(arrays[0].size, dtype=jnp.float32)).reshape(arrays[0].shape)

    def total(q, k, v):
        out = attend(q, k, v, mask)
        return (out.astype(jnp.float32) * weights).sum(), out

    return jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))(*arrays)


def assert_equal(attend, arrays, mask, tolerance):
    ours, want = (value_and_gradients(f, arrays, mask) for f in (attend, dot_product_attention))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(
            np.asarray(a, np.float32),
            np.asarray(b, np.float32),
            atol=tolerance * float(jnp.abs(b).max()),
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    "seed, packed, window",
    [
        (0, False, None),
        (1, True, None),
        (2, True, None),
        (0, False, 1),
        (1, True, 20),
        (3, True, 130),
    ],
)
def test_splash_attention_equals_dot_product(seed, packed, window):
    arrays, segments = inputs(seed)
    assert_equal(interpreted, arrays, Causal(segments if packed else None, window), 1e-4)


@pytest.mark.parametrize("attend", [interpreted, flash.cudnn_attention])
def test_kernels_fall_back_to_dot_product(attend):
    (q, k, v), _ = inputs(4)
    lower = jnp.tril(jnp.ones((q.shape[1],) * 2, bool))[None, None]
    np.testing.assert_array_equal(attend(q, k, v, lower), dot_product_attention(q, k, v, lower))
    short = [x[:, :50] for x in (q, k, v)]
    np.testing.assert_array_equal(attend(*short, Causal()), dot_product_attention(*short, Causal()))


# lengths and what they are padded to: multiples of 128 below a block of 512, else of 512
@pytest.mark.parametrize("queries, keys, padded", [(200, 70, (256, 128)), (600, 600, (1024, 1024))])
def test_splash_full_attention_any_length(queries, keys, padded):
    rng = np.random.default_rng(keys)
    q, k, v = (
        jnp.asarray(rng.normal(size=(1, n, 2, 32)), jnp.float32) for n in (queries, keys, keys)
    )
    attend = functools.partial(flash.splash_full_attention, interpret=True)
    np.testing.assert_allclose(jax.jit(attend)(q, k, v), dot_product_attention(q, k, v), atol=1e-5)
    count = count_flops(jax.make_jaxpr(attend)(q, k, v))
    assert count == 2 * 2 * 2 * 32 * padded[0] * padded[1]


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="cuDNN needs a GPU")
@pytest.mark.parametrize("packed", [False, True])
def test_cudnn_attention_equals_dot_product(packed):
    arrays, segments = inputs(5, jnp.bfloat16)
    assert_equal(flash.cudnn_attention, arrays, Causal(segments if packed else None), 2e-2)
