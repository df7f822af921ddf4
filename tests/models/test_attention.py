"""Attention: grouped queries, masks, bias, scale."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from pav_jax.models.attention.dot_product import dot_product_attention
from tests.tiers import first_fast


@pytest.mark.parametrize("seed", first_fast(range(6), 2))
def test_dot_product_attention_equals_torch(seed):
    rng = np.random.default_rng(seed)
    b, t, s, k, g, h = (int(n) for n in rng.integers(1, 6, 6))
    q, key, value = (
        rng.normal(size=shape).astype(np.float32)
        for shape in ((b, t, k * g, h), (b, s, k, h), (b, s, k, h))
    )
    mask = rng.random((b, 1, t, s)) < 0.7
    mask[..., 0] = True
    bias = rng.normal(size=(1, k * g, t, s)).astype(np.float32)
    scale = float(rng.uniform(0.1, 1))
    got = dot_product_attention(*map(jnp.asarray, (q, key, value, mask, bias)), scale=scale)
    heads_first = [
        torch.from_numpy(np.repeat(x, r, 2)).transpose(1, 2)
        for x, r in ((q, 1), (key, g), (value, g))
    ]
    additive = torch.from_numpy(np.where(mask, bias, -np.inf))
    want = torch.nn.functional.scaled_dot_product_attention(
        *heads_first, attn_mask=additive, scale=scale
    )
    np.testing.assert_allclose(got, want.transpose(1, 2).numpy(), atol=1e-5)


def test_dot_product_attention_all_keys_masked():
    x = jnp.ones((1, 2, 1, 4))
    assert np.isfinite(dot_product_attention(x, x, x, mask=jnp.zeros((1, 1, 2, 2), bool))).all()


def test_dot_product_attention_bfloat16():
    x = jnp.ones((1, 2, 2, 4), jnp.bfloat16)
    assert dot_product_attention(x, x, x).dtype == jnp.bfloat16
