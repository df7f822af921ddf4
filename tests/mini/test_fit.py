"""The training loop of the mini checkpoints."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pav_jax.errors import BadInput
from pav_jax.mini.training import fit

STEPS = 12
OPTIMIZER = fit.adamw(0.1, STEPS, warmup=2)
TARGET = np.array([1.0, -2.0, 3.0], np.float32)


class Interrupted(Exception):  # noqa: N818
    pass


def initial_state():
    params = jnp.zeros(3)
    return {
        "params": params,
        "opt": OPTIMIZER.init(params),
        "average": jnp.zeros(3),
        "step": jnp.zeros((), jnp.int32),
    }


def step(state, data, key):
    """A quadratic, seen through noise from the batch and from the key."""

    def loss(p):
        return jnp.square(p - TARGET + data + 0.1 * jax.random.normal(key, (3,))).sum()

    value, gradient = jax.value_and_grad(loss)(state["params"])
    updates, opt = OPTIMIZER.update(gradient, state["opt"], state["params"])
    params = optax.apply_updates(state["params"], updates)
    average = fit.update_ema(state["average"], params, 0.9, state["step"])
    return {"params": params, "opt": opt, "average": average, "step": state["step"] + 1}, {
        "loss": value
    }


def noisy(i):
    return np.random.default_rng([4, i]).normal(size=3).astype(np.float32)


def train(batch=noisy):
    return jax.device_get(
        fit.fit("quadratic", step, initial_state(), batch, STEPS, seed=1, logging_steps=5)
    )


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(fit, "WORK", tmp_path / "work")
    return tmp_path / "work"


@pytest.mark.parametrize("interrupted_at", [1, 6, 11])
@pytest.mark.parametrize("every", [-1, 300])  # a save after every step, or none
def test_fit_resumes_with_same_weights(interrupted_at, every, folder, monkeypatch, capsys):
    uninterrupted = train()
    (folder / "quadratic.state").unlink()
    monkeypatch.setattr(fit, "SAVE_INTERVAL_S", every)

    def failing_batch(i):
        if i == interrupted_at:
            raise Interrupted
        return noisy(i)

    with pytest.raises(Interrupted):
        train(failing_batch)
    steps = []
    resumed = train(lambda i: steps.append(i) or noisy(i))
    jax.tree.map(np.testing.assert_array_equal, resumed, uninterrupted)
    assert steps[0] == (interrupted_at if every < 0 else 0)
    assert ("resuming from step" in capsys.readouterr().out) == (every < 0)


def test_fit_finished(folder):
    first = train()
    again = train(lambda i: pytest.fail("a batch was requested"))
    jax.tree.map(np.testing.assert_array_equal, again, first)
    assert [p.name for p in folder.iterdir()] == ["quadratic.state"]


@pytest.mark.parametrize(
    "truncate", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: data + b"x"]
)
def test_fit_incomplete_state(truncate, folder):
    train()
    path = folder / "quadratic.state"
    broken = truncate(path.read_bytes())
    path.write_bytes(broken)
    with pytest.raises(BadInput) as error:
        train()
    assert error.value.source == str(path)
    assert path.read_bytes() == broken


def test_fit_stale_partial_file(folder):
    folder.mkdir()
    (folder / "quadratic.part").write_bytes(b"half")
    train()
    assert not (folder / "quadratic.part").exists()


def test_fit_reduces_loss():
    result = train()
    assert result["step"] == STEPS
    assert (np.sign(result["params"]) == np.sign(TARGET)).all()


def test_minimize_matches_gradient_steps():
    def loss(p, data):
        value = jnp.square(p["x"] - TARGET + data).sum()
        return value, {"loss": value}

    trained = fit.minimize("descent", loss, OPTIMIZER, {"x": jnp.zeros(3)}, noisy, STEPS)
    x = jnp.zeros(3)
    opt = OPTIMIZER.init(x)
    for i in range(STEPS):
        updates, opt = OPTIMIZER.update(2 * (x - TARGET + noisy(i)), opt, x)
        x = optax.apply_updates(x, updates)
    np.testing.assert_allclose(trained["x"], x, rtol=1e-5)


def test_update_ema_warms_up():
    first = fit.update_ema(jnp.zeros(2), jnp.ones(2), 0.999, jnp.zeros((), jnp.int32))
    late = fit.update_ema(jnp.zeros(2), jnp.ones(2), 0.999, jnp.asarray(10**6))
    np.testing.assert_allclose(first, 0.9)  # decay 1 / 10
    np.testing.assert_allclose(late, 0.001, rtol=1e-3)


def test_to_bf16():
    tree = fit.to_bf16({"a": {"b": np.float32([1.00390625])}})
    assert tree["a"]["b"].dtype == jnp.bfloat16 and float(tree["a"]["b"][0]) == 1.0
