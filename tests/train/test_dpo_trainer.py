"""Preference tuning on a tiny rewriter: where it starts, what it learns, and its reference."""

import json
import os
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from pav_jax.errors import BadInput
from pav_jax.language.language_model import LanguageModel
from pav_jax.records import Preference
from pav_jax.storage.records import write_jsonl
from pav_jax.train import dpo_trainer as dpo
from pav_jax.train.config import dpo_config
from pav_jax.train.loop import compile_step
from pav_jax.train.state import make_state, training_model
from tests.tiny import language_model as tiny

LN_2 = float(np.float32(np.log(2)))


def make_config(**changes):
    fields = dpo_config()
    fields.update(
        dict(
            max_steps=6,
            batch_size=4,
            gradient_accumulation_steps=1,
            learning_rate=1e-2,
            lr_scheduler_type="constant",
            warmup_ratio=0.0,
            max_length=32,
            save_steps=3,
            logging_steps=1,
            loss_chunk_size=8,
        )
    )
    fields.update(changes)
    return ConfigDict({"seed": 0, "dpo": fields})


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder):
    return np.asarray([line["loss"] for line in lines(folder)])


@pytest.fixture(scope="module")
def lm():
    return tiny.make_lm()


@pytest.fixture(scope="module")
def preferences(tmp_path_factory):
    return tiny.write_preferences(tmp_path_factory.mktemp("preferences") / "preferences.jsonl")


@pytest.fixture(scope="module")
def straight(lm, preferences, tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    dpo.run(make_config(), lm, preferences, folder)
    return folder


def test_run_first_loss(straight):
    first = lines(straight)[0]
    assert first["loss"] == LN_2
    assert first["rewards/chosen"] == first["rewards/rejected"] == first["rewards/margins"] == 0.0


@pytest.mark.slow
def test_run_first_loss_bfloat16_dropout(preferences, tmp_path):
    lm = tiny.make_lm(dtype=jnp.bfloat16)
    dpo.run(make_config(max_steps=2, lora=dict(lora_dropout=0.3)), lm, preferences, tmp_path)
    assert losses(tmp_path)[0] == LN_2 and losses(tmp_path)[1] != LN_2


def test_run_accuracy_rises(straight):
    first = lines(straight)[0]
    last = lines(straight)[-1]
    assert last["loss"] < 0.9 * first["loss"]
    assert last["rewards/margins"] > 0.1 and last["rewards/accuracies"] >= 0.75


def test_run_metric_names(straight):
    assert set(lines(straight)[0]) == {
        "step",
        "loss",
        "rewards/chosen",
        "rewards/rejected",
        "rewards/margins",
        "rewards/accuracies",
        "logps/chosen",
        "logps/rejected",
        "lengths/chosen",
        "lengths/rejected",
        "grad_norm",
        "learning_rate",
        "tokens_per_second",
        "tokens_per_second_per_chip",
        "mfu",
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        dict(precompute_ref_log_probs=True),
        dict(gradient_accumulation_steps=2),
        dict(loss_chunk_size=512, remat=False),
        dict(length_buckets=(8, 12, 16)),
    ],
    ids=lambda c: next(iter(c)),
)
def test_run_equivalent_options(straight, lm, preferences, tmp_path, changes):
    dpo.run(make_config(**changes), lm, preferences, tmp_path)
    np.testing.assert_allclose(losses(tmp_path), losses(straight), atol=2e-5)


@pytest.mark.slow
def test_run_full_finetuning(lm, preferences, tmp_path):
    dpo.run(make_config(full_finetuning=True, learning_rate=1e-3), lm, preferences, tmp_path)
    assert losses(tmp_path)[0] == pytest.approx(LN_2, abs=1e-6)
    assert losses(tmp_path)[-1] < 0.9 * LN_2


@pytest.mark.slow
def test_train_step_reference_is_base_model(lm):
    """After steps that change the adapter, the reference's term is still the base model's
    log-probability."""
    rng = np.random.default_rng(0)
    ids = jnp.asarray(rng.integers(0, 32, (4, 2, 12)), jnp.int32)
    batch = {"ids": ids, "answer": jnp.broadcast_to(jnp.arange(12) >= 5, ids.shape)}
    fields = make_config().dpo
    model = training_model(lm, fields)
    tx = optax.sgd(3.0)
    state, shardings, _ = make_state("dpo", lm, fields, tx, 0)
    step = compile_step(dpo.make_train_step(model, tx, lambda _: 0.0, fields), shardings)
    for _ in range(3):
        before = jax.tree.map(jnp.copy, state.trained)
        state, metrics = step(state, batch)
    base, policy = (
        jnp.sum(dpo.pair_log_probs(model, v, ids, batch["answer"], 8) * batch["answer"], -1)
        for v in ({"params": lm.params}, {"params": lm.params, **before})
    )
    want = fields.beta * (policy - base)
    np.testing.assert_allclose(metrics["rewards/chosen"], want[:, 0].mean(), atol=1e-5)
    np.testing.assert_allclose(
        metrics["rewards/margins"], (want[:, 0] - want[:, 1]).mean(), atol=1e-5
    )
    assert abs(float(metrics["rewards/margins"])) > 1e-3


@pytest.mark.slow
def test_run_resumed_after_kill(straight, preferences, tmp_path):
    """SIGKILL in the fifth step, in a process of its own."""
    program = f"""
import os, signal
from tests.tiny import language_model as tiny
from tests.train import test_dpo_trainer as test_dpo
from pav_jax.train import dpo_trainer as dpo
def kill(done):
    if done == 5:
        os.kill(os.getpid(), signal.SIGKILL)
data, folder = {str(preferences)!r}, {str(tmp_path)!r}
dpo.run(test_dpo.make_config(), tiny.make_lm(), data, folder, tiny.Watch(kill))
"""
    killed = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": os.getcwd()}
    )
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "checkpoints").is_dir() and not (tmp_path / "booster").exists()
    dpo.run(make_config(), tiny.make_lm(), preferences, tmp_path)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(losses(tmp_path), losses(straight), atol=1e-6, rtol=0)


def test_run_second_round(straight, lm, preferences, tmp_path):
    booster = LanguageModel.from_pretrained(straight / "booster", dtype="float32")
    dpo.run(make_config(max_steps=2), booster, preferences, tmp_path)
    assert losses(tmp_path)[0] == LN_2
    assert lines(tmp_path)[0]["logps/chosen"] > lines(straight)[0]["logps/chosen"] - 1e-3


@pytest.mark.parametrize(
    "changes, named",
    [
        (dict(loss_type=("sigmod",)), "sigmod"),
        (dict(label_smoothing=0.1), "robust"),
        (dict(beta=-1.0), "beta"),
        (dict(lora=dict(target_modules=("nothing",))), "nothing"),
    ],
)
def test_run_invalid_field(lm, preferences, tmp_path, changes, named):
    with pytest.raises(BadInput, match=named):
        dpo.run(make_config(**changes), lm, preferences, tmp_path)


def test_run_invalid_data(lm, tmp_path):
    write_jsonl(tmp_path / "none.jsonl", [])
    with pytest.raises(BadInput, match="none.jsonl: contains no Preference; lower .* margin"):
        dpo.run(make_config(), lm, tmp_path / "none.jsonl", tmp_path / "a")
    write_jsonl(
        tmp_path / "p.jsonl", [Preference("a", "b", "c", 1.0), Preference("a", "b", "", 1.0)]
    )
    with pytest.raises(BadInput, match=r"p.jsonl:2: 'rejected' is empty"):
        dpo.run(make_config(), lm, tmp_path / "p.jsonl", tmp_path / "b")
