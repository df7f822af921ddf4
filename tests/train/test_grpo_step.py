"""The optimizer step of tuning by rewards: its parts, its iterations, its order of prompts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pav_jax.language.log_probs import log_probs
from pav_jax.train import grpo_trainer as grpo
from pav_jax.train import rollouts
from pav_jax.train.config import GRPO_LOSS_TYPES
from pav_jax.train.grpo_loss import PolicyLoss, policy_loss
from pav_jax.train.loop import compile_step
from pav_jax.train.state import training_model
from tests.tiny import language_model as tiny
from tests.train.test_grpo_trainer import make_config


@pytest.fixture(scope="module")
def lm():
    return tiny.make_lm()


def random_batch():
    rng = np.random.default_rng(0)
    ids = jnp.asarray(rng.integers(3, 32, (8, 16)), jnp.int32)
    starts = rng.integers(3, 6, (8, 1))
    ends = rng.integers(7, 16, (8, 1))
    answer = (np.arange(16) >= starts) & (np.arange(16) < ends)
    answer[5] = False  # one without reward
    return {
        "ids": ids,
        "answer": jnp.asarray(answer),
        "advantage": jnp.asarray(rng.normal(size=8), jnp.float32),
    }


def stepped(lm, batch, steps=1, **changes):
    """(state, metrics, the state before the last step) after plain gradient steps."""
    fields = make_config(**{"batch_size": 8, "loss_chunk_size": 5, **changes}).grpo
    model = training_model(lm, fields)
    tx = optax.sgd(1.0)
    state, shardings, _ = grpo.make_state(lm, fields, tx, 0)
    step = compile_step(grpo.make_train_step(model, tx, lambda _: 1.0, fields), shardings)
    for _ in range(steps):
        before = jax.tree.map(jnp.copy, state.replace(rng=None))
        state, metrics = step(state, batch)
    return state, metrics, before


@pytest.mark.parametrize("loss_type", GRPO_LOSS_TYPES)
def test_policy_loss_parts(loss_type):
    rng = np.random.default_rng(0)
    batch = random_batch()
    logp, old, reference = (jnp.asarray(rng.normal(size=(8, 16)), jnp.float32) for _ in range(3))
    config = PolicyLoss(beta=0.1, loss_type=loss_type)
    total = jnp.sum(batch["answer"]).astype(jnp.float32)
    rows = (logp, batch["answer"], batch["advantage"], old, reference)
    whole = policy_loss(config, *rows)
    parts = [
        policy_loss(config, *(r[i::2] for r in rows), num_sequences=8, num_tokens=total)
        for i in range(2)
    ]
    jax.tree.map(lambda w, a, b: np.testing.assert_allclose(w, a + b, rtol=1e-5), whole, *parts)


@pytest.mark.slow
def test_train_step_two_iterations(lm):
    """Two optimizer steps on one batch, in parts, are these two by hand; the second has ratios and
    a divergence."""
    batch = random_batch()
    state, metrics, before = stepped(
        lm, batch, num_iterations=2, gradient_accumulation_steps=4, temperature=0.7, beta=0.5
    )
    fields = make_config(batch_size=8, loss_chunk_size=5, temperature=0.7, beta=0.5).grpo
    model = training_model(lm, fields)

    @jax.jit
    def policy_log_probs(variables):
        return log_probs(model, variables, batch["ids"], 5, temperature=0.7)

    @jax.jit
    def loss_and_gradient(trained, start):
        def loss(trained):
            return policy_loss(
                grpo.loss_config(fields),
                policy_log_probs({**before.frozen, **trained}),
                batch["answer"],
                batch["advantage"],
                start,
                start,
            )  # a new adapter changes nothing: also the reference

        return jax.grad(loss, has_aux=True)(trained)

    start = policy_log_probs({**before.frozen, **before.trained})
    trained = before.trained
    seen = []
    for _ in range(2):
        grads, step_metrics = loss_and_gradient(trained, start)
        trained = jax.tree.map(jnp.subtract, trained, grads)
        seen = [*seen, step_metrics]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), state.trained, trained)
    for name in ("loss", "kl", "ratio"):
        np.testing.assert_allclose(metrics[name], (seen[0][name] + seen[1][name]) / 2, atol=1e-5)
    assert float(seen[1]["kl"]) > 1e-6 and int(state.step) == 2


@pytest.mark.slow
def test_make_state_full_finetuning(lm):
    state, metrics, _ = stepped(lm, random_batch(), steps=2, full_finetuning=True, beta=0.1)
    jax.tree.map(np.testing.assert_array_equal, state.frozen["params"], lm.params)
    assert float(metrics["kl"]) > 1e-6
    state, _, _ = grpo.make_state(
        lm, make_config(full_finetuning=True, beta=0.0).grpo, optax.sgd(1.0), 0
    )
    assert state.frozen == {}


def test_prompt_batches_order():
    def order(seed, steps):
        stream = rollouts.prompt_batches(6, 2, seed)
        batches = [next(stream) for _ in range(steps)]
        assert [int(batch["step"]) for batch in batches] == list(range(steps))
        return [batch["prompts"].tolist() for batch in batches]

    six = order(3, 6)
    assert sorted(sum(six[:3], [])) == sorted(sum(six[3:], [])) == list(range(6))
    assert six == order(3, 6) and six[:3] != six[3:] and six[:3] != order(4, 3)
