"""Attention to cached keys equals attention to a copy of all of them in every row."""

import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.models.attention.cached import cached_attention
from pav_jax.models.attention.dot_product import dot_product_attention


@pytest.mark.parametrize(
    ("heads", "kv_heads", "queries"), [(4, 4, 1), (6, 2, 1), (6, 2, 5), (8, 1, 3)]
)
@pytest.mark.parametrize("scale", [None, 0.3])
def test_cached_attention_is_attention_to_copies(heads, kv_heads, queries, scale):
    rng = np.random.default_rng(heads + queries)
    b, r, s, h = 3, 7, 9, 8
    q = rng.normal(size=(b, queries, heads, h)).astype(np.float32)
    shared = [rng.normal(size=(kv_heads, r, h)).astype(np.float32) * 3 for _ in "kv"]
    own = [rng.normal(size=(b, kv_heads, s, h)).astype(np.float32) for _ in "kv"]
    mask = rng.random((b, 1, queries, r + s)) < 0.6
    mask[0, :, :, r:] = False  # nothing of the row
    mask[1, :, :, :r] = False  # nothing shared, as before a window
    mask[..., 0, [0, r]] = True
    copies = [
        np.concatenate([np.broadcast_to(a, (b, *a.shape)), o], axis=2).swapaxes(1, 2)
        for a, o in zip(shared, own, strict=True)
    ]
    expected = dot_product_attention(
        jnp.asarray(q), *map(jnp.asarray, copies), mask=mask, scale=scale
    )
    keys_last = [(jnp.asarray(k.swapaxes(-1, -2)), jnp.asarray(v)) for k, v in (shared, own)]
    actual = cached_attention(jnp.asarray(q), *keys_last, jnp.asarray(mask), scale)
    np.testing.assert_allclose(actual, expected, atol=2e-6, rtol=1e-5)
    whole = [jnp.asarray(a.swapaxes(1, 2)) for a in copies]
    own_only = cached_attention(
        jnp.asarray(q), None, (whole[0].swapaxes(2, 3), whole[1]), jnp.asarray(mask), scale
    )
    np.testing.assert_allclose(own_only, expected, atol=2e-6, rtol=1e-5)
