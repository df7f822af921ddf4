"""The trainings' loop: killed and called again it ends with the same weights."""

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


class Killed(Exception):
    pass


def fresh():
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
    average = fit.ema(state["average"], params, 0.9, state["step"])
    return {"params": params, "opt": opt, "average": average, "step": state["step"] + 1}, {
        "loss": value
    }


def noisy(i):
    return np.random.default_rng([4, i]).normal(size=3).astype(np.float32)


def train(batch=noisy):
    return jax.device_get(fit.fit("quadratic", step, fresh(), batch, STEPS, seed=1, log_every=5))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(fit, "WORK", tmp_path / "work")
    return tmp_path / "work"


@pytest.mark.parametrize("killed_at", [1, 6, 11])
@pytest.mark.parametrize("every", [-1, 300])  # a save after every step, or none before the kill
def test_an_interrupted_fit_ends_with_the_same_weights(
    killed_at, every, folder, monkeypatch, capsys
):
    whole = train()
    (folder / "quadratic.state").unlink()
    monkeypatch.setattr(fit, "SAVE_SECONDS", every)

    def dying(i):
        if i == killed_at:
            raise Killed
        return noisy(i)

    with pytest.raises(Killed):
        train(dying)
    asked = []
    resumed = train(lambda i: asked.append(i) or noisy(i))
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)
    assert asked[0] == (killed_at if every < 0 else 0)
    assert ("going on from step" in capsys.readouterr().out) == (every < 0)


def test_a_finished_fit_is_not_done_again(folder):
    whole = train()
    again = train(lambda i: pytest.fail("a batch was asked for"))
    jax.tree.map(np.testing.assert_array_equal, again, whole)
    assert [p.name for p in folder.iterdir()] == ["quadratic.state"]


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: data + b"x"]
)
def test_a_half_written_state_is_reported_and_kept(damage, folder):
    train()
    path = folder / "quadratic.state"
    broken = damage(path.read_bytes())
    path.write_bytes(broken)
    with pytest.raises(BadInput, match="quadratic.state"):
        train()
    assert path.read_bytes() == broken


def test_a_stale_part_file_does_no_harm(folder):
    folder.mkdir()
    (folder / "quadratic.part").write_bytes(b"half")
    train()
    assert not (folder / "quadratic.part").exists()


def test_every_step_moves_towards_the_target():
    result = train()
    assert result["step"] == STEPS
    assert (np.sign(result["params"]) == np.sign(TARGET)).all()


def test_descending_is_a_loop_of_gradient_steps():
    def loss(p, data):
        value = jnp.square(p["x"] - TARGET + data).sum()
        return value, {"loss": value}

    found = fit.descend("descent", loss, OPTIMIZER, {"x": jnp.zeros(3)}, noisy, STEPS)
    x, opt = jnp.zeros(3), OPTIMIZER.init(jnp.zeros(3))
    for i in range(STEPS):
        updates, opt = OPTIMIZER.update(2 * (x - TARGET + noisy(i)), opt, x)
        x = optax.apply_updates(x, updates)
    np.testing.assert_allclose(found["x"], x, rtol=1e-5)


def test_the_average_warms_up():
    first = fit.ema(jnp.zeros(2), jnp.ones(2), 0.999, jnp.zeros((), jnp.int32))
    late = fit.ema(jnp.zeros(2), jnp.ones(2), 0.999, jnp.asarray(10**6))
    np.testing.assert_allclose(first, 0.9)  # decay 1 / 10
    np.testing.assert_allclose(late, 0.001, rtol=1e-3)


def test_shipped_weights_are_bf16():
    tree = fit.to_bf16({"a": {"b": np.float32([1.00390625])}})
    assert tree["a"]["b"].dtype == jnp.bfloat16 and float(tree["a"]["b"][0]) == 1.0
