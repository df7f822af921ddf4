"""Log-probabilities against their definition in numpy, their gradients against automatic
differentiation, and what is computed at all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.language.log_probs import token_log_probs


@pytest.fixture(scope="module")
def drawn():
    rng = np.random.default_rng(0)
    return {
        "x": rng.normal(size=(3, 11, 8)).astype(np.float32),
        "w": rng.normal(size=(8, 23)).astype(np.float32),
        "ids": rng.integers(0, 23, size=(3, 11)),
    }


def log_softmax(logits):
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.mark.parametrize("chunk", [1, 4, 5, 11, 64])
def test_token_log_probs_chunk_sizes(drawn, chunk):
    x = drawn["x"]
    w = drawn["w"]
    ids = drawn["ids"]
    arrays = (jnp.asarray(x), jnp.asarray(ids))
    got = jax.jit(lambda: token_log_probs(lambda w, h: h @ w, w, *arrays, chunk))()
    every = log_softmax(x.astype(np.float64) @ w)
    want = np.take_along_axis(every[:, :-1], ids[:, 1:, None], -1)[..., 0]
    np.testing.assert_allclose(got[:, 1:], want, atol=2e-5)
    np.testing.assert_array_equal(got[:, 0], 0)


def test_token_log_probs_gradients(drawn):
    def loss(x, w, chunk):
        return token_log_probs(lambda w, h: h @ w, w, x, jnp.asarray(drawn["ids"]), chunk)[
            :, 3:
        ].sum()

    whole = jax.grad(loss, argnums=(0, 1))(drawn["x"], drawn["w"], 64)
    parts = jax.grad(loss, argnums=(0, 1))(drawn["x"], drawn["w"], 4)
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_token_log_probs_largest_array():
    """With 8 chunks, nothing as large as [B, T, V] appears in the program, forward or backward."""
    B = 2
    T = 64
    D = 4
    V = 1000
    chunk = 8
    w = jnp.ones((D, V))
    ids = jnp.zeros((B, T), jnp.int32)
    program = jax.make_jaxpr(
        jax.grad(lambda x: token_log_probs(lambda w, h: h @ w, w, x, ids, chunk).sum())
    )(jnp.ones((B, T, D)))

    def sizes(jaxpr):
        for eqn in jaxpr.eqns:
            yield from (v.aval.size for v in eqn.outvars)
            for value in eqn.params.values():
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    yield from sizes(inner)

    assert B * chunk * V <= max(sizes(program.jaxpr)) < B * T * V


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [1, 4, 64])
def test_token_log_probs_frozen_head_gradient(drawn, chunk):
    ids = jnp.asarray(drawn["ids"])
    weight = np.random.default_rng(1).normal(size=(3, 11)).astype(np.float32)

    def loss(x, **how):
        return jnp.sum(
            weight * token_log_probs(lambda w, h: h @ w / 0.7, drawn["w"], x, ids, chunk, **how)
        )

    for x in (jnp.asarray(drawn["x"]), jnp.asarray(drawn["x"], jnp.bfloat16)):
        want, got = (jax.value_and_grad(loss)(x, head_is_frozen=fixed) for fixed in (False, True))
        np.testing.assert_allclose(got[0], want[0], rtol=1e-6)
        assert got[1].dtype == x.dtype
        np.testing.assert_allclose(
            got[1].astype(np.float32),
            want[1].astype(np.float32),
            atol=1e-5 if x.dtype == np.float32 else 0.1,
        )


def products_with_the_vocabulary(jaxpr, vocabulary):
    """How many dot products of a program read or write an axis of that size."""
    count = 0
    for eqn in jaxpr.eqns:
        touched = [v.aval.shape for v in (*eqn.invars, *eqn.outvars) if hasattr(v, "aval")]
        count += eqn.primitive.name == "dot_general" and any(
            vocabulary in shape for shape in touched
        )
        for value in jax.tree.leaves(eqn.params, is_leaf=lambda v: hasattr(v, "jaxpr")):
            inner = getattr(value, "jaxpr", value)
            count += (
                products_with_the_vocabulary(inner, vocabulary) if hasattr(inner, "eqns") else 0
            )
    return count


def test_token_log_probs_frozen_head_products(drawn):
    ids = jnp.asarray(drawn["ids"])
    programs = [
        jax.make_jaxpr(
            jax.grad(
                lambda x, fixed=fixed: token_log_probs(
                    lambda w, h: h @ w, drawn["w"], x, ids, 64, head_is_frozen=fixed
                ).sum()
            )
        )(drawn["x"])
        for fixed in (False, True)
    ]
    assert [products_with_the_vocabulary(p.jaxpr, 23) for p in programs] == [3, 2]


@pytest.mark.parametrize("head_is_frozen", [False, True])
def test_token_log_probs_mask(drawn, head_is_frozen):
    """Their states are NaN here: computing with them would show."""
    mask = np.zeros((3, 11), bool)
    mask[0, 6:9] = True
    mask[2, 5] = True  # predicted at 5..7 and 4, in chunks 4..7 of 4
    x = drawn["x"].copy()
    x[:, :4] = np.nan
    x[:, 8:] = np.nan
    calls = dict(
        unembed=lambda w, h: h @ w, head=drawn["w"], ids_BxT=jnp.asarray(drawn["ids"]), chunk_size=4
    )
    got, gradient = jax.jit(
        jax.value_and_grad(
            lambda x: jnp.sum(
                jnp.where(
                    mask,
                    token_log_probs(
                        x_BxTxD=x,
                        mask_BxT=jnp.asarray(mask),
                        head_is_frozen=head_is_frozen,
                        **calls,
                    ),
                    0,
                )
            )
        )
    )(x)
    whole, slope = jax.value_and_grad(
        lambda x: jnp.sum(jnp.where(mask, token_log_probs(x_BxTxD=x, **calls), 0))
    )(drawn["x"])
    np.testing.assert_allclose(got, whole, rtol=1e-6)
    np.testing.assert_allclose(gradient, slope, atol=1e-6)
