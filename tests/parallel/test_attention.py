"""Attention on a mesh: values and gradients equal those on one device."""

import os
import subprocess
import sys

import jax
import pytest

from pav_jax.errors import BadInput
from pav_jax.models.attention.dot_product import dot_product_attention
from pav_jax.models.attention.flash import cudnn_attention, splash_attention
from pav_jax.parallel.attention import make_attention_fn

PROGRAM = """
import functools
import jax, jax.numpy as jnp, numpy as np
from pav_jax.models.attention import Causal, dot_product_attention
from pav_jax.models.attention.flash import splash_attention
from pav_jax.parallel.attention import make_attention_fn
from pav_jax.parallel.mesh import make_mesh
mesh = make_mesh(data=2, tensor=2)
rng = np.random.default_rng(0)
segments = jnp.asarray(np.repeat([[1, 2], [1, 3]], 64, axis=1), jnp.int32)
for kv_heads in (2, 1):  # two are sharded over tensor, one is replicated
    arrays = [jnp.asarray(rng.normal(size=(2, 128, heads, 32)), jnp.float32)
              for heads in (4, kv_heads, kv_heads)]
    shard_kernel = make_attention_fn("splash", mesh).keywords["shard_kernel"]
    attend = functools.partial(splash_attention, shard_kernel=shard_kernel, interpret=True)
    for mask in (Causal(), Causal(segments)):
        def total(attend, q, k, v):
            out = attend(q, k, v, mask)
            return (out * jnp.sin(jnp.arange(out.size)).reshape(out.shape)).sum(), out
        gradient = jax.jit(jax.grad(total, argnums=(1, 2, 3), has_aux=True), static_argnums=0)
        ours, want = (gradient(f, *arrays) for f in (attend, dot_product_attention))
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(want), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4 * float(jnp.abs(b).max()))
        shape = ours[1].sharding.shard_shape(ours[1].shape)
        assert shape == (1, 128, 2 if kv_heads == 2 else 4, 32), shape
print("equal")
"""


@pytest.mark.slow
def test_make_attention_fn_splash_on_mesh_equals_one_device():
    env = os.environ | {
        "JAX_NUM_CPU_DEVICES": "4",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.getcwd(),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, timeout=300
    )
    assert done.stdout == "equal\n", done.stderr


def test_make_attention_fn_auto_depends_on_platform(monkeypatch):
    assert make_attention_fn("plain") is dot_product_attention is make_attention_fn("auto")
    assert make_attention_fn("splash") is splash_attention
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert make_attention_fn("auto") is cudnn_attention


def test_make_attention_fn_unknown_name():
    with pytest.raises(BadInput) as error:
        make_attention_fn("fast")
    assert error.value.field == "attention"
