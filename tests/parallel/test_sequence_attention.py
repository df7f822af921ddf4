"""Attention over sharded tokens, and by blocks, equals plain attention."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.errors import BadInput
from pav_jax.models.attention.blockwise import blockwise_attention
from pav_jax.models.attention.dot_product import FirstKeys, dot_product_attention
from pav_jax.models.attention.flash import splash_full_attention
from pav_jax.parallel.sequence_attention import make_sequence_attention_fn

PROGRAM = """
import jax, numpy as np
from pav_jax.models.attention import FirstKeys, dot_product_attention
from pav_jax.parallel.mesh import make_mesh
from pav_jax.parallel.sequence_attention import make_sequence_attention_fn
from pav_jax.errors import BadInput
from tests.parallel.test_sequence_attention import arrays
q, k, v = arrays(24)
for sizes, name in ((dict(sequence=4), "ring"), (dict(data=2, sequence=4), "ulysses"),
                    (dict(tensor=4, sequence=2), "auto"), (dict(data=2, tensor=2), "auto")):
    mask = FirstKeys(21)
    attend = jax.jit(make_sequence_attention_fn(make_mesh(**sizes), name))
    ours = attend(q, k, v, mask)
    np.testing.assert_allclose(ours, dot_product_attention(q, k, v, mask), atol=1e-5)
    assert ours.sharding.shard_shape(ours.shape)[1] == 24 // sizes.get("sequence", 1), ours.sharding
    ours = attend(q, k[:, :7], v[:, :7])  # keys of a text: replicated
    np.testing.assert_allclose(ours, dot_product_attention(q, k[:, :7], v[:, :7]), atol=1e-5)
    assert ours.sharding.shard_shape(ours.shape)[1] == 24 // sizes.get("sequence", 1), ours.sharding
try:
    make_sequence_attention_fn(make_mesh(tensor=4, sequence=2), "ulysses")(q, k, v)
except BadInput as error:
    print(error)
"""


def arrays(tokens):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=(2, tokens, 4, 8)), jnp.float32) for _ in range(3)]


@pytest.mark.slow
def test_make_sequence_attention_fn_on_mesh():
    env = os.environ | {
        "JAX_NUM_CPU_DEVICES": "8",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.getcwd(),
    }
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True)
    assert done.stdout.startswith("sequence_attention='ulysses': 4 heads"), done.stderr[-3000:]


@pytest.mark.parametrize("mask", [None, FirstKeys(17)])
def test_blockwise_and_splash_equal_dot_product(mask):
    q, k, v = arrays(23)
    want = dot_product_attention(q, k, v, mask)
    ours = jax.jit(lambda *a: blockwise_attention(*a, mask, max_logits=1))(q, k, v)
    np.testing.assert_allclose(ours, want, atol=1e-5)
    np.testing.assert_allclose(
        splash_full_attention(q, k, v, mask, interpret=True), want, atol=1e-5
    )


@pytest.mark.parametrize("queries, keys", [(300, 40), (128, 7), (515, 515)])
def test_blockwise_attention_any_length_with_mask(queries, keys):
    q = arrays(queries)[0]
    _, k, v = arrays(keys)
    mask = (np.arange(keys) < np.array([[3], [5]]))[:, None, None, :]
    attend = jax.jit(blockwise_attention, static_argnames="max_logits")
    has_loop = "while" in attend.lower(q, k, v, max_logits=2**20).as_text()
    assert has_loop == (queries == 515)  # the other sizes fit one block
    for keys_mask in (None, mask):
        ours = attend(q, k, v, keys_mask, max_logits=1)
        np.testing.assert_allclose(ours, dot_product_attention(q, k, v, keys_mask), atol=1e-5)
    no_keys = np.zeros((2, 1, 1, keys), bool)
    assert not np.asarray(attend(q, k, v, no_keys, max_logits=1)).any()  # zeros, not NaN


def test_blockwise_attention_memory():
    """32,760 tokens of Wan at 480 x 832, two heads: all logits would take 8 GiB, softmax 8 more."""
    q = jax.ShapeDtypeStruct((1, 32_760, 2, 8), jnp.float32)
    memory = jax.jit(blockwise_attention).lower(q, q, q).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 2**32


def test_blockwise_attention_large_logits():
    q, k, v = arrays(200)
    ours = blockwise_attention(200 * q, k, v, max_logits=1)
    np.testing.assert_allclose(ours, dot_product_attention(200 * q, k, v), atol=1e-4)


def test_make_sequence_attention_fn_unknown_name():
    with pytest.raises(BadInput) as error:
        make_sequence_attention_fn(None, "star")
    assert error.value.field == "sequence_attention"
