"""Attention by rows equals plain attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.models.attention import rows as module
from pav_jax.models.attention.dot_product import Causal, FirstKeys, dot_product_attention
from pav_jax.models.attention.rows import causal_row_attention, row_attention
from tests.tiers import first_fast


@pytest.fixture
def small_blocks(monkeypatch):
    for name, value in (
        ("MAX_BLOCK_QUERIES", 8),
        ("MAX_CACHED_LOGITS", 0),
        ("MIN_HEAD_LOGITS", 0),
    ):
        monkeypatch.setattr(module, name, value)


@pytest.mark.parametrize(
    "t, s, kind",
    first_fast(
        [(21, 21, "first"), (3, 9, "rows"), (16, 16, None), (21, 5, None), (17, 17, "shared")], 2
    ),
)
def test_row_attention_equals_dot_product(small_blocks, t, s, kind):
    rng = np.random.default_rng(t + s)
    q, k, v = (jnp.asarray(rng.normal(size=(2, n, 3, 4)), jnp.float32) for n in (t, s, s))
    rows = rng.random((1 if kind == "shared" else 2, 1, 1, s)) < 0.6
    rows[..., 1] = True
    mask = {None: None, "first": FirstKeys(s - 4)}.get(kind, jnp.asarray(rows))
    got = row_attention(q, k, v, mask)
    want = dot_product_attention(q, k, v, mask)
    np.testing.assert_allclose(got, want, atol=1e-6)
    changed = row_attention(q, k[:, ::-1], v, mask)
    assert np.abs(np.asarray(changed) - np.asarray(want)).max() > 1e-2  # the order of keys matters


def test_row_attention_bfloat16_large_logits(small_blocks):
    x = 100 * jax.random.normal(jax.random.key(0), (1, 20, 2, 4))
    out = row_attention(*(x.astype(jnp.bfloat16),) * 3)
    assert out.dtype == jnp.bfloat16 and np.isfinite(np.asarray(out, np.float32)).all()


@pytest.mark.parametrize("t, heads, window", [(21, (4, 2), None), (16, (3, 3), 5), (7, (2, 1), 2)])
def test_causal_row_attention_equals_dot_product(small_blocks, t, heads, window):
    rng = np.random.default_rng(t)
    q, k, v = (jnp.asarray(rng.normal(size=(2, t, n, 4)), jnp.float32) for n in (*heads, heads[1]))
    mask = Causal(jnp.asarray(np.sort(rng.integers(0, 3, (2, t)))), window)
    want = dot_product_attention(q, k, v, mask)
    np.testing.assert_allclose(causal_row_attention(q, k, v, mask), want, atol=1e-6)
    one_segment = causal_row_attention(q, k, v, Causal(None, window))
    np.testing.assert_allclose(
        one_segment, dot_product_attention(q, k, v, Causal(None, window)), atol=1e-6
    )
    assert np.abs(np.asarray(one_segment - want)).max() > 1e-2
