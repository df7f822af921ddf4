"""Schedules and updates against transformers and torch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pav_jax.errors import BadInput
from pav_jax.train.config import sft_config
from pav_jax.train.optimizer import make_optimizer, make_schedule

torch = pytest.importorskip("torch")


def fields(**changes):
    config = sft_config()
    config.update(dict(learning_rate=0.01, lr_scheduler_type="constant") | changes)
    return config


@pytest.mark.parametrize(
    "kind, theirs",
    [("linear", "linear"), ("cosine", "cosine"), ("constant", "constant_with_warmup")],
)
@pytest.mark.parametrize("warmup_ratio, total", [(0.0, 7), (0.1, 25), (0.3, 10)])
def test_make_schedule_equals_transformers(kind, theirs, warmup_ratio, total):
    from transformers import TrainingArguments, get_scheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    warmup = int(np.ceil(total * warmup_ratio))
    scheduler = get_scheduler(theirs, optimizer, num_warmup_steps=warmup, num_training_steps=total)
    assert (
        TrainingArguments(output_dir="x", use_cpu=True, warmup_steps=warmup).get_warmup_steps(total)
        == warmup
    )
    want = []
    for _ in range(total):
        want.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    schedule = make_schedule(
        fields(lr_scheduler_type=kind, warmup_ratio=warmup_ratio), "sft", total, 5
    )
    np.testing.assert_allclose(jax.vmap(schedule)(jnp.arange(total)), want, rtol=1e-5, atol=1e-9)


def test_make_schedule_exponential_per_epoch():
    schedule = make_schedule(fields(lr_scheduler_type="exponential_per_epoch"), "sft", 12, 4)
    np.testing.assert_allclose(
        jax.vmap(schedule)(jnp.arange(12)), 0.01 * 0.85 ** (np.arange(12) // 4), rtol=1e-5
    )


def optax_schedule(kind, learning_rate, warmup, total, steps_per_epoch):
    decay = {
        "linear": optax.linear_schedule(learning_rate, 0.0, total - warmup),
        "cosine": optax.cosine_decay_schedule(learning_rate, total - warmup),
        "constant": optax.constant_schedule(learning_rate),
        "exponential_per_epoch": optax.exponential_decay(
            learning_rate, steps_per_epoch, 0.85, staircase=True
        ),
    }[kind]
    if not warmup:
        return decay
    return optax.join_schedules(
        [optax.linear_schedule(0.0, learning_rate, warmup), decay], [warmup]
    )


@pytest.mark.parametrize(
    "kind, warmup_ratio",
    [
        ("linear", 0.1),
        ("linear", 0.0),
        ("cosine", 0.1),
        ("constant", 0.1),
        ("exponential_per_epoch", 0.0),
    ],
)
def test_make_schedule_equals_optax(kind, warmup_ratio):
    """Equal but for the last bit of float32."""
    total = 70
    options = fields(lr_scheduler_type=kind, warmup_ratio=warmup_ratio)
    schedule = make_schedule(options, "sft", total, 23)
    reference = optax_schedule(kind, 0.01, int(np.ceil(warmup_ratio * total)), total, 23)
    steps = jnp.arange(total)
    np.testing.assert_allclose(
        jax.vmap(schedule)(steps), jax.vmap(reference)(steps), rtol=1e-6, atol=2e-9
    )


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant", "exponential_per_epoch"])
@pytest.mark.parametrize("warmup", [0, 7])
def test_make_schedule_exact_values(kind, warmup):
    """The float32 operations and their order are fixed, so that trainings stay reproducible."""
    total = 70
    per_epoch = 23
    peak = 0.004
    config = fields(
        lr_scheduler_type=kind,
        warmup_ratio=warmup / total,
        learning_rate=peak,
        decay_per_epoch=0.85,
    )
    schedule = make_schedule(config, "sft", total, per_epoch)

    def reference(step):
        progress = jnp.clip((step - warmup) / (total - warmup), 0.0, 1.0)
        decay = {
            "linear": 1.0 - progress,
            "cosine": 0.5 * (1.0 + jnp.cos(jnp.pi * progress)),
            "constant": jnp.ones_like(progress),
            "exponential_per_epoch": 0.85 ** (step // per_epoch),
        }[kind]
        return peak * jnp.where(step < warmup, step / max(1, warmup), decay)

    steps = jnp.arange(total)
    np.testing.assert_allclose(
        jax.vmap(schedule)(steps), jax.vmap(reference)(steps), rtol=0, atol=1e-12
    )


def test_make_schedule_unknown_type():
    with pytest.raises(BadInput, match="dpo.lr_scheduler_type='step'"):
        make_schedule(fields(lr_scheduler_type="step"), "dpo", 10, 5)


@pytest.mark.parametrize("weight_decay, max_grad_norm", [(0.0, None), (0.1, None), (0.05, 0.5)])
def test_make_optimizer_equals_torch(weight_decay, max_grad_norm):
    """AdamW after clipping; norms and biases do not decay."""
    rng = np.random.default_rng(0)
    start = {
        "q_proj": {"kernel": rng.normal(size=(4, 3)), "bias": rng.normal(size=3)},
        "input_norm": {"scale": rng.normal(size=4)},
    }
    start = jax.tree.map(lambda x: x.astype(np.float32), start)
    leaves, structure = jax.tree.flatten(start)
    theirs = [torch.nn.Parameter(torch.tensor(x)) for x in leaves]
    decays = jax.tree.leaves(
        {"q_proj": {"kernel": weight_decay, "bias": 0.0}, "input_norm": {"scale": 0.0}}
    )
    optimizer = torch.optim.AdamW(
        [{"params": [p], "weight_decay": d} for p, d in zip(theirs, decays, strict=True)], lr=0.01
    )
    tx = make_optimizer(
        fields(weight_decay=weight_decay, max_grad_norm=max_grad_norm), lambda _: 0.01
    )
    ours = jax.tree.map(jnp.asarray, start)
    state = tx.init(start)
    for _ in range(5):
        grads = [rng.normal(size=x.shape).astype(np.float32) for x in leaves]
        for p, g in zip(theirs, grads, strict=True):
            p.grad = torch.tensor(g)
        if max_grad_norm:
            torch.nn.utils.clip_grad_norm_(theirs, max_grad_norm)
        optimizer.step()
        updates, state = tx.update(structure.unflatten(map(jnp.asarray, grads)), state, ours)
        ours = optax.apply_updates(ours, updates)
    for got, want in zip(jax.tree.leaves(ours), theirs, strict=True):
        np.testing.assert_allclose(got, want.detach().numpy(), atol=2e-5)
