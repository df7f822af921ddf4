"""Attention on a mesh: each device its rows and heads, with the values and gradients of one
device."""

import os
import subprocess
import sys

import jax
import pytest

from pav_jax.errors import BadInput
from pav_jax.models.attention.dot_product import dot_product_attention
from pav_jax.models.attention.flash import cudnn_attention, splash_attention
from pav_jax.parallel.attention import attention

PROGRAM = """
import functools
import jax, jax.numpy as jnp, numpy as np
from pav_jax.models.attention import Causal, dot_product_attention
from pav_jax.models.attention.flash import splash_attention
from pav_jax.parallel.attention import attention
from pav_jax.parallel.mesh import make_mesh
mesh = make_mesh(data=2, tensor=2)
rng = np.random.default_rng(0)
segments = jnp.asarray(np.repeat([[1, 2], [1, 3]], 64, axis=1), jnp.int32)
for kv_heads in (2, 1):  # two go apart over tensor, one stays whole
    arrays = [jnp.asarray(rng.normal(size=(2, 128, heads, 32)), jnp.float32) for heads in (4, kv_heads, kv_heads)]
    spread = attention("splash", mesh).keywords["spread"]
    attend = functools.partial(splash_attention, spread=spread, interpret=True)
    for mask in (Causal(), Causal(segments)):
        def total(attend, q, k, v):
            out = attend(q, k, v, mask)
            return (out * jnp.sin(jnp.arange(out.size)).reshape(out.shape)).sum(), out
        ours, want = (jax.jit(jax.grad(functools.partial(total, f), argnums=(0, 1, 2), has_aux=True))(*arrays)
                      for f in (attend, dot_product_attention))
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(want), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4 * float(jnp.abs(b).max()))
        shape = ours[1].sharding.shard_shape(ours[1].shape)
        assert shape == (1, 128, 2 if kv_heads == 2 else 4, 32), shape
print("equal")
"""


def test_splash_on_a_mesh_gives_the_values_and_gradients_of_one_device():
    env = os.environ | {
        "JAX_NUM_CPU_DEVICES": "4",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.getcwd(),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, timeout=300
    )
    assert done.stdout == "equal\n", done.stderr


def test_names_choose_and_auto_goes_by_platform(monkeypatch):
    assert attention("plain") is dot_product_attention is attention("auto")
    assert attention("splash").func is splash_attention and attention("splash").keywords == {
        "spread": None
    }
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert attention("auto") is cudnn_attention
    with pytest.raises(BadInput, match="none of"):
        attention("fast")
