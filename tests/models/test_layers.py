"""Norms and activations equal those of torch and transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.activations import ACT2FN

from pav_jax.models.layers import ACTIVATIONS, LayerNorm, RMSNorm


@pytest.mark.parametrize("seed", range(3))
def test_norms_equal_torch(seed):
    rng = np.random.default_rng(seed)
    d = int(rng.integers(3, 40))
    x, scale, bias = (rng.normal(1, 3, shape).astype(np.float32) for shape in ((2, 5, d), d, d))
    eps = float(10 ** rng.uniform(-7, -3))
    torch_x, torch_scale, torch_bias = map(torch.from_numpy, (x, scale, bias))
    ours_x = jnp.asarray(x)
    got = RMSNorm(eps).apply({"params": {"scale": scale}}, ours_x)
    np.testing.assert_allclose(
        got, torch.nn.functional.rms_norm(torch_x, (d,), torch_scale, eps), rtol=1e-4, atol=1e-5
    )
    got = LayerNorm(eps).apply({"params": {"scale": scale, "bias": bias}}, ours_x)
    want = torch.nn.functional.layer_norm(torch_x, (d,), torch_scale, torch_bias, eps)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_layer_norm_not_affine():
    assert "params" not in LayerNorm(affine=False).init(jax.random.key(0), jnp.ones((1, 4)))


def test_rms_norm_returns_compute_dtype():
    x = jnp.full((1, 64), 300.0, jnp.bfloat16)
    y = RMSNorm(dtype=jnp.bfloat16).apply({"params": {"scale": jnp.ones(64)}}, x)
    assert y.dtype == jnp.bfloat16


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations_equal_transformers(name):
    x = np.linspace(-6, 6, 101, dtype=np.float32)
    np.testing.assert_allclose(
        ACTIVATIONS[name](jnp.asarray(x)), ACT2FN[name](torch.from_numpy(x)), atol=2e-6
    )
