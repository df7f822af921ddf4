"""Losses against their definitions, written out in numpy."""

import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.errors import BadInput
from pav_jax.train import losses


@pytest.fixture(scope="module")
def drawn():
    rng = np.random.default_rng(0)
    return {
        "logp": -rng.exponential(size=(4, 2, 9)).astype(np.float32),
        "answer": np.arange(9) < rng.integers(4, 9, size=(4, 2, 1)),
        "reference": -rng.exponential(size=(4, 2)).astype(np.float32) * 5,
    }


def test_sft_loss(drawn):
    logp = drawn["logp"][:, 0]
    answer = drawn["answer"][:, 0]
    got = losses.sft_loss(jnp.asarray(logp), jnp.asarray(answer), jnp.float32(answer.sum()))
    np.testing.assert_allclose(got, -logp[answer].mean(), rtol=1e-6)


@pytest.mark.parametrize(
    "kinds",
    [
        ("sigmoid",),
        ("hinge",),
        ("ipo",),
        ("robust",),
        ("exo_pair",),
        ("sigmoid_norm",),
        ("sigmoid", "sft"),
    ],
)
def test_preference_loss_parts(drawn, kinds):
    config = losses.PreferenceLoss(
        loss_type=kinds, label_smoothing=0.2 if kinds[0] in ("robust", "exo_pair") else 0.0
    )
    logp, answer, reference = (jnp.asarray(drawn[k]) for k in ("logp", "answer", "reference"))
    whole, metrics = losses.preference_loss(config, logp, answer, reference)
    tokens = answer[:, 0].sum().astype(jnp.float32)
    parts = [
        losses.preference_loss(
            config, logp[i : i + 2], answer[i : i + 2], reference[i : i + 2], 4, tokens
        )
        for i in (0, 2)
    ]
    np.testing.assert_allclose(whole, parts[0][0] + parts[1][0], rtol=1e-5)
    for name, value in metrics.items():
        np.testing.assert_allclose(
            value, parts[0][1][name] + parts[1][1][name], rtol=1e-5, err_msg=name
        )


def test_preference_loss_at_reference(drawn):
    logp = jnp.asarray(drawn["logp"])
    answer = jnp.asarray(drawn["answer"])
    loss, metrics = losses.preference_loss(
        losses.PreferenceLoss(), logp, answer, losses.answer_log_probs(logp, answer)
    )
    assert float(loss) == pytest.approx(np.log(2), abs=1e-7)
    assert float(metrics["rewards/margins"]) == 0


def test_answer_log_probs_ld_alpha():
    logp = jnp.asarray([[[0, -1, -1, -1, -1], [0, -1, -1, 0, 0]]], jnp.float32)
    answer = jnp.asarray([[[0, 1, 1, 1, 1], [0, 1, 1, 0, 0]]], bool)
    np.testing.assert_allclose(losses.answer_log_probs(logp, answer, 0.25), [[-2.5, -2]])
    np.testing.assert_allclose(losses.answer_log_probs(logp, answer, 1.0), [[-4, -2]])


@pytest.mark.parametrize(
    "fields, named",
    [
        ({"loss_type": "sigmod"}, "loss_type"),
        ({"beta": 0.0}, "beta"),
        ({"loss_weights": (1.0, 2.0)}, "loss_weights"),
        ({"label_smoothing": 0.1}, "label_smoothing"),
        ({"loss_type": "robust", "label_smoothing": 0.5}, "label_smoothing"),
        ({"loss_type": "exo_pair"}, "label_smoothing"),
        ({"ld_alpha": 2.0}, "ld_alpha"),
        ({"loss_type": ()}, "loss_type"),
    ],
)
def test_preference_loss_invalid_field(fields, named):
    with pytest.raises(BadInput) as error:
        losses.PreferenceLoss(**fields)
    assert error.value.field == f"dpo.{named}"
