"""Full attention with tokens spread over devices, and block by block, equals the plain one."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.errors import BadInput
from pav_jax.models.attention import FirstKeys, dot_product_attention
from pav_jax.models.blockwise_attention import blockwise_attention
from pav_jax.models.flash_attention import splash_full_attention
from pav_jax.parallel.sequence_attention import full_attention

PROGRAM = """
import jax, numpy as np
from pav_jax.models.attention import FirstKeys, dot_product_attention
from pav_jax.parallel.mesh import make_mesh
from pav_jax.parallel.sequence_attention import full_attention
from pav_jax.errors import BadInput
from tests.parallel.test_sequence_attention import arrays
q, k, v = arrays(24)
for sizes, name in ((dict(sequence=4), "ring"), (dict(data=2, sequence=4), "ulysses"),
                    (dict(tensor=4, sequence=2), "auto"), (dict(data=2, tensor=2), "auto")):
    mask = FirstKeys(21)
    ours = jax.jit(full_attention(make_mesh(**sizes), name))(q, k, v, mask)
    np.testing.assert_allclose(ours[:, :21], dot_product_attention(q, k, v, mask)[:, :21], atol=1e-5)
    assert ours.sharding.shard_shape(ours.shape)[1] == 24 // sizes.get("sequence", 1), ours.sharding
try:
    full_attention(make_mesh(tensor=4, sequence=2), "ulysses")(q, k, v)
except BadInput as error:
    print(error)
"""


def arrays(tokens):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=(2, tokens, 4, 8)), jnp.float32) for _ in range(3)]


def test_ring_and_ulysses_give_the_values_of_one_device():
    env = os.environ | {"JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.getcwd()}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True)
    assert done.stdout.startswith("sequence_attention='ulysses': 4 heads"), done.stderr[-3000:]


@pytest.mark.parametrize("mask", [None, FirstKeys(17)])
def test_block_by_block_and_the_tpus_kernel_give_the_plain_values(mask):
    q, k, v = arrays(23)
    want = dot_product_attention(q, k, v, mask)
    ours = jax.jit(lambda *a: blockwise_attention(*a, mask, plain=0, block=5))(q, k, v)
    np.testing.assert_allclose(ours, want, atol=1e-5)
    real = slice(0, 23 if mask is None else mask.count)  # the rows of padding are nobody's
    ours = splash_full_attention(q, k, v, mask, interpret=True)
    np.testing.assert_allclose(ours[:, real], want[:, real], atol=1e-5)


def test_large_logits_do_not_overflow():
    q, k, v = arrays(9)
    ours = blockwise_attention(200 * q, k, v, plain=0, block=4)
    np.testing.assert_allclose(ours, dot_product_attention(200 * q, k, v), atol=1e-4)


def test_an_unknown_name_is_bad_input():
    with pytest.raises(BadInput, match="'star' is none of auto, ring, ulysses"):
        full_attention(None, "star")
